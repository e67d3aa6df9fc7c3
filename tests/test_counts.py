"""Counts are the paper's, those of torch's own counter, and those of loops over single products."""

import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import distributed, nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from pruning_lab import counts, layers, masks, models, paper


class Net(nn.Module):
    """Layers by name, and what a forward pass does with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def total_by_torch(model, *shape):
    """FLOPs of one image; with gradients, since without them torch's counter misses attention.

    Unfused, since torch 2.6 has no formula for the CPU's fused attention.
    """
    model.requires_grad_(True).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    return counter.get_total_flops()


def flops_by_torch(model, shape):
    """{layer: FLOPs per image} as torch's own dispatcher counts them, per module."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    names = {f"{type(model).__name__}.{name}": name for name in masks.prunable(model)}
    found = counter.get_flop_counts()
    return {name: sum(found[path].values()) for path, name in names.items()}


def nonzero(tensor):
    """The fraction of a tensor's values that are not zero: by a loop."""
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
SHAPES = {  # of the images that the paper's networks take
    **dict.fromkeys(("lenet-300-100", "lenet-5"), (1, 28, 28)),
    "alexnet": (3, 227, 227),
    "vgg-16": (3, 224, 224),
}
ROUNDED_UP_TOTAL = 1_448_813_632  # FLOPs of AlexNet: printed 1.5B


@pytest.mark.parametrize("name", paper.LAYER_TABLES)
def test_weights_and_flops_are_those_of_the_papers_tables(name):
    with torch.device("meta"):
        model = models.BUILT_IN[name]()
    model.to_empty(device="cpu")  # 138 million random numbers would take seconds
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    rows = counts.layers(model, SHAPES[name])
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
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 8, 3), (4, 7, 9)),
        (nn.Conv2d(4, 8, (3, 2), padding=(2, 1)), (4, 7, 9)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), (4, 7, 9)),
        (nn.Conv2d(4, 8, 3, groups=2), (4, 7, 9)),
        (nn.Conv2d(4, 8, 3, groups=4, stride=(1, 2)), (4, 7, 9)),
        (nn.Conv2d(4, 8, 2, dilation=2, bias=False), (4, 7, 9)),
        (nn.Conv1d(4, 6, 3, stride=2, groups=2), (4, 11)),
        (nn.Conv3d(2, 3, (1, 2, 3), dilation=(1, 2, 1)), (2, 4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 3)),
        (nn.ConvTranspose3d(2, 3, 2, output_padding=1, stride=2), (2, 3, 2, 4)),
        (nn.Linear(5, 7), (5,)),
        (nn.Linear(5, 7, bias=False), (3, 2, 5)),
    ],
)
def test_a_layer_costs_what_a_loop_over_its_products_counts(layer, shape):
    x = torch.ones(1, *shape)
    y = layer(x).detach()
    if getattr(layer, "transposed", False):  # every input meets the filters of its channel
        products = sum(layer.weight[place[1]].numel() for place in x.nonzero().tolist())
    else:  # every output is a sum over the filter of its channel
        channel = -1 if isinstance(layer, nn.Linear) else 1
        places = torch.ones_like(y).nonzero().tolist()
        products = sum(layer.weight[place[channel]].numel() for place in places)
    (row,) = counts.layers(layer, shape)
    assert row.flops == 2 * products
    assert (row.weights, row.neurons) == (layer.weight.numel(), y.numel())


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_flops_are_those_of_torchs_own_counter(name, request):
    model = request.getfixturevalue(name)
    rows = counts.layers(model, (1, 8, 8))
    assert {row.layer: row.flops for row in rows} == flops_by_torch(model, (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("vit_b_16", {"image_size": 64}, 64),
        ("swin_t", {}, 64),
        ("resnet50", {}, 64),
        ("mobilenet_v3_small", {}, 64),
        ("googlenet", {"init_weights": False}, 64),
    ],
)
def test_a_users_network_is_counted_whole(name, options, size):
    model = torchvision.models.get_model(name, weights=None, **options)
    rows = counts.layers(model, (3, size, size))
    matrices = sum(
        p.numel() for p in model.parameters() if p.dim() > 1
    )  # no norm of theirs has any
    assert rows.total.weights == matrices
    assert rows.total.flops == total_by_torch(model, 3, size, size)
    assert {row.layer for row in rows} - {"other"} == set(layers.prunable(model))
    other = [row.weights for row in rows if row.layer == "other"]
    outside = sum(row.parameters for row in layers.not_covered(model)[:-1])
    assert other == ([outside] if name in ("vit_b_16", "swin_t") else [])


def test_a_tied_weight_costs_each_use_and_weighs_once():
    model = Net(
        lambda net, x: net.c(net.b(net.a(x).relu()).relu()),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 6),
        c=nn.Linear(6, 2),
    )
    model.b.weight = model.a.weight
    rows = counts.layers(model, (6,))
    assert [(row.layer, row.weights, row.flops) for row in rows] == [
        ("a", 36, 2 * 2 * 36),
        ("c", 12, 2 * 12),
    ]
    assert counts.parameters(model).total == 36 + 6 + 6 + 12 + 2


def test_weights_that_share_one_storage_are_told_apart(toy):
    expected = counts.layers(toy, (1, 8, 8))
    vector = nn.utils.parameters_to_vector(toy.parameters()).detach()
    nn.utils.vector_to_parameters(vector, toy.parameters())
    assert counts.layers(toy, (1, 8, 8)) == expected


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_is_projections_and_two_products_of_no_layer(need_weights):
    model = Net(
        lambda net, x: net.head(net.att(x, x, x, need_weights=need_weights)[0].mean(1)),
        att=nn.MultiheadAttention(16, 2, batch_first=True),
        head=nn.Linear(16, 3),
    )
    length, width = 5, 16
    rows = {row.layer: row for row in counts.layers(model, (length, width))}
    assert {name: row.flops for name, row in rows.items()} == {
        "att.in_proj": 2 * length * 3 * width * width,
        "att.out_proj": 2 * length * width * width,
        "head": 2 * width * 3,
        "other": 2 * 2 * length * length * width,  # queries x keys, attention x values
    }
    assert rows["att.in_proj"].weights == 3 * width * width
    assert rows["other"].weights == 0
    assert sum(row.flops for row in rows.values()) == total_by_torch(model, length, width)


def test_attention_over_other_keys_and_values_has_a_row_per_projection():
    model = Net(
        lambda net, x: net.att(x[..., :8], x[..., 8:14], x[..., 14:])[0],
        att=nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
    )
    x = torch.arange(18.0).repeat(1, 5, 1)
    x[..., 8:11] = 0  # half of the keys; x[..., 0], a query, is zero too
    rows = {row.layer: row for row in counts.layers(model, [(x, None)])}
    assert {name: row.flops for name, row in rows.items()} == {
        "att.q_proj": 2 * 5 * 8 * 8,
        "att.k_proj": 2 * 5 * 8 * 6,
        "att.v_proj": 2 * 5 * 8 * 4,
        "att.out_proj": 2 * 5 * 8 * 8,
        "other": 2 * 2 * 5 * 5 * 8,
    }
    densities = [rows[f"att.{name}_proj"].input_density for name in "qkv"]
    assert densities == [7 / 8, 1 / 2, 1]
    assert sum(row.flops for row in rows.values()) == total_by_torch(model, 5, 18)


@pytest.mark.parametrize("frozen", [False, True])
def test_attentions_fast_path_hides_nothing(frozen):
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    expected = total_by_torch(model, 5, 16)
    model.requires_grad_(not frozen)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 5, 16))
    assert counter.get_total_flops() == 0  # the trap is there
    rows = counts.layers(model, (5, 16))
    assert rows.total.flops == expected
    assert rows.total.weights == 2 * (4 * 16 * 16 + 2 * 16 * 32)
    with torch.inference_mode():
        assert counts.layers(model, (5, 16)) == rows


def test_functional_uses_belong_to_the_layer_whose_weight_they_take():
    def forward(net, x):
        above = F.linear(x, net.fc.weight[:2])  # part of the weight
        below = (net.fc.weight[2:] @ x.relu().T).T  # the weight first
        return net.head(torch.cat([above, below], 1))

    model = Net(forward, fc=nn.Linear(4, 5), head=nn.Linear(5, 2))
    x = torch.tensor([[0.0, 1, -1, 2], [-1, -2, 0, 3]])
    fc, head = counts.layers(model, [(x, None)])
    assert (fc.layer, fc.flops, head.flops) == ("fc", 2 * 4 * 5, 2 * 5 * 2)
    assert fc.input_density == (3 + 3 + 2 + 1) / (2 * 8)  # x, then relu(x): row by row
    assert fc.flops_kept == pytest.approx(2 * 4 * 5 * 9 / 16)


def test_a_network_without_layers_has_no_rows():
    assert counts.layers(nn.Flatten(), (1, 8, 8)) == ()


def test_a_weight_that_is_only_added_does_not_own_the_product():
    def forward(net, x):
        return F.linear(x, torch.addmm(net.fc.weight, net.b, net.a))  # low-rank adaptation

    model = Net(forward, fc=nn.Linear(4, 5))
    model.a, model.b = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(5, 2))
    idle, other = counts.layers(model, (4,))
    assert (idle.layer, idle.flops) == ("fc", 0)
    assert (other.weights, other.flops) == (2 * 4 + 5 * 2, 2 * 5 * 2 * 4 + 2 * 4 * 5)


# --- what belongs to no layer ------------------------------------------------------------------


def test_embeddings_and_computed_weights_are_in_the_row_other():
    model = Net(
        lambda net, x: net.head(net.fc(net.norm(net.words(x)))),
        words=nn.Embedding(7, 4),
        norm=nn.LayerNorm((3, 4)),  # its weight has two dimensions
        fc=nn.Linear(4, 4),
        head=nn.Linear(4, 7),
    )
    with torch.no_grad():
        model.words.weight[:2] = 0
    parametrize.register_parametrization(model.fc, "weight", nn.Tanh())
    words = [(torch.tensor([[1, 2, 3], [4, 5, 6]]), None)]
    head, other = rows = counts.layers(model, words)
    assert (head.layer, head.weights, head.flops) == ("head", 28, 2 * 3 * 28)
    assert (other.layer, other.weights, other.kept) == ("other", 28 + 16, 20 + 16)
    assert other.flops == other.flops_kept == 2 * 3 * 16
    assert (other.neurons, other.input_density, other.activation_density) == (0, None, None)
    assert rows.total.activation_density == head.activation_density
    assert rows.weights_only_flop_density == 1
    model.head.weight = model.words.weight
    tied, other = counts.layers(model, words)
    assert (tied.layer, tied.weights, tied.kept) == ("head", 28, 20)
    assert other.weights == 16


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.Bilinear])
def test_modules_whose_operations_have_no_formula_are_named_under_the_table(kind):
    """On some devices torch takes a recurrent layer apart, into products that are counted."""

    def forward(net, x):
        parts = net.rnn(x, x) if kind is nn.Bilinear else net.rnn(x)[0]
        return net.fc(parts).mean(1)

    rnn = kind(8, 8, 6) if kind is nn.Bilinear else kind(8, 6, batch_first=True)
    rows = counts.layers(Net(forward, rnn=rnn, fc=nn.Linear(6, 3)), (5, 8))
    fc, other = rows
    assert fc.flops == 2 * 5 * 6 * 3
    assert rows.not_counted == (() if other.flops else ("rnn",))
    assert str(rows).endswith("\nnot counted: rnn") == (other.flops == 0)
    assert kind is not nn.LSTM or other.flops == 0
    assert rows[:1].not_counted == rows.not_counted


def test_look_ups_and_layers_that_never_ran_are_not_among_them():
    model = Net(lambda net, x: net.fc(net.words(x)), words=nn.Embedding(9, 4), fc=nn.Linear(4, 3))
    model.idle = nn.LSTM(4, 4)
    rows = counts.layers(model, [(torch.tensor([[1, 2]]), None)])
    assert rows.not_counted == ()
    assert "not counted" not in str(rows)


def test_masks_do_not_touch_the_operations_of_other():
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    masks.prune(layer, density=0.25).apply_(layer)
    images = [(torch.randn(2, 5, 16), None)]
    rows = counts.layers(layer, images)
    products = rows[-1].flops
    assert (rows[-1].layer, products) == ("other", 2 * 2 * 5 * 5 * 16)
    pruned = sum(row.flops for row in rows) - products
    assert rows.weights_only_flop_density == pytest.approx(
        (0.25 * pruned + products) / (pruned + products)
    )
    assert counts.layers(layer, (5, 16)).total.flops_kept == pytest.approx(0.25 * pruned + products)
    assert rows.total.activation_density is not None


def test_a_layer_that_never_ran_comes_last_with_no_operations(batches):
    model = Net(lambda net, x: net.used(x.flatten(1)), idle=nn.Linear(3, 2), used=nn.Linear(64, 4))
    model.position = nn.Parameter(torch.zeros(2, 5))
    rows = counts.layers(model, batches)
    used, idle, other = rows
    assert [row.layer for row in rows] == ["used", "idle", "other"]
    assert idle == counts.LayerCount("idle", 6, 6, 0, 0, None, None, 0)
    assert (other.weights, other.kept, other.flops) == (10, 0, 0)
    assert rows.total.activation_density == used.activation_density
    assert rows.total.weights == 64 * 4 + 6 + 10
    cells = str(rows).splitlines()[3].split()
    assert cells == ["idle", "6", "0", "100.0%"]  # no FLOP% of no operations


# --- activations -------------------------------------------------------------------------------


def test_activations_are_counted_after_relu_and_pooling(toy, batches):
    masks.prune(toy, density=0.4).apply_(toy)
    rows = counts.layers(toy, batches)
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        pooled = F.relu(F.max_pool2d(toy.conv1(x), 2))
        hidden = F.relu(toy.fc1(pooled.flatten(1)))
        answer = toy.fc2(hidden)
    expected = [nonzero(pooled), nonzero(hidden), nonzero(answer)]
    assert [row.activation_density for row in rows] == pytest.approx(expected)
    assert [row.input_density for row in rows] == pytest.approx([nonzero(x), *expected[:2]])
    assert 0.1 < expected[1] < 0.9  # ReLU does cut some off, or nothing is shown here
    *_, last = counts.layers(nn.Sequential(toy, nn.ReLU()), batches)
    assert last.activation_density == pytest.approx(nonzero(answer.relu()))


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


def test_after_a_branch_the_next_layers_input_is_what_counts(branching, batches):
    rows = {row.layer: row for row in counts.layers(branching.eval(), batches)}
    assert list(rows) == ["stem", "block.0", "block.2", "head"]
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        stem = branching.norm(branching.stem(x)).relu()
        every_fourth = (stem + branching.block(stem)).relu()[:, :, ::4, ::4]
    assert rows["stem"].activation_density == pytest.approx(nonzero(stem))
    assert rows["block.2"].activation_density == pytest.approx(nonzero(every_fourth))
    assert rows["block.2"].neurons == 16


def test_a_split_a_loader_and_a_list_are_counted_alike(toy, split, batches):
    images = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(images, split.labels), batch_size=7)
    assert counts.layers(toy, split) == counts.layers(toy, batches) == counts.layers(toy, loader)


def test_sequences_of_batches_and_shapes_are_not_mixed_up(toy, batches):
    (x, y), (x2, y2), *_ = batches
    pair = counts.layers(toy, ((x, y), (x2, y2)))
    assert pair == counts.layers(toy, [[x, y], [x2, y2]])
    assert pair[0].input_density is not None
    shape = counts.layers(toy, (1, 8, 8))
    assert shape == counts.layers(toy, [1, 8, 8]) == counts.layers(toy, x.shape[1:])
    assert [row.flops for row in shape] == [row.flops for row in pair]


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (28, "28, with int"),
        (None, "None, with NoneType"),
        ("mnist", "'mnist', with str"),
        ((1, 8.0, 8), "(1, 8.0, 8), with int"),
        ((1, -8, 8), "(1, -8, 8), with int"),
        (torch.zeros(2, 1, 8, 8), ", with Tensor"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(2)), ", with Tensor"),
        ([(1, 2)], "[(1, 2)], with tuple"),
    ],
)
def test_what_is_neither_batches_nor_a_shape_is_refused_in_one_sentence(toy, images, got):
    with pytest.raises(ValueError, match=r"^expected batches \(x, y\), or the shape") as error:
        counts.layers(toy, images)
    assert f"{got} for a batch" in str(error.value)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


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
@pytest.mark.parametrize("fast", [True, False])
def test_an_interrupted_count_leaves_nothing_behind(toy, batches, error, fast, everything_of):
    def stop(*_):
        raise error

    def images():
        yield batches[0]
        toy.fc2.register_forward_pre_hook(stop)
        yield batches[1]

    toy.relu1 = nn.LocalResponseNorm(2)  # counting puts hooks on it
    hooks = (
        nn.modules.module._global_forward_hooks,
        toy.relu1._forward_hooks,
        toy.relu1._forward_pre_hooks,
    )
    mha.set_fastpath_enabled(fast)
    before = everything_of(toy)
    try:
        with pytest.raises(error):
            counts.layers(toy, images())
        assert mha.get_fastpath_enabled() is fast
    finally:
        mha.set_fastpath_enabled(True)
    assert everything_of(toy) == before
    assert _get_current_dispatch_mode() is None
    assert not any(hooks)
    toy.fc2._forward_pre_hooks.clear()
    assert counts.layers(toy, batches)


def test_counts_in_two_threads_leave_attentions_fast_path_on():
    inside, done = threading.Event(), threading.Event()

    def wait_inside(net, x):
        inside.set()
        done.wait(10)
        return x

    second = threading.Thread(target=counts.layers, args=(Net(wait_inside), (2,)))

    def start_second(net, x):
        second.start()
        inside.wait(0.3)
        return x

    counts.layers(Net(start_second), (2,))
    done.set()
    second.join()
    assert mha.get_fastpath_enabled()


# --- wrapped models ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_counted_like_the_plain_one_and_stays_compiled(toy):
    runs = []

    def backend(graph, inputs):
        return lambda *values: runs.append(1) or graph(*values)

    expected = counts.layers(toy, (1, 8, 8))
    compiled = torch.compile(toy.eval(), backend=backend, fullgraph=True)
    for _ in range(2):
        assert counts.layers(compiled, (1, 8, 8)) == expected
        assert not runs
        compiled(torch.zeros(1, 1, 8, 8))
        assert runs.pop()
    part = nn.Sequential(torch.compile(toy, backend=backend, fullgraph=True), nn.ReLU())
    assert [row.flops for row in counts.layers(part, (1, 8, 8))] == [row.flops for row in expected]
    torch.compiler.reset()


def test_a_distributed_model_is_counted_under_the_plain_names(toy):
    expected = counts.layers(toy, (1, 8, 8))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(toy)
        assert counts.layers(model, (1, 8, 8)) == expected
        assert counts.parameters(model) == counts.parameters(toy)
    finally:
        distributed.destroy_process_group()


def test_counting_does_not_load_torchs_compiler():
    program = (
        "import sys; from pruning_lab import counts, models\n"
        "counts.layers(models.lenet_5(), (1, 28, 28))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
