"""AlexNet from photos to a report: files that know their shape, runs that end as the paper's do."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import test_photos
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pruning_lab import (
    cli,
    data,
    evaluation,
    experiments,
    files,
    masks,
    models,
    paper,
    reports,
    sensitivity,
    studio,
)
from pruning_lab.data import shapes
from pruning_lab.rows import decode

TINY = ("--width", "0.05", "--size", "32")
SHAPES = ("--data", "shapes")
TRAIN = ("train", "--model", "alexnet", *SHAPES, *TINY, "--dropout", "0", "--epochs", "1")
TRAIN = (*TRAIN, "--lr", "0.01", "--json", "--out")
CONV, FC = {f"conv{n}" for n in range(1, 6)}, {"fc1", "fc2", "fc3"}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """No test reads or writes the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNING_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PRUNING_LAB_DATA", "nowhere")
        yield


def here(*words):
    """`pruning-lab WORDS` in this process."""
    return cli.main(words)


def started(words, folder, **options):
    """`python WORDS` in a process of its own, with one thread."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def by_pruning(model, density, images):
    """Accuracy and drop of masks.prune at these densities, by two plain evaluations."""
    before = evaluation.evaluate(model, images)
    with masks.masked(model, masks.prune(model, density=density)):
        after = evaluation.evaluate(model, images)
    return after, evaluation.drop(before, after)


# --- the densities of a recipe -----------------------------------------------------------------

SIZES = [
    ("alexnet", {}),
    ("alexnet", {"classes": 10, "size": 128}),
    ("alexnet", {"classes": 10, **experiments.REDUCED["alexnet"]}),
    ("alexnet", {"classes": 3, "width": 0.05, "size": 32}),
    ("vgg-16", {}),
    ("vgg-16", {"classes": 10, "size": 64}),
    ("vgg-16", {"classes": 10, **experiments.REDUCED["vgg-16"]}),
]


@pytest.mark.parametrize(("network", "shape"), SIZES)
def test_the_papers_recipe_compresses_any_shape_as_the_paper_does(network, shape):
    recipe = experiments.paper_recipe(network, "imagenette", shape)
    with torch.device("meta"):
        sizes = {n: p.numel() for n, p in models.build(recipe.about).named_parameters()}
    kept = {
        f"{layer}.weight": round(density * sizes[f"{layer}.weight"])
        for layer, density in recipe.rounds[-1]["density"].items()
    }
    assert len(kept) == len(sizes) / 2
    total, compression = sum(sizes.values()), paper.TABLE_1[network].compression
    reported = {
        f"{row.layer}.weight": row.density * sizes[f"{row.layer}.weight"]
        for row in paper.LAYER_TABLES[network][:-1]
    }
    left = sum({**sizes, **kept}.values())
    assert total / left >= compression
    assert total / left == pytest.approx(
        max(compression, total / sum({**sizes, **reported}.values())), rel=5e-3
    )


# --- a run -------------------------------------------------------------------------------------


def draw_photos(place):
    """400 images of shapes to train on and 100 to test with, as files in ten folders."""
    names, (images, labels) = list(shapes.SHAPES), shapes.draw(500, 32, seed=1)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = place / ("train" if number < 400 else "test") / names[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


SHAPE = {"width": 0.05, "size": 32, "dropout": 0.4, "classes": 10}


def short(data_name):
    """The paper's recipe for a tiny AlexNet, with few epochs."""
    recipe = experiments.paper_recipe("alexnet", data_name, SHAPE)
    retrain = tuple(replace(config, epochs=1) for config in recipe.retrain)
    dense = replace(recipe.dense, epochs=2)
    return replace(recipe, dense=dense, retrain=retrain, scan=(0.1, 0.5))


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder)
    return data.load(f"folder:{folder}", size=32)


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory):
    """A whole run: its folder, itself, the weights after each phase, dropout in each round."""
    out = tmp_path_factory.mktemp("run") / "whole"
    weights, rates = {}, [[]]

    def watch(note):
        if note.epoch is None:
            return
        rates.append([])
        if note.phase == "control":
            return
        name = "dense" if note.phase == "train" else note.phase.replace(" ", "-")
        tensors, _ = files.load_tensors(out / "checkpoints" / f"{name}.safetensors")
        parts = {key.partition("."): tensor for key, tensor in tensors.items()}
        weights[note.phase] = {name: t for (part, _, name), t in parts.items() if part == "model"}

    def look(module, _):
        if isinstance(module, nn.Dropout) and module.training:
            rates[-1].append(module.p)

    hook = register_module_forward_pre_hook(look)
    run = experiments.run(short(splits.name), splits, seed=3, folder=out, notify=watch)
    hook.remove()
    return out, run, weights, rates


def test_rounds_take_turns_and_what_is_frozen_stays_where_it_is(finished):
    _, run, weights, _ = finished
    recipe = decode(experiments.Recipe, run.record["recipe"], "it", whole=False)
    cut = [set(amounts["density"]) for amounts in recipe.rounds]
    assert cut == [FC, CONV, FC, CONV, FC | CONV]
    assert [set(layers) for layers in recipe.freeze] == [CONV, FC, CONV, FC, set()]
    phases = ["train", *(f"round {n}" for n in range(1, 6))]
    assert list(weights) == phases
    for before, phase, moving in zip(phases, phases[1:], cut, strict=False):
        moved = {
            name.partition(".")[0]
            for name, tensor in weights[phase].items()
            if not torch.equal(tensor, weights[before][name])
        }
        assert moved == moving


def test_dropout_follows_the_density_of_its_layer(finished):
    """Equation 2 of the paper: D_r = D_o sqrt(C_ir / C_io); drop6 is fc1's, drop7 fc2's."""
    _, run, _, rates = finished
    # Two epochs of the dense network, one of each round, as many of the control, nothing more.
    first, second, *rounds = rates[:7]
    assert set().union(first, second, *rates[7:12]) == {0.4}
    assert rates[12:] == [[]]
    cuts = [stage for stage in run.record["stages"] if stage["kind"] == "cut"]
    for seen, stage in zip(rounds, cuts, strict=True):
        density = {row["layer"]: row["density"] for row in stage["receipt"]}
        expected = [0.4 * density[layer] ** 0.5 for layer in ("fc1", "fc2")]
        assert seen == pytest.approx(expected * (len(seen) // 2), rel=1e-6)
        assert all(rate < 0.4 for rate in seen)
    assert (run.model.drop6.p, run.model.drop7.p) == (0.4, 0.4)


def test_the_record_and_the_files_say_the_shape_and_the_folder_gives_the_run_again(finished):
    out, run, _, _ = finished
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"]["shape"] == SHAPE
    again = experiments.Run.load(out)
    assert again.record == record == json.loads(json.dumps(run.record))
    assert again.mask.fingerprint() == run.mask.fingerprint()
    for name in ("dense", "model"):
        loaded, about = models.load(out / f"{name}.safetensors")
        assert about == {"network": "alexnet", **SHAPE, "data": record["data"]["name"], "seed": 3}
        assert str(loaded) == str(getattr(run, name)) == str(getattr(again, name))
        for network in (loaded, getattr(again, name)):
            pairs = zip(network.parameters(), getattr(run, name).parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    alive = sum(int(p.count_nonzero()) for n, p in run.model.named_parameters() if "weight" in n)
    biases = sum(p.numel() for n, p in run.model.named_parameters() if "bias" in n)
    assert record["parameters"]["pruned"] == alive + biases
    assert record["parameters"]["dense"] >= 9 * (alive + biases)


# --- killed, and by many -----------------------------------------------------------------------

DIES = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from pruning_lab import data, experiments
from test_photo_runs import short

def die(note):
    if note.phase == "round 3":
        os.kill(os.getpid(), signal.SIGKILL)

splits = data.load(sys.argv[1], size=32)
experiments.run(short(splits.name), splits, seed=3, folder=sys.argv[2], notify=die)
"""


def without_clocks(record):
    """A record less what differs between two equal runs: times, and the memory they took."""
    record = json.loads(json.dumps(record))
    del record["seconds"], record["sha256"]
    for row in record["epochs"]:
        del row["seconds"], row["peak_bytes"]
    return record


@pytest.fixture(scope="module")
def resumed(splits, tmp_path_factory):
    """The same run, killed in its third round and gone on with: its folder, what was printed."""
    killed = tmp_path_factory.mktemp("killed") / "run"
    words = ("-c", DIES, splits.name, str(killed))
    assert started(words, Path(__file__).parent).returncode == -signal.SIGKILL
    assert (killed / "checkpoints" / "round-3.safetensors").exists()
    assert not (killed / "run.json").exists()
    with redirect_stderr(io.StringIO()) as said:
        assert here("run", "--resume", "--out", str(killed), "--size", "64") == 2
    assert "--size 32, not 64; resume with the same options" in said.getvalue()
    with redirect_stdout(io.StringIO()) as said:
        assert here("run", "--resume", "--out", str(killed)) == 0
    return killed, said.getvalue()


def test_a_killed_run_resumed_ends_as_an_uninterrupted_one(finished, resumed):
    (whole, run, _, _), (killed, _) = finished, resumed
    for name in ("dense", "model", "mask"):
        file = f"{name}.safetensors"
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
    record = json.loads((killed / "run.json").read_text())
    assert without_clocks(record) == without_clocks(run.record)


def test_the_papers_numbers_never_stand_beside_those_of_other_photos_unsaid(resumed):
    folder, said = resumed
    assert "alexnet, width 0.05, 32 px (conv1 5 x 5), 10 classes\n" in said  # not: reduced
    assert "Table 4" in said
    record = json.loads((folder / "run.json").read_text())
    for text in (said, (folder / "report.html").read_text()):
        assert "paper, imagenet" in text
        assert f"this run, {record['data']['name']}" in text
        assert f"100 test images of {record['data']['name']}, used once; the paper" in text
    record["data"]["name"] = "imagenet"
    assert "this run, " not in reports.text(record)


def test_two_processes_make_one_run_with_the_same_masks(finished, two):
    """Masks that differ would end it: every round asks all processes for theirs."""
    _, run, _, _ = finished
    folder, abouts = two
    (code, said), others = (about["interrupted_run"] for about in abouts)
    assert code == 0
    assert others == [0, ""]
    for once in ("  scan     ", "  round 5  ", "Table 1: AlexNet", "The plots are in"):
        assert said.count(once) == 1
    both = experiments.Run.load(folder / "run")
    kept = [
        [(row["layer"], row["kept"]) for row in stage["receipt"]] for stage in both.record["stages"]
    ]
    assert kept == [
        [(row["layer"], row["kept"]) for row in stage["receipt"]] for stage in run.record["stages"]
    ]
    for name, mask in both.mask.items():
        assert not both.model.get_submodule(name).weight[~mask].any()


def test_two_processes_train_as_one_with_twice_the_batch(two, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, abouts = two
    (code, said), others = (about["trained_by_words"] for about in abouts)
    assert code == 0
    assert others == [0, ""]
    assert here(*TRAIN, "one", "--batch-size", "64") == 0
    told = [json.loads(text) for text in (said, capsys.readouterr().out)]
    losses = [rows["epochs"][0]["loss"] for rows in told]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert os.listdir() == ["one"]
    assert [path.name for path in folder.glob("trained*")] == ["trained"]
    networks = [models.load(name)[0] for name in (folder / "trained", "one")]
    found = [masks.prune(network, density=0.1) for network in networks]
    for name in found[0]:
        differ = int((found[0][name] != found[1][name]).sum())
        assert differ <= 0.01 * found[0][name].numel()  # rounding, at the threshold


# --- from file to file -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A folder with a network in it that one epoch of shapes has trained."""
    place = tmp_path_factory.mktemp("files")
    file = str(place / "dense.safetensors")
    words = ("train", "--model", "alexnet", *SHAPES, *TINY, "--epochs", "1", "--lr", "0.03")
    assert here(*words, "--out", file) == 0
    return place


def test_files_are_handed_on_from_training_to_the_report(dense, monkeypatch, capsys):
    monkeypatch.chdir(dense)
    model, about = models.load("dense.safetensors")
    shape = {"network": "alexnet", "width": 0.05, "size": 32, "classes": 10}
    assert about == {**shape, "data": "shapes", "seed": 0}

    assert here("scan", "dense.safetensors", "--densities", "0.5", "0.05") == 0  # of 32 px unasked
    assert capsys.readouterr().out.startswith("shapes: ")  # what it was trained on, unasked
    val = data.load("shapes", size=32).val
    scan = sensitivity.Scan.load("scan.csv")
    assert set(scan.layers) == CONV | FC
    for point in scan:
        density = {point.layer: float(point.asked.split()[1])}
        assert (point.accuracy, point.drop) == by_pruning(model, density, val)

    assert here("choose", "scan.csv", "dense.safetensors", *SHAPES, "--density", "0.3") == 0
    plan = sensitivity.Plan.load("plan.json")
    assert plan.together == by_pruning(model, plan.densities, val)[1]
    typed = capsys.readouterr().out.splitlines()[-1].partition("next: pruning-lab ")[2].split()
    assert here(*typed) == 0
    mask = masks.Mask.load("mask.safetensors")
    assert mask.density == pytest.approx(0.3, abs=1e-3)

    words = ("retrain", "dense.safetensors", "--mask", "mask.safetensors", "--freeze", *CONV)
    assert here(*words, *SHAPES, "--epochs", "1", "--lr", "0.01") == 0
    pruned, again = models.load("pruned.safetensors")
    assert again == about
    for name, layer in masks.prunable(pruned).items():
        before = model.get_submodule(name)
        assert not layer.weight[~mask[name]].any()
        moved = not torch.equal(layer.weight, before.weight * mask[name])
        assert moved == (name in FC) == (not torch.equal(layer.module.bias, before.bias))

    capsys.readouterr()
    assert here("report", "pruned.safetensors", "--dense", "dense.safetensors", *SHAPES) == 0
    said = capsys.readouterr().out
    test = data.load("shapes", size=32).test
    for network in (model, pruned):
        assert f"{evaluation.evaluate(network, test).error:.2%}" in said
    for text in (said, Path("report.html").read_text()):
        assert "paper, imagenet" in text
        assert "this run, shapes" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--model", "lenet-5", "--width", "0.5"), "--width goes with alexnet and vgg-16"),
        (("run", "--size", "64"), "--size goes with alexnet and vgg-16, lenet-300-100 has one"),
        (("run", "--model", "alexnet", "--data", "fotos"), "no data set 'fotos'; there are auto"),
        (("run", "--model", "alexnet", *SHAPES, "--size", "31"), "32 ... 10,000, got 31"),
        (
            ("train", "--model", "vgg-16", *SHAPES, "--dropout", "2"),
            "--dropout: must be a number from",
        ),
        (
            ("train", "--model", "alexnet", *SHAPES, *TINY, "--crop", "0"),
            "--crop: must be a number above 0",
        ),
        (("train", "--model", "alexnet", *SHAPES, *TINY, "--accumulate", "0"), "from 1 to"),
        (("run", "--model", "alexnet", "--data", "imagenet", "--root", "no"), "no ImageNet in no"),
        (("scan", "dense.safetensors", *SHAPES, "--size", "64"), "which are 3 x 64 x 64"),
        (("scan", "dense.safetensors", "--model", "vgg-16", *SHAPES), "dense.safetensors"),
        (("run", "--resume", "--out", "whole", "--width", "1"), "--width 0.05, not 1.0"),
        (("run", "--resume", "--out", "whole", "--model", "vgg-16"), "--model alexnet, not vgg-16"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    words, expected, dense, finished, monkeypatch, capsys
):
    monkeypatch.chdir(dense)
    if not Path("whole").exists():
        Path("whole").symlink_to(finished[0])
    before = sorted(dense.iterdir())
    force = () if words[0] == "run" else ("--force",)  # there are files of earlier tests
    assert here(*words, *force) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
    assert sorted(dense.iterdir()) == before  # nothing half-done


# --- streamed ----------------------------------------------------------------------------------

made = test_photos.made  # 40 JPEGs in ImageNet's layout: RGB, grey and CMYK, and one truncated


@pytest.fixture
def streamed(made, dense, tmp_path, monkeypatch):
    """The words for that folder, entered; a network for its two classes; and its splits."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    about = {"network": "alexnet", **SHAPE, "classes": 2}
    model = models.build(about)
    models.save("made.safetensors", model, about=about)
    splits = data.load("imagenet", root=made.parent, size=32)
    some = {  # so many batches that worker processes decode them
        part: replace(getattr(splits, part), batch_size=3) for part in ("train", "val", "test")
    }
    return ("--data", "imagenet", "--root", str(made.parent)), model.eval(), replace(splits, **some)


@pytest.mark.filterwarnings("ignore:left out")
def test_streamed_photos_train_evaluate_and_scan(streamed, capsys):
    where, _, splits = streamed
    words = ("train", "--model", "alexnet", *where, *TINY, "--epochs", "2", "--batch-size", "8")
    assert here(*words, "--json", "--out", "trained.safetensors") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["images"] for row in told["epochs"]] == [23, 23]  # one of 24 is truncated
    model, about = models.load("trained.safetensors")
    assert (about["classes"], about["size"], about["data"]) == (2, 32, "imagenet")
    x, y = (torch.cat(parts) for parts in zip(*splits.val, strict=True))
    with torch.no_grad():
        right = int((model.eval()(x).argmax(1) == y).sum())
    assert told["val"]["value"] == right / len(y)

    assert here("scan", "trained.safetensors", *where, "--densities", "0.5", "0.1") == 0
    assert "3 x 32 x 32" in capsys.readouterr().out.splitlines()[0]
    held = list(splits.val)
    for point in sensitivity.Scan.load("scan.csv"):
        density = {point.layer: float(point.asked.split()[1])}
        assert (point.accuracy, point.drop) == by_pruning(model, density, held)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_run_on_streamed_photos(streamed, tmp_path):
    _, _, splits = streamed
    recipe = experiments.paper_recipe("alexnet", splits.name, {**SHAPE, "classes": 2})
    retrain = tuple(replace(config, epochs=1, batch_size=8) for config in recipe.retrain)
    dense = replace(recipe.dense, epochs=1, batch_size=8)
    recipe = replace(recipe, dense=dense, retrain=retrain, scan=(0.5,))
    run = experiments.run(recipe, splits, folder=tmp_path / "run")
    assert run.record["data"]["images"] == {"train": 24, "val": 4, "test": 12}
    assert run.record["test"]["pruned"]["n"] == 12
    record = experiments.Run.load(tmp_path / "run").record
    assert record == json.loads(json.dumps(run.record))
    assert "this run, " not in reports.text(run.record)  # where it says imagenet, both are


def test_the_suffix_evaluator_answers_on_a_stream_as_on_the_same_tensors(streamed):
    _, model, splits = streamed
    held, levels = list(splits.val), [0.5, 0.05]
    expected = list(sensitivity.scan(model, held, levels))
    points = list(sensitivity.scan(model, splits.val, levels))
    assert points == expected
    for point, (layer, level) in zip(
        points, [(name, level) for name in masks.prunable(model) for level in levels], strict=True
    ):
        assert (point.accuracy, point.drop) == by_pruning(model, {layer: level}, held)


def test_the_studio_opens_streamed_photos(streamed):
    _, model, splits = streamed
    s = studio.Studio(model, splits)
    s.set({"fc1": 1.0, "conv2": 0.5})
    s.settle()
    metrics = s.metrics()
    s.close()
    with masks.masked(model, masks.prune(model, quality={"fc1": 1.0, "conv2": 0.5})):
        expected = evaluation.evaluate(model, list(splits.val))
    assert metrics.accuracy == expected
    assert metrics.accuracy.n == 4
