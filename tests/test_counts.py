"""Counts are the paper's, torch's own counter's and a hand's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from pruning_lab import counts, masks, models, paper


def flops_by_torch(model, shape):
    """{layer: FLOPs per image} as torch's own dispatcher counts them, per module."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    names = {f"{type(model).__name__}.{name}": name for name in masks.prunable(model)}
    found = counter.get_flop_counts()
    return {name: sum(found[path].values()) for path, name in names.items()}


def share(tensor):
    """Of a tensor's values, how many are not zero: by a loop."""
    values = tensor.flatten().tolist()
    return sum(value != 0 for value in values) / len(values)


# --- the paper ---------------------------------------------------------------------------------


def as_printed(value, printed):
    """Whether a count rounds to what the paper prints: 34,848 to 35K."""
    digits = str(round(printed))
    unit = 10 ** (len(digits) - len(digits.rstrip("0")))
    return abs(value - printed) <= unit / 2


# Where the paper rounds up what is nearer to the number below.
ROUNDED_UP = {"alexnet": {"conv4": 663_552}, "vgg-16": {"conv2_2": 147_456}}
ROUNDED_UP_TOTAL = 1_448_813_632  # FLOPs of AlexNet: printed 1.5B


@pytest.mark.parametrize("name", paper.LAYER_TABLES)
def test_weights_and_flops_are_those_of_the_papers_tables(name):
    with torch.device("meta"):
        model = models.BUILT_IN[name]()
    model.to_empty(device="cpu")  # 138 million random numbers would take seconds
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    rows = counts.layers(model, models.input_shape(name))
    odd = {}
    for ours, theirs in zip((*rows, rows.total), paper.LAYER_TABLES[name], strict=True):
        assert ours.layer == theirs.layer
        if not as_printed(ours.weights, theirs.weights):
            odd[ours.layer] = ours.weights
        if not as_printed(ours.flops, theirs.flops):
            odd[ours.layer, "flops"] = ours.flops
    total = {("total", "flops"): ROUNDED_UP_TOTAL} if name == "alexnet" else {}
    assert odd == ROUNDED_UP.get(name, {}) | total


def test_lenet_5_costs_what_multiplying_by_hand_gives():
    rows = counts.layers(models.lenet_5(), (1, 28, 28))
    assert [row.weights for row in rows] == [500, 25_000, 400_000, 5_000]
    assert [row.flops for row in rows] == [
        2 * 24 * 24 * 20 * 25,  # outputs, before pooling, times weights per output
        2 * 8 * 8 * 50 * 20 * 25,
        2 * 800 * 500,
        2 * 500 * 10,
    ]
    assert [row.neurons for row in rows] == [20 * 12 * 12, 50 * 4 * 4, 500, 10]  # after pooling
    assert rows.total.flops == 4_586_000


def test_parameters_count_biases_as_table_1_does():
    model = models.lenet_300_100()
    assert counts.parameters(model) == counts.Parameters(266_610, 266_610)
    masks.prune(model, density={"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}).apply_(model)
    kept = round(0.08 * 235_200) + round(0.09 * 30_000) + round(0.26 * 1_000) + 410
    assert counts.parameters(model).kept == kept
    assert counts.parameters(model).compression == 266_610 / kept
    assert round(266_610 / kept) == paper.TABLE_1["lenet-300-100"].compression


# --- FLOPs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "padding": (2, 1)},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 3, "groups": 4, "stride": (1, 2)},
        {"kernel_size": 2, "dilation": 2, "bias": False},
    ],
)
def test_a_convolution_costs_what_a_loop_over_its_products_counts(options):
    conv = nn.Conv2d(4, 8, **options)
    x = torch.randn(1, 4, 7, 9)
    kh, kw = conv.kernel_size
    _, _, h_out, w_out = conv(x).shape
    products = 0
    for channel in range(8):
        inputs = range(4 // conv.groups)
        assert conv.weight[channel].shape == (len(inputs), kh, kw)
        products += sum(1 for _ in inputs for _ in range(kh * kw) for _ in range(h_out * w_out))
    (row,) = counts.layers(nn.Sequential(conv), (4, 7, 9))
    assert row.flops == 2 * products
    assert flops_by_torch(nn.Sequential(conv), (4, 7, 9)) == {"0": 2 * products}


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_flops_are_those_of_torchs_own_counter(name, request):
    model = request.getfixturevalue(name)
    rows = counts.layers(model, (1, 8, 8))
    assert {row.layer: row.flops for row in rows} == flops_by_torch(model, (1, 8, 8))


def test_a_layer_that_runs_twice_costs_twice_and_weighs_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(self.fc(x).relu())

    (row,) = counts.layers(Twice(), (6,))
    assert (row.weights, row.flops) == (36, 2 * 2 * 36)


# --- activations -------------------------------------------------------------------------------


def test_activations_are_counted_after_relu_and_pooling(toy, batches):
    masks.prune(toy, density=0.4).apply_(toy)
    rows = counts.layers(toy, batches)
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        pooled = F.relu(F.max_pool2d(toy.conv1(x), 2))
        hidden = F.relu(toy.fc1(pooled.flatten(1)))
        answer = toy.fc2(hidden)
    expected = [share(pooled), share(hidden), share(answer)]
    assert [row.activation_density for row in rows] == pytest.approx(expected)
    assert [row.input_density for row in rows] == pytest.approx([share(x), *expected[:2]])
    assert 0.1 < expected[1] < 0.9  # ReLU does cut some off, or nothing is shown here
    *_, last = counts.layers(nn.Sequential(toy, nn.ReLU()), batches)
    assert last.activation_density == pytest.approx(share(answer.relu()))


def test_operations_left_are_weights_left_times_activations_that_enter(toy, batches):
    masks.prune(toy, density={"conv1": 0.6, "fc1": 0.25, "fc2": 0.5}).apply_(toy)
    rows = counts.layers(toy, batches)
    for row in rows:
        assert row.kept == int(masks.prunable(toy)[row.layer].weight.count_nonzero())
        assert row.flop_density == pytest.approx(row.density * row.input_density)
    conv1, fc1, fc2 = rows
    assert fc1.input_density == conv1.activation_density
    assert fc2.input_density == fc1.activation_density


def test_totals_weigh_activations_by_neurons_and_operations_by_flops(toy, batches):
    masks.prune(toy, density=0.4).apply_(toy)
    rows = counts.layers(toy, batches)
    total = rows.total
    neurons = [4 * 3 * 3, 12, 4]
    assert total.neurons == sum(neurons)
    assert total.activation_density == pytest.approx(
        sum(n * row.activation_density for n, row in zip(neurons, rows, strict=True)) / sum(neurons)
    )
    assert total.flop_density == pytest.approx(
        sum(row.flops * row.flop_density for row in rows) / sum(row.flops for row in rows)
    )
    assert rows.weights_only_flop_density == pytest.approx(
        sum(row.flops * row.density for row in rows) / sum(row.flops for row in rows)
    )
    assert rows.weights_only_flop_density > total.flop_density
    assert total.density == pytest.approx(total.kept / total.weights)


def test_a_shape_alone_measures_no_activations(toy):
    rows = counts.layers(toy, (1, 8, 8))
    assert {row.activation_density for row in (*rows, rows.total)} == {None}
    assert rows.total.flop_density == 1
    assert "conv1" in str(rows)


def test_behind_a_branch_the_next_layers_input_is_what_counts(branching, batches):
    rows = {row.layer: row for row in counts.layers(branching.eval(), batches)}
    assert list(rows) == ["stem", "block.0", "block.2", "head"]
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        stem = branching.norm(branching.stem(x)).relu()
        every_fourth = (stem + branching.block(stem)).relu()[:, :, ::4, ::4]
    assert rows["stem"].activation_density == pytest.approx(share(stem))
    assert rows["block.2"].activation_density == pytest.approx(share(every_fourth))
    assert rows["block.2"].neurons == 16


def test_a_split_a_loader_and_a_list_are_counted_alike(toy, split, batches):
    images = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(images, split.labels), batch_size=7)
    assert counts.layers(toy, split) == counts.layers(toy, batches) == counts.layers(toy, loader)


def test_a_layer_that_never_ran_is_left_out(toy):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    assert [row.layer for row in counts.layers(Idle(), (3,))] == ["used"]


def test_no_images_are_refused(toy):
    with pytest.raises(ValueError, match="no images to count with"):
        counts.layers(toy, [])


# --- no trace ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_counting_leaves_every_byte_mode_hook_and_random_state(
    name, request, batches, everything_of
):
    model = request.getfixturevalue(name).train()
    before = everything_of(model)
    counts.layers(model, batches)
    counts.parameters(model)
    assert everything_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_count_leaves_no_hook_behind(toy, batches, error, everything_of):
    def images():
        yield batches[0]
        raise error

    before = everything_of(toy)
    with pytest.raises(error):
        counts.layers(toy, images())
    assert everything_of(toy) == before
