"""Dead neurons: what brute force calls dead, and smaller networks that answer the same."""

import random
from collections import OrderedDict
from itertools import chain as joined
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import Branching

from pruning_lab import counts, masks, models, neurons


def chain(**layers) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers)).double()


def answers(model, x):
    with torch.no_grad():
        return model.eval()(x)


def assert_same(model, network, *shape, tolerance=1e-12):
    """The answers of both to random inputs; the networks are in double precision by default."""
    dtype = next(model.parameters()).dtype
    x = torch.randn(16, *shape, dtype=dtype)
    expected = answers(model, x)
    assert expected.std(0).max() > 100 * tolerance  # the answer depends on the input
    assert (answers(network, x) - expected).abs().max() <= tolerance * expected.abs().max().clamp(1)


def set_(layer, weight, bias=None):
    """Type the weights and biases of a layer."""
    layer.weight.data = torch.as_tensor(weight, dtype=layer.weight.dtype)
    if bias is not None:
        layer.bias.data = torch.as_tensor(bias, dtype=layer.weight.dtype)


def columns(report, *names):
    return [tuple(getattr(row, name) for name in names) for row in report]


def shapes(model):
    return [tuple(layer.weight.shape) for layer in masks.prunable(model).values()]


# --- the networks of the paper -----------------------------------------------------------------

LENETS = {"lenet-300-100": (1, 28, 28), "lenet-5": (1, 28, 28)}
PHOTOS = {  # densities at which convolutions still let something through
    "alexnet": {"density": 0.05},
    "alexnet-torchvision": {"density": 0.05},
    "vgg-16": {"density": 0.1},
}


@pytest.mark.parametrize("across", ["layer", "network"])
@pytest.mark.parametrize("density", [0.01, 0.02])
@pytest.mark.parametrize("name", LENETS)
def test_a_pruned_lenet_without_its_dead_neurons_answers_the_same(name, density, across):
    model = models.BUILT_IN[name](trained="mnist")
    masks.prune(model, density=density, across=across).apply_(model)
    network, report = neurons.remove(model)
    assert report.total.removed > 100
    assert_same(model, network, *LENETS[name], tolerance=1e-6)
    assert counts.parameters(network).total < counts.parameters(model).total
    assert list(masks.prunable(network)) == list(masks.prunable(model))


@pytest.mark.parametrize("name", PHOTOS)
def test_a_pruned_photo_network_without_its_dead_neurons_answers_the_same(name):
    model = models.BUILT_IN[name](classes=10, width=0.1, size=64)
    masks.prune(model, **PHOTOS[name]).apply_(model)
    for layer in masks.prunable(model).values():
        layer.module.bias.data = torch.randn(len(layer.module.bias)) / 10
        layer.module.weight.data *= 3  # or the answer is that of the last biases
        layer.module.weight.data[::5] = 0  # dead by input, with biases
    network, report = neurons.remove(model)
    assert_same(model, network, 3, 64, 64, tolerance=1e-6)
    assert report.total.removed > 50
    assert neurons.parameters(network).kept == neurons.parameters(model).kept


def test_alexnet_keeps_the_channels_of_groups_and_of_response_normalisation():
    model = models.alexnet(classes=10, width=0.1, size=64)  # maps: 10, 26, 38, 38, 26
    for layer in masks.prunable(model).values():
        layer.module.weight.data[0] = 0
        layer.module.bias.data[0] = -1  # after ReLU: 0
    model.conv3.weight.data[:, 3] = 0  # channel 3 of conv2 is unread, but not by its neighbours
    report = neurons.find(model)
    assert [row.removed for row in report] == [0, 0, 0, 0, 0, 1, 1, 0]
    assert [row.by_output for row in report] == [0, 1, 0, 0, 0, 0, 0, 0]
    notes = {row.layer: row.note for row in report}
    assert notes["conv1"] == "1 kept: norm1 (LocalResponseNorm) may mix neurons"
    assert notes["conv2"] == "2 kept: norm2 (LocalResponseNorm) may mix neurons"
    assert notes["conv3"] == "1 kept without connections: grouped convolutions keep their channels"
    assert notes["fc1"] == ""
    rows = {row.layer: row for row in report}
    assert rows["conv3"].weights == 0  # its row was zero before
    assert rows["conv4"].weights == 9 * (38 // 2 - 1)  # those of its group that read channel 0
    assert rows["conv4"].biases == 1


def test_a_channel_of_zeros_does_work_in_response_normalisation():
    """The reason for which it is kept: without it, others are neighbours."""
    norm = nn.LocalResponseNorm(3, alpha=1)
    model = chain(conv1=nn.Conv2d(1, 4, 3), norm=norm, conv2=nn.Conv2d(4, 2, 3))
    model.conv1.weight.data[1], model.conv1.bias.data[1] = 0, 0
    smaller = chain(conv1=nn.Conv2d(1, 3, 3), norm=norm, conv2=nn.Conv2d(3, 2, 3))
    rest = [0, 2, 3]
    set_(smaller.conv1, model.conv1.weight.data[rest], model.conv1.bias.data[rest])
    set_(smaller.conv2, model.conv2.weight.data[:, rest], model.conv2.bias.data)
    x = torch.randn(4, 1, 6, 6, dtype=torch.double)
    assert (answers(smaller, x) - answers(model, x)).abs().max() > 1e-3


# --- brute force -------------------------------------------------------------------------------


def dead_by_brute_force(model, *shape):
    """{layer: (dead by output, constant and not dead by output)} from what the network does.

    Dead by output: random values in its place change no answer. Constant: the same value for all
    inputs and at all places. Only exact where no activation saturates.
    """
    x = torch.randn(32, *shape, dtype=torch.double)
    expected = answers(model, x)
    found = {}
    for name, layer in list(masks.prunable(model).items())[:-1]:
        seen = {}
        hook = layer.module.register_forward_hook(lambda m, i, o, seen=seen: seen.update(values=o))
        answers(model, x)
        hook.remove()
        values = seen["values"].transpose(0, 1).flatten(1)
        constant = (values - values[:, :1]).abs().amax(1) < 1e-12
        unread = []
        for neuron in range(len(values)):

            def replaced(module, inputs, output, neuron=neuron):
                output = output.clone()
                output[:, neuron] = torch.randn_like(output[:, neuron])
                return output

            hook = layer.module.register_forward_hook(replaced)
            unread.append(torch.equal(answers(model, x), expected))
            hook.remove()
        unread = torch.tensor(unread)
        found[name] = int(unread.sum()), int((constant & ~unread).sum())
    return found


def prune_at_random_(model, chance):
    """Random masks, some so that whole neurons have no inputs or no outputs left."""
    layers = list(masks.prunable(model).values())
    for layer in layers:
        weight = layer.weight.data
        weight *= torch.rand_like(weight) < chance.choice([0.3, 0.6, 0.9])
        weight[torch.rand(len(weight)) < 0.2] = 0
        weight[:, torch.rand(weight.shape[1]) < 0.2] = 0
        if layer.module.bias is not None:
            layer.module.bias.data = torch.randn_like(layer.module.bias)


@given(st.integers(0, 10**9), st.booleans())
def test_what_is_dead_in_random_chains_is_what_brute_force_finds(seed, convolutions):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [chance.randint(1, 6) for _ in range(chance.randint(2, 6))]
    modules, shape = [], sizes[:1]
    if convolutions:
        first, second = chance.randint(1, 4), chance.randint(1, 4)
        conv2 = nn.Conv2d(first, second, 3, stride=2), nn.MaxPool2d(2, ceil_mode=True)
        modules = [[nn.Conv2d(2, first, 3), nn.Tanh(), *conv2, nn.Flatten()]]
        shape, sizes = (2, 7, 7), [second, *sizes]
    modules += [
        [nn.Linear(a, b), chance.choice([nn.Tanh, nn.LeakyReLU, nn.Softplus])()]
        for a, b in pairwise(sizes)
    ]
    model = nn.Sequential(*joined(*modules)).double()
    prune_at_random_(model, chance)
    network, report = neurons.remove(model)
    found = {row.layer: (row.by_output, row.by_input) for row in report[:-1]}
    assert found == dead_by_brute_force(model, *shape)
    for row in report[:-1]:
        assert row.removed == min(row.by_output + row.by_input, row.neurons - 1)
    expected = answers(model, x := torch.randn(16, *shape, dtype=torch.double))
    assert (answers(network, x) - expected).abs().max() < 1e-12


def random_chain(chance):
    """Convolutions, pools, norms and linear layers in a random chain, for images of 2 x 12 x 12."""

    def size_of(modules, axis):
        return nn.Sequential(*modules).eval()(torch.zeros(2, 2, 12, 12)).shape[axis]

    def between(size, channels):
        modules = [chance.choice([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardswish])()]
        norm = nn.BatchNorm2d if size else nn.BatchNorm1d
        modules += [norm(channels, affine=chance.random() < 0.7)] * (chance.random() < 0.3)
        modules += [nn.LocalResponseNorm(3)] * (size > 0 and chance.random() < 0.1)
        modules += [nn.Dropout()] * (chance.random() < 0.3)
        if size > 3:
            pools = nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)
            pools += nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
            pools += nn.AvgPool2d(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(6), nn.Identity()
            modules += [chance.choice(pools)]
        chance.shuffle(modules)
        return modules

    modules, channels = [], 2
    for _ in range(chance.randint(1, 3)):
        made = 2 * chance.randint(2, 4)
        conv = nn.Conv2d(
            channels,
            made,
            kernel := chance.choice([1, 3]),
            padding=chance.choice([0, 0, kernel // 2, "same", "valid"]),
            dilation=chance.choice([1, 1, 2]),
            padding_mode=chance.choice(["zeros", "zeros", "circular", "replicate"]),
            groups=chance.choice([1, 1, 1, 2]),
            bias=chance.random() < 0.8,
        )
        modules.append(conv)
        modules += between(size_of(modules, 3), made)
        channels = made
        if size_of(modules, 3) < 5:
            break
    modules.append(nn.Flatten())
    width = size_of(modules, 1)
    modules += [nn.BatchNorm1d(width)] * (chance.random() < 0.2)
    for _ in range(chance.randint(1, 3)):
        made = chance.randint(3, 8)
        modules += [nn.Linear(width, made, bias=chance.random() < 0.8), *between(0, made)]
        width = made
    model = nn.Sequential(*modules, nn.Linear(width, 3)).double()
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_answer_the_same_and_nothing_dead_is_left_but_what_is_said_to_stay(seed):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    model = random_chain(chance)
    prune_at_random_(model, chance)
    network, report = neurons.remove(model)
    expected = answers(model, x := torch.randn(8, 2, 12, 12, dtype=torch.double))
    assert (answers(network, x) - expected).abs().max() < 1e-12 * expected.abs().max().clamp(1)

    # The layers are smaller by what was removed, and what was not has a note.
    for row, shape, new in zip(report, shapes(model), shapes(network), strict=True):
        assert row.neurons - row.removed == new[0]
        assert row.neurons == shape[0]
        assert bool(row.note) == (row.by_output + row.by_input > row.removed)
    again = neurons.find(network)
    assert again.total.removed == again.total.weights == again.total.folded == 0
    assert [row.note for row in again if "without" not in row.note] == [
        row.note for row in report if "without" not in row.note
    ]
    plain, gone = counts.parameters(model), neurons.parameters(model)
    zeros = counts.parameters(network).kept
    assert gone.total == plain.total
    assert gone.kept == neurons.parameters(network).kept <= zeros <= plain.kept


# --- by input: a bias that keeps speaking ------------------------------------------------------


def test_the_constant_of_a_linear_neuron_is_folded_into_the_next_biases():
    model = chain(fc1=nn.Linear(2, 3), relu=nn.ReLU(), fc2=nn.Linear(3, 2))
    set_(model.fc1, [[1, 2], [0, 0], [0, 0]], [0.5, 3, -4])  # the third is 0 after ReLU
    set_(model.fc2, [[1, 10, 7], [2, -20, 8]], [0.25, 0.125])
    network, report = neurons.remove(model)
    assert network.fc2.bias.tolist() == [0.25 + 30, 0.125 - 60]
    assert network.fc2.weight.tolist() == [[1], [2]]
    assert network.fc1.weight.tolist() == [[1, 2]]
    assert columns(report, "by_output", "by_input", "folded", "removed", "weights", "biases") == [
        (0, 2, 1, 2, 0, 2),
        (0, 0, 0, 0, 4, 0),
    ]
    assert neurons.parameters(model) == counts.Parameters(17, 2 + 1 + 2 + 2)
    assert_same(model, network, 2)


def dead_channel(act, *between, **options):
    """A chain whose first convolution has a channel that is its bias, 0.7, alone."""
    names = {f"between{i}": module for i, module in enumerate(between)}
    model = nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(1, 3, 3), act=act, **names, conv2=nn.Conv2d(3, 4, 3, **options))
    )
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)).double()
    model[0].weight.data[1] = 0
    model[0].bias.data[1] = 0.7
    return model


@pytest.mark.parametrize(
    ("between", "options", "reason"),
    [
        ((), {}, None),
        ((), {"dilation": 2, "stride": 2}, None),
        ((), {"padding": 1, "padding_mode": "circular"}, None),
        ((), {"padding": "valid"}, None),
        ((nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),), {}, None),
        ((nn.AvgPool2d(3, 2, ceil_mode=True),), {}, None),
        ((nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),), {}, None),
        ((nn.AdaptiveAvgPool2d(4), nn.Dropout()), {}, None),
        ((nn.BatchNorm2d(3),), {}, None),
        ((), {"padding": 1}, "3 pads their constant with zeros"),
        ((), {"padding": "same"}, "3 pads their constant with zeros"),
        ((), {"bias": False}, "3 has no bias for their constant"),
        ((nn.AvgPool2d(3, 2, padding=1),), {}, "2 pads their constant with zeros"),
        ((nn.AvgPool2d(2, divisor_override=3),), {}, "2 (AvgPool2d) may mix neurons"),
        ((nn.LocalResponseNorm(3),), {}, "2 (LocalResponseNorm) may mix neurons"),
        ((nn.GroupNorm(3, 3),), {}, "2 (GroupNorm) may mix neurons"),
        ((nn.ChannelShuffle(3),), {}, "2 (ChannelShuffle) may mix neurons"),
        ((nn.BatchNorm2d(3, track_running_stats=False),), {}, "2 (BatchNorm2d) may mix neurons"),
    ],
)
def test_a_channel_that_is_its_bias_alone_is_folded_where_that_is_exact(between, options, reason):
    model = dead_channel(nn.Tanh(), *between, **options)
    index = [type(module) for module in model].index(nn.Conv2d, 1)
    reason = reason and (reason.replace("3 ", f"{index} ") if reason[0] == "3" else reason)
    network, report = neurons.remove(model)
    row = report[0]
    assert (row.by_output, row.by_input) == (0, 1)
    assert row.folded == row.removed == (reason is None)
    assert row.note == (f"1 kept: {reason}" if reason else "")
    assert network[0].out_channels == network[index].in_channels == 3 - row.removed
    assert_same(model, network, 1, 16, 16)


@pytest.mark.parametrize("between", [(nn.AvgPool2d(3, 2, padding=1),), ()])
def test_a_channel_that_is_zero_goes_before_padding_too(between):
    model = dead_channel(nn.ReLU(), *between, padding=1, bias=False)
    model[0].bias.data[1] = -0.7
    network, report = neurons.remove(model)
    assert (report[0].removed, report[0].folded, report[0].note) == (1, 0, "")
    assert_same(model, network, 1, 16, 16)


ACTIVATIONS = "ReLU ReLU6 LeakyReLU ELU SELU GELU SiLU Mish Softplus Tanh Hardtanh Hardswish"
ACTIVATIONS += " Sigmoid Hardsigmoid Softsign Identity"


@pytest.mark.parametrize("activation", ACTIVATIONS.split())
@pytest.mark.parametrize("bias", [-4.0, -0.7, 0.7, 4.0])
def test_a_constant_that_padding_has_made_uneven_is_not_folded_whatever_follows(activation, bias):
    """A pool that pads leaves half of a constant at the border; Hardsigmoid(-4) is 0, but not that
    of -2. Without the pool the constant is folded, or is 0."""
    for pool in ((nn.AvgPool2d(3, 2, padding=1),), ()):
        model = dead_channel(nn.Identity(), *pool, getattr(nn, activation)())
        model[0].bias.data[1] = bias
        network, report = neurons.remove(model)
        assert report[0].removed == (not pool)
        assert_same(model, network, 1, 16, 16)


def test_a_channel_after_flatten_is_as_many_inputs_as_it_has_places():
    model = chain(
        conv=nn.Conv2d(1, 3, 3),  # 6 x 6 -> 4 x 4
        pool=nn.MaxPool2d(2),  # -> 2 x 2
        tanh=nn.Tanh(),
        flatten=nn.Flatten(),
        norm=nn.BatchNorm1d(12),
        fc1=nn.Linear(12, 3),
    )
    model.norm.running_mean.normal_()
    model.norm.weight.data.normal_()
    model.conv.weight.data[1] = 0
    with torch.no_grad():  # by hand: each place has its own normalisation
        constants = answers(
            nn.Sequential(model.tanh, model.norm), model.conv.bias.repeat_interleave(4)[None]
        )
        bias = model.fc1.bias + model.fc1.weight[:, 4:8] @ constants[0, 4:8]
    network, report = neurons.remove(model)
    assert network.fc1.bias.tolist() == pytest.approx(bias.tolist(), abs=1e-12)
    assert torch.equal(network.fc1.weight, model.fc1.weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    assert network.norm.num_features == 8
    assert report[0].biases == 1 + 2 * 4  # and of the norm, weight and bias of four places
    assert_same(model, network, 1, 6, 6)


def test_a_channel_that_is_not_zero_at_one_place_needs_a_bias_to_be_folded():
    norm = nn.BatchNorm1d(32)
    model = chain(conv=nn.Conv2d(1, 2, 3), flatten=nn.Flatten(), norm=norm, relu=nn.ReLU())
    model.append(nn.Linear(32, 2, bias=False).double())
    model.conv.weight.data[0] = 0
    norm.bias.data = -torch.ones_like(norm.bias)
    norm.bias.data[[3, 20]] = 2  # the only places where channels 0 and 1 are not 0 after ReLU
    network, report = neurons.remove(model)
    assert report[0].note == "1 kept: 4 has no bias for their constant"
    assert_same(model, network, 1, 6, 6)
    model[-1].bias = nn.Parameter(torch.ones(2).double())
    network, report = neurons.remove(model)
    assert (report[0].removed, report[0].folded) == (1, 1)
    assert_same(model, network, 1, 6, 6)
    model[-1].bias, norm.bias.data[3] = None, -2
    network, report = neurons.remove(model)
    assert (report[0].removed, report[0].folded) == (1, 0)
    assert_same(model, network, 1, 6, 6)


# --- closure -----------------------------------------------------------------------------------


def deep():
    """3-3-3-3-2, dense, without a zero."""
    sizes = [3, 3, 3, 3, 2]
    layers = [[nn.Linear(a, b), nn.Tanh()] for a, b in pairwise(sizes)]
    return nn.Sequential(*[*joined(*layers)][:-1]).double()


def test_one_dead_neuron_kills_what_reads_only_it_and_so_on():
    model = deep()
    first, second, third, _ = (layer.weight.data for layer in masks.prunable(model).values())
    first[0] = 0
    second[1, 1:] = 0  # reads neuron 0 alone
    third[2, [0, 2]] = 0  # reads neuron 1 alone
    network, report = neurons.remove(model)
    assert columns(report, "by_output", "by_input", "folded", "removed", "weights", "biases") == [
        (0, 1, 1, 1, 0, 1),
        (0, 1, 1, 1, 3, 1),  # the column of neuron 0
        (0, 1, 1, 1, 3, 1),  # of neuron 1: one weight in row 2
        (0, 0, 0, 0, 2, 0),
    ]
    assert shapes(network) == [(2, 3), (2, 2), (2, 2), (2, 2)]
    assert_same(model, network, 3)


def test_one_dead_neuron_kills_what_only_it_reads_and_so_on():
    model = deep()
    _, second, third, last = (layer.weight.data for layer in masks.prunable(model).values())
    last[:, 2] = 0
    third[:2, 1] = 0  # neuron 1 is read by neuron 2 alone
    second[[0, 2], 0] = 0  # neuron 0 is read by neuron 1 alone
    network, report = neurons.remove(model)
    assert columns(report, "by_output", "by_input", "folded", "removed", "weights", "biases") == [
        (1, 0, 0, 1, 3, 1),
        (1, 0, 0, 1, 3, 1),
        (1, 0, 0, 1, 3, 1),
        (0, 0, 0, 0, 0, 0),
    ]
    assert shapes(network) == [(2, 3), (2, 2), (2, 2), (2, 2)]
    assert_same(model, network, 3)


def test_a_neuron_that_is_kept_as_it_is_keeps_what_reads_it_alive():
    model = chain(
        conv1=nn.Conv2d(1, 2, 3),
        conv2=nn.Conv2d(2, 2, 3, padding=1),
        flatten=nn.Flatten(),
        fc=nn.Linear(32, 2),
    )
    model.conv1.weight.data[0] = 0
    model.conv2.weight.data[1, 1] = 0  # reads channel 0 alone, which is not the same at the border
    network, report = neurons.remove(model)
    assert [row.by_input for row in report] == [1, 0, 0]
    assert report[0].note == "1 kept: conv2 pads their constant with zeros"
    assert_same(model, network, 1, 6, 6)


def test_a_layer_keeps_at_least_one_neuron():
    model = deep()
    model[2].weight.data.zero_()
    network, report = neurons.remove(model)
    assert shapes(network) == [(1, 3), (1, 1), (1, 1), (2, 1)]
    note = "1 kept without connections: a layer keeps one neuron"
    assert [row.note for row in report] == [note, note, note, ""]
    assert neurons.parameters(model) == counts.Parameters(44, 2)  # the last biases
    assert counts.parameters(network).kept == 2 + 3
    x = torch.randn(16, 3, dtype=torch.double)
    torch.testing.assert_close(answers(network, x), answers(model, x))


# --- what is kept ------------------------------------------------------------------------------


def test_the_model_and_all_random_states_are_left_as_they_were(toy, everything_of):
    masks.prune(toy, density=0.1).apply_(toy)
    toy.drop2.eval()  # a mode of its own
    with masks.Mask.of(toy).hold(toy):
        before = everything_of(toy)
        neurons.find(toy)
        neurons.remove(toy)
        neurons.parameters(toy)
        assert everything_of(toy) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_mode_frozen_weights_and_masks_are_kept(toy, dtype):
    masks.prune(toy, density=0.2).apply_(toy)
    toy.fc1.weight.data[:8] = 0
    toy = toy.to(dtype)
    toy.drop2.eval()
    toy.fc1.weight.requires_grad_(False)
    network, report = neurons.remove(toy)
    assert report.total.removed >= 8
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert [m.training for m in network.modules()] == [m.training for m in toy.modules()]
    assert [p.requires_grad for p in network.parameters()] == [
        p.requires_grad for p in toy.parameters()
    ]
    mask = masks.Mask.of(network)
    assert mask.kept == masks.Mask.of(toy).kept - report.total.weights
    assert network.fc1.out_features == network.fc2.in_features == len(network.fc1.bias)
    if dtype != torch.bfloat16:
        assert_same(toy, network, 1, 8, 8, tolerance=1e-6)


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_the_memory_format_is_kept(form):
    layers = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8 * 4, 2)).to(memory_format=form)
    for layer in model[:3]:
        layer.weight.data[:6] = 0
    network, _ = neurons.remove(model)
    for layer in list(masks.prunable(network).values())[:3]:
        assert len(layer.weight) == 2
        assert layer.weight.stride() == layer.weight.clone(memory_format=form).stride()


def test_nested_chains_wrappers_and_shared_activations_are_walked():
    relu = nn.ReLU()
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), relu, nn.Flatten())
    model = nn.Sequential(
        OrderedDict(
            features=features,
            head=nn.Sequential(nn.Linear(64, 5), relu, nn.Linear(5, 4), relu, nn.Linear(4, 2)),
        )
    ).double()
    features[0].weight.data[:2] = 0
    model.head[0].weight.data[:3] = 0
    network, report = neurons.remove(nn.DataParallel(model))
    assert columns(report, "layer", "removed") == [
        ("features.0", 2),
        ("head.0", 3),
        ("head.2", 0),
        ("head.4", 0),
    ]
    assert report[0].biases == 2 + 2 * 2
    assert network.features[1].num_features == 2
    assert_same(model, network, 1, 6, 6)


def test_two_linear_layers_with_images_between_them_are_not_taken_for_neurons():
    """(N, 4, 3) -> (N, 4, 5) -> (N, 20): five neurons, of which each is every fifth input."""
    model = chain(fc1=nn.Linear(3, 5), flatten=nn.Flatten(), fc2=nn.Linear(20, 2))
    model.fc1.weight.data[0] = 0
    network, report = neurons.remove(model)
    assert report[0].note == "1 kept: fc2 does not read neuron by neuron"
    assert_same(model, network, 4, 3)


@pytest.mark.parametrize(
    ("between", "note"),
    [
        ((nn.Flatten(2),), "1 (Flatten) may mix neurons"),  # (N, 4, 2, 2) -> (N, 4, 4)
        ((nn.AdaptiveAvgPool2d(4),), "2 does not read neuron by neuron"),  # -> (N, 4, 4, 4)
    ],
)
def test_a_linear_layer_over_places_is_not_taken_for_one_over_channels(between, note):
    """Four places and four channels: the sizes alone would fit."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *between, nn.Linear(4, 3), nn.Flatten(), nn.ReLU())
    model.double()[0].weight.data[0] = 0
    network, report = neurons.remove(model)
    assert report[0].note == f"1 kept: {note}"
    assert_same(model, network, 1, 4, 4)


# --- the report, and what is no chain ----------------------------------------------------------


def test_the_report_prints_as_a_table_with_its_sums():
    model = deep()
    model[0].weight.data[0] = 0
    report = neurons.find(model)
    lines = str(report).splitlines()
    assert lines[0].split()[:4] == ["layer", "neurons", "by_output", "by_input"]
    assert lines[-1].split() == ["total", "11", "0", "1", "1", "1", "3", "1"]
    assert str(report[:0]).splitlines()[-1].split()[0] == "total"


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (Branching(), TypeError, "an nn.Sequential; got a Branching"),
        (nn.Linear(2, 2), TypeError, "an nn.Sequential; got a Linear"),
        ("model.pt", TypeError, "an nn.Sequential; got a str"),
        (nn.Sequential(nn.ReLU()), ValueError, "no Linear or Conv2d layer"),
        (nn.Sequential(nn.LazyLinear(2)), ValueError, "run one batch of images"),
        (nn.Sequential(nn.Linear(2, 2, device="meta")), ValueError, "meta device"),
        (nn.Sequential(*[nn.Linear(2, 2)] * 2), ValueError, "share parameters"),
    ],
)
def test_what_is_no_chain_of_layers_is_told_in_a_sentence(model, error, text):
    for function in (neurons.find, neurons.remove):
        with pytest.raises(error, match=text):
            function(model)


def test_a_chain_with_a_forward_of_its_own_is_no_chain():
    class Skipping(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    with pytest.raises(TypeError, match="got a Skipping"):
        neurons.find(Skipping(nn.Linear(2, 2)))
    inner = nn.Sequential(nn.Linear(2, 2), Skipping(nn.Linear(2, 2)), nn.Linear(2, 2))
    inner[0].weight.data.zero_()
    assert neurons.find(inner)[0].note == "2 kept: 1 (Skipping) may mix neurons"


# --- neurons of the smallest norm --------------------------------------------------------------


def smallest(layer, fraction):
    """bool (out,): brute force: one neuron after the other, the smallest that is left goes."""
    rows = layer.weight.detach().flatten(1).tolist()
    alive = dict(enumerate(sum(w * w for w in row) for row in rows))
    while len(alive) > max(1, round(fraction * len(rows))):
        del alive[min(alive, key=lambda neuron: (alive[neuron], -neuron))]
    return torch.tensor([neuron in alive for neuron in range(len(rows))])


NARROWED = {
    "lenet-300-100": ((1, 28, 28), ("fc1", "fc2")),
    "lenet-5": ((1, 28, 28), ("conv1", "conv2", "fc1")),
    "vgg-16": ((3, 32, 32), ("conv3_1", "conv5_3", "fc6")),
}


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NARROWED)
def test_without_its_smallest_neurons_a_network_answers_as_with_their_outputs_at_zero(
    name, fraction
):
    """Zero outputs by hooks, whatever bias, ReLU and pooling make of a neuron."""
    shape, layers = NARROWED[name]
    options = {"width": 0.1, "size": 32, "classes": 10} if name == "vgg-16" else {"width": 0.2}
    model = models.BUILT_IN[name](**options).double()
    network = neurons.remove_smallest(model, dict.fromkeys(layers, fraction))
    for layer in layers:
        module = model.get_submodule(layer)
        kept = smallest(module, fraction)
        assert len(network.get_submodule(layer).weight) == kept.sum()
        kept = kept.view(-1, *[1] * (module.weight.dim() - 2))
        module.register_forward_hook(lambda _, x, y, kept=kept: torch.where(kept, y, 0))
    x = torch.randn(8, *shape, dtype=torch.double)
    assert (answers(model, x) - answers(network, x)).abs().max() < 1e-12


def test_batch_normalisation_goes_with_its_channels():
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
    model = nn.Sequential(*layers).double()
    model(torch.randn(32, 1, 6, 6, dtype=torch.double))  # other means than 0
    kept, before = smallest(model[0], 0.5), model.state_dict()
    network = neurons.remove_smallest(model, 0.5)
    assert network[1].running_mean.equal(before["1.running_mean"][kept])
    model[3].weight.data[:, ~kept] = 0
    assert_same(model, network, 1, 6, 6)


def test_dead_neurons_go_before_small_ones():
    model = chain(fc1=nn.Linear(6, 5), relu=nn.ReLU(), fc2=nn.Linear(5, 3))
    model.fc1.weight.data *= torch.tensor([1, 1e-6, 1, 1, 1])[:, None]
    model.fc2.weight.data[:, 2] = 0  # dead by output, not small
    four = neurons.remove_smallest(model, {"fc1": 0.8})
    assert four.fc1.weight.equal(model.fc1.weight[[0, 1, 3, 4]])
    three = neurons.remove_smallest(model, {"fc1": 0.6})
    assert three.fc1.weight.equal(model.fc1.weight[[0, 3, 4]])
    assert neurons.remove_smallest(model, 1.0).fc1.out_features == 4
    assert model.fc1.out_features == 5


def test_alexnet_loses_only_neurons_that_no_group_and_no_normalisation_needs():
    model = models.alexnet(classes=10, width=0.1, size=64)
    network = neurons.remove_smallest(model, 0.5)
    smaller = [
        name
        for (name, layer), other in zip(
            masks.prunable(model).items(), masks.prunable(network).values(), strict=True
        )
        if len(other.weight) < len(layer.weight)
    ]
    assert smaller == ["fc1", "fc2"]
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize(
    ("kept", "error", "text"),
    [
        ({"fc9": 0.5}, KeyError, "no layer 'fc9' to prune; did you mean fc"),
        ({"fc3": 0.5}, ValueError, "no neurons of fc3 can be removed; these layers' can: fc1, fc2"),
        ({"fc1": 50}, ValueError, r"kept must lie in \[0, 1\], got 50"),
        (float("nan"), ValueError, r"kept must lie in \[0, 1\], got nan"),
    ],
)
def test_what_cannot_be_removed_is_told_in_a_sentence(kept, error, text):
    with pytest.raises(error, match=text):
        neurons.remove_smallest(models.lenet_300_100(width=0.1), kept)
