"""The studio's numbers are what pruning and measuring a copy give, whatever users do meanwhile."""

import copy
import gc
import random
import shlex
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import OrderedDict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import CLASSES, Branching, lively

from pruning_lab import (
    cli,
    counts,
    criteria,
    data,
    evaluation,
    files,
    masks,
    models,
    sensitivity,
    storage,
)
from pruning_lab.evaluation.thresholded import whole
from pruning_lab.masks import Mask, prunable
from pruning_lab.studio import (
    Changed,
    Failed,
    Layer,
    Measured,
    Moved,
    Progress,
    Setting,
    Studio,
    measurer,
    tasks,
)
from pruning_lab.studio.images import OwnRandom
from pruning_lab.training import TrainConfig, train

GENTLE = TrainConfig(epochs=2, lr=0.05, batch_size=8)


# --- networks and images -----------------------------------------------------------------------


class Pause(nn.Module):
    """A step that passes everything on: slowly, one at a time, or not at all. Copies share it."""

    __module__ = "torch.nn"  # whose modules a trace calls, and does not look into

    def __init__(self):
        super().__init__()
        self.calls, self.seconds, self.fails, self.held = 0, 0.0, False, False
        self.turns = threading.Semaphore(0)

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.calls += 1
        time.sleep(self.seconds)
        end = time.perf_counter() + 20
        while self.held and not self.turns.acquire(timeout=0.002):
            assert time.perf_counter() < end, "nobody let go"
        if self.fails:
            raise ArithmeticError("out of numbers")
        return x

    def until(self, calls: int) -> None:
        """Wait until so many calls have come."""
        _until(lambda: self.calls >= calls)

    def let_go(self) -> None:
        self.held = False


class Deciding(nn.Module):
    """Its way depends on the images, so that it always runs whole."""

    def __init__(self):
        super().__init__()
        self.fc1, self.pause, self.fc2 = nn.Linear(64, 9), Pause(), nn.Linear(9, CLASSES)

    def forward(self, x):
        x = self.pause(self.fc1(x.flatten(1)).relu())
        return self.fc2(x if x.sum() > 3 else -x)


class Batches(list):
    """Batches that say when they are taken."""

    taken = staticmethod(lambda count: None)

    def __iter__(self):
        for count, batch in enumerate(super().__iter__(), start=1):
            self.taken(count)
            yield batch


def _until(happened, seconds=20):
    end = time.perf_counter() + seconds
    while not happened():
        assert time.perf_counter() < end, "it never happened"
        time.sleep(0.002)


def pausing():
    """A chain that pauses between its layers."""
    torch.manual_seed(0)
    first, last = nn.Linear(64, 9), nn.Linear(9, CLASSES)
    return lively(nn.Sequential(OrderedDict(flat=nn.Flatten(), fc1=first, pause=Pause(), fc2=last)))


def normed():
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.1, 0.1)
    norm.running_var.uniform_(0.5, 1.5)
    last = nn.Linear(144, CLASSES)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), last)


def used_twice():
    middle = nn.Linear(9, 9)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 9), nn.ReLU()),
        *(middle, nn.Tanh(), middle, nn.Tanh(), nn.Linear(9, CLASSES)),
    )


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model.append(nn.ReLU()).append(nn.Linear(64, CLASSES))


def with_ties():
    model = normed()
    with torch.no_grad():
        for layer in prunable(model).values():
            layer.weight.copy_((layer.weight * 20).round() / 20)  # some are zero now
    return model


def with_odd_layers():
    """One all zeros, one of one value, one with a single weight left."""
    zero, flat, single = nn.Linear(64, 9), nn.Linear(9, 8), nn.Linear(8, CLASSES)
    with torch.no_grad():
        zero.weight.zero_()
        flat.weight.fill_(0.25)
        single.weight[1:].zero_()
        single.weight[0, 1:].zero_()
    return nn.Sequential(nn.Flatten(), zero, nn.ReLU(), flat, nn.ReLU(), single)


def pruned():
    model = normed()
    masks.prune(model, density={"0": 0.5, "4": 0.2}).apply_(model)
    return model


def with_gaps():
    """Weights that lie as columns, and as every other number, of a larger tensor."""
    model = normed()
    for layer in prunable(model).values():
        weight = layer.weight.detach()
        room = torch.zeros(*weight.shape[:-1], 2 * weight.shape[-1])
        room[..., ::2] = weight
        layer.module.weight = nn.Parameter(room[..., ::2])
    model[4].weight = nn.Parameter(model[4].weight.detach().T.contiguous().T)
    assert not any(layer.weight.is_contiguous() for layer in prunable(model).values())
    return model


ZOO = {
    "normed": normed,
    "branching": Branching,
    "used twice": used_twice,
    "deciding": Deciding,
    "tied": tied,
    "ties": with_ties,
    "odd layers": with_odd_layers,
    "pruned": pruned,
    "gaps": with_gaps,
    "channels last": lambda: normed().to(memory_format=torch.channels_last),
    "pruned, channels last": lambda: pruned().to(memory_format=torch.channels_last),
    "double": lambda: normed().double(),
    "bfloat16": lambda: normed().bfloat16(),
    "pruned bfloat16": lambda: with_ties().bfloat16(),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = lively(ZOO[name]()).train()
    if isinstance(model, nn.Sequential):
        model[0].eval()  # as when someone holds a layer still
    return model


@pytest.fixture
def images(split):
    """For a network of whatever precision: 50 in batches of 16, as a list."""
    return lambda model: [(x.to(next(model.parameters()).dtype), y) for x, y in split]


@pytest.fixture
def splits(split):
    def part(name, count, seed):
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        return replace(split, name=name, images=pixels, labels=labels)

    return data.Splits("noise", part("train", 40, 2), split, part("test", 30, 3), "random")


def press_while_it_settles() -> None:
    """Ctrl-C, as soon as the main thread waits in `settle`."""
    main = threading.main_thread().ident

    def waits() -> bool:
        return any(f.name == "settle" for f in traceback.extract_stack(sys._current_frames()[main]))

    _until(waits)
    signal.pthread_kill(main, signal.SIGINT)


def threads() -> list:
    return [thread for thread in threading.enumerate() if thread.name == "studio"]


@pytest.fixture
def studio_of():
    """Opens studios; afterwards all are closed, and no thread is left."""
    studios = []

    def open_(*args, **options) -> Studio:
        studios.append(Studio(*args, **options))
        return studios[-1]

    yield open_
    for one in studios:
        one.close()
    assert threads() == []


# --- by others ---------------------------------------------------------------------------------


def mask_of(model, settings) -> Mask:
    """What masks.prune chooses, within the weights that are not zero."""
    mask = Mask.of(model)
    for kind in ("quality", "density"):
        amounts = {n: s.amount for n, s in settings.items() if s.kind == kind}
        mask = mask & masks.prune(model, **{kind: amounts}) if amounts else mask
    return mask


def measured(model, mask, images):
    """(accuracy, paired drop) of a masked copy."""
    copied = copy.deepcopy(model)
    mask.apply_(copied)
    after = evaluation.evaluate(copied, images)
    return after, evaluation.drop(evaluation.evaluate(model, images), after)


def check(studio: Studio, model, images) -> None:
    """All that the studio says, against pruning and measuring a copy of `model`."""
    found, attempt, mask = studio.metrics(), studio.attempt, mask_of(model, studio.attempt.settings)
    assert (found.final, found.status, found.attempt) == (True, "ready", attempt.number)
    assert studio.mask.fingerprint() == mask.fingerprint()
    assert (found.accuracy, found.drop) == measured(model, mask, images)
    assert (attempt.accuracy, attempt.drop) == (found.accuracy, found.drop)
    assert found.kept == mask.kept
    assert found.weights == mask.weights
    assert found.density == attempt.density == pytest.approx(mask.density)
    flops = {row.layer: row.flops for row in counts.layers(model, images)}
    for row, name, kept in zip(found.layers, mask, mask.values(), strict=True):
        assert (row.layer, row.weights, row.kept) == (name, kept.numel(), int(kept.sum()))
        weight = prunable(model)[name].weight.detach()
        assert row.sigma == criteria.sigma(weight, weight != 0)
        asked = attempt.settings.get(name, Setting())
        assert row.asked == studio.setting(name) == asked
        if asked.kind == "quality":
            assert row.threshold == asked.amount * row.sigma
        elif 0 < row.kept < weight.count_nonzero():
            assert row.threshold == weight.abs()[kept].min()
        if row.kept > 0:
            assert row.quality == (row.threshold / row.sigma if row.sigma else 0)
        assert row.is_conv == isinstance(prunable(model)[name].module, nn.Conv2d)
        assert row.flops == flops[name]
        stored = weight.masked_fill(~kept, 0)
        stored = storage.sizes(stored.float() if stored.dtype == torch.float64 else stored)["ours"]
        assert row.bytes == pytest.approx(stored, rel=0.02 if row.kept > 2**15 else 0)
    assert found.bytes == attempt.bytes == sum(row.bytes for row in found.layers)
    assert found.flops == sum(flops.values())
    real = copy.deepcopy(model)
    mask.apply_(real)
    left = counts.layers(real, tuple(images[0][0].shape[1:])) if _is_float(model) else None
    if left:
        share = found.flops_kept / found.flops
        assert share == pytest.approx(left.weights_only_flop_density)
    network = studio.network()
    expected = real.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in network.state_dict().items())


def _is_float(model) -> bool:
    return next(model.parameters()).dtype == torch.float32


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_number_is_what_pruning_and_measuring_a_copy_gives(name, images, studio_of):
    model = make(name)
    batches = images(model)
    studio = studio_of(model, batches)
    first, *_, last = studio.layers
    check(studio.settle(), model, batches)
    for ask in [
        lambda: studio.set(1.0),
        lambda: studio.set({first: 0.35}, density={last: 0.3}),
        lambda: studio.set(quality={last: 0.7312}),  # between the steps of a slider
        lambda: studio.set(density=0.5),
        lambda: studio.set(density={first: 0.13}),
        lambda: studio.set(density={last: 0.0}),
        lambda: studio.set(3.0),
        lambda: studio.set({first: 50.0}),
        lambda: studio.set(density=1.0),
        lambda: studio.set(0),
    ]:
        check(ask().settle(), model, batches)
    dense = evaluation.evaluate(model, batches)
    assert studio.metrics().accuracy == studio.dense == dense
    assert studio.dense.n == 50


@pytest.mark.parametrize("name", ZOO)
def test_counts_made_ahead_are_those_of_pruning(name):
    model = make(name)
    for layer_name, module in prunable(model).items():
        layer, fresh = (Layer(layer_name, module.weight) for _ in range(2))
        _ = layer.at_least
        for step in range(61):
            quality = round(step * 0.05, 10)
            kept = masks.prune(model, quality={layer_name: quality})[layer_name]
            for one in (layer, fresh):
                choice = one.choose(Setting("quality", quality))
                assert choice.kept == int(kept.sum())
                assert torch.equal(one.kept(choice), kept)
                assert torch.equal(whole(one.cut(choice)), module.weight.detach() * kept)


STEPS = [0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 50, 100]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make_weight",
    [
        lambda: torch.randn(30, 40),
        lambda: torch.randn(700, 300),  # counted in parts
        lambda: torch.randn(30, 40) ** 3,
        lambda: torch.cat([torch.randn(300, 40), torch.tensor([[40.0], [9.9e3]]).expand(2, 40)]),
        lambda: torch.randn(30, 40).mul(4).round() / 4,  # ties, and zeros
        lambda: torch.randn(30, 40) + 50,  # a small sigma, far from zero
        lambda: torch.randn(30, 40) * 1e-6,
        lambda: torch.full((3, 4), 0.3),
        lambda: torch.zeros(3, 4),
    ],
)
def test_counts_on_the_grid_are_those_of_each_threshold(make_weight, dtype):
    torch.manual_seed(0)
    weight = make_weight().to(dtype)
    layer = Layer("fc", weight)
    step, counts = layer.at_least
    expected = [int(weight.count_nonzero())]
    while layer.sigma and expected[-1]:
        assert len(expected) < 4001
        threshold = round(len(expected) * step, 10) * layer.sigma
        expected.append(int(((weight.abs() >= threshold) & (weight != 0)).sum()))
    assert counts.tolist() == expected
    assert step in STEPS
    smaller = STEPS[max(0, STEPS.index(step) - 1)]
    most = float(weight.abs().max()) / layer.sigma if layer.sigma else 0
    assert len(counts) <= 4000
    assert step == STEPS[0] or most / smaller > 3990


def test_counts_on_the_grid_need_no_second_look_at_the_weights():
    weight = torch.randn(40, 30)
    layer, again = Layer("fc", weight), Layer("fc", weight.clone())
    step, counts = layer.at_least
    layer.weight.zero_()
    for k in range(1, 2 * len(counts)):
        setting = Setting("quality", round(k * step, 10))
        assert layer.choose(setting).kept == again.choose(setting).kept
    assert layer.choose(Setting("quality", 1.0025)).kept == 0  # which is off the grid


def test_a_large_layer_is_counted_in_parts():
    weight = torch.randn(700, 1000, generator=torch.Generator().manual_seed(0))
    layer = Layer("fc", weight)
    _ = layer.at_least
    for quality in (0.35, 1.0, 1.23, 3.0):
        kept = criteria.by_quality(weight, quality)
        choice = layer.choose(Setting("quality", quality))
        assert choice.kept == int(kept.sum())
        assert torch.equal(whole(layer.cut(choice)), weight * kept)
    found, edges = layer.histogram
    assert found.tolist() == np.histogram(weight, edges)[0].tolist()


@pytest.mark.parametrize(
    "name", ["normed", "pruned", "gaps", "channels last", "double", "bfloat16"]
)
def test_the_histogram_is_numpys_of_the_weights_that_are_there(name):
    for layer_name, module in prunable(make(name)).items():
        weight = module.weight.detach().double()
        found, edges = Layer(layer_name, module.weight).histogram
        assert found.tolist() == np.histogram(weight[weight != 0].numpy(), edges)[0].tolist()
        assert found.sum() == weight.count_nonzero()
        assert (edges[0], edges[60], edges[-1]) == (-weight.abs().max(), 0, weight.abs().max())
        assert np.diff(edges) == pytest.approx(2 * edges[-1] / 120)


def test_weights_at_the_threshold_itself_stay():
    steps = [round(step * 0.05, 10) for step in range(1, 61)]
    weight = torch.tensor([[*steps, *(-step for step in steps)]])
    layer = Layer("fc", weight)
    layer.sigma = 1.0  # so that every threshold is a weight
    _ = layer.at_least
    for gone, quality in enumerate(steps):
        found = layer.choose(Setting("quality", quality)).kept
        assert found == criteria.by_threshold(weight.abs(), quality).sum() == 2 * (60 - gone)


def test_a_layer_of_zeros_has_an_empty_histogram():
    found, edges = Layer("fc", torch.zeros(3, 4)).histogram
    assert found.tolist() == [0] * 120
    assert edges[0] < 0 < edges[-1]


def test_a_shipped_network_on_real_digits(studio_of):
    val = data.load("mnist-5k").val
    for model in (models.lenet_300_100(trained="mnist"), models.lenet_5(trained="mnist")):
        studio = studio_of(model, val)
        studio.set(1.0).set(quality={"fc1": 1.37}, density={"fc2": 0.1}).settle()
        check(studio, model, list(val))
        assert str(studio.mask.receipt).count("\n") == len(studio.layers) + 3


def test_a_residual_network_of_torchvision(studio_of, everything_of):
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)  # of ResNet-18 half
    x, y = torch.randn(6, 3, 32, 32), torch.randint(CLASSES, (6,))
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    before = everything_of(model)
    studio = studio_of(model, batches).settle()
    studio.set(quality={"layer3.0.conv1": 1.1}, density={"fc": 0.3}).settle()
    check(studio, model, batches)
    assert everything_of(model) == before


def test_a_loader_a_list_and_a_split_serve_alike(toy, split, batches, studio_of, everything_of):
    pixels = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(pixels, split.labels), batch_size=7)
    before = everything_of(toy)
    found = [studio_of(toy, some).set(1.1).settle().metrics() for some in (split, batches, loader)]
    assert everything_of(toy) == before
    assert found[0].drop == found[1].drop == found[2].drop
    assert {one.accuracy.n for one in found} == {50}


def test_images_that_come_in_another_order_each_time_are_refused(toy, splits, studio_of):
    class Mixed:
        def __init__(self, images):
            self.single = [(x[i : i + 1], y[i : i + 1]) for x, y in images for i in range(len(y))]

        def __iter__(self):
            return iter(random.sample(self.single, len(self.single)))

    studio = studio_of(toy, replace(splits, val=Mixed(splits.val)))
    with pytest.raises(ValueError, match="the images come in another order each time"):
        studio.settle().retrain(config=GENTLE)


def test_a_loader_that_shuffles_comes_in_one_order_here(toy, splits, studio_of):
    pixels = torch.cat([x for x, _ in splits.val])
    mixed = DataLoader(TensorDataset(pixels, splits.val.labels), batch_size=16, shuffle=True)
    studio = studio_of(toy, replace(splits, val=mixed)).set(0.5).settle()
    studio.retrain(config=GENTLE)
    assert studio.metrics().accuracy == evaluation.evaluate(studio.network(), splits.val)


def test_fewer_images_than_all_where_the_budget_says_so(toy, split, studio_of):
    each = 4 * (64 + 36 + 12 + CLASSES)  # bytes of what is kept of an image
    studio = studio_of(toy, split, budget=33 * each).set(1.2).settle()
    assert studio.dense.n == studio.metrics().accuracy.n == 32
    expected = measured(toy, mask_of(toy, studio.attempt.settings), split.head(32))
    assert (studio.metrics().accuracy, studio.metrics().drop) == expected


def test_a_budget_for_not_even_one_batch_is_said_in_status_and_in_settle(toy, split, studio_of):
    studio = studio_of(toy, split, budget=1000)
    with pytest.raises(ValueError, match="no batch of images fits into 1,000 bytes; give smaller"):
        studio.settle()
    assert studio.status.startswith("failed: no batch of images fits into 1,000 bytes")
    assert not studio.metrics().final


def test_what_the_images_or_the_model_cannot_be(toy, splits, studio_of):
    with pytest.raises(ValueError, match="the test split is not for choosing; give"):
        Studio(toy, splits.test)
    with pytest.raises(ValueError, match="the test split is not for choosing"):
        Studio(toy, replace(splits, val=splits.test))
    with pytest.raises(ValueError, match="no layer to prune, so there is nothing to set"):
        Studio(nn.Sequential(nn.Flatten()), splits)
    for number in (float("nan"), float("inf")):
        with torch.no_grad():
            toy.fc1.weight[0, 0] = number
        with pytest.raises(ValueError, match="layer 'fc1' has a weight that is infinite or not a"):
            Studio(toy, splits)


# --- asking ------------------------------------------------------------------------------------


def test_a_wrong_ask_gets_one_sentence_and_changes_nothing(toy, split, studio_of):
    studio = studio_of(toy, split).set({"fc1": 1.0}).lock("fc2").settle()
    for wrong, error, words in [
        (lambda: studio.set({"fc3": 1.0}), KeyError, r"no layer 'fc3' to prune; did you mean fc2"),
        (lambda: studio.set(density={"fc1": 8}), ValueError, r"must lie in \[0, 1\], got 8"),
        (lambda: studio.set({"fc1": -1.0}), ValueError, "must be a finite number >= 0, got -1"),
        (lambda: studio.set(float("nan")), ValueError, "must be a finite number >= 0, got nan"),
        (lambda: studio.set({"fc1": "much"}), TypeError, "quality must be a number, got 'much'"),
        (lambda: studio.set({"fc2": 1.0}), ValueError, "layer 'fc2' is locked; unlock it first"),
        (lambda: studio.lock("fc9"), KeyError, "no layer 'fc9' to prune"),
        (lambda: studio.layer("fc9"), KeyError, "no layer 'fc9' to prune"),
        (lambda: studio.setting("fc9"), KeyError, "no layer 'fc9' to prune"),
        (lambda: studio.redo(), ValueError, "there is nothing to redo"),
        (lambda: studio.undo().undo(), ValueError, "there is nothing to undo"),
        (lambda: studio.go(9), ValueError, "attempts go from 1 to 2, got 9"),
        (lambda: studio.rename("x", 9), ValueError, "attempts go from 1 to 2, got 9"),
        (lambda: studio.branch("main"), ValueError, "there is a line 'main' already; it has main"),
        (lambda: studio.suggest(0.5, density=0.1), ValueError, "give max_drop.* or density, one"),
        (lambda: studio.suggest(max_drop=200), ValueError, "max_drop must be 0 to 100"),
        (lambda: studio.retrain(), ValueError, "no images to retrain on; open the studio with"),
        (lambda: studio.test(), ValueError, "there are no test images; open the studio with"),
    ]:
        with pytest.raises(error, match=words):
            wrong()
        studio.settle().go(2)
        assert len(studio.attempts) == 2
        assert studio.locked == {"fc2"}
    assert studio.set({}).attempt.number == 2  # nothing asked is no attempt


def test_a_layer_may_have_any_name(split, studio_of):
    names = {"quality": nn.Linear(64, 9), "merge": nn.Linear(9, CLASSES)}
    model = nn.Sequential(OrderedDict(flat=nn.Flatten(), **names))
    studio = studio_of(model, split).set({"quality": 1.0}, density={"merge": 0.5}).settle()
    check(studio, model, list(split))
    assert {n: s.kind for n, s in studio.attempt.settings.items()} == {
        "quality": "quality",
        "merge": "density",
    }


def test_a_locked_layer_is_left_alone(toy, split, studio_of):
    studio = studio_of(toy, split).set({"fc2": 0.5}).lock("fc2", "conv1").set(1.0)
    asked = {"fc1": Setting("quality", 1.0), "fc2": Setting("quality", 0.5)}
    assert studio.attempt.settings == asked
    assert [row.layer for row in studio.metrics().layers if row.locked] == ["conv1", "fc2"]
    studio.unlock("fc2").set(density=0.5)
    assert set(studio.attempt.settings) == {"fc1", "fc2"}
    assert studio.attempt.what == "fc1: density 0.5, fc2: density 0.5"


def test_a_state_can_be_sent_to_another_studio(toy, split, studio_of):
    sender = studio_of(toy, split).set({"fc1": 1.234}, density={"conv1": 0.3}).settle()
    studio = studio_of(toy, split).set({"fc2": 1.0})
    assert studio.from_string(sender.to_string()) is studio
    assert studio.fingerprint() == sender.fingerprint()
    assert studio.settle().metrics().accuracy == sender.metrics().accuracy
    assert len(studio.attempts) == 3
    with pytest.raises(ValueError, match="'fc1~1' is no setting of a layer"):
        studio.from_string("fc1~1")


def test_amounts_of_any_kind_of_number_can_be_saved(toy, split, studio_of, tmp_path):
    studio = studio_of(toy, split)
    studio.set({"fc1": np.float32(0.5)}).set({"fc2": Fraction(1, 2)}).set(
        density={"conv1": np.float64(0.5)}
    )
    amounts = {name: setting.amount for name, setting in studio.attempt.settings.items()}
    assert amounts == {"fc1": 0.5, "fc2": 0.5, "conv1": 0.5}
    assert files.load_json(studio.save(tmp_path / "s.json"))["history"]["now"] == 4


# --- attempts ----------------------------------------------------------------------------------


def test_attempts_have_numbers_parents_and_lines(toy, split, studio_of):
    studio = studio_of(toy, split)
    studio.set({"fc1": 1.0}).set({"fc2": 1.0}).undo().set({"fc2": 2.0}).branch().set(
        {"conv1": 0.5}
    ).branch("bold")
    studio.set({"fc1": 2.0}).go(2).branch().rename("here")
    told = [(a.number, a.parent, a.line, a.what) for a in studio.attempts]
    assert told == [
        (1, None, "main", "as it came"),
        (2, 1, "main", "fc1: quality 1"),
        (3, 2, "main", "fc2: quality 1"),
        (4, 2, "main", "fc2: quality 2"),
        (5, 4, "line 2", "from attempt 4"),
        (6, 5, "line 2", "conv1: quality 0.5"),
        (7, 6, "bold", "from attempt 6"),
        (8, 7, "bold", "fc1: quality 2"),
        (9, 2, "line 3", "from attempt 2"),
    ]
    assert [a.name for a in studio.attempts] == [""] * 8 + ["here"]
    assert studio.attempts[5].settings == {
        "fc1": Setting("quality", 1.0),
        "fc2": Setting("quality", 2.0),
        "conv1": Setting("quality", 0.5),
    }
    assert studio.attempt.settings == studio.attempts[1].settings
    with pytest.raises(TypeError):
        studio.attempts[1].settings["fc1"] = Setting()


def test_undo_and_redo_go_along_the_line_last_walked(toy, split, studio_of):
    studio = (
        studio_of(toy, split).set({"fc1": 1.0}).set({"fc1": 2.0}).undo().set({"fc1": 3.0})
    )  # 1-2-{3, 4}
    assert studio.undo().attempt.number == 2
    assert studio.redo().attempt.number == 4
    assert studio.go(3).undo().redo().attempt.number == 3
    assert studio.undo().undo().attempt.number == 1
    assert studio.can_redo
    assert studio.redo().redo().attempt.number == 3
    assert not studio.can_redo
    check(studio.settle(), toy, list(split))


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_random_actions_and_all_undone_is_where_it_began(toy, splits, studio_of, seed):
    dice = random.Random(seed)
    studio = studio_of(toy, splits.val).settle()
    prints, parents, now, count = {1: studio.fingerprint()}, {1: None}, 1, 0
    names, locked = studio.layers, set()

    def free():
        return [name for name in names if name not in locked]

    def step(do):
        nonlocal now
        do()
        number = len(prints) + 1
        parents[number], now = now, number

    def set_some():
        kind, most = dice.choice([("quality", 2.5), ("density", 1)])
        some = dice.sample(free(), dice.randint(1, len(free()))) if free() else []
        asked = {name: dice.random() * most for name in some}
        if asked:
            step(lambda: studio.set(**{kind: asked}))

    def set_all():
        if free():
            step(lambda: studio.set(dice.choice([0.3, 1.0, 2.0])))

    def lock():
        name = dice.choice(names)
        (studio.unlock if name in locked else studio.lock)(name)
        locked.symmetric_difference_update([name])

    def undo():
        nonlocal now
        if parents[now] is not None:
            studio.undo()
            now = parents[now]

    def redo():
        nonlocal now
        if now in parents.values():
            studio.redo()
            assert parents[studio.attempt.number] == now
            now = studio.attempt.number

    def go():
        nonlocal now
        now = dice.choice(list(prints))
        studio.go(now)

    actions = [set_some, set_some, set_all, undo, undo, redo, go, lock]
    actions += [lambda: step(studio.branch), lambda: studio.rename(str(dice.random()))]
    while count < 100:
        dice.choice(actions)()
        count += 1
        assert studio.attempt.number == now
        expected = prints.setdefault(now, studio.fingerprint())
        assert studio.fingerprint() == expected
        if dice.random() < 0.1:
            studio.settle()
    assert [a.parent for a in studio.attempts] == list(parents.values())
    assert len(set(prints.values())) > 10
    for number, expected in prints.items():
        assert studio.go(number).fingerprint() == expected
    check(studio.settle(), toy, list(splits.val))
    while studio.attempt.parent is not None:
        studio.undo()
    assert studio.fingerprint() == prints[1]
    check(studio.settle(), toy, list(splits.val))


def test_a_drag_is_one_attempt(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    pause = model.pause
    pause.held = True
    for quality in (0.5, 0.6, 0.7):
        studio.set({"fc1": quality}, merge=True)
    (_, dragged) = studio.attempts
    assert (dragged.number, dragged.parent, dragged.what) == (2, 1, "fc1: quality 0.7")
    studio.set({"fc2": 0.5}, merge=True).set({"fc2": 0.6}, merge=True)  # another layer
    studio.set({"fc2": 0.8})  # another drag
    studio.set({"fc2": 0.9}, merge=True).rename("kept").set({"fc2": 1.0}, merge=True)  # named
    studio.branch().set({"fc2": 1.1}, merge=True)
    studio.undo().set({"fc2": 1.2}, merge=True)  # from an earlier one
    told = [(a.number, a.parent, a.what, a.name) for a in studio.attempts[1:]]
    assert told == [
        (2, 1, "fc1: quality 0.7", ""),
        (3, 2, "fc2: quality 0.6", ""),
        (4, 3, "fc2: quality 0.9", "kept"),
        (5, 4, "fc2: quality 1", ""),
        (6, 5, "from attempt 5", ""),
        (7, 6, "fc2: quality 1.1", ""),
        (8, 6, "fc2: quality 1.2", ""),
    ]
    pause.let_go()
    studio.settle()
    studio.set({"fc2": 1.3}, merge=True)  # measured on the way
    assert studio.attempt.number == 8
    for attempt in studio.attempts:  # what was left unmeasured says so; go there, and it is done
        studio.go(attempt.number).settle()
        check(studio, model, list(split))


def test_a_drag_keeps_its_place_and_what_it_came_from(toy, split, studio_of):
    studio = studio_of(toy, split).set({"fc2": 0.5}).settle()
    for quality in np.arange(0, 3, 0.05):
        studio.set({"fc1": quality}, merge=True)
    dragged = studio.attempt
    assert dragged.settings == {"fc1": Setting("quality", 2.95), "fc2": Setting("quality", 0.5)}
    assert studio.settle().attempt.accuracy is not None
    check(studio, toy, list(split))
    while studio.attempt.parent not in (None, 2):
        studio.undo()
    assert studio.undo().attempt.number == 2


def test_comparing_shows_every_attempt_and_who_is_beaten_by_none(studio_of):
    val = data.load("mnist-5k").val
    studio = studio_of(models.lenet_300_100(trained="mnist"), val).settle()
    for density in (0.5, 0.3, 0.1, 0.05, 0.0):
        studio.set(density=density).settle()
    studio.rename("nothing").settle()
    table = studio.compare()
    assert tuple(table) == studio.attempts
    assert table.chance == val.labels.bincount().max() / val.n
    unbeaten = [
        attempt
        for attempt in studio.attempts
        if attempt.accuracy.low > table.chance
        and not any(
            (other.density, -other.accuracy.value) != (attempt.density, -attempt.accuracy.value)
            and other.density <= attempt.density
            and other.accuracy.value >= attempt.accuracy.value
            for other in studio.attempts
            if other.accuracy.low > table.chance
        )
    ]
    assert sorted(table.pareto, key=lambda a: a.number) == unbeaten != []
    lines = str(table).splitlines()[2:8]
    marked = [attempt for attempt, line in zip(table, lines, strict=True) if line[0] == "*"]
    assert marked == unbeaten
    assert studio.attempt not in unbeaten  # a network without weights is at chance
    assert "nothing" in lines[5]
    frame = table.to_pandas()
    assert frame.accuracy.tolist() == [attempt.accuracy.value for attempt in table]


# --- the latest --------------------------------------------------------------------------------


def test_fifty_steps_at_once_leave_one_result_the_latest(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    heard, before = [], model.pause.calls
    studio.on(Measured, heard.append)
    model.pause.held = True
    for number in range(50):
        studio.set({"fc1": (1 + number) / 25})
    model.pause.let_go()
    studio.settle()
    # The first was under way for at most a batch when the others came; then the newest, 4 batches.
    assert 4 <= model.pause.calls - before <= 5
    assert [a.number for a in studio.attempts if a.accuracy is not None] == [1, 51]
    assert [event.attempt for event in heard if event.final] == [51]
    check(studio, model, list(split))


def test_no_accuracy_is_ever_taken_for_another_attempts(splits, studio_of, monkeypatch):
    """Three threads set, undo, go, branch, retrain and stop: every stored accuracy is right."""
    monkeypatch.setattr(measurer, "REST_SECONDS", 0)  # these users do not rest
    model = pausing()
    model.pause.seconds = 0.001
    studio = studio_of(model, splits)
    errors, end = [], time.perf_counter() + 60

    def user(seed):
        dice = random.Random(seed)

        def retrain():
            if dice.random() < 0.2:
                studio.retrain(config=GENTLE, wait=False)

        actions = [
            lambda: studio.set({dice.choice(["fc1", "fc2"]): 3 * dice.random()}, merge=True),
            lambda: studio.set(density={dice.choice(["fc1", "fc2"]): dice.random()}),
            lambda: studio.go(dice.randint(1, len(studio.attempts))),
            lambda: studio.undo(),
            lambda: studio.redo(),
            lambda: studio.branch(),
            lambda: studio.rename(str(seed)),
            lambda: dice.random() < 0.3 and studio.stop(),
            *2 * [lambda: time.sleep(0.05)],
            retrain,
        ]
        try:
            steps = 0
            while steps < 80 or (not enough() and time.perf_counter() < end):
                steps += 1
                try:
                    dice.choice(actions)()
                except (RuntimeError, ValueError) as error:
                    words = "the studio is retraining", "there is nothing to"
                    if not str(error).startswith(words):
                        raise
                found = studio.metrics()
                if found.final:
                    assert found.accuracy == studio.attempts[found.attempt - 1].accuracy
        except BaseException as error:  # shown by the test itself
            errors.append(error)

    def enough() -> bool:
        measured_ones = [attempt for attempt in studio.attempts if attempt.accuracy is not None]
        return len(measured_ones) > 6 and len({a.version for a in measured_ones}) > 1

    users = [threading.Thread(target=user, args=[seed]) for seed in range(3)]
    for one in users:
        one.start()
    for one in users:
        one.join()
    assert errors == []
    model.pause.seconds = 0
    studio.settle()
    assert enough()
    for attempt in studio.attempts:
        if attempt.accuracy is not None:
            network = studio.go(attempt.number).network()
            after = evaluation.evaluate(network, splits.val)
            lost = evaluation.drop(evaluation.evaluate(model, splits.val), after)
            assert (attempt.accuracy, attempt.drop) == (after, lost)
            assert attempt.density == pytest.approx(studio.mask.density)
    studio.settle()


def test_a_slow_network_is_looked_at_ever_more_closely(batches, studio_of, monkeypatch):
    monkeypatch.setattr(measurer, "LOOK_SECONDS", 0)
    model = pausing()
    studio = studio_of(model, batches).settle()
    seen = []

    def look(event):
        found = studio.metrics()
        assert (found.accuracy, found.drop) == (event.accuracy, event.drop)
        assert found.final == event.final == (found.status == "ready")
        seen.append((found.accuracy, found.drop, found.final))

    studio.on(Measured, look)
    check(studio.set({"fc1": 1.2}).settle(), model, batches)
    mask = mask_of(model, studio.attempt.settings)
    expected = [(*measured(model, mask, batches[:count]), False) for count in (1, 2, 3, 4)]
    assert seen == [*expected, (*measured(model, mask, batches), True)]


def test_a_drag_shows_no_look_at_where_it_was(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    model.pause.held, before = True, model.pause.calls
    studio.set({"fc1": 0.5}, merge=True)
    model.pause.until(before + 1)
    model.pause.turns.release()
    model.pause.until(before + 2)
    assert studio.metrics().accuracy.n == 16
    assert studio.set({"fc1": 2.0}, merge=True).metrics().accuracy is None
    model.pause.let_go()
    check(studio.settle(), model, list(split))


def test_a_drag_that_goes_on_at_the_last_moment_keeps_no_older_accuracy(
    batches, studio_of, monkeypatch
):
    monkeypatch.setattr(measurer, "LOOK_SECONDS", 0)
    model = pausing()
    studio = studio_of(model, batches).settle()
    looks, moved = [], []
    studio.on(Moved, lambda event: moved.append(studio.attempt.accuracy))

    def drag_on(event):
        looks.append(event)
        if len(looks) == 4:  # all batches are done
            studio.set({"fc1": 2.0}, merge=True)

    studio.on(Measured, drag_on)
    studio.set({"fc1": 0.5}, merge=True)
    check(studio.settle(), model, batches)
    assert (len(studio.attempts), len(looks)) == (2, 9)
    assert [look.final for look in looks] == [False] * 8 + [True]
    assert moved == [None, None]


def test_looks_come_no_faster_than_an_eye_follows(batches, studio_of, monkeypatch):
    monkeypatch.setattr(measurer, "LOOK_SECONDS", 0.1)
    model = pausing()
    studio = studio_of(model, [(x[:1], y[:1]) for x, y in batches * 5]).settle()
    model.pause.seconds, seen = 0.02, []
    studio.on(Measured, seen.append)
    began = time.perf_counter()
    studio.set({"fc1": 1.0}).settle()  # 20 batches of 0.02 s
    assert 2 <= len(seen) - 1 <= 1 + (time.perf_counter() - began) / 0.1


def test_what_is_stale_stops_between_two_batches(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    before = model.pause.calls
    model.pause.held = True
    studio.set({"fc1": 1.0})
    model.pause.until(before + 1)
    studio.set({"fc1": 2.0})
    assert model.pause.calls - before == 1
    model.pause.let_go()
    studio.settle()
    assert model.pause.calls - before == 1 + 4
    check(studio, model, list(split))
    assert studio.attempts[1].accuracy is None


def test_the_first_attempt_is_measured_with_the_dense_network(toy, batches, studio_of):
    """Though another took its place before the thread looked at it."""
    studio = studio_of(toy, batches).set({"fc1": 1.0})
    first = studio.settle().attempts[0]
    assert (first.accuracy, first.drop.value) == (evaluation.evaluate(toy, batches), 0)
    assert studio.attempts[1].drop is not None


def test_a_drag_that_was_too_fast_is_waited_for(split, studio_of, monkeypatch):
    model = pausing()
    studio = studio_of(model, split).settle()
    monkeypatch.setattr(measurer, "REST_SECONDS", 30)
    before, model.pause.held = model.pause.calls, True
    studio.set({"fc1": 0.5})
    model.pause.until(before + 1)
    moved = []
    studio.on(Moved, lambda event: moved.append(studio.attempt.number))
    studio.set({"fc1": 1.0})  # too fast
    model.pause.let_go()
    _until(lambda: moved == [3])
    time.sleep(0.05)
    assert model.pause.calls == before + 1
    assert studio.status == "measuring"
    monkeypatch.setattr(measurer, "REST_SECONDS", 0.01)
    check(studio.set({"fc1": 1.5}).settle(20), model, list(split))  # it ends the waiting
    monkeypatch.setattr(measurer, "REST_SECONDS", 30)
    studio.set({"fc1": 2.0}).settle(20)  # and a drag that rested is not waited for


def test_going_back_after_something_half_done_is_right(split, studio_of):
    model = pausing()
    batches = list(split)
    studio = studio_of(model, split).set({"fc1": 0.5, "fc2": 1.0}).settle()
    for asked in ({"fc1": 2.0}, {"fc1": 2.0, "fc2": 2.0}, {"fc1": 0.0}, {"fc2": 0.0, "fc1": 1.0}):
        before = model.pause.calls
        model.pause.held = True
        studio.set(asked)
        model.pause.until(before + 1)
        model.pause.turns.release()
        model.pause.until(before + 2)  # one batch has gone through
        studio.go(2)
        model.pause.let_go()
        check(studio.settle(), model, batches)
        check(studio.set({"fc1": 0.7 + len(studio.attempts) / 100}).settle(), model, batches)
        studio.go(2).settle()


def test_a_measured_attempt_is_not_measured_again(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle().set({"fc1": 1.0}).settle()
    calls = model.pause.calls
    studio.undo().settle()
    assert studio.redo().rename("again").branch().metrics().final
    studio.settle()
    assert studio.undo().undo().set({"fc1": 1.0}).settle().metrics().final  # the same network
    assert model.pause.calls == calls
    check(studio, model, list(split))


def test_only_what_follows_a_change_is_computed(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    calls = model.pause.calls
    studio.set({"fc2": 1.0}).settle()
    assert model.pause.calls == calls
    studio.set({"fc1": 1.0}).settle()
    assert model.pause.calls == calls + 4
    check(studio, model, list(split))


def test_images_are_read_once_for_each_weights(toy, batches, splits, studio_of):
    images, taken = Batches(batches), []
    images.taken = taken.append
    studio = studio_of(toy, replace(splits, val=images)).settle()
    studio.set(1.0).settle()
    assert taken == [1, 2, 3, 4]
    studio.retrain(config=GENTLE).set(1.0).settle()
    assert taken == [1, 2, 3, 4] * 2


def test_listeners_hear_in_order_what_happens(toy, split, studio_of):
    studio = studio_of(toy, split).settle()
    heard = []
    forget = studio.on(object, heard.append)
    studio.set({"fc1": 1.0}).settle()
    found = studio.metrics()
    known = (2, found.accuracy, found.drop)
    changed, moved, *estimates, known_now, last = heard
    assert (changed, moved, known_now) == (Changed(), Moved(), Changed())
    assert last == Measured(*known, final=True)
    assert [type(event) for event in estimates] == [Measured]
    forget()
    forget()
    studio.set({"fc1": 2.0}).settle()
    assert heard[-1] == last
    studio.on(Failed, lambda event: heard.append("never"))
    studio.undo().settle()
    assert heard[-1] == last


def test_flops_are_told_as_soon_as_they_are_known(split, studio_of):
    again = studio_of(pausing(), split)
    heard = []
    again.on(object, lambda event: heard.append((type(event), again.metrics().flops is not None)))
    again.settle()
    assert (Moved, True) in heard  # before anything is measured
    assert heard.index((Moved, True)) < heard.index((Measured, True))


# --- errors and ends ---------------------------------------------------------------------------


def test_a_network_that_fails_says_so_and_the_next_step_works(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    heard = []
    studio.on(Failed, heard.append)
    model.pause.fails = True
    studio.set({"fc1": 1.0})
    for _ in range(2):  # whoever asks is told
        with pytest.raises(ArithmeticError, match="out of numbers"):
            studio.settle()
    assert studio.status == "failed: out of numbers"
    assert heard == [Failed("out of numbers")]
    assert not studio.metrics().final
    model.pause.fails = False
    check(studio.set({"fc1": 1.5}).settle(), model, list(split))


def test_a_network_that_fails_while_the_studio_opens(split, studio_of):
    model = pausing()
    model.pause.fails = True
    studio = studio_of(model, split)
    with pytest.raises(ArithmeticError, match="out of numbers"):
        studio.settle()
    model.pause.fails = False
    check(studio.set({"fc1": 1.5}).settle(), model, list(split))


def test_a_listener_that_fails_says_so_and_the_next_step_works(toy, split, studio_of):
    studio = studio_of(toy, split).settle()
    broken = [True]

    def listener(event):
        if broken:
            raise LookupError("nobody home")

    studio.on(Moved, listener)
    studio.set({"fc1": 1.0})
    with pytest.raises(LookupError, match="nobody home"):
        studio.settle()
    assert studio.status == "failed: nobody home"
    broken.clear()
    check(studio.set({"fc1": 1.5}).settle(), toy, list(split))


def test_a_listener_cannot_wait_for_its_own_thread(toy, split, studio_of):
    studio = studio_of(toy, split).settle()
    studio.on(Moved, lambda event: studio.settle())
    studio.set({"fc1": 1.0})
    with pytest.raises(RuntimeError, match="a listener cannot wait for the thread that it is"):
        studio.settle(timeout=20)


def test_a_listener_may_close_or_move_on(toy, split, studio_of):
    studio = studio_of(toy, split).settle()

    def listener(event):
        if event.final and len(studio.attempts) < 5:
            studio.set({"fc1": len(studio.attempts) / 4})
        elif event.final:
            studio.close()

    studio.on(Measured, listener)
    studio.set({"fc1": 1.0})
    studio.settle()
    assert len(studio.attempts) == 5
    _until(lambda: not threads())


def test_settle_waits_no_longer_than_it_is_told(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    model.pause.held = True
    studio.set({"fc1": 1.0})
    with pytest.raises(TimeoutError, match=r"still busy after 0\.05 s; wait longer, or stop"):
        studio.settle(timeout=0.05)
    model.pause.let_go()
    check(studio.settle(timeout=20), model, list(split))


@pytest.mark.parametrize("opened", [True, False])
def test_closing_ends_the_thread_at_the_next_batch(split, opened):
    model = pausing()
    images = [(x[:1], y[:1]) for x, y in split] * 10
    studio = Studio(model, images)
    if opened:
        studio.settle()
    model.pause.seconds = 0.01
    studio.set({"fc1": 1.0})
    _until(lambda: model.pause.calls > 4)
    calls = model.pause.calls
    studio.close()
    assert threads() == []
    assert model.pause.calls <= calls + 20  # of 40 and more
    assert studio.metrics().accuracy is None or not studio.metrics().final
    studio.close()
    studio.settle()  # nothing hangs


def test_a_studio_dropped_is_collected(toy, splits):
    def used() -> list[weakref.ref]:
        studio = Studio(toy, splits).set({"fc1": 1.0}).settle()
        studio.on(Moved, lambda event: studio.metrics())
        studio.retrain(config=GENTLE)
        studio.on(Moved, lambda event: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            studio.set({"fc1": 2.0}).settle()
        studio.close()
        return [weakref.ref(studio), weakref.ref(studio.layer("fc1"))]

    gone = used()
    gc.collect()
    assert [one() for one in gone] == [None] * 2


def test_an_idle_studio_has_no_thread(toy, split, studio_of):
    studio_of(toy, split).set({"fc1": 1.0}).settle()
    assert threads() == []


def test_an_interrupt_while_measuring_is_raised_at_once(split, studio_of):
    model = pausing()
    studio = studio_of(model, split).settle()
    model.pause.held, before = True, model.pause.calls
    studio.set({"fc1": 1.0})

    def press():
        model.pause.until(before + 1)
        press_while_it_settles()

    hand = threading.Thread(target=press)
    hand.start()
    with pytest.raises(KeyboardInterrupt):
        studio.settle(timeout=20)
    hand.join()
    assert not studio.metrics().final
    model.pause.let_go()
    check(studio.settle(), model, list(split))


# --- the model itself --------------------------------------------------------------------------


def by_training(model, splits):
    list(train(model, splits.train, GENTLE))


def by_loading(model, splits=None):
    model.load_state_dict({name: 2 * t for name, t in model.state_dict().items()})


def by_data(model, splits):
    model.fc1.weight.data.mul_(2)


def by_another_tensor(model, splits):
    model.fc1.weight = nn.Parameter(model.fc1.weight.detach() + 1)


@pytest.mark.parametrize("change", [by_training, by_loading, by_data, by_another_tensor])
def test_the_studio_works_on_a_copy_made_when_it_opens(toy, splits, studio_of, change):
    before, batches = copy.deepcopy(toy), list(splits.val)
    studio = studio_of(toy, splits).set({"fc1": 1.0})
    change(toy, splits)
    check(studio.settle(), before, batches)
    check(studio.set({"fc1": 1.2}, density={"conv1": 0.5}).settle(), before, batches)
    assert studio.test() == measured(before, studio.mask, splits.test)[0]
    studio.suggest(density=0.3)
    check(studio, before, batches)
    network = studio.retrain(config=GENTLE).network()
    assert studio.metrics().accuracy == evaluation.evaluate(network, splits.val)


def test_the_model_and_the_random_numbers_are_never_touched(splits, studio_of, everything_of):
    model = make("branching")
    model.head.weight.requires_grad_(False)
    hook = model.norm.register_forward_hook(lambda *_: None)
    before = everything_of(model)
    studio = studio_of(model, splits)
    studio.set(1.0).set(density=0.3).undo().settle()
    studio.network()
    studio.suggest(max_drop=5)
    studio.retrain(config=GENTLE).set(0.5).settle()
    studio.test()
    with pytest.raises(ZeroDivisionError):
        studio.retrain(config=GENTLE, on_epoch=lambda epoch: 1 / 0)
    assert everything_of(model) == before
    hook.remove()


@pytest.mark.parametrize("waits", [True, False])
def test_the_main_thread_draws_the_numbers_it_would_draw_alone(splits, studio_of, waits):
    """While the thread reads a DataLoader, drops out and shuffles, with `wait` and without."""
    toy = normed().append(nn.Dropout(0.1))

    def loader(part, **options):
        pixels = torch.cat([x for x, _ in part])
        return DataLoader(TensorDataset(pixels, part.labels), batch_size=8, **options)

    parts = {"val": loader(splits.val), "train": loader(splits.train, shuffle=True)}
    options = {"recalibrate": parts["train"]}
    studio = studio_of(toy, replace(splits, test=loader(splits.test), **parts), **options)
    torch.manual_seed(5)
    expected = [torch.rand(3).tolist() for _ in range(4000)]
    torch.manual_seed(5)
    found, epochs = [], []
    for step in range(40):
        found += [torch.rand(3).tolist() for _ in range(100)]
        if step == 5:
            studio.settle().set(0.5)
        elif step == 10:
            config = replace(GENTLE, epochs=12)
            studio.retrain(config=config, wait=waits, on_epoch=epochs.append)
            assert waits or studio.busy  # it is at work while the next numbers are drawn
    studio.settle().suggest()
    studio.test()
    assert found == expected
    assert torch.rand(3).tolist() == pytest.approx(_after(5, 4000))
    assert len({epoch.loss for epoch in epochs}) == 12  # each epoch had numbers of its own


def _after(seed, draws):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, generator=generator).tolist() for _ in range(draws + 1)][-1]


def test_what_is_drawn_inside_own_random_is_seeded_and_leaves_everyones_numbers_alone():
    dropout = nn.Dropout(0.5)
    kinds = [
        lambda: dropout(torch.ones(9)),
        lambda: torch.rand(9),
        lambda: torch.randn(9),
        lambda: torch.randperm(9),
        lambda: torch.randint(9, (9,)),
        lambda: torch.empty(9).uniform_(),
        lambda: torch.native_dropout(torch.ones(9), 0.5, True)[0],  # a GPU's way
        lambda: torch.rand(9, generator=torch.Generator().manual_seed(1)),
    ]
    before = torch.get_rng_state()
    for draw in kinds:
        first, again = [list(OwnRandom(7).each(draw() for _ in range(2))) for _ in range(2)]
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    (drawn,) = OwnRandom().each(torch.native_dropout(torch.ones(10_000), 0.2, True) for _ in "x")
    assert drawn[1].float().mean() == pytest.approx(0.8, abs=0.02)
    assert drawn[0][drawn[1]].unique().tolist() == [1.25]
    assert not drawn[0][~drawn[1]].any()


@pytest.mark.parametrize("make_network", [pausing, Deciding])
def test_a_network_handed_out_while_it_is_measured_is_whole(
    make_network, split, studio_of, tmp_path
):
    """Some networks are measured with other weights put into them for a moment."""
    torch.manual_seed(0)
    model = make_network()
    studio = studio_of(model, split).set({"fc2": 1.0}).settle()
    model.pause.held, before = True, model.pause.calls
    studio.set({"fc1": 2.0})
    model.pause.until(before + 1)
    studio.go(1)
    print_, network = studio.fingerprint(), studio.network().state_dict()
    weights = files.load_tensors(studio.export(tmp_path / "p.json").network)[0]
    model.pause.let_go()
    check(studio.settle(), model, list(split))
    assert print_ == studio.fingerprint()
    assert all(torch.equal(t, network[n]) for n, t in studio.network().state_dict().items())
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())


def test_a_network_handed_out_is_the_askers_own(toy, split, studio_of):
    toy.fc2.requires_grad_(False)
    studio = studio_of(toy, split).set(1.0).settle()
    network = studio.network()
    assert [p.requires_grad for p in network.parameters()] == [True] * 4 + [False] * 2
    by_loading(network)
    check(studio.set({"fc1": 1.2}).settle(), toy, list(split))


# --- retraining --------------------------------------------------------------------------------


def test_retraining_keeps_zeros_and_is_an_attempt_with_weights_of_its_own(toy, splits, studio_of):
    studio = studio_of(toy, splits).set({"fc1": 1.0, "fc2": 0.5}).settle()
    before, mask = studio.fingerprint(), studio.mask
    rows = []
    studio.retrain(config=GENTLE, on_epoch=rows.append)
    assert [row.epoch for row in rows] == [1, 2]
    attempt, network = studio.attempt, studio.network()
    told = (attempt.number, attempt.parent, attempt.version, attempt.what, attempt.settings)
    assert told == (3, 2, 1, f"retrained 2 epochs from {100 * mask.density:.0f} % kept", {})
    for name, kept in mask.items():
        weight = network.get_submodule(name).weight.detach()
        assert torch.equal(weight != 0, kept)
        assert (weight[kept] != toy.get_submodule(name).weight.detach()[kept]).any()
    after = evaluation.evaluate(network, splits.val)
    lost = evaluation.drop(evaluation.evaluate(toy, splits.val), after)
    assert (studio.metrics().accuracy, studio.metrics().drop) == (after, lost)
    assert studio.dense == evaluation.evaluate(toy, splits.val)
    kept = mask["fc1"]
    sigma = network.fc1.weight.detach()[kept].std(correction=0).item()
    found = {row.layer: row for row in studio.set({"fc1": 0.5}).settle().metrics().layers}["fc1"]
    assert (found.sigma, found.threshold) == pytest.approx((sigma, 0.5 * sigma), rel=1e-6)
    expected = mask_of(network, studio.attempt.settings)
    assert studio.mask.fingerprint() == expected.fingerprint()
    masked_after, _ = measured(network, expected, splits.val)
    assert studio.metrics().accuracy == masked_after
    drop = evaluation.drop(evaluation.evaluate(toy, splits.val), masked_after)
    assert studio.metrics().drop == drop
    assert studio.undo().undo().fingerprint() == before
    check(studio.settle(), toy, list(splits.val))
    retrained = studio.redo().network().state_dict()
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in retrained.items())


def test_retraining_is_what_train_does_with_dropout_lowered(splits, studio_of):
    torch.manual_seed(0)
    model = lively(normed())  # nothing random in it
    studio = studio_of(model, splits).set(1.0)
    studio.retrain(config=GENTLE)
    expected, mask = copy.deepcopy(model), masks.prune(model, quality=1.0)
    list(train(expected, splits.train, GENTLE, mask=mask))
    found = studio.network().state_dict()
    assert all(torch.allclose(t, found[name]) for name, t in expected.state_dict().items())


def test_dropout_is_lowered_while_retraining(toy, splits, studio_of):
    rates = []

    class Watched(nn.Dropout):
        def forward(self, x):
            if self.training:
                rates.append(self.p)
            return super().forward(x)

    toy.drop2 = Watched(0.5)
    studio = studio_of(toy, splits).set(density={"fc1": 0.25})
    studio.retrain(config=GENTLE)
    assert set(rates) == {0.25}
    assert studio.network().drop2.p == 0.5


def test_retraining_twice_resumes_from_what_the_first_left(toy, splits, studio_of):
    studio = studio_of(toy, splits).set(density=0.5).retrain(config=GENTLE)
    first = studio.network()
    studio.set(density=0.25).retrain(config=GENTLE)
    assert [a.version for a in studio.attempts] == [0, 0, 1, 1, 2]
    expected = mask_of(first, {name: Setting("density", 0.25) for name in studio.layers})
    assert studio.mask.fingerprint() == expected.fingerprint()
    assert studio.metrics().density == pytest.approx(0.25, abs=0.01)
    prints = [studio.go(number).fingerprint() for number in (1, 2, 3, 4, 5)]
    assert len(set(prints)) == 5
    for number in (5, 1, 3, 2, 4):
        assert studio.go(number).fingerprint() == prints[number - 1]
    assert studio.go(3).settle().metrics().accuracy == evaluation.evaluate(first, splits.val)


def test_a_batch_norms_averages_belong_to_the_weights(splits, studio_of):
    model = make("branching")
    studio = studio_of(model, splits).set(0.5).retrain(config=GENTLE)
    network = studio.network()
    assert not torch.equal(network.norm.running_mean, model.norm.running_mean)
    assert studio.metrics().accuracy == evaluation.evaluate(network, splits.val)
    assert torch.equal(studio.go(1).network().norm.running_mean, model.norm.running_mean)


def test_frozen_layers_stay_frozen_while_retraining(toy, splits, studio_of):
    toy.fc2.requires_grad_(False)
    network = studio_of(toy, splits).set({"fc1": 0.5}).retrain(config=GENTLE).network()
    assert torch.equal(network.fc2.weight, toy.fc2.weight)
    assert not torch.equal(network.conv1.weight, toy.conv1.weight)


@pytest.mark.parametrize(("whole", "batch", "words"), [(0, 2, "0.3"), (2, 3, "2.6"), (2, 1, "2")])
def test_stopped_in_the_middle_what_was_learnt_stays(toy, splits, studio_of, whole, batch, words):
    """Three batches of 16, 16 and 8 images; the one that was just read is not learnt any more."""
    toy.drop2.p = 0.0  # nothing random
    images, epochs = Batches(splits.train), []
    studio = studio_of(toy, replace(splits, train=images)).set({"fc1": 1.0}).settle()
    before, config = studio.fingerprint(), replace(GENTLE, epochs=5)
    images.taken = lambda count: len(epochs) == whole and count == batch and studio.stop()
    studio.retrain(config=config, on_epoch=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [1, 2][:whole]
    assert studio.attempt.what == f"retrained {words} epochs from 53 % kept, stopped before 5"
    real, mask = copy.deepcopy(toy), masks.prune(toy, quality={"fc1": 1.0})

    def until_then():
        for count, pair in enumerate(images, start=1):
            if (len(done), count) == (whole, batch):
                raise InterruptedError
            yield pair

    class Until(list):
        __iter__ = staticmethod(until_then)

    done, steps = [], train(real, Until(images), config, mask=mask)
    for _ in range(whole):
        done.append(next(steps))
    with pytest.raises(InterruptedError):
        next(steps)
    found, expected = studio.network(), real.state_dict()
    assert all(torch.allclose(t, expected[name]) for name, t in found.state_dict().items())
    assert not found.fc1.weight[~mask["fc1"]].any()
    assert studio.metrics().accuracy == evaluation.evaluate(found, splits.val)
    assert studio.undo().fingerprint() == before


def test_stopped_before_the_first_step_nothing_has_happened(toy, splits, studio_of):
    images, told = Batches(splits.train), []
    studio = studio_of(toy, replace(splits, train=images)).set({"fc1": 1.0}).settle()
    before, attempts = studio.fingerprint(), studio.attempts
    images.taken = lambda count: studio.stop()
    studio.on(Progress, lambda event: told.append(event.text))
    studio.retrain(config=GENTLE)
    assert (studio.fingerprint(), studio.attempts) == (before, attempts)
    assert (studio.status, studio.busy) == ("ready", False)
    assert told[-1] == "retraining … stopped before its first step: nothing was learnt"
    images.taken = lambda count: None
    assert studio.retrain(config=GENTLE).attempt.what.startswith("retrained 2 epochs")


def test_an_interrupt_while_retraining_keeps_what_was_learnt(
    toy, splits, studio_of, everything_of, monkeypatch
):
    images = Batches(splits.train)
    studio = studio_of(toy, replace(splits, train=images)).set({"fc1": 1.0}).settle()
    before = everything_of(toy)
    epochs, pressed, stopped = [], [], threading.Event()
    stop = measurer.Measurer.stop
    monkeypatch.setattr(measurer.Measurer, "stop", lambda self: (stop(self), stopped.set()))

    def press(count):
        if epochs and count == 2 and not pressed:
            pressed.append(press_while_it_settles())
            assert stopped.wait(20)

    images.taken = press
    with pytest.raises(KeyboardInterrupt):
        studio.retrain(config=replace(GENTLE, epochs=9), on_epoch=epochs.append)
    assert studio.attempt.what == "retrained 1.3 epochs from 53 % kept, stopped before 9"
    assert not studio.busy
    assert everything_of(toy) == before
    assert studio.metrics().accuracy == evaluation.evaluate(studio.network(), splits.val)


def test_busy_means_that_nothing_else_moves(toy, splits, studio_of):
    images = Batches(splits.train)
    studio = studio_of(toy, replace(splits, train=images)).set({"fc1": 1.0}).settle()
    go_on = threading.Event()
    images.taken = lambda count: go_on.wait(20)
    studio.retrain(config=GENTLE, wait=False)
    assert studio.busy
    assert studio.status.startswith("retraining")
    for ask in (
        lambda: studio.set({"fc1": 2.0}),
        *(studio.undo, studio.redo, studio.branch, studio.retrain, studio.suggest, studio.test),
        lambda: studio.go(1),
    ):
        with pytest.raises(RuntimeError, match=r"the studio is retraining; stop\(\) it, or wait"):
            ask()
    studio.rename("before").lock("fc2").refresh()  # which move nothing
    studio.rename("start", 1)
    assert studio.locked == {"fc2"}
    go_on.set()
    studio.settle()
    assert not studio.busy
    assert [a.name for a in studio.attempts] == ["start", "before", ""]
    assert studio.attempt.what.startswith("retrained 2 epochs")
    assert studio.metrics().final


def test_a_training_that_fails_leaves_the_studio_where_it_was(toy, splits, studio_of):
    studio = studio_of(toy, splits).set({"fc1": 1.0}).settle()
    before, attempts = studio.fingerprint(), studio.attempts
    with pytest.raises(FloatingPointError, match="the loss became"):
        studio.retrain(config=TrainConfig(epochs=3, lr=1e30, warmup=0))
    assert studio.status.startswith("failed: the loss became")
    assert (studio.busy, studio.fingerprint(), studio.attempts) == (False, before, attempts)
    check(studio.set({"fc1": 1.1}).settle(), toy, list(splits.val))


def test_progress_is_told(toy, splits, studio_of):
    studio = studio_of(toy, splits).settle()
    told = []
    studio.on(Progress, lambda event: told.append((event, studio.status)))
    studio.retrain(config=GENTLE)
    assert all(event.text == status for event, status in told)
    words = [event.text.split(",")[0] for event, _ in told if "loss" in event.text]
    assert [*dict.fromkeys(words)] == [f"retraining … epoch {n} of 2" for n in (1, 2)]
    assert studio.status == "ready"
    told.clear()
    studio.suggest()
    assert "scanning … 100%" in [event.text for event, _ in told]
    done = [event.done for event, _ in told if event.done is not None]
    assert done == sorted(done)
    assert all(0 <= part <= 1 for part in done)


def test_every_batch_of_a_training_is_in_one_point(toy, splits, studio_of, monkeypatch):
    """Their means, weighted by their images, are what `train` says of the epoch."""
    toy.drop2.p = 0.0  # nothing random
    # Every batch, or the first one and the ends of epochs.
    for seconds, sizes, ends in ((0, [16, 16, 8] * 2, range(1, 7)), (60, [16, 24, 40], (1, 3, 6))):
        monkeypatch.setattr(tasks, "SAY_SECONDS", seconds)
        studio = studio_of(toy, replace(splits, train=list(splits.train))).set(0.5).settle()
        points, rows = [], []
        studio.on(Progress, lambda event: event.point and points.append(event))  # noqa: B023
        studio.retrain(config=GENTLE, on_epoch=rows.append)
        real, mask = copy.deepcopy(toy), masks.prune(toy, quality=0.5)
        expected = list(train(real, list(splits.train), GENTLE, mask=mask))
        assert [row.loss for row in rows] == pytest.approx([row.loss for row in expected])
        x = [event.point[0] for event in points]
        assert x == pytest.approx([end / 3 for end in ends])
        for column, value in ((1, "loss"), (2, "accuracy")):
            found = np.dot(sizes, [event.point[column] for event in points]) / 40
            assert found == pytest.approx(sum(getattr(row, value) for row in expected), rel=1e-5)
        assert [event.done for event in points] == pytest.approx([at / 2 for at in x])
        assert points[-1].left == 0
        assert all(event.left > 0 for event in points[:-1])


def test_points_of_a_training_come_no_faster_than_eight_a_second(toy, splits, studio_of):
    pixels = torch.cat([x for x, _ in splits.train])
    loader = DataLoader(TensorDataset(pixels, splits.train.labels), batch_size=1)
    studio, points = studio_of(toy, replace(splits, train=loader)).settle(), []
    studio.on(Progress, lambda event: event.point and points.append(event.point))
    began = time.perf_counter()
    studio.retrain(config=replace(GENTLE, epochs=9))
    assert 9 <= len(points) <= 9 + 1 + 8 * (time.perf_counter() - began)


def test_images_of_unknown_number_are_counted_in_the_first_epoch(toy, splits, studio_of):
    class Stream:
        def __iter__(self):
            return iter(splits.train)

    studio, points = studio_of(toy, replace(splits, train=Stream())).settle(), []
    studio.on(Progress, lambda event: event.point and points.append(event.point[0]))
    studio.retrain(config=GENTLE)
    assert points[0] == 0.5  # somewhere in it
    assert points[-2:] == [1, 2] or points[-1] == 2
    assert studio.attempt.what == "retrained 2 epochs from 100 % kept"


@pytest.mark.parametrize("choice", [{"max_drop": 3.0}, {"density": 0.3}])
def test_every_network_that_a_search_tries_is_told(studio_of, choice):
    val = data.load("mnist-5k").val
    model = models.lenet_300_100(trained="mnist")
    studio, told = studio_of(model, val).set(density={"fc3": 0.5}).lock("fc3").settle(), []
    studio.on(Progress, lambda event: event.point and told.append(event))
    studio.suggest(**choice)
    assert told[0].text == "searching … 1 of at most 60 networks, on 1,000 images"
    assert len(told) > 5
    numbers = [int(event.text.split()[2]) for event in told]
    assert numbers == [*range(1, len(told) + 1)]
    assert all(0 < event.point[0] < 1 for event in told)
    found = studio.metrics()
    assert (found.density, found.accuracy.value) in [event.point for event in told]
    if "density" in choice:
        assert {round(event.point[0], 4) for event in told} == {0.3}


def test_metrics_say_what_made_the_network(toy, splits, studio_of):
    studio = studio_of(toy, splits).set(density=0.26)
    assert studio.metrics().made == "as it came"
    studio.retrain(config=GENTLE)
    made = "retrained 2 epochs from 26 % kept"
    assert (studio.attempt.what, studio.metrics().made) == (made, made)
    assert studio.set({"fc1": 0.5}).metrics().made == made
    studio.set(density={"conv1": 0.0, "fc1": 0.02, "fc2": 0.0}).retrain(1)
    assert studio.metrics().made == "retrained 1 epoch from 1.7 % kept"


# --- suggesting, testing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "goal"),
    [
        ({}, "0.5 points lost"),
        ({"max_drop": 3.0}, "3 points lost"),
        ({"density": 0.3}, "30 % kept"),
    ],
)
def test_a_suggestion_is_what_choose_says_of_the_same_scan(toy, splits, studio_of, choice, goal):
    studio = studio_of(toy, splits).suggest(**choice)
    scan = sensitivity.scan(toy, splits.val, tasks.SCAN_DENSITIES)
    assert list(studio.scan) == list(scan)
    asked = {**(choice or {"max_drop": 0.5}), "evaluations": tasks.EVALUATIONS, "method": "joint"}
    plan = sensitivity.choose(scan, **asked, model=toy, images=splits.val)
    settings = {n: Setting("density", d) for n, d in plan.densities.items() if d < 1}
    assert studio.attempt.settings == settings
    assert studio.attempt.what == f"suggested for {goal}"
    check(studio, toy, list(splits.val))


def test_a_suggestion_keeps_to_the_drop_of_the_whole_network(studio_of):
    studio = studio_of(models.lenet_300_100(trained="mnist"), data.load("mnist-5k"))
    studio.suggest(max_drop=2.0)
    assert studio.metrics().drop.value <= 0.02
    assert studio.metrics().density < 0.9
    free = studio.setting("fc2")
    studio.set(0).set(density={"fc1": 0.1}).lock("fc1").settle()
    assert 0.01 < studio.metrics().drop.value < 0.02  # so that little more may be lost
    studio.suggest(max_drop=2.0)
    assert studio.setting("fc1") == Setting("density", 0.1)
    assert studio.setting("fc2") != free
    assert studio.metrics().drop.value <= 0.02
    studio.unlock("fc1").set(density={"fc1": 0.01}).lock("fc1")
    with pytest.raises(ValueError, match="the fixed layers alone change the accuracy by -"):
        studio.suggest(max_drop=2.0)


def test_a_scan_is_made_once_for_each_weights(toy, splits, studio_of, monkeypatch):
    scans = []
    real = sensitivity.scan
    monkeypatch.setattr(sensitivity, "scan", lambda *a, **o: scans.append(a) or real(*a, **o))
    given = real(toy, splits.val, [0.1, 0.5])
    studio = studio_of(toy, splits, scan=given)
    assert studio.scan is given
    studio.suggest().suggest(density=0.5)
    assert scans == []
    network = studio.retrain(config=GENTLE).network()
    assert studio.scan is None
    studio.suggest().suggest(max_drop=1)
    assert len(scans) == 1
    first = studio.scan
    assert studio.go(1).scan is given
    assert studio.go(len(studio.attempts)).scan is first
    asked = {"max_drop": 1, "evaluations": tasks.EVALUATIONS}
    plan = sensitivity.choose(first, **asked, model=network, images=splits.val)
    assert {n: s.amount for n, s in studio.attempt.settings.items()} == plan.densities


def test_a_scan_can_be_stopped(toy, splits, studio_of):
    studio = studio_of(toy, splits).set({"fc1": 1.0}).settle()
    attempts = studio.attempts
    studio.on(Progress, lambda event: "%" in event.text and studio.stop())
    studio.suggest()
    assert (studio.attempts, studio.scan, studio.status) == (attempts, None, "ready")
    check(studio, toy, list(splits.val))


def test_the_test_split_is_used_when_asked_and_counted(toy, splits, studio_of):
    studio = studio_of(toy, splits).set(density=0.3)
    assert (studio.tests, studio.tested, studio.has_test) == (0, None, True)
    expected = measured(toy, masks.prune(toy, density=0.3), splits.test)
    assert studio.test() == expected[0]
    assert (studio.tests, studio.tested, studio.test_drop) == (1, *expected)
    studio.undo().test()
    assert (studio.tests, studio.tested) == (2, evaluation.evaluate(toy, splits.test))
    assert len(studio.attempts) == 2
    studio.retrain(config=GENTLE).test()
    after = evaluation.evaluate(studio.network(), splits.test)
    lost = evaluation.drop(evaluation.evaluate(toy, splits.test), after)
    assert (studio.tests, studio.tested, studio.test_drop) == (3, after, lost)
    assert not studio_of(toy, splits.val).has_test


def test_a_test_can_be_stopped_in_either_half(toy, splits, studio_of):
    images, taken = Batches(splits.test), []
    studio = studio_of(toy, replace(splits, test=images)).settle()
    for moment in (1, 3):
        taken.clear()

        def stop(count):
            taken.append(count)
            if len(taken) == moment:  # noqa: B023
                studio.stop()

        images.taken = stop
        assert studio.test() is None
        assert len(taken) == moment
        assert studio.status == "ready"


# --- classes, images ---------------------------------------------------------------------------


def answers(model, images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, class named, label's logit less the largest other), by numpy."""
    with torch.no_grad():
        logits = torch.cat([copy.deepcopy(model).eval()(x) for x, _ in images]).double().numpy()
    labels = torch.cat([y for _, y in images]).numpy()
    rows = np.arange(len(labels))
    own, others = logits[rows, labels], logits.copy()
    others[rows, labels] = -np.inf
    return labels, logits.argmax(1), own - others.max(1)


def check_changes(studio, before, after, images) -> None:
    """Rows by class and by image, against whole evaluations of two networks."""
    labels, named, margins = answers(before, images)
    _, now, new_margins = answers(after, images)
    for row, label in zip(studio.metrics().per_class, sorted({*labels.tolist()}), strict=True):
        own = [(x[y == label], y[y == label]) for x, y in images if (y == label).any()]
        pair = [evaluation.evaluate(model, own) for model in (before, after)]
        assert (row.label, row.n) == (label, pair[0].n)
        assert (row.before, row.after, row.drop) == (*pair, evaluation.drop(*pair))
    was, is_now = named == labels, now == labels
    lost, won = np.flatnonzero(was & ~is_now), np.flatnonzero(~was & is_now)
    flips = studio.flipped()
    assert [row.index for row in flips] == [*lost, *won]
    assert [row.lost for row in flips] == [True] * len(lost) + [False] * len(won)
    for row in flips:
        place = row.index
        assert (row.label, row.before, row.after) == (labels[place], named[place], now[place])
        margin_pair = margins[place], new_margins[place]
        assert (row.margin_before, row.margin_after) == pytest.approx(margin_pair, abs=1e-4)
    changed = studio.metrics().drop.value * len(labels)
    assert len(lost) - len(won) == round(changed)


def test_classes_and_flipped_images_are_those_of_two_whole_evaluations(splits, studio_of):
    torch.manual_seed(0)
    model, batches = lively(normed()), list(splits.val)
    studio = studio_of(model, splits)
    for step in (lambda: studio, lambda: studio.set(1.0), lambda: studio.set(density=0.05)):
        step().settle()
        check_changes(studio, model, studio.network(), batches)
    assert studio.flipped()
    flips = studio.flipped()
    studio.undo().settle()
    check_changes(studio, model, studio.network(), batches)
    assert studio.redo().flipped() == flips  # at once, with nothing computed again
    studio.retrain(config=GENTLE)
    check_changes(studio, model, studio.network(), batches)


def test_real_digits_lost_and_won_by_class(studio_of):
    val, model = data.load("mnist-5k").val, models.lenet_5(trained="mnist")
    studio = studio_of(model, val).set(1.2).settle()
    check_changes(studio, model, studio.network(), list(val))
    assert {row.lost for row in studio.flipped()} == {True, False}
    table = str(studio.metrics().per_class)
    assert len(table.splitlines()) == 2 + 10
    assert "lost" in str(studio.flipped())
    assert len(studio.flipped()[:2]) == 2


def test_a_label_that_is_no_class_is_never_right_and_never_flips(toy, split, studio_of):
    odd = [(x, torch.where(torch.arange(len(y)) % 3 == 0, 99, y)) for x, y in split]
    studio = studio_of(toy, odd).set(1.0).settle()
    assert {row.label for row in studio.metrics().per_class} == {0, 1, 2, 3, 99}
    assert next(row.after.value for row in studio.metrics().per_class if row.label == 99) == 0
    assert 99 not in {row.label for row in studio.flipped()}


def test_changes_follow_the_images_measured_so_far(split, studio_of, monkeypatch):
    monkeypatch.setattr(measurer, "LOOK_SECONDS", 0)
    model = pausing()
    studio = studio_of(model, split).settle()
    seen = []
    studio.on(Measured, lambda event: seen.append(sum(r.n for r in studio.metrics().per_class)))
    model.pause.held, before = True, model.pause.calls
    studio.set({"fc1": 2.0})
    model.pause.until(before + 1)
    assert (len(studio.metrics().per_class), len(studio.flipped())) == (0, 0)
    model.pause.let_go()
    studio.settle()
    assert seen == [16, 32, 48, 50, 50]


def test_changes_of_a_loaded_studio_are_measured_again(toy, splits, studio_of, tmp_path):
    studio = studio_of(toy, splits).set(1.0).settle()
    loaded = Studio.load(studio.save(tmp_path / "s.json"), toy, splits)
    assert loaded.metrics().final
    assert loaded.settle().flipped() == studio.flipped()
    loaded.close()


def test_pictures_are_the_images_of_val_by_their_place(toy, split, studio_of):
    grey = studio_of(toy, list(split)).pictures([3, 49, 0])
    x = torch.cat([x for x, _ in split])
    for picture, place in zip(grey, (3, 49, 0), strict=True):
        image = x[place, 0].numpy()
        expected = (image - image.min()) / (image.max() - image.min()) * 255
        assert (picture.shape, picture.dtype) == ((8, 8), np.uint8)
        assert np.abs(picture - expected).max() <= 0.5 + 1e-3
    colours = [(torch.randn(4, 3, 8, 8), torch.zeros(4).long())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    studio = studio_of(model, colours)
    (picture,) = studio.pictures([2])
    assert (picture.shape, picture.min(), picture.max()) == ((8, 8, 3), 0, 255)
    red, low, high = colours[0][0][2, 0, 4, 5], colours[0][0][2].min(), colours[0][0][2].max()
    assert picture[4, 5, 0] == round(float((red - low) / (high - low) * 255))
    assert studio.pictures([]) == []
    for place in (4, -1):
        with pytest.raises(IndexError, match=f"there is no image {place}"):
            studio.pictures([place])


def test_a_split_gives_its_own_pictures(toy, split, studio_of):
    class Own(type(split)):
        def pictures(self, indices):
            return [self.images[index, 0].numpy() for index in indices]

    own = Own("val", split.images, split.labels, 127.5, 74.0)
    (picture,) = studio_of(toy, own).pictures(torch.tensor([7]))
    assert np.array_equal(picture, split.images[7, 0].numpy())


# --- files -------------------------------------------------------------------------------------


def journey(studio) -> dict[int, str]:
    """Attempts of every kind; number -> fingerprint."""
    studio.set({"fc1": 1.2}).settle()
    studio.set(density={"fc2": 0.4}).retrain(config=GENTLE).set({"fc1": 0.3}).branch("bold")
    studio.rename("the one").set({"conv1": 0.2}).settle().go(2).lock("conv1").test()
    now = studio.attempt.number
    prints = {a.number: studio.go(a.number).fingerprint() for a in studio.attempts}
    studio.go(now).settle()
    return prints


def test_everything_comes_back_from_a_file(toy, splits, studio_of, tmp_path):
    studio = studio_of(toy, splits, about={"network": "toy"})
    prints = journey(studio)
    path = studio.save(tmp_path / "s.json")
    other = copy.deepcopy(toy)
    by_loading(other)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    loaded = Studio.load(path, other, splits)
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())
    assert loaded.attempts == studio.attempts
    assert loaded.attempt.number == 2
    assert (loaded.locked, loaded.tests, loaded.about) == ({"conv1"}, 1, {"network": "toy"})
    assert loaded.settle().dense == studio.dense
    for number, expected in prints.items():
        found = loaded.go(number).settle().metrics()
        studio.go(number).settle()
        assert loaded.fingerprint() == expected
        same = studio.metrics()
        assert found == same
        assert (found.accuracy, found.drop, found.made) == (same.accuracy, same.drop, same.made)
    assert loaded.set({"fc2": 1.0}).attempt.number == len(prints) + 1
    loaded.settle()
    last = loaded.attempt
    loaded.save(path)
    again = Studio.load(path, other, splits)
    assert again.settle().attempt == last
    assert again.metrics().final
    loaded.close(), again.close()


def test_undo_and_redo_work_after_a_load(toy, splits, studio_of, tmp_path):
    studio = studio_of(toy, splits).set({"fc1": 1.0}).set({"fc1": 2.0}).undo()
    loaded = Studio.load(studio.save(tmp_path / "s.json"), toy, splits)
    assert loaded.redo().attempt.number == 3
    assert loaded.undo().undo().attempt.number == 1
    check(loaded.settle(), toy, list(splits.val))
    loaded.close()


def test_a_tied_network_comes_back_from_a_file(split, studio_of, tmp_path):
    model = make("tied")
    studio = studio_of(model, data.Splits("x", split, split, split, "x")).set(1.0)
    studio.train = list(split)
    studio.retrain(config=GENTLE)
    print_ = studio.fingerprint()
    loaded = Studio.load(studio.save(tmp_path / "s.json"), make("tied"), split)
    assert loaded.settle().fingerprint() == print_
    network = loaded.network()
    assert network[1].weight is network[3].weight
    loaded.close()


def moved(path, name="broken", change=lambda about: None, weights=lambda n, tensors: tensors):
    """The files under another name: with other words in the JSON, or with other weights."""
    about = files.load_json(path)
    change(about)
    for number in range(9):
        if (file := path.with_name(f"{path.stem}-{number}.safetensors")).exists():
            tensors, owner = files.load_tensors(file)
            if (tensors := weights(number, tensors)) is not None:
                other = path.with_name(f"{name}-{number}.safetensors")
                other.unlink(missing_ok=True)
                files.save_tensors(other, tensors, about=owner)
    return files.save_json(path.with_name(f"{name}.json"), about)


def without(number, layer):
    """Less a tensor in the weights of one version."""
    return lambda n, all_: {k: t for k, t in all_.items() if (n, k) != (number, layer)}


def test_a_file_of_something_else_gets_one_sentence_and_leaves_no_thread(
    toy, splits, studio_of, tmp_path
):
    studio = studio_of(toy, splits)
    journey(studio)
    path = studio.save(tmp_path / "s.json")
    loaded = Studio.load(moved(path, "fine"), toy, splits)
    loaded.close()
    other_images = replace(splits, val=splits.train)
    cut, torn = tmp_path / "cut.json", moved(path, "torn")
    cut.write_bytes(path.read_bytes()[:-9])
    (torn_weights := tmp_path / "torn-1.safetensors").write_bytes(b"0" * 99)
    alien = models.save(tmp_path / "model.safetensors", toy)
    plan = tmp_path / "plan.json"
    studio.export(plan)
    more = {"fc1.weight": lambda t: t + 1, "fc2.bias": lambda t: t.fill_(torch.nan)}
    for name, model, images, words in [
        (path, toy, other_images, "s.json was measured on other images; open it with the same"),
        (path, models.lenet_5(), splits, "s-0.safetensors.* this network expects .* is it of an"),
        (path, pausing(), splits, "this network expects"),
        (path, nn.Sequential(OrderedDict(fc1=toy.fc1)), splits, "this network expects no such"),
        (cut, toy, splits, "cut.json is not JSON that can be read"),
        (alien, toy, splits, "model.safetensors is not"),
        (plan, toy, splits, "plan.json is not a studio file; name one that pruning_lab wrote"),
        (torn, toy, splits, "torn-1.safetensors is not a whole safetensors file"),
        *(
            (lambda n=n: moved(path, weights=without(n, "fc1.weight")), toy, splits, words)
            for n, words in enumerate([f"broken-{n}.*: fc1.weight is missing" for n in (0, 1)])
        ),
        *(
            (
                lambda n=n, k=k: moved(
                    path, weights=lambda m, t: t | ({k: more[k](t[k].clone())} if n == m else {})
                ),
                *(
                    toy,
                    splits,
                    f"broken-{n}.safetensors holds other weights than .*broken.json was",
                ),
            )
            for n in (0, 1)
            for k in more
        ),
    ]:
        file = name() if callable(name) else name
        with pytest.raises(ValueError, match=words):
            Studio.load(file, model, images)
        assert threads() == []
    torn_weights.unlink()
    for file, words in [
        (torn, "torn-1.safetensors could not be read"),
        (tmp_path / "none.json", "none.json could not be read"),
    ]:
        with pytest.raises(FileNotFoundError, match=words):
            Studio.load(file, toy, splits)


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda about, key=key: about.pop(key)
            for key in ("history", "tests", "about", "images", "id", "weights", "recalibrated")
        ),
        lambda about: about.update(tests="x"),
        lambda about: about.update(weights=[]),
        lambda about: about["weights"].append("x"),
        lambda about: about.update(weights=[1, 2]),
        lambda about: about["history"].update(attempts=7),
        lambda about: about["history"].update(now=99),
        lambda about: about["history"]["attempts"][1].pop("what"),
        lambda about: about["history"]["attempts"][1].update(colour="red"),
        lambda about: about["history"]["attempts"][1].update(accuracy={"value": 1}),
        lambda about: about["history"]["attempts"][-1].update(version=0),
        lambda about: about["history"].update(layers=["conv1", "fc1"]),
    ],
)
def test_a_damaged_file_gets_one_sentence_and_leaves_no_thread(
    toy, splits, studio_of, tmp_path, change
):
    studio = studio_of(toy, splits).set({"fc1": 1.2}).settle()
    studio.retrain(config=replace(GENTLE, epochs=1))
    path = moved(studio.save(tmp_path / "s.json"), change=change)
    with pytest.raises(ValueError, match=r"broken\.json is broken"):
        Studio.load(path, toy, splits)
    assert threads() == []


def test_saving_never_writes_over_another_studio_unless_told(toy, split, studio_of, tmp_path):
    path = tmp_path / "s.json"
    first, second = (studio_of(toy, split).set({"fc1": q}).settle() for q in (1.0, 2.0))
    first.autosave(path)
    before = path.read_bytes()
    words = r"s.json and .*s-0.safetensors would be overwritten; open it with Studio.load, give an"
    for save in (second.save, second.autosave):
        with pytest.raises(FileExistsError, match=words):
            save(path)
    assert second.path is None
    assert path.read_bytes() == before
    first.set({"fc1": 1.5}).settle().save(path)  # its own
    first.close()
    loaded = Studio.load(path, toy, split)
    loaded.set({"fc2": 1.0}).settle().save(path)  # which goes on where that one ended
    loaded.close()
    second.save(path, overwrite=True)
    again = Studio.load(path, toy, split)
    assert again.attempts == second.attempts
    again.close()
    path.unlink()
    with pytest.raises(FileExistsError, match=r"s-0.safetensors would be overwritten"):
        first.save(path)
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"p.json would be overwritten"):
        first.save(tmp_path / "p.json")
    with pytest.raises(ValueError, match=r"a studio is saved as JSON; name it .*s\.json"):
        first.save(tmp_path / "s.safetensors")


def test_an_export_makes_the_same_mask_by_the_command_it_names(studio_of, tmp_path, capsys):
    splits = data.load("mnist-5k")
    splits = replace(splits, train=splits.train.head(300))
    model = models.lenet_300_100(trained="mnist")
    studio = studio_of(model, splits, about={"network": "lenet-300-100", "data": "mnist"})
    steps = [
        lambda: studio.set({"fc1": 1.37, "fc2": 1.0}),
        lambda: studio.set(density={"fc2": 0.111, "fc3": 0.5}),
        lambda: studio.set(density={"fc3": 0.0}),
        lambda: studio.go(3).retrain(1),
        lambda: studio.set({"fc1": 0.8}).rename("taken"),
    ]
    for number, step in enumerate(steps):
        step()
        studio.settle()
        exported = studio.export(tmp_path / f"try {number}" / "plan.json")
        words = shlex.split(exported.command)
        assert words[0] == "pruning-lab"
        mask_file = tmp_path / "mask.safetensors"
        assert cli.main([*words[1:], "--out", str(mask_file), "--force"]) == 0
        assert Mask.load(mask_file).fingerprint() == studio.mask.fingerprint()
        plan = sensitivity.Plan.load(exported.plan)
        assert plan.together == studio.metrics().drop
        qualities = {row.layer: row.quality for row in studio.metrics().layers}
        for row in plan.rows:
            assert row.quality == (None if row.density == 0 else qualities[row.layer])
    assert plan.asked == f"attempt {studio.attempt.number} (taken)"
    whys = {row.layer: row.why for row in plan.rows}
    assert whys == {"fc1": "set to quality 0.8", "fc2": "left as it is", "fc3": "left as it is"}
    assert str(exported) == exported.command
    capsys.readouterr()


def test_an_export_of_a_network_of_ones_own_says_what_is_missing(toy, split, studio_of, tmp_path):
    studio = studio_of(toy, split).set(1.0)
    assert " --model NETWORK --plan " in studio.export(tmp_path / "p.json").command
    with pytest.raises(ValueError, match=r"a plan is JSON; name it .*p\.json"):
        studio.export(tmp_path / "p.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "p.safetensors")
    assert all(torch.equal(t, toy.state_dict()[name]) for name, t in tensors.items())


def test_an_export_never_writes_over_a_saved_studio(toy, split, studio_of, tmp_path):
    studio = studio_of(toy, split).set(1.0)
    studio.save(tmp_path / "work.json")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for overwrite in (False, True):
        for name in ("work.json", "work-0.json"):
            with pytest.raises(ValueError, match=r"work.* is of a saved studio; give the plan an"):
                studio.export(tmp_path / name, overwrite=overwrite)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_an_export_asks_before_it_overwrites(toy, split, studio_of, tmp_path, suffix):
    studio = studio_of(toy, split).set(1.0)
    for content in (b"", b"no tensors"):
        file = tmp_path / f"plan.{suffix}"
        file.write_bytes(content)
        with pytest.raises(FileExistsError, match=rf"plan.{suffix} would be overwritten; give an"):
            studio.export(tmp_path / "plan.json")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]
        studio.export(tmp_path / "plan.json", overwrite=True)
        weights = files.load_tensors(tmp_path / "plan.safetensors")[0]
        assert weights.keys() == toy.state_dict().keys()
        (tmp_path / "plan.json").unlink()
        (tmp_path / "plan.safetensors").unlink()


def test_a_scan_of_another_network_is_refused(toy, split):
    scan = sensitivity.scan(pausing(), split, (0.5,))
    toys = sensitivity.scan(toy, split, (0.5,), layers=["fc2"])
    other = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(64, CLASSES)))
    with pytest.raises(KeyError, match=r"no layer 'fc2' to prune; .* this network has fc1"):
        Studio(other, split, scan=scan)
    with torch.no_grad():
        (trained := copy.deepcopy(toy)).fc1.weight[0, 0] += 1
    with pytest.raises(ValueError, match="a network with other weights; scan this one"):
        Studio(trained, split, scan=toys)
    studio = Studio(toy, split, scan=toys)  # of some layers
    assert studio.scan is toys
    studio.close()


def test_a_mask_of_the_studio_can_be_saved(toy, split, studio_of, tmp_path):
    studio = studio_of(toy, split).set({"fc1": 1.0}).set(density={"fc2": 0.0})
    mask = Mask.load(studio.mask.save(tmp_path / "m.safetensors"))
    assert mask.fingerprint() == studio.mask.fingerprint()
    told = {row.layer: (row.asked, row.threshold is None) for row in mask.receipt}
    assert told == {
        "conv1": ("-", True),
        "fc1": ("quality 1", False),
        "fc2": ("density 0", True),
    }


def test_a_studio_says_in_a_line_where_it_stands(toy, split, studio_of):
    studio = studio_of(toy, split).set(density=0.5).settle()
    assert repr(studio) == (
        f"Studio(attempt 2 of 2, 50.0% of 516 weights, {studio.metrics().accuracy})"
    )


# --- the bytes that a layer takes ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "setting",
    [Setting(), Setting("quality", 1.0), Setting("density", 0.3), Setting("density", 0.01)],
)
def test_bytes_of_a_large_layer_are_near_what_storage_takes(dtype, setting):
    """Rows of different densities, a dead column in five, ties of every size but in float64."""
    weight = torch.randn(300, 1000) * torch.rand(300, 1).add(0.2)
    weight[:, ::5] = 0
    layer = Layer("fc1", weight.to(dtype))
    choice = layer.choose(setting)
    kept = layer.kept(choice)
    pruned = layer.weight.masked_fill(~kept, 0)
    pruned = pruned.float() if dtype is torch.float64 else pruned
    assert layer.row(setting, False, None).bytes == pytest.approx(
        storage.sizes(pruned)["ours"], rel=0.02
    )


def test_bytes_follow_the_setting_and_none_of_a_layer_takes_next_to_none():
    layer = Layer("fc1", torch.randn(400, 1000))
    sizes = [layer.row(Setting("quality", q), False, None).bytes for q in (0.0, 1.0, 3.0, 9.0, 1.0)]
    assert sizes[0] > 2 * sizes[1] > 20 * sizes[2] > 20 * sizes[3]
    assert sizes[3] < 100
    assert sizes[4] == sizes[1]
