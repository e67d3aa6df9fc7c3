"""The sliders without a browser: their state is set and read here as a cell would."""

import base64
import copy
import dataclasses
import gc
import html
import io
import math
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from traitlets.config import Config

from pruning_lab import criteria, evaluation, masks, plots, sensitivity, storage
from pruning_lab.evaluation import Accuracy
from pruning_lab.studio import Moved
from pruning_lab.widgets import (
    CostSlider,
    DropSlider,
    FunctionSlider,
    GrowingScan,
    GrowingTraining,
    ThresholdSlider,
)


def cut_by_hand(model: nn.Module, layer: str, quality: float) -> nn.Module:
    """A copy with the small weights of one layer set to zero, one after the other."""
    cut = copy.deepcopy(model)
    weight = cut.get_submodule(layer).weight
    threshold = quality * torch.std(weight.detach(), correction=0).item()
    with torch.no_grad():
        flat = weight.view(-1)
        for place in range(flat.numel()):
            if abs(flat[place].item()) < threshold:
                flat[place] = 0
    return cut


@torch.no_grad()
def right_by_hand(model: nn.Module, batches) -> int:
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return int((copy.deepcopy(model).eval()(x).argmax(1) == y).sum())


def taught(model: nn.Module, batches) -> list:
    """The same images with what the model answers as labels: dense it is right everywhere."""
    with torch.no_grad():
        return [(x, copy.deepcopy(model).eval()(x).argmax(1)) for x, _ in batches]


@pytest.fixture
def closed():
    """A list of panels that are closed in the end."""
    made = []
    yield made
    for panel in made:
        panel.close()


@pytest.fixture
def panels(closed):
    """A function that makes a panel."""

    def make(*args, **kwargs):
        closed.append(ThresholdSlider(*args, **kwargs))
        return closed[-1]

    return make


@pytest.fixture
def drops(closed):
    """A function that scans a model, and makes a panel to choose from the scan."""

    def make(model, images, *, densities=(0.7, 0.5, 0.3, 0.2, 0.1, 0.05), **options):
        scan = sensitivity.scan(model, images, densities)
        closed.append(DropSlider(scan, model, images, **options))
        return closed[-1]

    return make


# What it says is so


@pytest.mark.parametrize("layer", ["conv1", "fc1", "fc2"])
@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_it_says_what_a_network_cut_by_hand_says(panels, toy, batches, layer, quality):
    images = taught(toy, batches)
    panel = panels(toy, images, layer, quality=quality).settle()
    cut = cut_by_hand(toy, layer, quality)
    kept = int(cut.get_submodule(layer).weight.count_nonzero())
    assert panel.row.kept == kept
    assert panel.density == kept / toy.get_submodule(layer).weight.numel()
    assert panel.accuracy.n == 50
    assert round(panel.accuracy.value * 50) == right_by_hand(cut, images)
    assert panel.studio.dense.value == 1.0
    assert panel.drop.value == pytest.approx(1 - panel.accuracy.value)


def test_the_slider_matters_here(toy, batches):
    """Else the test above could not fail."""
    images = taught(toy, batches)
    right = {right_by_hand(cut_by_hand(toy, "fc1", q), images) for q in (0.0, 0.5, 1.0, 1.5, 3.0)}
    assert len(right) >= 3


@pytest.mark.parametrize("layer", ["stem", "block.0", "block.2", "head"])
def test_a_network_that_is_no_chain_serves(panels, branching, batches, layer):
    images = taught(branching, batches)
    panel = panels(branching, images, layer, quality=1.2).settle()
    cut = cut_by_hand(branching, layer, 1.2)
    assert round(panel.accuracy.value * 50) == right_by_hand(cut, images)


def test_a_single_layer_serves(panels, batches):
    torch.manual_seed(0)
    images = taught(layer := nn.Linear(64, 4), [(x.flatten(1), y) for x, y in batches])
    panel = panels(layer, images, "", quality=1.0).settle()
    assert round(panel.accuracy.value * 50) == right_by_hand(cut_by_hand(layer, "", 1.0), images)


def test_two_layers_that_share_a_weight_are_cut_together(panels, batches):
    torch.manual_seed(0)
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second, nn.Linear(64, 4))
    images = taught(model, [(x.flatten(1), y) for x, y in batches])
    panel = panels(model, images, "0", quality=1.5).settle()
    cut = cut_by_hand(model, "0", 1.5)
    assert cut[2].weight is cut[0].weight
    assert round(panel.accuracy.value * 50) == right_by_hand(cut, images)


def test_the_networks_density_counts_the_other_layers_whole(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.0)
    weights = {name: toy.get_submodule(name).weight.numel() for name in ("conv1", "fc1", "fc2")}
    expected = (panel.row.kept + weights["conv1"] + weights["fc2"]) / sum(weights.values())
    assert panel.studio.metrics().density == expected == panel.mask.density


def test_its_mask_is_the_cut_it_shows(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.3)
    panel.mask.apply_(toy_cut := copy.deepcopy(toy))
    for ours, theirs in zip(
        toy_cut.parameters(), cut_by_hand(toy, "fc1", 1.3).parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert {row.layer: row.asked for row in panel.mask.receipt} == {
        "conv1": "-", "fc1": "quality 1.3", "fc2": "-"
    }  # fmt: skip


class Gate(nn.Module):
    """A layer that lets nothing through while it is shut."""

    __module__ = "torch.nn"  # whose modules a trace calls, and does not look into
    open, reached = threading.Event(), threading.Event()

    def forward(self, x):
        self.reached.set()
        assert self.open.wait(10)
        return x


class Slow(nn.Module):
    """A layer that takes some time, once it is told to, and counts its calls."""

    __module__ = "torch.nn"
    seconds, calls = 0.0, []

    def forward(self, x):
        self.calls.append(len(x))
        time.sleep(self.seconds)
        return x


@pytest.fixture
def slow(toy, monkeypatch):
    """The toy with a slow last layer."""
    monkeypatch.setattr(Slow, "calls", [])
    return toy.append(Slow())


def test_its_mask_is_right_while_the_worker_uses_other_weights(panels, toy, split):
    Gate.open.set()
    panel = panels(toy.append(Gate()), split, "fc1", quality=0.5).settle()
    Gate.open.clear()
    Gate.reached.clear()
    panel.quality = 2.5
    assert Gate.reached.wait(10)  # in the middle of the network, with most weights cut
    panel.quality = 0.5
    masks_read = []
    reader = threading.Thread(target=lambda: masks_read.append(panel.mask))
    reader.start()
    reader.join(0.2)
    Gate.open.set()
    reader.join(10)
    panel.settle()
    kept = cut_by_hand(toy, "fc1", 0.5).fc1.weight != 0
    assert torch.equal(masks_read[0]["fc1"], kept)


def test_a_weight_just_as_large_as_the_threshold_stays(panels):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))  # sigma is 1
    images = [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))]
    panel = panels(nn.Sequential(layer), images, "0", quality=1.0).settle()
    assert (panel.threshold, panel.row.kept, panel.accuracy.value) == (1.0, 4, 1.0)
    panel.quality = 1.05
    assert (panel.settle().row.kept, panel.accuracy.value) == (0, 0.5)  # all answers tie: the first


# State


def test_the_slider_and_the_cell_move_one_another(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.0)
    assert panel.slider.value == 1.0
    panel.quality = 1.5
    assert panel.slider.value == 1.5
    panel.slider.value = 0.7  # as the browser does
    assert panel.quality == 0.7
    assert panel.threshold == pytest.approx(0.7 * toy.fc1.weight.std(correction=0).item())


def test_a_cells_value_is_exact_and_the_slider_on_its_grid(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=0.333)
    assert (panel.quality, panel.slider.value) == (0.333, 0.35)
    panel.quality = 1.2345
    assert (panel.quality, panel.slider.value) == (1.2345, 1.25)
    panel.quality = 4.5  # further than the slider goes
    assert (panel.quality, panel.slider.value) == (4.5, 3.0)
    for step in range(61):
        panel.slider.value = step * 0.05  # 0.15000000000000002, as a browser says
        assert panel.quality == float(f"{step * 0.05:.2f}")


def test_the_studio_behind_it_moves_the_slider(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.0).settle()
    panel.studio.set({"fc1": 2.0}).settle()
    assert (panel.quality, panel.slider.value) == (2.0, 2.0)
    panel.studio.undo().settle()
    assert (panel.quality, panel.slider.value) == (1.0, 1.0)


@pytest.mark.parametrize("quality", [-0.1, math.nan, math.inf])
def test_an_impossible_quality_is_refused_and_the_old_one_stays(panels, toy, split, quality):
    panel = panels(toy, split, "fc1", quality=1.0)
    with pytest.raises(ValueError, match="quality must"):
        panel.quality = quality
    assert (panel.quality, panel.slider.value) == (1.0, 1.0)


def test_what_is_not_measured_yet_is_none(panels, toy, split):
    held = threading.Event()
    panel = panels(toy, split, "fc1", quality=0.5).settle()
    assert panel.accuracy.n == 50
    panel.studio.on(Moved, lambda event: held.wait(10))
    panel.quality = 1.0
    assert panel.accuracy is None
    assert panel.drop is None
    assert "measuring" in panel.headline.value
    held.set()
    assert panel.settle().accuracy.n == 50


def test_settle_gives_up_when_told_to(panels, toy, split):
    held = threading.Event()
    panel = panels(toy, split, "fc1").settle()
    panel.studio.on(Moved, lambda event: held.wait(10))
    panel.quality = 2.0
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        panel.settle(timeout=0.05)
    held.set()


def test_the_test_split_is_refused(toy, split):
    with pytest.raises(ValueError, match=r"not for choosing; give splits\.val"):
        ThresholdSlider(toy, dataclasses.replace(split, name="test"), "fc1")


def test_an_unknown_layer_is_refused_and_the_nearest_named(toy, split):
    with pytest.raises(KeyError, match="did you mean fc"):
        ThresholdSlider(toy, split, "fc3")


def test_no_images_are_refused(panels, toy):
    panel = panels(toy, [], "fc1")
    with pytest.raises(ValueError, match="no images"):
        panel.settle()
    assert "no images" in panel.headline.value


def test_a_refused_panel_goes_quietly(toy, split, monkeypatch):
    """ipywidgets closes what it throws away, also what was never finished."""
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: complaints.append(what.exc_value))
    with pytest.raises(KeyError):
        ThresholdSlider(toy, split, "fc3")
    gc.collect()
    assert complaints == []


# Nothing is left behind


def test_the_model_and_the_random_states_stay_as_they_were(panels, toy, split, everything_of):
    x, y = (torch.cat(parts) for parts in zip(*split, strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=16)  # draws a random number to begin with
    toy.train()
    toy.drop2.eval()
    before = everything_of(toy)
    panel = panels(toy, loader, "fc1", quality=1.0).settle()
    panel.quality = 2.0
    assert panel.settle().mask.kept < panel.mask.weights
    assert everything_of(toy) == before


def test_training_the_model_meanwhile_disturbs_neither(panels, toy, split, batches):
    images = taught(toy, batches)
    twin = copy.deepcopy(toy)
    panel = panels(toy, images, "fc1", quality=1.0)
    torch.manual_seed(3)
    for step in range(60):
        panel.quality = 0.05 * (step % 20)
        toy.train()(batches[0][0]).sum().backward()
    torch.manual_seed(3)
    for _ in range(60):
        twin.train()(batches[0][0]).sum().backward()
    assert torch.equal(toy.fc1.weight.grad, twin.fc1.weight.grad)
    with torch.no_grad():
        toy.fc1.weight.zero_()
    panel.quality = 1.2
    expected = right_by_hand(cut_by_hand(twin, "fc1", 1.2), images)
    assert round(panel.settle().accuracy.value * 50) == expected


def test_no_thread_outlives_its_work(panels, toy, split):
    panels(toy, split, "fc1").settle()
    assert "latest-only" not in [thread.name for thread in threading.enumerate()]


def test_closing_ends_the_work(slow, split, monkeypatch):
    panel = ThresholdSlider(slow, [*split] * 500, "fc1").settle()
    monkeypatch.setattr(Slow, "seconds", 0.01)
    Slow.calls.clear()
    panel.quality = 2.0
    while not Slow.calls:
        time.sleep(0.001)
    panel.close()  # in the first of 20 seconds
    assert "latest-only" not in [thread.name for thread in threading.enumerate()]
    assert panel.accuracy is None
    assert [part.comm for part in (panel, *panel.children)] == [None] * 7
    panel.settle(timeout=5)  # returns: nothing works any more


def test_only_this_module_loads_ipywidgets_and_nothing_loads_pyplot():
    script = """
import sys, torch, pruning_lab
from pruning_lab import data, evaluation, masks, models, plots, retraining, sensitivity, training
print("ipywidgets" in sys.modules)
from pruning_lab.widgets import ThresholdSlider
print("ipywidgets" in sys.modules)
images = [(torch.randn(8, 1, 28, 28), torch.zeros(8, dtype=int))]
panel = ThresholdSlider(models.lenet_300_100(), images, "fc3").settle()
print(len(panel.picture.value) > 1000, "matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "True", "False"], done.stderr


# The slider on the allowed drop


def together_by_hand(model: nn.Module, densities: dict, batches) -> float:
    """The share of images lost when every layer keeps its largest weights, counted one by one."""
    cut = copy.deepcopy(model)
    with torch.no_grad():
        for name, density in densities.items():
            flat = cut.get_submodule(name).weight.view(-1)
            order = sorted(range(len(flat)), key=lambda place: -abs(flat[place].item()))
            for place in order[round(density * len(flat)) :]:
                flat[place] = 0
    images = sum(len(y) for _, y in batches)
    return (right_by_hand(model, batches) - right_by_hand(cut, batches)) / images


@pytest.mark.parametrize("max_drop", [0.0, 2.0, 10.0, 30.0])
@pytest.mark.parametrize("network", ["toy", "branching"])
def test_together_is_what_a_network_cut_by_hand_loses(drops, batches, request, network, max_drop):
    model = request.getfixturevalue(network)
    images = taught(model, batches)
    panel = drops(model, images, max_drop_per_layer=max_drop, limit=30).settle()
    expected = together_by_hand(model, panel.plan.densities, images)
    assert panel.drop.value == pytest.approx(expected)
    assert panel.drop.n == 50
    assert panel.plan.together == panel.drop
    assert panel.drop.low < panel.drop.value < panel.drop.high or expected == 0


def test_the_allowed_drop_matters_here(toy, batches):
    """Else the test above could not fail; and single drops do not add."""
    images = taught(toy, batches)
    scan = sensitivity.scan(toy, images, [0.7, 0.5, 0.3, 0.2, 0.1, 0.05])
    plans = [sensitivity.choose(scan, max_drop_per_layer=allowed) for allowed in (0, 2, 10, 30)]
    together = [together_by_hand(toy, plan.densities, images) for plan in plans]
    assert len(set(together)) >= 3
    assert any(plan.predicted != pytest.approx(t) for plan, t in zip(plans, together, strict=True))


def test_its_plan_is_what_choose_says(drops, toy, batches):
    images = taught(toy, batches)
    panel = drops(toy, images, max_drop_per_layer=2.0)
    for max_drop in (0.0, 2.0, 5.0):
        panel.max_drop_per_layer = max_drop
        expected = sensitivity.choose(panel.scan, max_drop_per_layer=max_drop)
        assert dataclasses.replace(panel.plan, together=None) == expected
        assert panel.slider.value == max_drop
        for name, kept in expected.mask(toy).items():
            assert torch.equal(panel.mask[name], kept)
    panel.slider.value = 2.0  # as the browser does
    assert panel.max_drop_per_layer == 2.0


def test_layers_that_were_not_scanned_stay_dense(closed, toy, batches):
    images = taught(toy, batches)
    scan = sensitivity.scan(toy, images, [0.5, 0.1], layers=["fc1"])
    closed.append(panel := DropSlider(scan, toy, images, max_drop_per_layer=5.0).settle())
    assert panel.mask["conv1"].all()
    expected = together_by_hand(toy, {"fc1": panel.plan.densities["fc1"]}, images)
    assert panel.drop.value == pytest.approx(expected)


def test_a_scan_by_another_saliency_is_refused(toy, batches):
    images = taught(toy, batches)
    torch.manual_seed(0)
    scores = {name: torch.rand_like(la.weight) for name, la in masks.prunable(toy).items()}
    scan = sensitivity.scan(toy, images, [0.5], saliency=criteria.Computed("lottery", scores))
    with pytest.raises(ValueError, match="lottery"):
        DropSlider(scan, toy, images)
    scan = sensitivity.scan(toy, images, [0.5], saliency=criteria.random(0))
    with pytest.raises(ValueError, match=r"by magnitude, got .*random"):
        DropSlider(scan, toy, images)


def test_an_impossible_drop_is_refused_and_nothing_moves(drops, toy, batches):
    panel = drops(toy, taught(toy, batches), max_drop_per_layer=0.33)
    assert (panel.max_drop_per_layer, panel.slider.value) == (0.33, 0.3)
    for bad in (-0.1, math.nan, 500):
        with pytest.raises(ValueError, match="max_drop"):
            panel.max_drop_per_layer = bad
    assert (panel.max_drop_per_layer, panel.slider.value) == (0.33, 0.3)


def test_what_is_not_measured_together_yet_is_none(drops, toy, batches):
    held = threading.Event()
    panel = drops(toy, taught(toy, batches), max_drop_per_layer=1.0).settle()
    assert panel.drop is not None
    panel.studio.on(Moved, lambda event: held.wait(10))
    panel.max_drop_per_layer = 20.0
    assert panel.drop is panel.accuracy is panel.plan.together is None
    assert "measuring" in panel.headline.value
    held.set()
    assert panel.settle().drop.n == 50


def test_a_drop_slider_refuses_what_it_cannot_choose_by(closed, toy, split, batches):
    scan = sensitivity.scan(toy, split, [0.5, 0.1])
    with pytest.raises(ValueError, match=r"not for choosing; give splits\.val"):
        DropSlider(scan, toy, dataclasses.replace(split, name="test"))
    with pytest.raises(KeyError, match="no layer 'conv1'"):
        DropSlider(scan, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), split)
    closed.append(panel := DropSlider(scan, toy, []))
    with pytest.raises(ValueError, match="no images"):
        panel.settle()


def test_a_drop_slider_leaves_no_trace(drops, toy, split, everything_of):
    toy.train()
    before = everything_of(toy)
    panel = drops(toy, split, max_drop_per_layer=1.0).settle()
    panel.max_drop_per_layer = 5.0
    panel.settle()
    assert everything_of(toy) == before
    assert "latest-only" not in [thread.name for thread in threading.enumerate()]


def test_training_meanwhile_disturbs_no_drop_slider(drops, toy, batches):
    """The worker draws no random number, and sets no generator back."""
    images = taught(toy, batches)
    panel = drops(toy, images, max_drop_per_layer=1.0).settle()
    torch.manual_seed(3)
    drawn = []
    for step in range(40):
        panel.max_drop_per_layer = 0.1 * (step % 20)
        drawn.append(torch.rand(100))
    panel.settle()
    torch.manual_seed(3)
    assert all(torch.equal(numbers, torch.rand(100)) for numbers in drawn)


def test_the_text_is_the_plan_and_says_that_drops_do_not_add(drops, toy, batches):
    panel = drops(toy, taught(toy, batches), max_drop_per_layer=5.0).settle()
    assert panel.plan.together is not None
    assert html.unescape(re.sub("<[^>]*>", "", panel.text.value)) == str(panel.plan)
    assert "do not add" in panel.text.value
    for part in (str(panel.drop), f"{panel.accuracy.value:.2%}", "50 images"):
        assert part in re.sub("<[^>]*>", "", panel.headline.value)


def test_the_picture_of_the_drop_slider_follows(drops, toy, batches):
    panel = drops(toy, taught(toy, batches), max_drop_per_layer=1.0).settle()
    first = bytes(panel.picture.value)
    assert first.startswith(b"\x89PNG")
    panel.max_drop_per_layer = 5.0
    assert bytes(panel.settle().picture.value) != first
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == panel.picture.value
    assert bundle["text/plain"].startswith("DropSlider(max_drop_per_layer=5, density=0.")
    for name in ("slider", "picture", "headline", "text"):
        assert f"drop-{name}" in getattr(panel, name)._dom_classes


@pytest.fixture
def axes(monkeypatch):
    """The axes that a scan was drawn on, the latest last."""
    drawn, draw = [], plots.sensitivity
    monkeypatch.setattr(
        plots, "sensitivity", lambda *a, ax, **k: drawn.append(draw(*a, ax=ax, **k))
    )
    return drawn


def test_the_picture_marks_what_was_chosen(drops, toy, batches, axes):
    panel = drops(toy, taught(toy, batches), max_drop_per_layer=5.0).settle()
    rows = [[row.density, -100 * row.drop] for row in panel.plan.rows]
    assert axes[-1].lines[-1].get_xydata() == pytest.approx(np.array(rows), abs=1e-9)


def test_the_title_and_the_sparsity_have_room(drops, toy, batches, axes):
    drops(toy, taught(toy, batches)).settle()
    ax = axes[-1]
    for text in (ax.title, ax.child_axes[0].xaxis.label, ax.xaxis.label):
        extent = text.get_window_extent()
        assert 0 <= extent.ymin < extent.ymax <= ax.figure.bbox.ymax, text


def test_a_network_of_many_layers_gets_a_higher_picture(drops, shown, axes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(9, 9) for _ in range(16)))
    images = taught(model, [(torch.randn(20, 9), torch.zeros(20, dtype=int))])
    drops(model, images, densities=[0.5]).settle()
    assert axes[-1].get_legend().get_window_extent().ymin >= 0
    sensitivity.scan(model, images, [0.5], notify=GrowingScan())
    width, height = Image.open(io.BytesIO(shown[0][1])).size
    assert height / width > 3.6 / 7.6


def test_a_layer_of_which_nothing_is_left_has_no_place_in_the_picture(drops, toy, batches, axes):
    panel = drops(toy, taught(toy, batches), densities=[0.5, 0.0], max_drop_per_layer=100)
    assert set(panel.settle().plan.densities.values()) == {0.0}
    assert len(axes[-1].lines[-1].get_xydata()) == 0
    assert panel.drop.n == 50


# A scan that grows in the notebook


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, and what renews it: pairs of (place, picture)."""
    pictures = []

    class Handle:
        def __init__(self, place):
            self.update = lambda picture: pictures.append((place, picture.png))

    def show(picture, display_id):
        assert display_id is True
        place = len(pictures)
        pictures.append((place, picture.png))
        return Handle(place)

    monkeypatch.setattr("IPython.display.display", show)
    return pictures


def test_a_scan_grows_in_one_place(shown, toy, split):
    plain = sensitivity.scan(toy, split, [0.5, 0.1])
    watched = sensitivity.scan(toy, split, [0.5, 0.1], notify=GrowingScan(seconds=0))
    assert watched == plain
    assert [place for place, _ in shown] == [0] * 4  # after each of four batches
    assert all(picture.startswith(b"\x89PNG") for _, picture in shown)
    assert len({picture for _, picture in shown}) == 4


def test_the_first_and_the_last_picture_are_never_left_out(shown, toy, split):
    growing = GrowingScan(seconds=1000)
    sensitivity.scan(toy, split, [0.5], notify=growing)
    assert len(shown) == 2
    sensitivity.scan(toy, split, [0.5], notify=growing)
    assert [place for place, _ in shown] == [0, 0, 2, 2]  # the next scan has a place of its own
    assert shown[1] == (0, shown[3][1])


def test_a_training_grows_in_one_place_and_the_next_network_has_its_own(shown):
    hits = torch.arange(100)
    growing = GrowingTraining(Accuracy.of(hits < 90))
    for name, right in [("pruned", 60), ("pruned", 85), ("control", 90), ("control", 93)]:
        growing.add(name, Accuracy.of(hits < right))
    assert [place for place, _ in shown] == [0, 0, 2, 2]
    values = {name: [drop.value for drop in drops] for name, drops in growing.changes.items()}
    assert values == {"pruned": [0.3, 0.05], "control": [0.0, -0.03]}
    with pytest.raises(ValueError, match="same images"):
        growing.add("pruned", Accuracy.of(hits[:50] < 9))


def test_quick_epochs_share_a_picture_and_the_last_is_there_when_the_cell_ends(shown):
    config = Config(HistoryManager={"enabled": False})  # nothing is written at home
    shell, hits = InteractiveShell.instance(config=config), torch.arange(100)
    try:
        growing = GrowingTraining(Accuracy.of(hits < 90), seconds=1000)
        shell.push({"growing": growing, "accuracy": [Accuracy.of(hits < n) for n in range(60, 96)]})
        shell.run_cell("for each in accuracy[:10]: growing.add('pruned', each)")
        assert [place for place, _ in shown] == [0, 0]
        shell.run_cell("for each in accuracy[10:]: growing.add('pruned', each)").raise_error()
        shell.run_cell("growing.add('pruned', accuracy[0]); growing.add('control', accuracy[9])")
        shell.run_cell("1 + 1")
    finally:
        InteractiveShell.clear_instance()
    assert [place for place, _ in shown] == [0, 0, 0, 0, 4]
    assert len({picture for _, picture in shown}) == 5
    assert [len(drops) for drops in growing.changes.values()] == [37, 1]


def test_images_of_which_nobody_knows_the_number_are_drawn_as_they_come(shown, toy, batches):
    class Stream:
        def __iter__(self):
            return iter(batches)

    sensitivity.scan(toy, Stream(), [0.5], notify=GrowingScan(seconds=1000))
    assert len(shown) == len(batches)


def test_an_old_state_is_left_between_two_batches(panels, slow, split, monkeypatch):
    panel = panels(slow, [*split] * 500, "fc1").settle()
    monkeypatch.setattr(Slow, "seconds", 0.002)
    Slow.calls.clear()
    panel.quality = 2.0
    while not Slow.calls:
        time.sleep(0.001)
    monkeypatch.setattr(Slow, "seconds", 0.0)
    panel.quality = 0.5
    panel.settle()
    assert 2000 <= len(Slow.calls) < 3000  # all batches once, and few of the old state's 2,000
    alone = evaluation.evaluate(cut_by_hand(slow, "fc1", 0.5), split)
    assert panel.accuracy == Accuracy.counted(500 * round(alone.value * alone.n), 500 * alone.n)


def test_a_threshold_of_zero_is_known_to_be_the_dense_network(panels, slow, split):
    panel = panels(slow, split, "fc1", quality=2.0).settle()
    Slow.calls.clear()
    panel.quality = 0.0
    assert panel.settle().accuracy == panel.studio.dense
    assert not Slow.calls


def test_settle_raises_what_went_wrong_and_the_panel_says_it(panels, toy, split):
    panel = panels(toy, split, "fc1").settle()

    def broken(event):
        raise RuntimeError("no <ink>")

    mend = panel.studio.on(Moved, broken)
    panel.quality = 2.0
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no <ink>"):
            panel.settle()
    assert "failed: no &lt;ink&gt;" in panel.headline.value
    mend()
    panel.quality = 1.0
    assert panel.settle().accuracy is not None


# What is seen


def test_the_text_says_all_of_it(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.5).settle()
    text = re.sub("<[^>]*>", " ", panel.headline.value + panel.text.value)
    for part in (
        "quality 1.5",
        f"{panel.threshold:.4g}",
        f"{panel.density:.1%}",
        "432",
        f"{panel.mask.density:.1%}",
        f"{panel.accuracy.value:.2%}",
        f"{panel.accuracy.low:.2%} to {panel.accuracy.high:.2%}, 50 images",
        str(panel.drop),
    ):
        assert part in " ".join(text.split())


def test_the_picture_is_a_png_and_follows(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.0).settle()
    first = bytes(panel.picture.value)
    assert first.startswith(b"\x89PNG")
    panel.quality = 2.0
    assert bytes(panel.settle().picture.value) != first
    panel.quality = 1.0
    assert bytes(panel.settle().picture.value) == first


def test_pages_without_widgets_get_the_picture(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.0).settle()
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == panel.picture.value
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    assert bundle["text/plain"].startswith("ThresholdSlider('fc1', quality=1, ")


def test_a_test_in_the_browser_can_find_its_parts(panels, toy, split):
    panel = panels(toy, split, "fc1")
    assert "threshold-panel" in panel._dom_classes
    for name in ("slider", "picture", "headline", "text"):
        assert f"threshold-{name}" in getattr(panel, name)._dom_classes


def test_its_mask_trains(panels, toy, split):
    """The next cell takes the mask, as in `training.train(model, ..., mask=panel.mask)`."""
    panel = panels(toy, split, "fc1", quality=1.0)
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9)
    panel.mask.hold(toy)
    for x, y in split:
        optimizer.zero_grad()
        nn.functional.cross_entropy(toy(x), y).backward()
        optimizer.step()
    assert masks.Mask.of(toy)["fc1"].sum() == panel.row.kept


def test_a_function_slider_shows_what_its_function_says_and_leaves_it_on_pages_without_widgets():
    slider = FunctionSlider(lambda x: f"<{2 * x:g}>", 0, 10, label="x")
    assert slider.value == 0
    assert "&lt;0&gt;" in slider.result.value
    slider.slider.value = 4.5  # as a user moves it
    assert "&lt;9&gt;" in slider.result.value
    slider.value = 5
    assert "&lt;10&gt;" in slider.result.value
    bundle = slider._repr_mimebundle_()
    assert bundle["text/plain"] == "x 5: <10>"
    assert "&lt;10&gt;" in bundle["text/html"]
    slider.close()


# --- time and bytes ----------------------------------------------------------------------------


def test_the_cost_of_a_layer_is_measured_at_the_density_that_is_set(toy):
    before = copy.deepcopy(toy.state_dict())
    panel = CostSlider(toy, "fc1", (1, 8, 8), batch=3)
    panel.density = 0.25
    weight = toy.fc1.weight.detach()
    kept = round(0.25 * weight.numel())
    assert panel.row.density == pytest.approx(kept / weight.numel())
    assert panel.row.batch == 3
    floor = weight.abs().flatten().sort(descending=True).values[kept - 1]
    pruned = weight.where(weight.abs() >= floor, 0)
    assert panel.sizes.items() >= storage.sizes(pruned).items()
    assert f"{panel.sizes['ours']:,} bytes packed" in repr(panel)
    assert f"{panel.row.sparse_ms.value:.3g} ms sparse" in panel.text.value
    assert "image/png" in panel._repr_mimebundle_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.state_dict().items())


def test_a_density_that_was_measured_is_not_measured_again(toy):
    panel = CostSlider(toy, "fc1", (1, 8, 8))
    row = panel.row
    panel.density = 0.5
    assert panel.row != row
    panel.density = 0.1
    assert panel.row is row


def test_the_cost_of_an_unknown_layer_is_refused_before_anything_is_measured(toy):
    with pytest.raises(KeyError, match="fc9"):
        CostSlider(toy, "fc9", (1, 8, 8))
