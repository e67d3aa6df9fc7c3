"""The studio's panel without a browser: widgets are moved as a browser's messages do."""

import base64
import copy
import gc
import html
import io
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from ipywidgets.widgets.widget import _instances as living
from PIL import Image
from torch import nn
from toys import CLASSES

from pruning_lab import data, evaluation, models, plots
from pruning_lab.cli import main as pruning_lab
from pruning_lab.evaluation import Accuracy
from pruning_lab.masks import Mask, prunable
from pruning_lab.studio import ALL, Attempt, Comparison, Moved, Setting, Studio
from pruning_lab.widgets import StudioPanel, figures


@pytest.fixture
def splits(split):
    """Noise to train on, to choose by, and to test on."""

    def part(name, count, seed):
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        return replace(split, name=name, images=pixels, labels=labels)

    return data.Splits("noise", part("train", 40, 2), split, part("test", 30, 3), "random")


@pytest.fixture
def panel_of():
    """Opens panels, and closes them in the end."""
    panels = []

    def open_(model, images, **options) -> StudioPanel:
        panels.append(StudioPanel(Studio(model, images, **options)))
        return panels[-1].settle(60)

    yield open_
    for panel in panels:
        panel.close()


@pytest.fixture
def panel(panel_of, toy, splits) -> StudioPanel:
    return panel_of(toy, splits)


# --- a hand ------------------------------------------------------------------------------------


def drag(panel: StudioPanel, layer: str, value: float) -> None:
    """What a browser sends for a slider, in the thread that takes messages."""
    panel.rows[layer].slider.set_state({"value": value})


def type_in(panel: StudioPanel, layer: str, value: float) -> None:
    panel.rows[layer].box.set_state({"value": value})


def press(panel: StudioPanel, name: str) -> StudioPanel:
    """A browser lets nobody press what is disabled."""
    button = panel.buttons[name]
    assert not button.disabled
    button.click()
    return panel


def text(widget) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", widget.value)).split())


# --- what is shown, against others -------------------------------------------------------------


@torch.no_grad()
def right_by_hand(model: nn.Module, settings: dict, images) -> tuple[int, int]:
    """(right answers, weights that stay) of a copy cut by hand at quality x standard deviation."""
    cut, kept = copy.deepcopy(model).eval(), 0
    for name, layer in prunable(cut).items():
        threshold = (
            settings[name].amount * layer.weight.std(correction=0) if name in settings else 0
        )
        layer.weight.mul_(layer.weight.abs() >= threshold)
        kept += int(layer.weight.count_nonzero())
    return sum(int((cut(x).argmax(1) == y).sum()) for x, y in images), kept


def check(panel: StudioPanel, model: nn.Module, images) -> None:
    """All that stands in the panel is what the studio says, and so is what the studio says."""
    panel.settle(60)
    metrics = panel.studio.metrics()
    right, kept = right_by_hand(model, panel.studio.attempt.settings, images)
    assert metrics.final
    assert (round(metrics.accuracy.value * metrics.accuracy.n), metrics.kept) == (right, kept)
    check_words(panel)


def check_words(panel: StudioPanel) -> None:
    metrics, headline, table = panel.studio.metrics(), text(panel.headline), text(panel.layers)
    accuracy = metrics.accuracy
    interval = f"{accuracy.low:.2%} to {accuracy.high:.2%}, {accuracy.n:,} images"
    assert f"accuracy on val {accuracy.value:.2%} {interval}" in headline
    assert f"change of accuracy {metrics.drop}" in headline
    assert f"weights kept {share(metrics.density)} {metrics.kept:,}" in headline
    assert headline.endswith("● up to date")
    for row in metrics.layers:
        line = panel.rows[row.layer]
        assert text(line.kept) == share(row.density)
        assert f"{row.threshold:.4g} {row.weights:,} {row.kept:,} {row.density:.1%}" in table
        assert line.slider.value == pytest.approx(round(min(3, row.quality) / 0.05) * 0.05)
        assert round(line.slider.value / 0.05, 6) == round(line.slider.value / 0.05)
        if row.asked.kind == "quality":
            assert line.box.value == row.asked.amount
        assert line.lock.value == row.locked
        assert line.slider.disabled == line.box.disabled == line.reset.disabled == row.locked
        assert (line.name.button_style == "primary") == (row.layer == panel.layer)


def share(density: float) -> str:
    return f"{density:.1%}" if density >= 0.01 or density == 0 else f"{density:.2%}"


def pixels(widget) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(widget.value)).convert("RGB")).astype(int)


# --- sliders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["conv1", "fc1", "fc2"])
def test_label_picture_and_accuracy_follow_a_slider(panel, toy, split, layer):
    check(panel, toy, split)
    seen = []
    for quality in (0.5, 1.0, 1.55, 3.0):
        drag(panel, layer, quality)
        check(panel, toy, split)
        assert panel.studio.setting(layer) == Setting("quality", quality)
        seen.append((panel.rows[layer].kept.value, panel.picture.value, panel.headline.value))
    for shown in zip(*seen, strict=True):
        assert len(set(shown)) == len(seen)
    assert panel.layer == layer


def test_what_a_browser_adds_to_a_step_is_left_out(panel, toy, split):
    drag(panel, "fc1", 0.15000000000000002)
    assert panel.studio.setting("fc1").amount == panel.rows["fc1"].box.value == 0.15
    # Nothing goes back to the browser, where the hand is further by now.
    assert panel.rows["fc1"].slider.value == 0.15000000000000002
    check(panel, toy, split)


@pytest.mark.parametrize("quality", [1.23456789, 0.7312, 3.7, 12.5])
def test_the_box_is_exact_and_the_slider_stays_on_its_grid(panel, toy, split, quality):
    type_in(panel, "fc1", quality)
    assert panel.studio.setting("fc1").amount == panel.rows["fc1"].box.value == quality
    check(panel, toy, split)
    attempt = panel.studio.attempt
    # A browser that is told a value of the grid answers with another last digit of it.
    drag(panel, "fc1", np.nextafter(panel.rows["fc1"].slider.value, 0))
    assert panel.settle(60).studio.attempt is attempt


def test_reset_gives_a_layer_all_its_weights_again(panel, toy, split):
    type_in(panel, "fc1", 1.234)
    drag(panel, "conv1", 0.5)
    panel.rows["fc1"].reset.click()
    check(panel, toy, split)
    assert panel.studio.setting("fc1") == ALL
    assert panel.rows["fc1"].box.value == panel.rows["fc1"].slider.value == 0
    assert panel.studio.setting("conv1").amount == 0.5


def test_fifty_events_at_once_leave_one_result_the_newest(panel, toy, split):
    """They come while the thread is kept from working on the first."""
    began, go, moved = threading.Event(), threading.Event(), []

    def hold(event):
        moved.append(panel.studio.setting("fc1").amount)
        began.set()
        assert go.wait(20)

    panel.studio.on(Moved, hold)
    pictures = []
    panel.picture.observe(lambda change: pictures.append(change["new"]), "value")
    drag(panel, "fc1", 0.05)
    assert began.wait(20)
    for step in range(2, 51):
        drag(panel, "fc1", step * 0.05)
    assert text(panel.rows["fc1"].kept) == share(panel.studio.metrics().layers[1].density)
    go.set()
    check(panel, toy, split)
    assert panel.studio.setting("fc1").amount == pytest.approx(2.5)
    assert moved == [0.05, 2.5]
    assert len(pictures) <= 2
    assert [a.settings.keys() for a in panel.studio.attempts] == [set(), {"fc1"}]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_messages_may_come_in_a_thread_of_their_own(panel, toy, split, elsewhere):
    """As of JupyterLab 4.4: while a cell runs. Voila and nbval take them in the main thread."""
    errors = []

    def messages():
        try:
            for step in range(1, 31):
                drag(panel, ("fc1", "conv1")[step % 2], step * 0.1 % 2)
                panel.rows["fc2" if step % 3 else "fc1"].name.click()
        except BaseException as error:
            errors.append(error)

    hand = threading.Thread(target=messages)
    hand.start() if elsewhere else messages()
    for step in range(1, 31):
        panel.studio.set({"fc2": step * 0.05})
        assert panel.studio.metrics().weights == 516
    if elsewhere:
        hand.join(60)
    assert errors == []
    assert panel.problem.value == ""
    check(panel, toy, split)
    asked = {layer: setting.amount for layer, setting in panel.studio.attempt.settings.items()}
    assert asked["fc2"] == pytest.approx(1.5)
    assert (asked["fc1"], asked["conv1"]) == (pytest.approx(1.0), pytest.approx(0.9))


def test_a_cell_moves_the_sliders(panel, toy, split):
    panel.studio.set({"fc1": 1.37, "fc2": 0.5})
    check(panel, toy, split)
    assert (panel.rows["fc1"].slider.value, panel.rows["fc1"].box.value) == (1.35, 1.37)
    panel.studio.set(density={"fc1": 0.25}).settle()
    row = panel.studio.metrics().layers[1]
    assert panel.rows["fc1"].box.value == pytest.approx(row.quality, rel=1e-3)
    check_words(panel)
    assert "density 0.25" in text(panel.layers)
    panel.studio.set(density={"fc1": 0.0}).settle()
    assert (panel.rows["fc1"].slider.value, panel.rows["fc1"].box.value) == (3.0, 3.0)


def test_a_cell_chooses_the_layer_in_the_picture(panel):
    assert panel.layer == "conv1"
    first = panel.picture.value
    panel.layer = "fc2"
    assert panel.settle(60).picture.value != first
    check_words(panel)
    with pytest.raises(KeyError, match="did you mean fc2"):
        panel.layer = "fc3"
    assert panel.layer == "fc2"
    panel.rows["conv1"].name.click()
    assert panel.settle(60).layer == "conv1"
    assert panel.picture.value == first


# --- locks, links, filters ---------------------------------------------------------------------


def test_a_locked_layer_is_left_alone(panel, toy, split):
    drag(panel, "fc1", 1.0)
    panel.rows["fc1"].lock.set_state({"value": True})
    assert panel.studio.locked == {"fc1"}
    assert panel.rows["fc1"].slider.disabled
    check(panel, toy, split)
    panel.studio.set(0.5)
    check(panel, toy, split)
    assert panel.studio.setting("fc1").amount == 1.0
    drag(panel, "fc1", 2.0)  # a message that was under way
    assert "layer 'fc1' is locked; unlock it first" in text(panel.problem)
    check(panel, toy, split)
    assert panel.rows["fc1"].slider.value == 1.0
    panel.rows["fc1"].lock.set_state({"value": False})
    assert panel.problem.value == ""
    drag(panel, "fc1", 2.0)
    check(panel, toy, split)
    panel.studio.lock("fc2").settle()  # by a cell
    assert panel.rows["fc2"].lock.value
    assert panel.rows["fc2"].slider.disabled


def test_linked_layers_move_together(panel, toy, split):
    assert list(panel.link) == ["conv", "fc"]
    panel.link["fc"].value = True
    drag(panel, "fc1", 0.8)
    check(panel, toy, split)
    assert panel.studio.attempt.settings.keys() == {"fc1", "fc2"}
    assert panel.rows["fc2"].slider.value == 0.8
    panel.rows["fc2"].lock.set_state({"value": True})
    drag(panel, "fc1", 1.2)
    drag(panel, "conv1", 0.3)
    check(panel, toy, split)
    asked = {layer: setting.amount for layer, setting in panel.studio.attempt.settings.items()}
    assert asked == {"fc1": 1.2, "fc2": 0.8, "conv1": 0.3}


def test_a_network_of_one_kind_has_one_link(panel_of, split):
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    panel = panel_of(linear, split)
    assert list(panel.link) == ["fc"]
    drag(panel, "1", 1.0)
    check(panel, linear, split)
    assert panel.buttons["retrain"].disabled  # a split alone has nothing to train or test on
    assert panel.buttons["test"].disabled


@pytest.fixture
def resnet() -> tuple[nn.Module, list]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=CLASSES)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model, [(x, torch.arange(8) % CLASSES) for x in images.split(8)]


def test_a_network_of_twenty_layers(panel_of, resnet):
    model, images = resnet
    panel = panel_of(model, images)
    assert len(panel.rows) == 21
    check(panel, model, images)
    drag(panel, "layer2.0.downsample.0", 1.1)  # a name with dots
    check(panel, model, images)
    assert "studio-slider-layer2-0-downsample-0" in slider_classes(panel, "layer2.0.downsample.0")
    panel.rows["conv1"].lock.value = True
    panel.link["conv"].value = True
    drag(panel, "layer1.0.conv1", 0.6)
    check(panel, model, images)
    assert len(panel.studio.attempt.settings) == 19  # all but the first and fc
    panel.filter.set_state({"value": "layer1."})
    seen = [name for name, row in panel.rows.items() if row.layout.display != "none"]
    assert seen == [name for name in panel.rows if name.startswith("layer1.")]
    panel.filter.value = ""
    assert all(row.layout.display != "none" for row in panel.rows.values())


def slider_classes(panel, layer) -> tuple:
    return panel.rows[layer].slider._dom_classes


def test_few_layers_have_no_filter(panel):
    assert panel.filter not in everything_in(panel)
    assert {*panel.link.values()} <= {*everything_in(panel)}


def everything_in(widget) -> list:
    """A widget's parts, and theirs."""
    parts = getattr(widget, "children", ())
    return [*parts, *(part for child in parts for part in everything_in(child))]


# --- buttons -----------------------------------------------------------------------------------


def test_undo_and_redo_move_the_sliders(panel, toy, split):
    assert panel.buttons["undo"].disabled
    assert panel.buttons["redo"].disabled
    drag(panel, "fc1", 1.0)
    check(panel, toy, split)
    before = panel.headline.value, panel.picture.value
    drag(panel, "fc2", 0.55)
    check(panel, toy, split)
    press(panel, "undo")
    check(panel, toy, split)
    assert panel.rows["fc2"].slider.value == 0
    panel.layer = "fc1"
    assert (panel.headline.value, panel.settle(60).picture.value) == before
    press(panel, "redo")
    check(panel, toy, split)
    assert panel.rows["fc2"].slider.value == 0.55
    assert panel.buttons["redo"].disabled
    press(press(panel, "undo"), "undo")
    check(panel, toy, split)
    assert panel.buttons["undo"].disabled
    assert panel.studio.attempt.number == 1


def test_suggest_sets_what_a_scan_says_and_draws_its_curve(panel, toy, splits):
    bare = pixels(panel.picture)
    panel.max_drop.value = 3.0
    press(panel, "suggest").settle(60)
    expected = Studio(toy, splits).suggest(3.0)
    assert panel.studio.attempt.settings == expected.attempt.settings
    assert panel.studio.attempt.what == expected.attempt.what
    check_words(panel)
    right_half = pixels(panel.picture)[:, 600:], bare[:, 600:]
    assert np.abs(right_half[0] - right_half[1]).max() > 50
    expected.close()


def test_retraining_is_shown_and_keeps_zeros(panel, splits):
    drag(panel, "fc1", 1.0)
    panel.settle(60)
    said = []
    panel.headline.observe(lambda change: said.append(text(panel.headline)), "value")
    kept = panel.studio.mask["fc1"]
    panel.epochs.value = 3
    press(panel, "retrain").settle(60)
    assert [bool(re.search(f"retraining … epoch {n} of 3, loss", " ".join(said))) for n in (1, 3)]
    assert re.fullmatch("retrained 3 epochs from [0-9.]+ % kept", panel.studio.attempt.what)
    assert panel.studio.network().fc1.weight[~kept].count_nonzero() == 0
    check_words(panel)
    assert "retrained 3 epochs" in text(panel.attempts)
    press(panel, "undo").settle(60)
    assert panel.rows["fc1"].slider.value == 1.0


def test_stop_ends_a_retraining_at_its_last_whole_epoch(panel):
    drag(panel, "fc1", 1.0)
    panel.settle(60)
    one = threading.Event()
    panel.headline.observe(lambda change: "epoch 2 of" in change["new"] and one.set(), "value")
    panel.epochs.value = 1000
    press(panel, "retrain")
    assert one.wait(60)
    others = set(panel.buttons) - {"stop"}
    assert all(panel.buttons[name].disabled for name in others)
    assert all(row.slider.disabled for row in panel.rows.values())
    drag(panel, "fc1", 2.0)  # a message that was under way
    assert "the studio is retraining; stop() it" in text(panel.problem)
    press(panel, "stop").settle(60)
    assert re.match(
        r"retrained \d+ epochs? from .* kept, stopped before 1000", panel.studio.attempt.what
    )
    assert not panel.rows["fc1"].slider.disabled
    assert panel.rows["fc1"].slider.value == 0
    check_words(panel)
    assert panel.buttons["stop"].disabled


def test_names_and_lines_stand_in_the_table(panel):
    drag(panel, "fc1", 1.0)
    panel.settle(60)
    panel.label.value = "<gentle>"
    press(panel, "name").settle(60)
    assert panel.studio.attempt.name == "<gentle>"
    assert "&lt;gentle&gt;" in panel.attempts.value
    assert "<gentle>" not in panel.attempts.value
    panel.label.value = "daring"
    press(panel, "branch").settle(60)
    assert (panel.studio.attempt.line, panel.studio.attempt.number) == ("daring", 3)
    drag(panel, "fc1", 2.0)
    panel.settle(60)
    rows = text(panel.attempts)
    assert re.search(r"▶ ★? ?4 daring fc1: quality 2", rows)
    press(panel, "branch")  # there is such a line
    assert "there is a line 'daring' already" in text(panel.problem)


def test_what_is_exported_prunes_to_the_same_mask(panel_of, tmp_path):
    torch.manual_seed(0)
    network = models.lenet_300_100()
    images = [(torch.randn(16, 1, 28, 28), torch.arange(16) % 10)]
    about = {"network": "lenet-300-100"}
    panel = panel_of(network, images, about=about)
    panel.studio.set(density={"fc1": 0.1, "fc3": 0.3}).settle()
    type_in(panel, "fc2", 1.2345)
    panel.settle(60)
    panel.path.value = str(tmp_path / "plan.json")
    press(panel, "export")
    command = html.unescape(re.search("<code>(.*)</code>", panel.message.value)[1])
    assert json.loads((tmp_path / "plan.json").read_text())["method"] == "studio"
    _, *words = command.split()
    written = tmp_path / "mask.safetensors"
    assert pruning_lab([*words, "--out", str(written)]) in (0, None)
    assert Mask.load(written).fingerprint() == panel.studio.mask.fingerprint()


def test_the_test_button_counts_its_uses(panel, toy, splits):
    assert panel.buttons["test"].description == "test (used 0 times)"
    drag(panel, "fc1", 1.5)
    for words in ("1 time", "2 times"):
        panel.settle(60)
        press(panel, "test").settle(60)
        assert text(panel.headline).count(f"looked at {words}") == 1
        assert panel.buttons["test"].description == f"test (used {words})"
    right, _ = right_by_hand(toy, panel.studio.attempt.settings, splits.test)
    assert panel.studio.tested.value == right / 30
    words = (
        f"test images: {panel.studio.tested}, change {panel.studio.test_drop}; looked at 2 times"
    )
    assert words in text(panel.headline)
    assert panel.buttons["test"].description == "test (used 2 times)"


# --- errors ------------------------------------------------------------------------------------


def test_what_is_refused_says_so_and_goes_away(panel, toy, split, tmp_path):
    panel.path.value = "plan.txt"
    press(panel, "export")
    assert "a plan is JSON; name it plan.json" in text(panel.problem)
    assert 'role="alert"' in panel.problem.value
    (tmp_path / "file").touch()
    panel.path.value = str(tmp_path / "file" / "plan.json")
    press(panel, "export")
    assert re.search("(?i)not a directory|file exists", text(panel.problem))
    drag(panel, "fc1", 0.5)
    assert panel.problem.value == ""
    check(panel, toy, split)


def test_an_error_in_the_thread_appears_and_raises(panel, toy, split, monkeypatch):
    def broken(*_):
        raise RuntimeError("no <ink>")

    with monkeypatch.context() as patch:
        patch.setattr(figures.WeightsFilm, "picture", broken)
        drag(panel, "fc1", 1.0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no <ink>"):
                panel.settle(60)
        assert "▲ failed: no <ink>" in text(panel.headline)
        assert "no &lt;ink&gt;" in panel.headline.value
        assert "up to date" not in panel.headline.value
    drag(panel, "fc1", 1.05)
    check(panel, toy, split)


def test_images_that_fail_are_an_error_in_the_panel(toy, splits):
    class Broken:
        def __iter__(self):
            raise OSError("the disk is gone")

    panel = StudioPanel(Studio(toy, Broken()))
    with pytest.raises(OSError, match="the disk is gone"):
        panel.settle(60)
    assert "failed: the disk is gone" in text(panel.headline)
    panel.close()


def test_the_trail_goes_on_as_if_it_were_drawn_anew(panel, monkeypatch):
    """Most of it stands still, and is drawn once."""
    draw, drawn = figures.TrailFilm._draw, []
    monkeypatch.setattr(figures.TrailFilm, "_draw", lambda *a: drawn.append(0) or draw(*a))
    studio, shown = panel.studio, set()
    film = figures.TrailFilm(studio)
    for step in range(12):
        studio.set(0.1 * step).settle()
        shown.add(film.picture())
    assert len(shown) == 12
    assert len(drawn) in (1, 2)
    for change in (
        lambda: studio.rename("a name"),
        lambda: studio.set(density=0.02),
        lambda: studio.rename("another"),
        lambda: studio.set(density=0),
        studio.undo,
    ):
        change().settle()
        assert film.picture() == figures.TrailFilm(studio).picture()
        assert film.picture() not in shown
        shown.add(film.picture())


# --- what was lost ------------------------------------------------------------------------------


def test_lost_images_are_those_of_a_network_cut_by_hand(panel, toy, split):
    drag(panel, "fc1", 1.5)
    check(panel, toy, split)
    cut = copy.deepcopy(toy).eval()
    with torch.no_grad():
        cut.fc1.weight.mul_(cut.fc1.weight.abs() >= 1.5 * cut.fc1.weight.std(correction=0))
        before, after = (torch.cat([m(x).argmax(1) for x, _ in split]) for m in (toy.eval(), cut))
    right, still = before == split.labels, after == split.labels
    lost = (right & ~still).nonzero().flatten().tolist()
    assert lost
    captions = [f"{before[n]}, now {after[n]}" for n in lost[:12]]
    assert re.findall(r"<br>(\d, now \d)", panel.lost.value) == captions
    won = int((~right & still).sum())
    assert f"{len(lost)} images lost , {won} won" in text(panel.lost)
    shots = re.findall('data:image/png;base64,([^"]+)', panel.lost.value)
    for place, shot in zip(lost, shots, strict=True):
        shown = np.array(Image.open(io.BytesIO(base64.b64decode(shot))).convert("L")).astype(float)
        own = split.images[place, 0].numpy().astype(float)
        assert np.corrcoef(shown.ravel(), own.ravel())[0, 1] > 0.999


def test_a_bar_for_each_class_hangs_down_where_accuracy_was_lost(panel, toy, split):
    drag(panel, "fc1", 3.0)
    check(panel, toy, split)
    rows = panel.studio.metrics().per_class
    assert len({row.drop.value > 0 for row in rows}) == 2  # some lose, some win
    axis = float(re.search('<line [^>]*y1="([^"]+)"', panel.classes.value)[1])
    bars = re.findall(r"class (\d+): ([^,]*), .*?y=\"([\d.]+)\"", panel.classes.value)
    assert [(int(label), change) for label, change, _ in bars] == [
        (row.label, str(row.drop)) for row in rows
    ]
    for row, (_, _, top) in zip(rows, bars, strict=True):
        assert (float(top) < axis) == (row.drop.value < 0)


def test_the_losses_stay_as_they_are_while_a_slider_moves(panel, toy, split):
    shown = []
    for part in (panel.lost, panel.classes, panel.trail, panel.attempts):
        part.observe(lambda change: shown.append(change["owner"]), "value")
    panel.studio.on(Moved, lambda event: shown.append(event))
    drag(panel, "fc1", 1.5)
    check(panel, toy, split)
    moves = [place for place, entry in enumerate(shown) if isinstance(entry, Moved)]
    assert panel.lost in shown
    assert moves == [*range(len(moves))]  # all of them first


def test_pixels_that_the_first_layer_still_sees_are_drawn(panel_of):
    torch.manual_seed(0)
    network = models.lenet_300_100()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8, generator=generator)
    val = data.Split("val", images, torch.arange(20) % 10, mean=127.5, std=74.0, batch_size=10)
    panel = panel_of(network, val)
    assert "784 of 784" in text(panel.pixels)
    drag(panel, "fc2", 1.0)
    type_in(panel, "fc1", 3.6)
    panel.settle(60)
    weight = network.fc1.weight.detach()
    counts = (weight.abs() >= 3.6 * weight.std(correction=0)).sum(0).reshape(28, 28).numpy()
    assert counts.max() == 0 or 0 < (counts > 0).sum() < 784
    assert f"{(counts > 0).sum()} of 784 pixels seen" in text(panel.pixels)
    type_in(panel, "fc1", 1.7)
    panel.settle(60)
    counts = (weight.abs() >= 1.7 * weight.std(correction=0)).sum(0).reshape(28, 28).numpy()
    shot = re.search('base64,([^"]+)', panel.pixels.value)[1]
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(shot))))[..., 0].astype(float)
    assert np.corrcoef(shown.ravel(), counts.ravel())[0, 1] < -0.999


def test_a_network_that_begins_with_a_convolution_has_no_picture_of_pixels(panel):
    assert panel.pixels.value == ""


# --- what puzzled -------------------------------------------------------------------------------


def test_a_retrained_network_says_what_made_it(panel):
    assert panel.made.value == ""
    panel.studio.set({"fc1": 1.2, "conv1": 0.3})
    press(panel.settle(60), "retrain").settle(60)
    assert panel.rows["fc1"].slider.value == 0
    for part in ("retrained 1 epoch", "% kept", "sliders prune further from here"):
        assert part in text(panel.made)
    press(panel, "retrain").settle(60)
    assert "retrained 1 epoch" in text(panel.made)
    panel.studio.go(2).settle()
    assert panel.made.value == ""


def test_names_too_long_are_cut_in_the_middle_and_never_to_a_twins(panel_of, resnet):
    model, images = resnet
    panel = panel_of(model, images)
    labels = {name: row.name.description for name, row in panel.rows.items()}
    assert labels["fc"] == "fc"
    assert len({*labels.values()}) == 21
    for name, label in labels.items():
        start, mark, end = label.partition("…")
        assert (label == name) or (mark and name.startswith(start) and name.endswith(end))
        assert name in panel.rows[name].name.tooltip
    twins = [f"features.{'x' * 30}.{n}.{'y' * 30}.conv" for n in (1, 2)]
    assert len({*plots.short_names(twins).values()}) == 2


def test_a_bad_attempt_stretches_the_axes_only_while_it_is_the_current_one():
    def attempt(number, density, right):
        return Attempt(number, None, 0, "", density=density, accuracy=Accuracy.counted(right, 1000))

    good = [attempt(1, 1.0, 990), attempt(2, 0.5, 985)]
    bad = attempt(3, 0.001, 100)
    least, low, top = figures.trail_limits(good, 2)
    assert low >= 0.95
    assert figures.trail_limits([*good, bad], 3)[1] <= 0.1
    assert figures.trail_limits([*good, bad], 2) == (least, low, top)
    assert Comparison([*good, bad], chance=0.1).pareto == tuple(good[::-1])


def test_a_negative_number_is_refused_with_a_sentence(panel, toy, split):
    type_in(panel, "fc1", -4)
    assert "quality must be a finite number >= 0, got -4" in text(panel.problem)
    assert (panel.rows["fc1"].box.value, panel.rows["fc1"].slider.value) == (0, 0)
    type_in(panel, "fc1", 0.5)
    assert panel.problem.value == ""
    check(panel, toy, split)
    panel.max_drop.set_state({"value": -4})
    press(panel, "suggest")
    assert "got -4" in text(panel.problem)
    panel.epochs.set_state({"value": -4})
    press(panel, "retrain")
    assert "epochs" in text(panel.problem)
    assert "-4" in text(panel.problem)
    assert panel.settle(60).studio.attempt.number == 2


def test_export_asks_before_it_overwrites(panel, tmp_path):
    panel.path.value = str(tmp_path / "plan.json")
    press(panel, "export")
    written = (tmp_path / "plan.json").read_bytes()
    assert "wrote" in text(panel.message)
    drag(panel, "fc1", 1.0)
    panel.settle(60)
    press(panel, "export")
    assert "would be overwritten; press export again to do so" in text(panel.problem)
    assert (tmp_path / "plan.json").read_bytes() == written
    press(panel, "export")
    assert panel.problem.value == ""
    assert (tmp_path / "plan.json").read_bytes() != written
    press(panel, "export")  # that was one answer, not one for good
    assert "would be overwritten" in text(panel.problem)


@pytest.mark.parametrize("name", ["$x^{$", "<b>bold</b>", r"\frac $ _ & %", "a" * 200])
def test_names_are_text_everywhere(panel_of, splits, toy, name):
    toy.add_module(name, nn.Linear(CLASSES, CLASSES))
    panel = panel_of(toy, splits)
    panel.layer = name
    press(panel, "suggest").settle(60)  # the curve has a name too
    panel.label.value = name
    press(panel, "name").settle(60)
    assert panel.studio.attempt.name == name
    check_words(panel)
    assert html.escape(name) in panel.attempts.value
    assert "<b>bold" not in panel.attempts.value + panel.layers.value + panel.made.value
    press(panel, "retrain").settle(60)
    assert "<b>bold" not in panel.made.value


def test_a_loss_is_shown_negative(panel, toy, split):
    assert evaluation.change(0.0123) == "-1.23"
    assert (evaluation.change(0.0), evaluation.change(-0.5)) == ("+0.00", "+50.00")


# --- pages without widgets, and what listens ---------------------------------------------------


def test_pages_without_widgets_get_pictures_and_numbers(panel):
    drag(panel, "fc1", 1.0)
    panel.settle(60)
    bundle = panel._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    assert base64.b64decode(bundle["image/png"]) == panel.picture.value
    page = bundle["text/html"]
    shots = re.findall(r'<img alt="([^"]+)" [^>]*src="data:image/png;base64,([^"]+)"', page)
    shown = {html.unescape(words): base64.b64decode(shot) for words, shot in shots}
    assert {words: shown[words] for words in panel.pictures} == {
        words: picture.value for words, picture in panel.pictures.items()
    }
    assert len(panel.pictures) == 2
    assert "<table" in page
    assert f"{panel.studio.metrics().accuracy.value:.2%}" in page
    assert "fc1" in bundle["text/plain"]


def test_before_the_first_picture_there_is_still_a_text(toy, splits):
    gate = threading.Event()
    studio = Studio(toy, splits)
    studio.on(Moved, lambda event: gate.wait(20))
    studio.refresh()
    panel = StudioPanel(studio)
    bundle = panel._repr_mimebundle_()
    gate.set()
    panel.close()
    assert bundle["text/plain"].startswith("StudioPanel(Studio(attempt 1 of 1")


def test_pictures_have_words_beside_them(panel):
    words = text(panel.children[-1])
    assert [*panel.pictures.values()] == [panel.picture, panel.trail]
    for said, picture in panel.pictures.items():
        assert said in words
        assert pixels(picture).shape == (1.5 * 290, 1.5 * 620, 3)
        assert picture.layout.height == "auto"  # a narrow page makes it smaller, not slimmer
    for name, button in panel.buttons.items():
        assert button.tooltip, name


def test_texts_stand_out_from_the_page_and_are_large_enough(panel):
    """Contrast of at least 4.5 (WCAG 2.1, AA) in either theme, and no letters below 13 pixels."""
    shown = panel.headline.value + panel.layers.value + panel.attempts.value + panel.classes.value
    assert not re.findall("color: #", shown)  # all by name
    light, dark = re.findall("{ (--good.*?) }", panel.style_sheet.value)
    for colours, page in ((light, "#ffffff"), (dark, "#111111")):
        found = re.findall("#[0-9a-f]{6}", colours)
        assert len(found) == 5
        for colour in found:
            high, low = sorted(map(luminance, (colour, page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, colour
    assert min(map(int, re.findall(r"font-size: (\d+)px", shown))) >= 13


def luminance(colour: str) -> float:
    channels = [level / 255 for level in rgb(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_test_in_the_browser_can_find_its_parts(panel):
    names = ("headline", "picture", "trail", "problem", "message")
    parts = {f"studio-{name}": getattr(panel, name) for name in names} | {"studio-panel": panel}
    parts |= {f"studio-{name}": button for name, button in panel.buttons.items()}
    parts |= {f"studio-slider-{layer}": row.slider for layer, row in panel.rows.items()}
    for css, part in parts.items():
        assert css in part._dom_classes


def test_the_histogram_loses_its_middle(panel):
    """Between the two lines there is the colour of what is gone, outside that of what stays."""
    panel.layer = "fc1"

    def areas(quality):
        drag(panel, "fc1", quality)
        histogram = pixels(panel.settle(60).picture)[:, :520]
        return [
            int((np.abs(histogram - rgb(c)).max(-1) < 24).sum()) for c in (plots.KEPT, plots.GONE)
        ]

    kept, gone = zip(*map(areas, (0.0, 0.4, 0.8, 1.2)), strict=True)
    assert [*kept] == sorted({*kept}, reverse=True)
    assert [*gone] == sorted({*gone})
    assert kept[-1] > 5000 > gone[0] + 1000


def rgb(colour: str) -> list[int]:
    return [int(colour[n : n + 2], 16) for n in (1, 3, 5)]


# --- the end, and what is loaded ---------------------------------------------------------------


def test_close_ends_the_thread_and_all_widgets(toy, splits):
    gc.collect()
    before = set(living)
    panel = StudioPanel(Studio(toy, splits)).settle(60)
    assert len(set(living) - before) > 50
    drag(panel, "fc1", 1.0)
    panel.close()
    panel.close()  # again does no harm
    gc.collect()
    assert set(living) - before == set()
    assert not [t for t in threading.enumerate() if t.name == "latest-only" and t.is_alive()]


def test_closing_in_the_middle_of_a_retraining(toy, splits):
    panel = StudioPanel(Studio(toy, splits)).settle(60)
    panel.epochs.value = 1000
    press(panel, "retrain")
    panel.close()
    assert not [t for t in threading.enumerate() if t.name == "latest-only" and t.is_alive()]


def test_two_panels_show_one_studio(toy, split):
    studio = Studio(toy, split)
    one, other = StudioPanel(studio), StudioPanel(studio)
    drag(one, "fc1", 1.0)
    check(one, toy, split)
    assert other.rows["fc1"].slider.value == 1.0
    assert other.headline.value == one.headline.value
    for panel in (one, other):
        panel.close()


def test_widgets_load_no_pyplot():
    """Its global state must not be touched by threads."""
    code = """if True:
        import sys, torch
        from torch import nn
        from pruning_lab import studio, widgets
        images = [(torch.randn(8, 4), torch.arange(8) % 3)]
        panel = widgets.StudioPanel(studio.Studio(nn.Sequential(nn.Linear(4, 3)), images))
        panel.rows["0"].slider.value = 1.0
        panel.settle()
        assert panel.picture.value and panel.trail.value
        panel.close()
        print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["True", "False"], ran.stderr
