"""The slider without a browser: its state is set and read here as a cell would."""

import base64
import copy
import dataclasses
import gc
import math
import re
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pruning_lab import masks, widgets
from pruning_lab.widgets import ThresholdSlider


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
def panels():
    """A function that makes a panel and closes it in the end."""
    made = []

    def make(*args, **kwargs):
        made.append(ThresholdSlider(*args, **kwargs))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


# What it says is so


@pytest.mark.parametrize("layer", ["conv1", "fc1", "fc2"])
@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_it_says_what_a_network_cut_by_hand_says(panels, toy, batches, layer, quality):
    images = taught(toy, batches)
    panel = panels(toy, images, layer, quality=quality).settle()
    cut = cut_by_hand(toy, layer, quality)
    kept = int(cut.get_submodule(layer).weight.count_nonzero())
    assert panel.kept == kept
    assert panel.density == kept / toy.get_submodule(layer).weight.numel()
    assert panel.accuracy.n == 50
    assert round(panel.accuracy.value * 50) == right_by_hand(cut, images)
    assert panel.dense.value == 1.0
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
    expected = (panel.kept + weights["conv1"] + weights["fc2"]) / sum(weights.values())
    assert panel.network_density == expected == panel.mask.density


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

    open, reached = threading.Event(), threading.Event()

    def forward(self, x):
        self.reached.set()
        assert self.open.wait(10)
        return x


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
    assert (panel.threshold, panel.kept, panel.accuracy.value) == (1.0, 4, 1.0)
    panel.quality = 1.05
    assert (panel.settle().kept, panel.accuracy.value) == (0, 0.5)  # all answers tie: the first


# State


def test_the_slider_and_the_cell_move_one_another(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.0)
    assert panel.slider.value == 1.0
    panel.quality = 1.5
    assert panel.slider.value == 1.5
    panel.slider.value = 0.7  # as the browser does
    assert panel.quality == 0.7
    assert panel.threshold == pytest.approx(0.7 * toy.fc1.weight.std(correction=0).item())


def test_a_value_between_two_steps_is_rounded_to_one(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=0.333)
    assert (panel.quality, panel.slider.value) == (0.35, 0.35)
    panel.quality = 1.2345
    assert (panel.quality, panel.slider.value) == (1.25, 1.25)
    for step in range(61):
        panel.quality = step * 0.05
        assert panel.quality == float(f"{step * 0.05:.2f}")


@pytest.mark.parametrize("quality", [-0.1, math.nan, math.inf, 3.5])
def test_an_impossible_quality_is_refused_and_the_old_one_stays(panels, toy, split, quality):
    panel = panels(toy, split, "fc1", quality=1.0)
    with pytest.raises(ValueError, match="quality must"):
        panel.quality = quality
    assert (panel.quality, panel.slider.value) == (1.0, 1.0)


def test_what_is_not_measured_yet_is_none(panels, toy, split):
    held = threading.Event()
    panel = panels(toy, split, "fc1", quality=0.5).settle()
    assert panel.accuracy.n == 50
    panel._draw = lambda quality: held.wait(10)
    panel.quality = 1.0
    assert panel.accuracy is None
    assert panel.drop is None
    assert "measuring" in panel.text.value
    held.set()
    assert panel.settle().accuracy.n == 50


def test_settle_gives_up_when_told_to(panels, toy, split):
    held = threading.Event()
    panel = panels(toy, split, "fc1").settle()
    panel._draw = lambda quality: held.wait(10)
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


def test_no_images_are_refused(toy):
    with pytest.raises(ValueError, match="no images"):
        ThresholdSlider(toy, [], "fc1")


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
    assert "newest-first" not in [thread.name for thread in threading.enumerate()]


def test_closing_ends_the_work(toy, split):
    panel = ThresholdSlider(toy, [*split] * 500, "fc1").settle()
    answer, began = panel._answer, threading.Event()

    def slow(pruned, x):
        began.set()
        time.sleep(0.01)
        return answer(pruned, x)

    panel._answer = slow
    panel.quality = 2.0
    assert began.wait(10)
    panel.close()  # in the first of 20 seconds
    assert "newest-first" not in [thread.name for thread in threading.enumerate()]
    assert panel.accuracy is None
    assert [part.comm for part in (panel, *panel.children)] == [None] * 4
    panel.quality = 1.0
    panel.settle(timeout=5)  # returns: nobody works any more


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


# The newest state wins


class Recorder:
    """Work that waits until it is let go, and remembers."""

    def __init__(self):
        self.began, self.go = threading.Event(), threading.Event()
        self.states, self.was_stale = [], {}

    def __call__(self, state, stale):
        self.states.append(state)
        self.began.set()
        assert self.go.wait(10)
        self.was_stale[state] = stale()


def test_a_fast_hand_costs_two_measurements():
    work = Recorder()
    worker = widgets._NewestFirst(work)
    worker.submit("first")
    assert work.began.wait(10)
    for number in range(100):
        worker.submit(number)
    work.go.set()
    worker.settle(10)
    assert work.states == ["first", 99]
    assert work.was_stale == {"first": True, 99: False}


def test_an_old_state_is_left_between_two_batches(panels, toy, split):
    asked = []
    panel = panels(toy, [*split] * 500, "fc1").settle()
    answer = panel._answer

    def slow(pruned, x):
        asked.append(int(pruned.count_nonzero()))
        time.sleep(0.002)
        return answer(pruned, x)

    panel._answer = slow
    panel.quality = 2.0
    while not asked:
        time.sleep(0.001)
    panel.quality = 0.0
    panel.settle()
    assert asked[-1] == toy.fc1.weight.numel()
    assert sum(kept != asked[-1] for kept in asked) < 1000  # of 2,000 batches


def test_many_threads_may_submit():
    seen = []
    worker = widgets._NewestFirst(lambda state, stale: seen.append(state))

    def push(start):
        for number in range(start, start + 200):
            worker.submit(number)

    threads = [threading.Thread(target=push, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.submit("last")
    worker.settle(10)
    assert seen[-1] == "last"


def test_settle_raises_what_the_worker_raised_and_the_panel_says_it(panels, toy, split):
    panel = panels(toy, split, "fc1").settle()

    def broken(quality):
        raise RuntimeError("no <ink>")

    panel._draw, draw = broken, panel._draw
    panel.quality = 2.0
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no <ink>"):
            panel.settle()
    assert "not measured: no &lt;ink&gt;" in panel.text.value
    panel._draw = draw
    panel.quality = 1.0
    assert panel.settle().accuracy is not None


# What is seen


def test_the_text_says_all_of_it(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.5).settle()
    text = re.sub("<[^>]*>", " ", panel.text.value)
    for part in (
        f"{panel.threshold:.4f}",
        "1.50 × σ",
        f"{panel.density:.1%}",
        f"({panel.kept} of 432 weights)",
        f"{panel.network_density:.1%}",
        f"{panel.accuracy.value:.2%}",
        f"({panel.accuracy.low:.2%} to {panel.accuracy.high:.2%}, 50 images)",
        str(panel.drop),
    ):
        assert part in text


def test_what_comes_late_is_not_written(panels, toy, split):
    panel = panels(toy, split, "fc1", quality=1.5).settle()
    text = panel.text.value
    panel._write(1.0, "of another state")
    assert panel.text.value == text


def test_an_estimate_comes_first(panels, toy, split):
    panel = panels(toy, [*split] * 40, "fc1").settle()
    texts = []
    panel.text.observe(lambda change: texts.append(change["new"]), "value")
    panel.quality = 2.0
    panel.settle()
    images = [re.search(r"([\d,]+) images", text) for text in texts]
    assert [found and found[1] for found in images] == [None, "500", "2,000"]


def test_the_estimate_is_that_of_the_first_images(panels, toy, batches):
    images = taught(toy, batches) * 20
    panel = panels(toy, images, "fc1")
    panel.settle()
    reports = []
    panel._report = lambda quality, accuracy: reports.append(accuracy)
    panel.quality = 2.0
    panel.settle()
    cut = cut_by_hand(toy, "fc1", 2.0)
    assert [a.n for a in reports] == [500, 1000]
    assert round(reports[0].value * 500) == right_by_hand(cut, images[:40])
    assert round(reports[1].value * 1000) == right_by_hand(cut, images)


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
    assert bundle["text/plain"].startswith("ThresholdSlider(layer='fc1', quality=1, ")


def test_a_test_in_the_browser_can_find_its_parts(panels, toy, split):
    panel = panels(toy, split, "fc1")
    parts = (panel, panel.slider, panel.picture, panel.text)
    found = [part._dom_classes[-1] for part in parts]
    assert found == ["threshold-panel", "threshold-slider", "threshold-picture", "threshold-text"]


def test_its_mask_trains(panels, toy, split):
    """The next cell takes the mask, as in `training.train(model, ..., mask=panel.mask)`."""
    panel = panels(toy, split, "fc1", quality=1.0)
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9)
    panel.mask.attach(optimizer, toy)
    for x, y in split:
        optimizer.zero_grad()
        nn.functional.cross_entropy(toy(x), y).backward()
        optimizer.step()
    assert masks.Mask.of(toy)["fc1"].sum() == panel.kept
