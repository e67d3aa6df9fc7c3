"""The studio's panel without a browser: requests come as a browser sends them."""

import base64
import copy
import gc
import html
import io
import json
import re
import shutil
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

from pruning_lab import data, models, plots
from pruning_lab.cli import main as pruning_lab
from pruning_lab.evaluation import Accuracy
from pruning_lab.masks import Mask, prunable
from pruning_lab.studio import Moved, Progress, Setting, Studio
from pruning_lab.widgets import StudioPanel, histogram
from pruning_lab.widgets.board import Board, Points
from pruning_lab.widgets.script import FOLDER, script


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


# What a browser is sent
SHOWN = ["network", "counts", "curves", "now", "attempts", "losses", "pictures", "first"]
SHOWN += ["first_values", "progress", "message", "handled"]


class Page:
    """What a browser does with a panel: it numbers requests, and sends those not handled yet."""

    def __init__(self, panel: StudioPanel, view: str = "page"):
        self.panel, self.view, self.list = panel, view, []

    def ask(self, do: str, **about) -> "Page":
        last = self.list[-1]["n"] if self.list else 0
        self.list.append({"n": last + 1, "do": do, **about})
        return self.send()

    def send(self, count: int = 1) -> "Page":
        """The latest requests, as JSON through the channel of the panel's messages."""
        state = {"requests": {"view": self.view, "list": self.list[-count:]}}
        self.panel.set_state(json.loads(json.dumps(state)))
        return self

    def set(self, drag: bool = False, **layers: float) -> "Page":
        return self.ask("set", kind="quality", layers=layers, drag=drag)

    @property
    def problem(self) -> str:
        return self.panel.message["problem"]


@pytest.fixture
def page(panel) -> Page:
    return Page(panel)


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
    """What the panel says is so by hand, and what the studio says."""
    panel.settle(60)
    right, kept = right_by_hand(model, panel.studio.attempt.settings, images)
    now, metrics = panel.now, panel.studio.metrics()
    assert now["final"]
    assert now["status"] == "ready"
    assert round(now["accuracy"]["value"] * now["accuracy"]["n"]) == right
    assert sum(row["kept"] for row in now["layers"]) == kept
    check_now(now, metrics)


def check_now(now: dict, metrics) -> None:
    assert now["number"] == metrics.attempt
    for name in ("accuracy", "drop"):
        for end in ("value", "low", "high"):
            assert now[name][end] == getattr(getattr(metrics, name), end)
    for shown, row in zip(now["layers"], metrics, strict=True):
        assert (shown["kind"], shown["amount"]) == (row.asked.kind, row.asked.amount)
        for name in ("threshold", "quality", "kept", "bytes", "locked"):
            assert shown[name] == getattr(row, name)


@pytest.mark.parametrize("layer", ["conv1", "fc1", "fc2"])
def test_accuracy_and_numbers_follow_a_threshold(panel, page, toy, split, layer):
    check(panel, toy, split)
    for quality in (0.5, 1.0, 1.55, 3.0):
        page.set(**{layer: quality})
        assert panel.studio.setting(layer) == Setting("quality", quality)
        kept = next(r["kept"] for r in panel.now["layers"] if r["amount"] == quality)
        check(panel, toy, split)  # and the number of weights was right before it was measured
        assert kept in [row["kept"] for row in panel.now["layers"]]
    assert panel.handled == {"page": 4}


def test_values_are_plain_json_also_where_nothing_is_left(panel, page):
    page.ask("set", kind="density", layers={"fc1": 0.0}, drag=False)
    panel.settle(60)
    fc1 = panel.now["layers"][1]
    assert (fc1["threshold"], fc1["quality"], fc1["kept"]) == (None, None, 0)
    for name in SHOWN:
        value = getattr(panel, name)
        if not isinstance(value, bytes):
            assert json.loads(json.dumps(value, allow_nan=False)) == value, name


def test_the_counts_are_those_of_each_threshold(panel, toy, splits):
    assert panel.network["images"] == "50 val images of noise"
    assert (panel.network["classes"], panel.network["version"]) == (CLASSES, 0)
    assert (panel.network["has_train"], panel.network["has_test"]) == (True, True)
    assert len(panel.counts) % 4 == 0
    counts = np.frombuffer(panel.counts, dtype="<u4")
    for layer in panel.network["layers"]:
        weight = toy.get_submodule(layer["name"]).weight.detach()
        own = counts[layer["offset"] : layer["offset"] + layer["bins"] + 1]
        sigma = weight.double().std(correction=0).item()
        assert layer["sigma"] == pytest.approx(sigma)
        expected = [
            int((weight.abs() >= round(k * layer["step"], 10) * layer["sigma"]).sum())
            for k in range(len(own))
        ]
        assert own.tolist() == expected
        assert own[0] == layer["alive"] == layer["weights"] == weight.numel()
        assert own[-1] == 0
        assert layer["shape"] == list(weight.shape)
        assert layer["flops"] == panel.studio._measurer.flops[layer["name"]]
    assert counts.size == sum(layer["bins"] + 1 for layer in panel.network["layers"])


def test_the_curves_are_those_of_the_scan(panel, page):
    assert panel.curves == {}
    page.ask("suggest", max_drop=3.0)
    panel.settle(60)
    scan = panel.studio.scan
    assert list(panel.curves) == scan.layers
    for layer, points in panel.curves.items():
        assert points[0] == [1, scan.dense.value, scan.dense.value, scan.dense.value]
        densities = [density for density, *_ in points]
        assert densities == sorted(densities, reverse=True)
        measured = {(p.density, p.accuracy.value) for p in scan.of(layer)}
        assert {(density, accuracy) for density, accuracy, *_ in points[1:]} == measured
        assert all(low <= accuracy <= high for _, accuracy, low, high in points)


def test_the_attempts_are_those_of_the_studio(panel, page):
    page.set(fc1=1.0)
    panel.settle(60)
    page.ask("name", text="<gentle>")
    page.ask("branch", text="daring")
    page.set(fc1=2.0)
    panel.settle(60)
    best = {attempt.number for attempt in panel.studio.compare().pareto}
    for shown, attempt in zip(panel.attempts, panel.studio.attempts, strict=True):
        for name in ("number", "parent", "line", "name", "what", "version", "density", "bytes"):
            assert shown[name] == getattr(attempt, name)
        assert shown["accuracy"]["value"] == attempt.accuracy.value
        assert shown["best"] == (attempt.number in best)
    assert [a["name"] for a in panel.attempts] == ["", "<gentle>", "", ""]
    assert panel.attempts[-1]["line"] == "daring"


def test_lost_images_are_those_of_a_network_cut_by_hand(panel, page, toy, split):
    assert panel.losses["lost"] == len(panel.pictures) == 0
    page.set(fc1=1.5)
    check(panel, toy, split)
    cut = copy.deepcopy(toy).eval()
    with torch.no_grad():
        cut.fc1.weight.mul_(cut.fc1.weight.abs() >= 1.5 * cut.fc1.weight.std(correction=0))
        before, after = (torch.cat([m(x).argmax(1) for x, _ in split]) for m in (toy.eval(), cut))
    right, still = before == split.labels, after == split.labels
    lost = (right & ~still).nonzero().flatten().tolist()
    assert lost
    losses = panel.losses
    assert (losses["n"], losses["lost"], losses["final"]) == (50, len(lost), True)
    assert losses["won"] == int((~right & still).sum())
    expected = [
        {
            "index": n,
            "label": int(split.labels[n]),
            "before": int(before[n]),
            "after": int(after[n]),
        }
        for n in lost[:24]
    ]
    assert losses["shown"] == expected
    assert losses["side"] == [8, 8, 1]
    pictures = np.frombuffer(panel.pictures, np.uint8).reshape(-1, 8, 8)
    assert (pictures == split.images[[flip["index"] for flip in expected], 0].numpy()).all()
    rows = {row.label: row for row in panel.studio.metrics().per_class}
    assert {row["label"]: row["drop"]["value"] for row in losses["classes"]} == {
        label: row.drop.value for label, row in rows.items()
    }


def test_large_pictures_are_made_small_and_keep_their_colours(panel_of):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 98 * 198, 2))
    pixels = torch.zeros(20, 3, 100, 200, dtype=torch.uint8)
    pixels[:, 0] = 200
    val = data.Split("val", pixels, torch.arange(20) % 2, mean=127.5, std=74.0, batch_size=10)
    with torch.no_grad():  # images are all alike; without weights the biases say the other class
        model[2].bias.zero_()
        named = int(model(next(iter(val))[0])[0].argmax())
        model[2].bias[1 - named] = 1e-6
    panel = panel_of(model, val)
    Page(panel).ask("set", kind="density", layers={"2": 0.0})
    panel.settle(60)
    assert panel.losses["lost"] == len(panel.losses["shown"]) == 10
    assert panel.losses["side"] == [32, 64, 3]
    shown = np.frombuffer(panel.pictures, np.uint8).reshape(10, 32, 64, 3)
    assert (shown == [200, 0, 0]).all()


def test_pixels_that_the_first_layer_still_sees(panel_of):
    torch.manual_seed(0)
    network = models.lenet_300_100()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8, generator=generator)
    val = data.Split("val", images, torch.arange(20) % 10, mean=127.5, std=74.0, batch_size=10)
    panel = panel_of(network, val)
    page = Page(panel)
    assert (panel.first["kind"], panel.first["seen"], panel.first["of"]) == ("pixels", 784, 300)
    for quality in (1.7, 3.6, 5.0):
        page.set(fc1=quality)
        panel.settle(60)
        weight = network.fc1.weight.detach()
        counts = (weight.abs() >= quality * weight.std(correction=0)).sum(0).reshape(28, 28)
        assert panel.first["seen"] == int((counts > 0).sum())
        assert panel.first["most"] == (most := int(counts.max()))
        shown = np.frombuffer(panel.first_values, np.uint8).reshape(panel.first["shape"])
        assert shown == pytest.approx(255 * counts.numpy() / max(most, 1), abs=0.51)


def test_filters_of_the_first_layer_have_zeros_where_they_are_pruned(panel, page, toy, resnet):
    page.set(conv1=1.0)
    panel.settle(60)
    weight = toy.conv1.weight.detach()
    cut = weight * (weight.abs() >= weight.std(correction=0))
    assert panel.first == {"kind": "filters", "shape": [4, 3, 3, 1]}
    shown = np.frombuffer(panel.first_values, "<f4").reshape(4, 3, 3, 1)
    assert (shown == cut.permute(0, 2, 3, 1).numpy()).all()


# --- requests ----------------------------------------------------------------------------------


def test_requests_are_carried_out_once_and_in_order(panel, page):
    page.list = [
        {"n": 1, "do": "set", "kind": "quality", "layers": {"fc1": 1.0}},
        {"n": 2, "do": "name", "text": "one"},
        {"n": 3, "do": "set", "kind": "quality", "layers": {"fc2": 0.5}},
    ]
    page.send(3)
    assert panel.handled == {"page": 3}
    for _ in range(2):  # as after a connection was lost: they are sent again, with a new one
        page.send(3)
    page.ask("undo").send(4)
    assert [a["what"] for a in panel.attempts] == [
        "as it came", "fc1: quality 1", "fc2: quality 0.5"
    ]  # fmt: skip
    assert (panel.now["number"], panel.now["can_redo"]) == (2, True)
    other = Page(panel, "another page").ask("redo")  # whose numbers are its own
    assert panel.now["number"] == 3
    assert panel.handled == {"page": 4, "another page": 1}
    assert other.problem == ""


def test_the_attempt_that_a_drag_changes_keeps_its_accuracy_until_it_is_measured_anew(panel, page):
    page.set(drag=True, fc1=0.05)
    panel.settle(60)
    told = []
    panel.observe(lambda change: told.append(change["new"]), "attempts")
    for step in range(2, 12):
        page.set(drag=True, fc1=round(step * 0.05, 2))
    panel.settle(60)
    assert told
    assert all(attempt["accuracy"] for attempts in told for attempt in attempts)
    assert panel.attempts[-1]["density"] == panel.studio.attempt.density


def test_a_step_that_changes_no_accuracy_is_told_too(panel, page):
    seen = set()
    for step in range(1, 12):
        page.set(drag=True, fc1=round(step * 0.01, 2))
        attempt = panel.settle(60).studio.attempt
        seen.add((attempt.accuracy.value, attempt.density))
        assert panel.attempts[-1]["density"] == attempt.density
    assert len({accuracy for accuracy, _ in seen}) < len(seen)


def test_a_drag_is_one_attempt_and_the_last_request_wins(panel, page, toy, split):
    """Fifty steps, while the thread is kept from working on the first."""
    began, go = threading.Event(), threading.Event()

    def hold(event):
        began.set()
        assert go.wait(20)

    panel.studio.on(Moved, hold)
    page.set(drag=True, fc1=0.05)
    assert began.wait(20)
    for step in range(2, 51):
        page.set(drag=True, fc1=round(step * 0.05, 2))
        assert panel.now["layers"][1]["amount"] == round(step * 0.05, 2)
    go.set()
    check(panel, toy, split)
    assert [a["what"] for a in panel.attempts] == ["as it came", "fc1: quality 2.5"]


def test_each_kind_of_request_is_a_call_of_the_studio(panel, page):
    page.ask("set", kind="density", layers={"fc1": 0.25, "fc2": 0.5})
    settings = panel.studio.attempt.settings
    assert settings == {"fc1": Setting("density", 0.25), "fc2": Setting("density", 0.5)}
    page.ask("lock", layer="fc2", locked=True)
    assert panel.studio.locked == {"fc2"}
    assert [row["locked"] for row in panel.now["layers"]] == [False, False, True]
    page.set(fc2=1.0)
    assert page.problem == "layer 'fc2' is locked; unlock it first"
    page.ask("lock", layer="fc2", locked=False).set(fc2=1.0)
    assert page.problem == ""
    text = panel.now["string"]
    assert text == panel.studio.to_string()
    page.ask("go", number=1)
    assert (panel.now["number"], panel.now["can_undo"], panel.now["string"]) == (1, False, "")
    page.ask("string", text=text)
    settings = panel.studio.attempt.settings
    assert settings == {"fc1": Setting("density", 0.25), "fc2": Setting("quality", 1.0)}
    page.ask("name", text="both").ask("branch", text="")
    assert panel.attempts[-2]["name"] == "both"
    assert panel.attempts[-1]["line"] == "line 2"
    page.ask("suggest", density=0.3)
    panel.settle(60)
    assert panel.studio.attempt.what.startswith("suggested for")
    assert panel.studio.metrics().density == pytest.approx(0.3, abs=0.01)


def test_retraining_tells_how_far_it_is_and_keeps_zeros(panel, page):
    page.set(fc1=1.0)
    panel.settle(60)
    kept, seen = panel.studio.mask["fc1"], []
    panel.observe(lambda change: seen.append(change["new"]), "progress")
    page.ask("retrain", epochs=3)
    assert panel.now["busy"] == "retraining"
    page.ask("undo")  # as of a message that was under way
    assert "the studio is retraining; stop() it" in page.problem
    panel.settle(60)
    assert panel.progress == {}
    assert panel.now["busy"] == ""
    assert {progress["task"] for progress in seen if progress} == {"retraining"}
    assert panel.network["version"] == 1
    assert re.fullmatch("retrained 3 epochs from [0-9.]+ % kept", panel.network["made"])
    assert panel.studio.network().fc1.weight[~kept].count_nonzero() == 0
    assert panel.network["layers"][1]["alive"] == int(kept.sum())
    assert np.frombuffer(panel.counts, "<u4")[panel.network["layers"][1]["offset"]] == kept.sum()
    page.ask("undo")
    panel.settle(60)
    assert panel.network["version"] == 0


def test_stop_ends_a_retraining(panel, page):
    one = threading.Event()
    panel.studio.on(Progress, lambda event: "epoch 2 of" in event.text and one.set())
    page.ask("retrain", epochs=1000)
    assert one.wait(60)
    page.ask("stop")
    panel.settle(60)
    assert re.match(r"retrained .* kept, stopped", panel.studio.attempt.what)
    assert panel.now["busy"] == ""
    assert page.problem == ""


def test_what_is_exported_prunes_to_the_same_mask(panel_of, tmp_path):
    torch.manual_seed(0)
    images = [(torch.randn(16, 1, 28, 28), torch.arange(16) % 10)]
    panel = panel_of(models.lenet_300_100(), images, about={"network": "lenet-300-100"})
    assert panel.network["name"] == "lenet-300-100"
    page, path = Page(panel), str(tmp_path / "plan.json")
    page.ask("set", kind="density", layers={"fc1": 0.1, "fc3": 0.3}).set(fc2=1.2345)
    panel.settle(60)
    page.ask("export", path=path, overwrite=False)
    written = (tmp_path / "plan.json").read_bytes()
    command = panel.message["text"].partition("the same mask again: ")[2]
    _, *words = command.split()
    made = tmp_path / "mask.safetensors"
    assert pruning_lab([*words, "--out", str(made)]) in (0, None)
    assert Mask.load(made).fingerprint() == panel.studio.mask.fingerprint()
    page.set(fc2=0.5).ask("export", path=path, overwrite=False)
    assert "would be overwritten; press export again to do so" in page.problem
    assert (tmp_path / "plan.json").read_bytes() == written
    page.ask("export", path=path, overwrite=True)
    assert page.problem == ""
    assert (tmp_path / "plan.json").read_bytes() != written
    page.ask("save", path=str(tmp_path / "studio.json"))
    assert panel.message["text"] == f"saved to {tmp_path / 'studio.json'}"


def test_the_test_images_are_counted(panel, page, toy, splits):
    assert (panel.now["tests"], panel.now["tested"]) == (0, "")
    page.set(fc1=1.5)
    for words in ("1 time", "2 times"):
        page.ask("test")
        panel.settle(60)
        right, _ = right_by_hand(toy, panel.studio.attempt.settings, splits.test)
        accuracy = Accuracy.counted(right, 30)
        assert panel.now["tested"].startswith(f"test images: {accuracy}, change ")
        assert panel.now["tested"].endswith(f"looked at {words}")


def test_messages_may_come_in_a_thread_of_their_own(panel, toy, split):
    """As of JupyterLab 4.4: while a cell runs. nbval takes them in the main thread."""
    page, errors = Page(panel), []

    def messages():
        try:
            for step in range(1, 31):
                page.set(**{("fc1", "conv1")[step % 2]: round(step * 0.1 % 2, 3)})
        except BaseException as error:
            errors.append(error)

    browser = threading.Thread(target=messages)
    browser.start()
    for step in range(1, 31):
        panel.studio.set({"fc2": step * 0.05})
    browser.join(60)
    assert errors == []
    assert panel.handled == {"page": 30}
    check(panel, toy, split)
    asked = [row["amount"] for row in panel.now["layers"]]
    assert asked == pytest.approx([0.9, 1.0, 1.5])


def test_a_cell_moves_what_is_shown(panel, toy, split):
    panel.studio.set({"fc1": 1.37, "fc2": 0.5})
    check(panel, toy, split)
    assert panel.mask.kept == sum(row["kept"] for row in panel.now["layers"])
    assert panel.accuracy.value == panel.now["accuracy"]["value"]
    assert panel.drop.value == panel.now["drop"]["value"]


# --- errors ------------------------------------------------------------------------------------


def test_what_is_refused_says_so_in_one_sentence_and_changes_nothing(panel, page, tmp_path):
    (tmp_path / "file").touch()
    refused = [
        ({"do": "set", "kind": "quality", "layers": {"fc1": -4}}, "must be a finite number >= 0"),
        ({"do": "set", "kind": "quality", "layers": {"fc9": 1}}, "did you mean fc"),
        ({"do": "set", "kind": "weight", "layers": {"fc1": 1}}, "no such request"),
        ({"do": "set", "kind": "density", "layers": {"fc1": 7}}, "density must lie in"),
        ({"do": "set", "kind": "quality", "layers": {"fc1": "1"}}, "."),
        ({"do": "string", "text": "fc1"}, "."),
        ({"do": "undo"}, "nothing to undo"),
        ({"do": "go", "number": 99}, "attempts go from 1 to 1, got 99"),
        ({"do": "suggest", "max_drop": -4}, "got -4"),
        ({"do": "retrain", "epochs": -4}, "epochs"),
        ({"do": "export", "path": "plan.txt"}, "a plan is JSON; name it plan.json"),
        ({"do": "export", "path": str(tmp_path / "file" / "plan.json")}, "(?i)not a dir|file exi"),
        ({"do": "dance"}, "no such request"),
        ({}, "no such request"),
    ]
    for request, words in refused:
        page.ask(**{"do": "", **request})
        assert re.search(words, page.problem), (request, page.problem)
        assert "\n" not in page.problem
        assert len(panel.studio.attempts) == 1
    assert panel.handled == {"page": len(refused)}
    page.set(fc1=0.5)
    assert page.problem == ""


@pytest.mark.parametrize(
    "requests",
    [
        *({"view": 1, "list": []}, {"view": "a"}, {"view": "a", "list": [1]}),
        *({"view": "a", "list": [{"n": "1"}]}, {"view": "x" * 100, "list": []}),
    ],
)
def test_what_are_no_requests_is_refused(panel, requests):
    with pytest.raises(ValueError, match="requests are"):
        panel.set_state({"requests": requests})
    assert panel.handled == {}


def test_an_error_in_the_thread_is_shown_and_raises(toy):
    class Broken:
        def __iter__(self):
            raise OSError("the disk is gone")

    panel = StudioPanel(Studio(toy, Broken()))
    with pytest.raises(OSError, match="the disk is gone"):
        panel.settle(60)
    assert panel.now["status"] == "failed: the disk is gone"
    panel.close()


# --- what is sent, and how often ---------------------------------------------------------------


@pytest.fixture
def resnet() -> tuple[nn.Module, list]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=CLASSES)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model, [(x, torch.arange(8) % CLASSES) for x in images.split(8)]


def test_only_what_changed_is_sent(panel_of, resnet):
    model, images = resnet
    panel = panel_of(model, images)
    assert len({layer["label"] for layer in panel.network["layers"]}) == 21
    assert panel.first["shape"] == [64, 7, 7, 3]
    sent, page = [], Page(panel)
    panel.observe(lambda change: sent.append(change["name"]), SHOWN)
    page.set(**{"layer2.0.downsample.0": 1.1})
    at_once = set(sent)
    check(panel, model, images)
    assert {"now", "handled"} <= at_once <= {"now", "handled", "attempts"}
    assert not {"network", "counts", "curves", "first", "first_values"} & {*sent}


def test_a_request_is_answered_while_the_studio_works(panel, page):
    """No picture, count or loss is made in the thread that answers."""
    held, go = threading.Event(), threading.Event()

    def hold(event):
        held.set()
        assert go.wait(20)

    end = panel.studio.on(Moved, hold)
    page.set(conv1=0.5)
    assert held.wait(20)
    before = panel.first_values, panel.losses
    page.set(conv1=1.0)
    assert panel.now["layers"][0]["amount"] == 1.0
    assert (panel.first_values, panel.losses) == before
    end()
    go.set()
    panel.settle(60)
    assert panel.first_values != before[0]


def test_points_of_a_long_task_stay_few_and_spread():
    points = Points()
    for step in range(10_000):
        event = Progress(
            "retraining …", done=step / 1e4, left=float("inf"), point=(step, 0.5, None)
        )
        points.add(event, "retraining")
    found = points.value["points"]
    assert len(found) <= 301
    assert found[0] == [0, 0.5, None]
    assert found[-1][0] == 9999
    steps = np.diff([x for x, *_ in found])
    assert steps.max() <= 2 * np.median(steps)
    assert (points.value["task"], points.value["left"]) == ("retraining", None)


def test_pages_that_came_and_went_are_forgotten(panel):
    for visit in range(100):
        Page(panel, f"view {visit}").ask("undo")
    assert len(panel.handled) <= 64
    assert panel.handled["view 99"] == 1


def test_two_panels_show_one_studio(toy, split):
    studio = Studio(toy, split)
    one, other = StudioPanel(studio), StudioPanel(studio)
    Page(one).set(fc1=1.0)
    check(one, toy, split)
    assert other.now == one.now
    assert other.attempts == one.attempts
    for panel in (one, other):
        panel.close()


# --- pages that run no code --------------------------------------------------------------------


def test_pages_that_run_no_code_get_pictures_and_tables(panel_of, toy, split):
    labels = torch.cat([toy.eval()(x).argmax(1) for x, _ in split])
    panel = panel_of(toy, replace(split, labels=labels))  # which it all answers rightly
    panel.studio.set({"fc1": 0.3}).settle()
    panel.layer = "fc1"
    bundle, *_ = panel._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    shown = bundle["text/html"]
    shots = re.findall(r'<img alt="([^"]+)" [^>]*src="data:image/png;base64,([^"]+)"', shown)
    (_, first), (words, second) = shots
    assert bundle["image/png"] == first
    drawn = histogram.Histogram(panel.studio, (620, 290))
    assert base64.b64decode(first) == drawn.picture("fc1") != drawn.picture("fc2")
    assert Image.open(io.BytesIO(base64.b64decode(second))).size == (930, 435)
    best = [(attempt.density, attempt.drop) for attempt in panel.studio.compare().pareto]
    assert html.unescape(words) == plots.words(best)
    assert len(best) == 2  # the dense network, and one that is above chance
    assert "<table" in shown
    assert f"{panel.studio.metrics().accuracy.value:.2%}" in shown
    assert "fc1" in bundle["text/plain"]
    with pytest.raises(KeyError, match="did you mean fc2"):
        panel.layer = "fc3"
    assert panel.layer == "fc1"


def test_before_anything_is_measured_there_is_still_a_picture(toy, splits):
    gate = threading.Event()
    studio = Studio(toy, splits)
    studio.on(Moved, lambda event: gate.wait(20))
    studio.refresh()
    panel = StudioPanel(studio)
    bundle, *_ = panel._repr_mimebundle_()
    gate.set()
    panel.close()
    assert bundle["text/plain"].startswith("StudioPanel(Studio(attempt 1 of 1")
    assert bundle["image/png"]


def test_texts_stand_out_from_the_page_and_are_large_enough(panel):
    """Contrast of at least 4.5 (WCAG 2.1, AA) in either theme, and no letters below 13 pixels."""
    shown = panel._repr_mimebundle_()[0]["text/html"]
    light, dark = re.findall("{ (--good.*?) }", shown)
    for colours, page in ((light, "#ffffff"), (dark, "#111111")):
        found = re.findall("#[0-9a-f]{6}", colours)
        assert len(found) == 3
        for colour in found:
            high, low = sorted(map(luminance, (colour, page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, colour
    assert not re.findall(r'="[^"]*color: #', shown)  # all by name
    assert min(map(int, re.findall(r"font-size: (\d+)px", shown))) >= 13


def luminance(colour: str) -> float:
    channels = [level / 255 for level in (int(colour[n : n + 2], 16) for n in (1, 3, 5))]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_moved_threshold_looks_as_if_it_were_drawn_anew(panel):
    """Most of the picture stands still, and is drawn once."""
    studio, shown = panel.studio, set()
    moving = histogram.Histogram(studio, (620, 290))
    for quality in (0.0, 0.5, 1.0, 2.9, 0.25):
        studio.set(quality).settle()
        for layer in ("fc1", "fc2"):
            picture = moving.picture(layer)
            assert picture == histogram.Histogram(studio, (620, 290)).picture(layer)
            shown.add(picture)
    assert len(shown) == 10
    studio.retrain(epochs=1).settle()  # other weights
    assert moving.picture("fc2") == histogram.Histogram(studio, (620, 290)).picture("fc2")
    assert moving.picture("fc2") not in shown


def test_names_too_long_are_never_cut_to_a_twins():
    twins = [f"features.{'x' * 30}.{n}.{'y' * 30}.conv" for n in (1, 2)]
    assert len({*plots.short_names(twins).values()}) == 2


# --- the script --------------------------------------------------------------------------------


def test_modules_are_joined_into_one_that_imports_nothing(tmp_path):
    (tmp_path / "a.js").write_text("export const one = 1\nexport function two() { return one }\n")
    (tmp_path / "b.js").write_text('import {\n  one,\n} from "./a.js"\nexport class B {}\n')
    (tmp_path / "view.js").write_text(
        'import { two } from "./a.js";\nimport { B } from "./b.js"\nimport "./a.js"\n'
        "export const render = () => [two(), new B()]\n"
    )
    assert script(folder=tmp_path) == (
        "const one = 1\nfunction two() { return one }\nclass B {}\n"
        "export const render = () => [two(), new B()]\n"
    )


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js to read the script")
def test_the_views_script_is_one_module_that_a_browser_can_read(tmp_path):
    (tmp_path / "view.mjs").write_text(script())
    subprocess.run(["node", "--check", tmp_path / "view.mjs"], check=True)
    assert not re.search(r"^import|^export (?!function render|default)", script(), re.M)
    joined = {path.stem for path in FOLDER.glob("*.js")} - {"page", "demo"}  # which import others
    used = {
        name
        for path in FOLDER.glob("*.js")
        for name in re.findall(r'"\./(\w+)\.js"', path.read_text())
    }
    assert joined == used


# --- the end, and what is loaded ---------------------------------------------------------------


def test_close_ends_the_thread_and_all_widgets(toy, splits):
    gc.collect()
    before = set(living)
    panel = StudioPanel(Studio(toy, splits)).settle(60)
    Page(panel).set(fc1=1.0)
    panel.close()
    panel.close()  # again does no harm
    gc.collect()
    assert set(living) - before == set()
    assert not [t for t in threading.enumerate() if t.name == "studio" and t.is_alive()]


def test_closing_in_the_middle_of_a_retraining(toy, splits):
    panel = StudioPanel(Studio(toy, splits)).settle(60)
    Page(panel).ask("retrain", epochs=1000)
    panel.close()
    assert not [t for t in threading.enumerate() if t.name == "studio" and t.is_alive()]


def test_a_board_that_is_closed_hears_nothing_more(toy, split):
    studio = Studio(toy, split)
    board, heard = Board(studio), []
    studio.settle(60)
    board.show(heard.append)
    board.close()
    heard.clear()
    studio.set({"fc1": 1.0}).settle(60)
    assert heard == []
    studio.close()


def test_widgets_load_no_pyplot_and_the_board_no_widgets():
    """Its global state must not be touched by threads."""
    code = """if True:
        import sys, torch
        from torch import nn
        from pruning_lab import studio, widgets
        images = [(torch.randn(8, 4), torch.arange(8) % 3)]
        panel = widgets.StudioPanel(studio.Studio(nn.Sequential(nn.Linear(4, 3)), images))
        panel.studio.set({"0": 1.0})
        panel.settle()
        assert panel._repr_mimebundle_()
        panel.close()
        print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["True", "False"], ran.stderr
