"""Sparse networks answer as dense ones do, and are chosen by what was timed. No test asserts times.

Where a test needs a choice, a fake clock says how long each side took.
"""

import copy
import json
import math
import pickle
import time
from collections import OrderedDict

import pytest
import torch
from torch import nn
from toys import Branching, lively

from pruning_lab import cli, counts, masks, models, sparse
from pruning_lab.sparse import Bench, SparseConv2d, SparseLinear, SparseRow, Spread
from pruning_lab.sparse import choosing as timing


class Convolutions(nn.Module):
    """Padded, strided, dilated, grouped, and what a reader may do with the weight itself."""

    def __init__(self):
        super().__init__()
        self.same = nn.Conv2d(2, 4, (3, 2), padding="same", dilation=(1, 2))
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, padding=(1, 2), groups=2, bias=False)
        self.reflected = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")
        self.depthwise = nn.Conv2d(6, 6, (1, 3), stride=(1, 2), groups=6)
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        x = self.depthwise(self.reflected(self.grouped(self.same(x)).relu()).relu())
        return self.head(x.flatten(2).transpose(1, 2)).mean(1) + self.head.weight.sum()


NETWORKS = {
    "lenet-300-100": (models.lenet_300_100, (1, 28, 28)),
    "lenet-5": (models.lenet_5, (1, 28, 28)),
    "alexnet": (lambda: models.alexnet(classes=10, width=0.1, size=64), (3, 64, 64)),
    "convolutions": (Convolutions, (2, 9, 10)),
    "branching": (Branching, (1, 8, 8)),
}


class Clock:
    """In place of time.perf_counter: a side takes 1, a sparse layer `more(layer)` on top."""

    def __init__(self, monkeypatch, more):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", self)
        monkeypatch.setattr(timing, "SECONDS", 0.0)
        for kind in (SparseLinear, SparseConv2d):
            monkeypatch.setattr(kind, "answer", self.slowed(kind.answer, more))

    def __call__(self):
        self.now += 1
        return self.now

    def slowed(self, answer, more):
        def answer_slowly(layer, x):
            self.now += more(layer)
            return answer(layer, x)

        return answer_slowly


@pytest.fixture
def faster(monkeypatch):
    """Every sparse layer takes a little less time than the dense one."""
    return Clock(monkeypatch, lambda layer: -0.1)


def made(name, density=0.2):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = lively(make()).eval()
    masks.prune(model, density=density).apply_(model)
    return model, shape


def same(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sparse_network_answers_as_the_dense_one(name, density, faster):
    model, shape = made(name, density)
    network = sparse.to_sparse(model, example=shape)
    assert {row.layer for row in network.choices[:-1]} == set(masks.prunable(model))
    assert {row.chosen for row in network.choices} == {"sparse"}
    for n in (0, 1, 2, 70):
        x = torch.randn(n, *shape)
        with torch.no_grad():
            found, expected = network(x), model(x)
        assert found.shape == expected.shape
        if n:
            same(found, expected)
        assert found.is_contiguous() == expected.is_contiguous()
    same(network(x), model(x))  # with gradients enabled, too


def test_a_layer_with_everything_gone_answers_with_its_biases(faster):
    model, shape = made("lenet-5")
    empty = {"conv1", "fc2"}
    mask = masks.Mask({n: k & (n not in empty) for n, k in masks.Mask.of(model).items()})
    network = sparse.to_sparse(model, mask, example=shape)
    assert [row.density for row in network.choices if row.layer in empty] == [0, 0]
    x = torch.randn(3, *shape)
    same(network(x), model.fc2.bias.expand(3, -1))


def test_other_shapes_and_dtypes_are_answered_as_dense_layers_do(faster):
    linear, conv = nn.Linear(6, 4).double(), nn.Conv2d(2, 3, 3).double()
    lines, image = torch.randn(2, 5, 6).double(), torch.randn(2, 7, 8).double()
    same(sparse.to_sparse(linear, example=(6,))(lines), linear(lines))
    same(sparse.to_sparse(conv, example=(2, 7, 8))(image), conv(image))
    last = torch.randn(2, 2, 7, 8).double().to(memory_format=torch.channels_last)
    found = sparse.to_sparse(conv, example=last)(last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    same(found, conv(last))


def test_under_autocast_a_sparse_network_answers_in_full_precision(faster):
    model, shape = made("convolutions")
    network, x = sparse.to_sparse(model, example=shape), torch.randn(2, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    same(found, model(x))


def test_stored_are_the_kept_weights_with_indices_of_32_bits(faster):
    model, shape = made("lenet-300-100", 0.05)
    network = sparse.to_sparse(model, example=shape)
    kept = masks.Mask.of(model).kept
    assert sum(p.numel() for p in network.parameters()) == kept + 410  # with the biases
    assert {b.dtype for b in network.buffers()} == {torch.int32}
    size = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    assert size == 8 * kept + 4 * 410 + 4 * (410 + 3)  # values, columns; biases; starts of rows


def test_the_state_dict_is_the_dense_ones_both_ways(faster):
    model, shape = made("convolutions")
    network, x = sparse.to_sparse(model, example=shape), torch.randn(2, *shape)
    ours, theirs = network.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    other = Convolutions()
    other.load_state_dict(ours)
    same(other(x), model(x))
    other = Convolutions()
    assert str(network.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
    same(network(x), other(x))


def test_a_state_dict_of_another_network_is_refused_as_by_torch(faster):
    network = sparse.to_sparse(nn.Sequential(nn.Linear(4, 3)), example=(4,))
    with pytest.raises(RuntimeError, match=r"size mismatch for 0.weight: \(3, 5\) in .* \(3, 4\)"):
        network.load_state_dict(nn.Sequential(nn.Linear(5, 3)).state_dict())
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*0\.weight.*Unexpected key.*1\.bias"):
        network.load_state_dict({"0.bias": torch.zeros(3), "1.bias": torch.zeros(3)})
    lacking = {"0.bias": torch.zeros(3)}
    dense = nn.Sequential(nn.Linear(4, 3)).load_state_dict(lacking, strict=False)
    assert network.load_state_dict(lacking, strict=False) == dense
    assert not network[0].bias.any()


def test_copies_answer_the_same_and_modes_are_as_usual(faster):
    model, shape = made("alexnet")
    model.train()
    network, x = sparse.to_sparse(model, example=shape), torch.randn(2, *shape)
    assert all(module.training for module in network.modules())
    network.eval()
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert not twin.training
        same(twin(x), model.eval()(x))
        assert str(twin.choices) == str(network.choices)


def test_training_it_raises_a_sentence_in_either_mode(faster):
    model, shape = made("branching")
    network, x = sparse.to_sparse(model, example=shape), torch.randn(2, *shape)
    for mode in (True, False):
        with pytest.raises(RuntimeError, match="no gradients; train the dense network, with its"):
            network.train(mode)(x).sum().backward()
    with pytest.raises(RuntimeError, match="no gradients"):
        network.requires_grad_(False)(x.requires_grad_()).sum().backward()
    for work in (masks.Mask.of, lambda model: counts.layers(model, shape)):
        with pytest.raises(ValueError, match="layer 'stem' stores only its non-zero weights; use"):
            work(network)


def test_making_it_leaves_no_trace_on_the_model(faster, everything_of):
    model, shape = made("branching")
    before = everything_of(model)
    mask = masks.prune(model, density=0.05)
    network = sparse.to_sparse(model, mask, example=shape, batch=3)
    sparse.bench(model, shape, [2])
    assert everything_of(model) == before
    assert masks.Mask.of(nn.Sequential(OrderedDict(x=copy.deepcopy(model)))).kept > mask.kept
    dense = copy.deepcopy(model)
    mask.apply_(dense)
    x = torch.randn(2, *shape)
    same(network(x), dense(x))


def test_a_layer_stays_dense_unless_it_is_faster_sparse(monkeypatch):
    slow = {"fc1", "conv2"}
    model, shape = made("lenet-5")
    widths = {len(layer.weight) for n, layer in masks.prunable(model).items() if n in slow}
    Clock(monkeypatch, lambda layer: 0.2 if len(layer.shape) and layer.shape[0] in widths else -0.1)
    network = sparse.to_sparse(model, example=shape, batch=2)
    assert {row.layer for row in network.choices if row.chosen == "dense"} == slow
    assert type(network.fc1) is nn.Linear
    assert type(network.fc2) is SparseLinear
    assert network.choices[0].batch == 2


def test_the_network_stays_dense_where_it_is_not_faster_as_a_whole(monkeypatch):
    """Layers may be faster alone and slower together: they share the caches."""
    layers = []
    clock = Clock(monkeypatch, lambda layer: -0.1 if len(layers) < 2 else 0.3)
    model, shape = made("lenet-300-100")
    network = sparse.to_sparse(nn.Sequential(model, Counting(layers)), example=shape)
    assert clock.now > 0
    assert {row.chosen for row in network.choices} == {"dense"}
    assert not any(isinstance(module, SparseLinear) for module in network.modules())


class Counting(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.__dict__["calls"] = calls

    def __deepcopy__(self, memo):
        return Counting(self.calls)

    def forward(self, x):
        self.calls.append(1)
        return x


def test_layers_of_other_types_and_those_that_never_run_stay_as_they_are(faster):
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(OrderedDict(mine=Mine(4, 4), head=nn.Linear(4, 2)))
    model.again = model.head  # one module under two names
    model.aside = nn.ModuleDict({"idle": nn.Linear(4, 2)})
    model.forward = None
    model.__class__ = type("Model", (nn.Sequential,), {"forward": lambda s, x: s.again(s.mine(x))})
    del model.__dict__["forward"]
    network = sparse.to_sparse(model, example=(4,))
    assert [row.layer for row in network.choices] == ["head", "whole network"]
    assert type(network.mine) is Mine
    assert type(network.aside["idle"]) is nn.Linear
    assert type(network.again) is SparseLinear
    x = torch.randn(3, 4)
    same(network(x), model(x))


def test_the_example_may_be_a_shape_images_or_a_split(toy, split, faster):
    images = torch.randn(3, 1, 8, 8)
    for example in ((1, 8, 8), images, split, [(images, None)]):
        network = sparse.to_sparse(toy, example=example, batch=20)
        assert {row.batch for row in network.choices} == {20}
    for example in ([], images[:0], "photos"):
        with pytest.raises(ValueError, match=r"expected images, or the shape of one such as"):
            sparse.to_sparse(toy, example=example)


# ---------------------------------------------------------------------------------------- bench


def test_the_break_even_is_the_density_at_which_both_take_as_long(monkeypatch):
    """On a clock that takes density / 0.2 for a sparse product, and 1 for a dense one."""

    def more(layer):
        return layer.values.numel() / layer.shape.numel() / 0.2 - 1

    Clock(monkeypatch, more)
    model = nn.Sequential(OrderedDict(fc=nn.Linear(200, 100), small=nn.Linear(100, 1)))
    masks.prune(model, density={"fc": 0.1}).apply_(model)
    rows = sparse.bench(model, (200,), [1, 3])
    assert [(row.layer, row.batch) for row in rows] == [
        *(("fc", 1), ("small", 1), ("whole network", 1)),
        *(("fc", 3), ("small", 3), ("whole network", 3)),
    ]
    assert rows[0].break_even == pytest.approx(0.2, rel=0.05)
    assert rows[0].speedup.value == pytest.approx(2, rel=0.01)
    assert [row.chosen for row in rows[:3]] == ["sparse", "dense", "sparse"]
    assert rows[2].break_even is None


@pytest.mark.parametrize(("factor", "edge"), [(0.1, 0.8), (1000.0, None)])
def test_a_break_even_beyond_the_measured_densities_is_said_to_be(factor, edge, monkeypatch):
    Clock(monkeypatch, lambda layer: factor * layer.values.numel() / layer.shape.numel() - 0.9)
    rows = sparse.bench(nn.Linear(50, 40), (50,), [1])
    assert rows[0].break_even == edge
    assert ("80% or more" if edge else "below 2%") in str(rows).splitlines()[2]


def row(layer, speedup, *, chosen, density=0.3, batch=1, break_even=0.21):
    low, value, high = speedup
    times = Spread(1, 1, 1), Spread(1, 1, 1), Spread(value, low, high)
    return SparseRow(layer, batch, density, *times, chosen, 2.0, break_even)


def test_verdicts_follow_the_rows():
    fast = row("fc1", (2.9, 3.0, 3.1), chosen="sparse")
    slow = row("fc2", (0.4, 0.5, 0.6), chosen="dense")
    open_ = row("fc3", (0.9, 1.01, 1.2), chosen="dense", break_even=None)
    whole = row("whole network", (1.4, 1.5, 1.6), chosen="sparse")
    still = row("whole network", (0.9, 1.0, 1.1), chosen="dense", batch=16)
    hardly = row("whole network", (0.99, 1.03, 1.06), chosen="sparse", batch=64)
    first, second, third = Bench([fast, slow, open_, whole, still, hardly]).verdicts
    assert first.startswith("batch 1: the network is 1.50x (1.40 to 1.60) as fast as dense; ")
    assert "fc1 is 3.00x (2.90 to 3.10) as fast; fc2 is 0.50x" in first
    assert "fc2 is 0.50x (0.40 to 0.60) as fast at density 0.3 (break-even 21.0%)" in first
    assert "fc3 is not faster at density 0.3 (break-even below 2%)" in first
    assert second == "batch 16: the network at density 0.3 is not faster sparse on this machine."
    assert third == second.replace("16", "64")


def test_the_ceiling_is_the_ratio_of_the_bytes_that_are_moved(faster):
    """By hand: weights, inputs and outputs of 4 bytes; 8 for a kept weight, 4 for a row's start."""
    model = nn.Sequential(nn.Linear(1000, 500))
    masks.prune(model, density=0.1).apply_(model)
    found = sparse.to_sparse(model, example=(1000,), batch=2).choices[0]
    ends = 2 * 4 * (1000 + 500)
    assert found.ceiling == (4 * 500_000 + ends) / (8 * 50_000 + 4 * 501 + ends)


def test_real_times_are_positive_and_in_order():
    model, shape = made("lenet-300-100", 0.02)
    began = time.perf_counter()
    rows = sparse.to_sparse(model, example=shape, batch=4).choices
    passed = 1e3 * (time.perf_counter() - began)
    for found in rows:
        for spread in (found.dense_ms, found.sparse_ms, found.speedup):
            assert 0 < spread.low <= spread.value <= spread.high
        assert found.dense_ms.value < passed
        assert math.isfinite(found.speedup.value)


def test_the_command_prints_rows_and_verdicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    model, _ = made("lenet-300-100", 0.05)
    models.save("p.safetensors", model, about={"network": "lenet-300-100", "data": "mnist-5k"})
    words = ("bench", "p.safetensors", "--batches", "1", "2")
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said.count("whole network") == 2
    assert "batch 2: the network" in said.splitlines()[-1]
    assert cli.main((*words, "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert [r["batch"] for r in record["rows"]] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert {r["density"] for r in record["rows"]} == {0.05}
    assert len(record["verdicts"]) == 2
