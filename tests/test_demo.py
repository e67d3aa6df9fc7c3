"""The demo: its numbers are the library's, and the page needs nothing but itself."""

import copy
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import demo_page
import pytest
import torch

import pruning_lab as lab
from pruning_lab.widgets.script import script

LAYERS = "fc1", "fc2", "fc3"
QUALITIES = (
    {"fc1": 1.4},
    {"fc1": 1.0, "fc2": 0.9, "fc3": 0.55},
    {"fc1": 2.35, "fc2": 1.513},
    {"fc2": 100.0},
    {"fc3": 1.05},
)
DENSITIES = {"fc1": 0.08, "fc2": 0.1234, "fc3": 0.5005}, {"fc1": 0.0, "fc2": 0.99}
# What network.js and demo.js are asked, and how they answer: one process for all.
DRIVER = """
import { readFileSync } from "node:fs"
const [page, settings, requests] = process.argv.slice(2)
const html = readFileSync(page, "utf8")
const network = await unpacked(JSON.parse(html.match(/id="data">(.*?)<\\/script>/s)[1]))
const batch = new Batch(network, network.images)
const measured = JSON.parse(settings).map(asked => {
  const choices = network.layers.map(layer => layer.choose(asked[layer.name] ?? ALL))
  return { choices, answers: [...batch.answers(choices.map(choice => choice.kept))] }
})
const model = new Model(network)
const ready = () => new Promise(done => {
  const look = () => {
    if (model.get("now").status !== "ready") return
    model.off("change:now", look)
    done()
  }
  model.on("change:now", look)
})
await ready()
const told = []
let n = 0
for (const request of JSON.parse(requests)) {
  model.set("requests", { view: "test", list: [{ n: ++n, ...request }] })
  model.save_changes()
  await ready()
  const names = ["now", "attempts", "losses", "first", "message", "handled"]
  const bytes = name => [...new Uint8Array(model.get(name).buffer)]
  told.push({ ...Object.fromEntries(names.map(name => [name, structuredClone(model.get(name))])),
    pictures: bytes("pictures"), first_values: bytes("first_values") })
}
const alive = network.layers.map(layer => layer.alive)
const drawn = strokes => {
  const image = centred(strokes)
  return { image: [...image], logits: [...new Batch(network, image).logits(alive, 0)] }
}
const counts = [...new Uint32Array(model.get("counts").buffer)]
console.log(JSON.stringify({ measured, told, counts, network: model.get("network"),
  drawn: JSON.parse(process.argv[5]).map(drawn) }))
"""
REQUESTS = (
    {"do": "set", "kind": "quality", "layers": {"fc1": 0.4}, "drag": 3},
    {"do": "set", "kind": "quality", "layers": {"fc1": 2.2}, "drag": 3},  # the same drag
    {"do": "lock", "layer": "fc1", "locked": True},
    {"do": "set", "kind": "quality", "layers": {"fc1": 1.0}, "drag": 0},
    {"do": "set", "kind": "density", "layers": {"fc2": 0.2}, "drag": 0},
    {"do": "undo"},
    {"do": "redo"},
    {"do": "go", "number": 1},
    {"do": "string", "text": "fc2=d0.2&fc3=0.5"},
    {"do": "retrain", "epochs": 1},
)


def line(*points):
    return [[x, y] for x, y in points]


def ring(x, y, radius):
    turns = torch.linspace(0, 6.2832, 40)
    return torch.stack([x + 0.7 * radius * turns.sin(), y - radius * turns.cos()], 1).tolist()


ONE = [line((14, 4), (13, 24))]
SEVEN = [line((8, 5), (20, 5), (12, 23))]
ZERO = [ring(14, 14, 9)]
FAR = [[[0.5 * x + 2, 0.5 * y + 1] for x, y in stroke] for stroke in ZERO]  # smaller, elsewhere
DOT = [line((3, 3))]
DIGITS = ONE, SEVEN, ZERO, FAR, DOT


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return demo_page.build(tmp_path_factory.mktemp("demo") / "demo.html")


@pytest.fixture(scope="module")
def contents(page):
    return demo_page.contents(page)


@pytest.fixture(scope="module")
def network(contents):
    return demo_page.network(contents)


@pytest.fixture(scope="module")
def val():
    return demo_page.val()


@pytest.fixture(scope="module")
def answered(page, tmp_path_factory):
    """What the page's scripts answer under node."""
    if not (node := shutil.which("node")):
        pytest.skip("no node on the PATH to run the demo's scripts with (Debian: nodejs)")
    path = tmp_path_factory.mktemp("node") / "driver.mjs"
    path.write_text(script("demo") + DRIVER, encoding="utf-8")
    given = [(kind, asked) for kind, group in asked_for() for asked in group]
    settings = [{n: {"kind": kind, "amount": a} for n, a in asked.items()} for kind, asked in given]
    arguments = [json.dumps(part) for part in (settings, REQUESTS, DIGITS)]
    done = subprocess.run([node, path, page, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(**json.loads(done.stdout))


def asked_for():
    return (("quality", QUALITIES), ("density", DENSITIES))


def test_the_page_is_small_and_asks_for_nothing_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 1_500_000
    named = set(re.findall(r"\b(?:https?|wss?)://[^\s\"'<)]*", text))
    assert named <= {"http://www.w3.org/2000/svg"}  # a namespace, which nothing fetches
    asking = r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|@import|url\(|\bsrc=|<link"
    assert re.findall(asking, text) == []
    assert re.findall(r"^import |\bimport\(", text, re.M) == []
    assert "Sebastian Raschka" in text  # the licence of the images' package


def test_its_weights_are_the_shipped_ones_rounded(network, contents, val):
    shipped = lab.models.lenet_300_100(trained="mnist")
    for about in contents["layers"]:
        ours, theirs = (m.get_submodule(about["name"]).weight for m in (network, shipped))
        near = (ours - theirs).abs() <= 0.5001 * about["scale"]
        assert near.float().mean() > 0.999  # the others are clamped
        sigma = ours[ours != 0].double().std(correction=0).item()
        assert about["sigma"] == pytest.approx(sigma, rel=1e-12)
    rounded, exact = (lab.evaluate(model, val).value for model in (network, shipped))
    assert rounded == pytest.approx(exact, abs=0.004)


def test_it_keeps_and_answers_what_the_library_does(answered, network, val):
    measured = iter(answered.measured)
    ((x, _),) = val
    for kind, group in asked_for():
        for asked in group:
            pruned = lab.prune(network, **{kind: asked}).apply_(copy.deepcopy(network))
            found = next(measured)
            kept = [int(pruned.get_submodule(name).weight.count_nonzero()) for name in LAYERS]
            assert [choice["kept"] for choice in found["choices"]] == kept, asked
            with torch.no_grad():
                assert found["answers"] == pruned(x).argmax(1).tolist(), asked


def test_its_counts_are_those_of_every_threshold_on_the_grid(answered, network):
    for about in answered.network["layers"]:
        weight = network.get_submodule(about["name"]).weight.detach()
        counts = answered.counts[about["offset"] :][: about["bins"] + 1]
        steps = [round(k * about["step"], 10) * about["sigma"] for k in range(len(counts))]
        assert counts[0] == about["alive"] == int(weight.count_nonzero())
        assert counts[1:] == [int((weight.abs() >= step).sum()) for step in steps[1:]]
        assert counts[-1] == 0 < counts[-2]
        levels = len(weight.abs().unique()) - 1
        assert about["bins"] >= levels  # each step prunes one level at most: no comb in a histogram


@pytest.fixture(scope="module")
def studio(network, val):
    studio = lab.Studio(network, val)
    yield studio
    studio.close()


def settings_of(now):
    kinds = {"quality": {}, "density": {}}
    for name, row in zip(LAYERS, now["layers"], strict=True):
        if row["amount"] or row["kind"] == "density":
            kinds[row["kind"]][name] = row["amount"]
    return kinds


@pytest.mark.parametrize("place", [1, 4, 8])
def test_what_the_view_is_told_is_what_the_studio_says(answered, studio, place):
    """Accuracy and change with their intervals, lost images, classes, the first layer's pixels."""
    told = answered.told[place]
    now, losses = told["now"], told["losses"]
    asked = settings_of(now)
    studio.go(1).set(asked["quality"], density=asked["density"]).settle()
    metrics = studio.metrics()
    assert (now["accuracy"]["n"], now["final"], losses["final"]) == (500, True, True)
    for end in ("value", "low", "high"):
        assert now["accuracy"][end] == pytest.approx(getattr(metrics.accuracy, end), abs=1e-12)
        assert now["drop"][end] == pytest.approx(getattr(metrics.drop, end), abs=1e-12)
        drops = [getattr(row.drop, end) for row in metrics.per_class]
        assert [row["drop"][end] for row in losses["classes"]] == pytest.approx(drops, abs=1e-12)
    for row, ours in zip(now["layers"], metrics, strict=True):
        assert (row["kept"], row["threshold"]) == (ours.kept, pytest.approx(ours.threshold))
        assert row["bytes"] == pytest.approx(ours.bytes, rel=0.1, abs=200)  # both are estimates
    lost = [flip for flip in metrics.flipped if flip.lost]
    assert (losses["lost"], losses["won"]) == (len(lost), len(metrics.flipped) - len(lost))
    shown = [(one["index"], one["label"], one["before"], one["after"]) for one in losses["shown"]]
    assert shown == [(f.index, f.label, f.before, f.after) for f in lost[:24]]
    pictures = studio.pictures([flip.index for flip in lost[:24]])
    assert bytes(told["pictures"]) == b"".join(image.tobytes() for image in pictures)
    connections = studio.mask["fc1"].sum(0)
    first = told["first"]
    assert (first["seen"], first["most"]) == (int((connections > 0).sum()), int(connections.max()))
    assert told["first_values"] == (255 * connections / connections.max()).round().int().tolist()


def test_attempts_are_made_and_found_again_as_in_the_studio(answered, studio):
    told = answered.told
    numbers = [one["now"]["number"] for one in told]
    assert numbers == [2, 2, 2, 2, 3, 2, 3, 1, 4, 4]  # a drag is one; what fails makes none
    problems = [one["message"]["problem"] for one in told]
    assert [i for i, problem in enumerate(problems) if problem] == [3, 9]
    with pytest.raises(ValueError, match="locked") as error:
        studio.lock("fc1").set({"fc1": 1.0})
    studio.unlock("fc1")
    assert problems[3] == str(error.value)
    assert [one["handled"]["test"] for one in told] == list(range(1, len(REQUESTS) + 1))
    assert told[4]["now"]["string"] == "fc1=2.2&fc2=d0.2"
    assert told[8]["now"]["string"] == "fc2=d0.2&fc3=0.5"
    assert (told[5]["now"]["can_redo"], told[6]["now"]["can_redo"]) == (True, False)
    last = told[-1]["attempts"]
    whats = ["as it came", "fc1: quality 2.2", "fc2: density 0.2"]
    assert [one["what"] for one in last][:3] == whats
    assert [one["parent"] for one in last] == [None, 1, 2, 1]
    kept = [sum(row["kept"] for row in told[place]["now"]["layers"]) for place in (7, 1, 4, 8)]
    assert [one["density"] for one in last] == [n / 266_200 for n in kept]


def test_drawn_digits_are_made_as_mnists_were(answered):
    """Its longer side in 20 pixels, its centre of mass in the middle, wherever it was drawn."""
    across = torch.arange(28.0)
    images = [torch.tensor(one["image"]).reshape(28, 28).float() for one in answered.drawn]
    for image in images:
        centres = [float((image.sum(axis) * across).sum() / image.sum()) for axis in (0, 1)]
        assert centres == pytest.approx([14, 14], abs=0.1)
        assert image.max() == 255
    for image in images[:4]:
        longest = max(int((image.amax(axis) > 127).sum()) for axis in (0, 1))
        assert 19 <= longest <= 21
    assert (images[2] - images[3]).abs().max() < 40  # smaller and elsewhere is the same digit
    assert int((images[4] > 127).sum()) < 12  # a dot is not blown up
    named = [max(range(10), key=one["logits"].__getitem__) for one in answered.drawn]
    assert named[:4] == [1, 7, 0, 0]
