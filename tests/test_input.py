"""Input that cannot lie: every kind of bad file, number and place gets one sentence and exit 2.

The command line is called in this process; networks are toys. What a sentence says is checked, and
that no file has changed.
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_lab import (
    cli,
    criteria,
    data,
    evaluation,
    experiments,
    files,
    masks,
    models,
    sensitivity,
    training,
)

ABOUT = {"network": "lenet-300-100", "width": 0.05}
DIGITS = ("--data", "mnist-5k")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one valid file of every kind, and a finished run."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    model, splits = models.build(ABOUT), data.load("mnist-5k")
    models.save(folder / "dense.safetensors", model, about=ABOUT)
    models.save(folder / "other.safetensors", models.build(ABOUT), about=ABOUT)
    scan = sensitivity.scan(model, splits.val, [0.5, 0.1], out=folder / "scan.csv")
    sensitivity.choose(scan, density=0.3).save(folder / "plan.json")
    masks.prune(model, density=0.5).save(folder / "mask.safetensors")
    recipe = experiments.paper_recipe("lenet-300-100", "mnist-5k", {"width": 0.05})
    once = [replace(config, epochs=1) for config in (recipe.dense, *recipe.retrain)]
    recipe = replace(recipe, dense=once[0], retrain=tuple(once[1:]), scan=(0.5, 0.1))
    experiments.run(recipe, splits, folder=folder / "run")
    assert typed("report", folder / "run") == (0, "")
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of that folder, entered."""
    folder = shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def typed(*words):
    """The exit code of a command, and what it printed on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([str(word) for word in words])
    return code, said.getvalue()


def content():
    """Every file of the current folder, byte by byte, and what else is there."""
    return {
        path: path.read_bytes() if path.is_file() and path.stat().st_size < 1e8 else None
        for path in sorted(Path().rglob("*"))
    }


def check_refused(words, says):
    before = content()
    code, said = typed(*words)
    assert (code, said.count("\n")) == (2, 1), said
    assert re.search(says, said), said
    assert len(said.removeprefix("pruning-lab: ").split()) > 4, said
    assert content() == before


# ------------------------------------------------------------------------------ outputs and inputs


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("prune dense.safetensors --density .5 --out dense.safetensors", "would replace dense"),
        ("prune dense.safetensors --density .5 --out ./run/../dense.safetensors", "would replace"),
        ("prune link --density .5 --out dense.safetensors", "would replace link"),
        ("prune dense.safetensors --density .5 --out link", "would replace dense"),
        ("prune dense.safetensors --density .5 --out hard", "would replace dense"),
        ("prune --weights dense.safetensors --density .5 --out dense.safetensors", "would replace"),
        ("prune dense.safetensors --plan plan.json --out plan.json", "would replace plan.json"),
        ("prune dense.safetensors --within mask.safetensors --density .2", "would replace mask"),
        (
            "prune dense.safetensors --density .5 --out new --save-model link",
            "--save-model link would",
        ),
        ("prune dense.safetensors --density .5 --out a --save-model a", "name two files"),
        ("prune dense.safetensors --density .5 --out plan.json", "a plan, which is never replaced"),
        ("prune dense.safetensors --density .5 --out other.safetensors", "a network, which is ne"),
        ("prune dense.safetensors --density .5 --out notes.txt", "of another kind, which is never"),
        ("prune dense.safetensors --density .5 --out empty", "of another kind, which is never"),
        ("choose scan.csv --density .5 --out scan.csv", "would replace scan.csv"),
        ("choose scan.csv --density .5 --out scan.json", "would replace scan.json"),
        ("choose scan.csv --density .5 --out run/config.json", "a config, which is never"),
        ("choose scan.csv dense.safetensors --density .5 --out dense.safetensors", "would replace"),
        ("scan dense.safetensors --out dense.safetensors", "would replace dense"),
        ("scan dense.safetensors --out plan.csv", "plan.json is there, and a plan, which is"),
        ("scan dense.safetensors --out a.json", r"the rows go to a \.csv"),
        ("train --out scan.csv", "a scan, which is never replaced by a network"),
        ("train --out mask.safetensors", "a mask, which is never replaced by a network"),
        ("retrain dense.safetensors --mask mask.safetensors --out mask.safetensors", "would repl"),
        ("retrain x.checkpoint --mask mask.safetensors --out x", "the checkpoint x.checkpoint wo"),
        ("report run --out dense.safetensors", "a network, which is never replaced by a page"),
        ("report run --out run/run.json", "a run, which is never replaced by a page"),
        ("report dense.safetensors --dense other.safetensors --out other.safetensors", "would rep"),
    ],
)
def test_no_output_replaces_an_input_or_another_kind_even_with_force(words, says, here):
    os.symlink("dense.safetensors", "link")
    os.link("dense.safetensors", "hard")
    Path("notes.txt").write_text("mine")
    Path("empty").touch()
    shutil.copy("dense.safetensors", "x.checkpoint")
    for force in ((), ("--force",)):
        check_refused((*words.split(), *force), says)


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ("prune dense.safetensors --density .25", "mask.safetensors"),
        ("choose scan.csv --density .4", "plan.json"),
        ("scan dense.safetensors --data mnist-5k --densities 0.25 --layers fc3", "scan.csv"),
        ("train --data mnist-5k --epochs 0", "other.safetensors"),
        ("report run", "page.html"),
    ],
)
def test_a_file_of_the_same_kind_is_replaced_with_force_only(words, out, here):
    shutil.copy("run/report.html", "page.html")
    words = (*words.split(), "--out", out)
    old = Path(out).read_bytes()
    check_refused(words, "is there already; add --force to replace it")
    assert typed(*words, "--force") == (0, "")
    assert Path(out).read_bytes() != old or out == "page.html"


def test_a_report_without_out_replaces_its_runs_own_page_alone(here):
    assert typed("report", "run") == (0, "")
    Path("run/report.html").write_text("mine")
    check_refused(("report", "run"), "of another kind, which is never replaced by a page")
    shutil.copy("dense.safetensors", "report.html")
    words = ("report", "dense.safetensors", "--dense", "other.safetensors")
    check_refused(words, r"report\.html is there, and a network, which is never replaced")


def test_a_run_takes_no_folder_with_files_that_it_would_write_or_believe(here):
    check_refused(
        ("run", *DIGITS, "--out", "."), r"holds dense\.safetensors, mask\.saf.* scan\.csv"
    )
    check_refused(("run", *DIGITS, "--out", "run"), "holds a run already; resume it with --resume")
    check_refused(("run", *DIGITS, "--out", "plan.json"), "--out plan.json")


# ------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (".", "is a folder; name a file in it"),
        ("", "is a folder; name a file in it"),
        ("run", "--out run is a folder"),
        ("x" * 300, "File name too long; give it another name"),
        ("dense.safetensors/x", "Not a directory; give it another name"),
        ("loop", "symbolic links; give it another name"),
        ("pipe", "is a pipe or a device; name a regular file"),
        ("/dev/null", "is a pipe or a device; name a regular file"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_said_before_any_work(out, says, here):
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    commands = ["prune dense.safetensors --density .5", "choose scan.csv --density .5", "train"]
    commands += ["scan dense.safetensors", "report run"]
    for words in commands:
        if out or not words.startswith("report"):
            check_refused((*words.split(), "--out", out), says)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(here):
    Path("closed").mkdir(mode=0o500)
    check_refused(("prune", "dense.safetensors", "--density", ".5", "--out", "closed/m"), "may not")


@pytest.mark.parametrize("number", ["ENOSPC", "EROFS", "EACCES", "EDQUOT", "EIO"])
def test_a_disk_that_takes_no_more_is_named_and_leaves_the_file_as_it_was(
    number, here, monkeypatch
):
    import errno

    def full(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            words = ("prune", "dense.safetensors", "--density", ".2", "--force")
            check_refused(words, r"mask\.safetensors could not be written: .*; (free|name)")


def test_a_missing_parent_folder_is_made(here):
    assert typed("prune", "dense.safetensors", "--density", ".5", "--out", "a/b/m") == (0, "")
    assert masks.Mask.load("a/b/m").density == pytest.approx(0.5, abs=0.01)


# ----------------------------------------------------------------------------- what files are read

READERS = {
    "network": ("prune", "{}", "--density", ".5", "--out", "new"),
    "weights": ("scan", "--weights", "{}", *DIGITS, "--out", "new.csv"),
    "scan": ("choose", "{}", "--density", ".5", "--out", "new"),
    "plan": ("prune", "dense.safetensors", "--plan", "{}", "--out", "new"),
    "mask": ("retrain", "dense.safetensors", "--mask", "{}", *DIGITS, "--out", "new"),
    "within": ("prune", "dense.safetensors", "--within", "{}", "--density", ".1", "--out", "new"),
    "dense": ("report", "dense.safetensors", "--dense", "{}", *DIGITS, "--out", "new"),
    "studio": ("studio", "dense.safetensors", *DIGITS, "--scan", "{}", "--no-browser"),
}


def reading(kind, path):
    return tuple(word.format(path) for word in READERS[kind])


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_of_the_kind_is_named(kind, here):
    samples = {
        "empty": b"",
        "nul": bytes(500),
        "bom": "\ufeff{}".encode(),
        "utf16": '{"format": "pruning_lab plan 4"}'.encode("utf-16"),
        "latin1": '{"format": "é"}'.encode("latin-1"),
        "deep": b"[" * 100_000,
        "deeper": b'{"a":' * 100_000,
        "digits": b"1" * 5000,
        "nan": b'{"format": NaN}',
        "twice": b'{"format": 1, "format": 2}',
        "list": b"[]",
        "null": b"null",
        "torch": b"PK\x03\x04",
        "header": struct.pack("<Q", 10**7) + b"{}",
    }
    Path("folder").mkdir()
    Path("folder.json").mkdir()
    for name, bytes_ in samples.items():
        for suffix in ("", ".json"):
            Path(name + suffix).write_bytes(bytes_)
        check_refused(reading(kind, name), name)
    for name in ("folder", "no\nwhere", "nowhere", "dense.safetensors/x", "y" * 300):
        check_refused(reading(kind, name), name[:9].split()[-1])
    for name in ("dense.safetensors", "mask.safetensors", "plan.json", "scan.json", "run/run.json"):
        fits = "dense" if kind in ("network", "weights") else kind.replace("within", "mask")
        if fits not in name:
            check_refused(reading(kind, name), Path(name).stem)


def test_a_key_that_stands_twice_is_refused_whichever_would_be_taken(here):
    text = Path("plan.json").read_text()
    Path("plan.json").write_text(text.replace('"density":', '"density": 0.9, "density":', 1))
    check_refused(PLAN, "the key 'density' stands twice in one object")
    tensors, about = files.load_tensors("dense.safetensors")
    files.save_tensors("dense.safetensors", tensors, about=about)
    raw = Path("dense.safetensors").read_bytes()
    assert raw.count(b'\\"width\\"') == 1
    twice = raw.replace(b'\\"width\\": 0.05', b'\\"width\\": 0.05, \\"width\\": 0.05')
    grown = struct.pack("<Q", struct.unpack("<Q", raw[:8])[0] + len(twice) - len(raw))
    Path("dense.safetensors").write_bytes(grown + twice[8:])
    check_refused(reading("network", "dense.safetensors"), "the key 'width' stands twice")


@pytest.mark.parametrize("load", [files.load_about, files.load_shapes, files.load_tensors])
def test_a_file_that_is_longer_or_shorter_than_its_header_says_is_refused(load, here):
    raw = Path("dense.safetensors").read_bytes()
    for content_ in (raw[:-1], raw + b"\0"):
        Path("odd").write_bytes(content_)
        with pytest.raises(ValueError, match=r"odd is not a whole safetensors file"):
            load("odd")


PIPES = """
import contextlib, io, os, signal, socket, sys
from pruning_lab import cli, files

os.mkfifo("pipe"); os.mkfifo("pipe.json")
plug = socket.socket(socket.AF_UNIX); plug.bind("plug"); os.symlink("plug", "plug.json")
for name in ("zero", "random"):
    os.symlink(f"/dev/{name}", name); os.symlink(f"/dev/{name}", f"{name}.json")
signal.alarm(90)
for words in eval(sys.argv[1]):
    for path in ("pipe", "plug", "zero", "random"):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main([word.format(path) for word in words])
        print(code, said.getvalue().strip())
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_pipes_sockets_and_devices_are_never_read(here):
    words = [*READERS.values(), ("report", "{}", *DIGITS, "--dense", "{}", "--out", "new")]
    done = subprocess.run(
        [sys.executable, "-c", PIPES, repr(words)], capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4 * len(words), done.stderr
    for line in lines:
        assert re.match(r"2 pruning-lab: \S+ is a pipe, a socket or a device; name a reg", line)


PEAK = """
import contextlib, io, sys
from pruning_lab import cli, data, experiments, masks, sensitivity

def peak():  # of this program; getrusage's is that of the process that started it, too
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

before = peak()
for words in eval(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli.main(words)
    print(code, peak() - before, said.getvalue().strip())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and memory in kilobytes")
def test_a_file_of_gigabytes_is_refused_before_it_is_read(here):
    """Nothing but zeros; a network with a tail; a valid file of another network; a long text."""
    entry = {"dtype": "F32", "shape": [1_500_000_000], "data_offsets": [0, 6_000_000_000]}
    header = json.dumps({"x": entry}).encode()
    starts = {
        "zeros": b"",
        "longer": Path("dense.safetensors").read_bytes(),
        "alien": struct.pack("<Q", len(header)) + header,
    }
    calls = []
    for name, start in {**starts, "text": b"{"}.items():
        Path(name).write_bytes(start)
        os.truncate(name, 8 + len(header) + 6_000_000_000)
        kinds = ["plan"] if name == "text" else ["network", "mask", "within", "dense"]
        calls += [[*reading(kind, name), *(MODEL if kind == "network" else ())] for kind in kinds]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, repr(calls)], capture_output=True, text=True, timeout=90
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith("mnist-5k: ")]
    assert len(lines) == len(calls), done.stderr
    for line in lines:
        code, megabytes, said = line.split(maxsplit=2)
        assert code == "2"
        assert float(megabytes) < 300  # the digits and their reader, too
        assert re.search("zeros|longer|alien|text", said)


MODEL = ("--model", "lenet-5")


# ---------------------------------------------------------------------- files that parse, and lie


def edit(path, change):
    """Change what a JSON file says, or what a safetensors file says of itself."""
    if Path(path).suffix == ".json":
        about = json.loads(Path(path).read_text())
        change(about)
        Path(path).write_text(json.dumps(about))
    else:
        tensors, about = files.load_tensors(path)
        change(about)
        files.save_tensors(path, tensors, about=about)


PLAN = ("prune", "dense.safetensors", "--plan", "plan.json", "--out", "new")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plan: plan["rows"].pop(), "other layers"),
        (lambda plan: plan["rows"].append(plan["rows"][0]), "'fc1' stands twice"),
        (lambda plan: plan["rows"].clear(), "rows must be .*length >= 1"),
        (lambda plan: plan["rows"][1].update(layer="fc9"), "no layer 'fc9' to prune; did you mean"),
        (lambda plan: plan["rows"][1].update(density=50), r"rows\[1\].density must be number <= 1"),
        (
            lambda plan: plan["rows"][1].update(density=-0.1),
            r"rows\[1\].density must be number >= 0",
        ),
        (
            lambda plan: plan["rows"][1].update(density="0.5"),
            r"rows\[1\].density must be number, g",
        ),
        (lambda plan: plan["rows"][1].update(density=None), r"rows\[1\].density must be number, g"),
        (lambda plan: plan["rows"][1].update(density=True), r"rows\[1\].density must be number, g"),
        (lambda plan: plan["rows"][1].update(density=10**400), r"rows\[1\].density"),
        (lambda plan: plan["rows"][1].update(weights=10**400), r"rows\[1\].weights must be a fin"),
        (
            lambda plan: plan["rows"][1].update(weights=0),
            r"rows\[1\].weights must be whole number >= 1",
        ),
        (lambda plan: plan["rows"][1].update(weights=76), "has 75 weights here, not 76"),
        (lambda plan: plan["rows"][1].update(weights=75.5), r"rows\[1\].weights must be whole num"),
        (lambda plan: plan["rows"][1].update(quality=-1), r"rows\[1\].quality must be number >= 0"),
        (lambda plan: plan["rows"][1].update(drop=7), r"rows\[1\].drop must be number <= 1"),
        (lambda plan: plan["rows"][1].update(colour="red"), r"rows\[1\]: unknown field 'colour'"),
        (lambda plan: plan["rows"][1].pop("why"), r"rows\[1\]: the field 'why' is missing"),
        (lambda plan: plan.pop("other_kept"), "the field 'other_kept' is missing"),
        (lambda plan: plan.update(other_weights=10, other_kept=11), "other_kept 11 of other_weigh"),
        (lambda plan: plan.update(other_weights=10, other_kept=1), "expected 10"),
        (lambda plan: plan.update(method="best"), "method.*'best'"),
        (lambda plan: plan.update(saliency="size"), "'size', which its name alone"),
        (lambda plan: plan.update(saliency=7), "saliency must be text, got whole number"),
        (lambda plan: plan.update(model_sha256="0"), "network with other weights; choose for this"),
        (lambda plan: plan.update(together={"value": 3, "low": 0, "high": 0, "n": 5}), "together"),
        (lambda plan: plan.update(together={"value": 0, "low": 0, "high": 0, "n": 0}), "together"),
        (lambda plan: plan.update(format="pruning_lab plan 1"), "plan of another version of prun"),
        (lambda plan: plan.update(format="pruning_lab scan 2"), "is not a plan file"),
        (lambda plan: plan.update(format=3), "is not a plan file"),
    ],
)
def test_a_plan_that_lies_is_refused(change, says, here):
    edit("plan.json", change)
    check_refused(PLAN, says)


def test_a_plan_for_other_weights_is_refused_here_and_in_the_library(here):
    words = ("prune", "other.safetensors", "--plan", "plan.json", "--out", "new")
    check_refused(words, r"plan\.json: the plan is for a network with other weights; choose for th")
    model, _ = models.load("other.safetensors")
    with pytest.raises(ValueError, match="other weights; choose for this one"):
        sensitivity.Plan.load("plan.json").mask(model)
    with pytest.raises(KeyError, match="no layer 'fc1' to prune"):
        sensitivity.Plan.load("plan.json").mask(nn.Sequential(nn.Linear(3, 3)))


def rows(change):
    """A function that edits the cells of scan.csv."""

    def edit_rows():
        lines = [line.split(",") for line in Path("scan.csv").read_text().splitlines()]
        change(lines)
        Path("scan.csv").write_text("".join(",".join(line) + "\n" for line in lines))

    return edit_rows


def cell(name, value, line=1):
    """A function that changes one cell of scan.csv, by its column's name."""
    return rows(lambda lines: lines[line].__setitem__(lines[0].index(name), value))


def about(change):
    return lambda: edit("scan.json", change)


@pytest.mark.parametrize(
    "change",
    [
        rows(lambda lines: lines.pop(3)),
        rows(lambda lines: lines.pop()),
        rows(lambda lines: lines.append(lines[-1])),
        rows(lambda lines: lines.insert(2, lines[1])),
        rows(lambda lines: lines.reverse()),
        rows(lambda lines: lines.clear()),
        rows(lambda lines: lines[2].pop()),
        cell("density", "-0.5"),
        cell("density", "50"),
        cell("density", "0.4"),
        cell("density", "half"),
        cell("density", ""),
        cell("density", "nan"),
        cell("accuracy_n", "-144"),
        cell("accuracy_n", "0"),
        cell("accuracy_n", "1e3"),
        cell("accuracy", "0.5001"),
        cell("accuracy", "50"),
        cell("accuracy_low", "0"),
        cell("drop", "0.5"),
        cell("drop_high", "0.9"),
        cell("drop_low", "inf"),
        cell("quality", "9"),
        cell("threshold", ""),
        cell("layer", "fc9"),
        cell("asked", "density 0.9"),
        about(lambda a: a["levels"].append(0.02)),
        about(lambda a: a["levels"].__setitem__(0, 50)),
        about(lambda a: a.update(asked="quality")),
        about(lambda a: a["layers"].pop("fc2")),
        about(lambda a: a["layers"].clear()),
        about(lambda a: a["layers"]["fc1"].update(weights=9)),
        about(lambda a: a["layers"]["fc1"].update(kept=-1)),
        about(lambda a: a["layers"]["fc1"].update(kept=10**9)),
        about(lambda a: a["other_layers"].update(kept=5)),
        about(lambda a: a["dense"].update(n=-3)),
        about(lambda a: a["dense"].update(value=2)),
        about(lambda a: a.update(saliency="size")),
    ],
)
def test_a_scan_that_was_changed_is_refused(change, here):
    change()
    says = r"scan\.csv is broken: it or scan\.json has changed since the scan; scan again"
    says += r"|scan\.json is broken: dense: no accuracy can be "
    check_refused(("choose", "scan.csv", "--density", ".3", "--out", "new"), says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("levels"), "the field 'levels' is missing"),
        (lambda a: a.pop("sha256"), "the field 'sha256' is missing"),
        (lambda a: a.update(colour=1), "unknown field 'colour'"),
        (lambda a: a.update(layers=[1]), "layers must be object, got list"),
        (lambda a: a.update(format="pruning_lab scan 2"), "a scan of another version"),
    ],
)
def test_a_file_that_is_no_scan_is_refused(change, says, here):
    edit("scan.json", change)
    check_refused(("choose", "scan.csv", "--density", ".3", "--out", "new"), says)


def test_a_scan_of_another_network_is_refused(here):
    words = ("choose", "scan.csv", "other.safetensors", *DIGITS, "--density", ".3", "--out", "new")
    check_refused(words, r"scan\.csv: the scan is for a network with other weights; scan this one")
    words = ("studio", "other.safetensors", *DIGITS, "--scan", "scan.csv", "--no-browser")
    check_refused(words, "other weights")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: run.update(format="pruning_lab run 1"), "a run of another version of prun"),
        (lambda run: run.pop("sha256"), "changed since the run"),
        (lambda run: run.pop("recipe"), "changed since the run"),
        (lambda run: run["recipe"].update(network="resnet"), "changed since the run"),
        (lambda run: run["test"]["pruned"].update(value=0.7), "changed since the run"),
        (lambda run: run["parameters"].update(pruned=1), "changed since the run"),
        (lambda run: run["layers"]["pruned"].pop(), "changed since the run"),
        (lambda run: run["epochs"][0].update(loss="low"), "changed since the run"),
        (lambda run: run.update(stages=7), "changed since the run"),
    ],
)
def test_a_run_that_lies_is_refused(change, says, here):
    edit("run/run.json", change)
    check_refused(("report", "run", "--out", "new"), says)


def test_a_record_with_nan_is_refused(here):
    text = Path("run/run.json").read_text()
    for number in ("NaN", "Infinity", "1e999"):
        Path("run/run.json").write_text(re.sub(r'"loss": [\d.]+', f'"loss": {number}', text))
        check_refused(("report", "run", "--out", "new"), r"run\.json is not JSON .* finite number")


def test_a_run_with_files_of_another_is_refused(here):
    before = Path("run/model.safetensors").read_bytes()
    shutil.copy("run/dense.safetensors", "run/model.safetensors")
    check_refused(("report", "run", "--out", "new"), "changed since the run")
    Path("run/model.safetensors").write_bytes(before)
    shutil.copy("mask.safetensors", "run/mask.safetensors")
    check_refused(("report", "run", "--out", "new"), "changed since the run")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda mask: mask["shapes"].update(fc1=[3, 5]), "its bits do not fill the shapes"),
        (lambda mask: mask["shapes"].update(fc1=[-15, -784]), "its bits do not fill the shapes"),
        (lambda mask: mask["shapes"].update(fc1=[10**30]), "its bits do not fill|finite number"),
        (lambda mask: mask["shapes"].pop("fc1"), "its bits do not fill the shapes"),
        (lambda mask: mask["receipt"].pop(), "its receipt counts other weights than its bits"),
        (lambda mask: mask["receipt"].append(mask["receipt"][0]), "its receipt counts other"),
        (lambda mask: mask["receipt"][0].update(kept=1), "its receipt counts other weights"),
        (lambda mask: mask["receipt"][0].update(density=1), "its receipt counts other weights"),
        (lambda mask: mask["receipt"][0].update(sigma="x"), r"receipt\[0\].sigma must be number"),
        (lambda mask: mask.update(format="pruning_lab mask 1"), "a mask of another version"),
    ],
)
def test_a_mask_that_lies_is_refused(change, says, here):
    edit("mask.safetensors", change)
    check_refused(reading("mask", "mask.safetensors"), says)


def test_a_mask_of_another_network_is_refused(here):
    masks.Mask({"fc1": torch.ones(3, 3)}).save("alien")
    check_refused(reading("mask", "alien"), "the mask of layer 'fc1' has shape")
    check_refused(reading("within", "alien"), "the mask of layer 'fc1' has shape")


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ([], "its about must be an object, got list"),
        ("lenet-5", "its about must be an object, got str"),
        ({"network": ["lenet-5"]}, "its network must be a name, got"),
        ({"network": 7}, "its network must be a name, got 7"),
        ({"network": "lenet-5"}, "is it of another network"),
        ({"network": "lenet-300-100"}, "is it of another network, width"),
        ({"network": "lenet-300-100", "width": "wide"}, "width of lenet-300-100 must be a number"),
        ({"network": "lenet-300-100", "width": 1e300}, "width of lenet-300-100 must be a number"),
        ({"network": "lenet-300-100", "width": 0.05, "classes": 10**30}, "classes of lenet"),
        ({}, "does not say which network it is; add --model NAME"),
        (None, "does not say which network it is; add --model NAME"),
    ],
)
def test_what_a_network_says_of_itself_is_checked(about, says, here):
    tensors, _ = files.load_tensors("dense.safetensors")
    files.save_tensors("odd", tensors, about=about)
    check_refused(reading("network", "odd"), says)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_everywhere(number, here):
    model, _ = models.load("dense.safetensors")
    model.fc2.weight.data[3, 3] = number
    models.save("odd", model, about=ABOUT)
    for kind in ("network", "weights", "dense"):
        words = (*reading(kind, "odd"), "--model", "lenet-300-100")
        words = words if kind != "weights" else reading("network", "odd")
        check_refused(words, "odd: fc2.weight has a number that is infinite or NaN; train again")


# ----------------------------------------------------------------------------------------- numbers

NUMBERS = {
    "prune dense.safetensors --density {}": "nan inf -inf -1 1.5 1e999 much 50",
    "prune dense.safetensors --density fc1={}": "nan inf -inf -1 1.5 1e999 much 50",
    "prune dense.safetensors --quality {}": "nan inf -inf -1 1e999 much",
    "prune dense.safetensors --threshold {}": "nan inf -inf -1 1e999 much",
    "choose scan.csv --density {} --out new": "nan inf -1 1.5 50 1e999 text",
    "choose scan.csv --max-drop {} --out new": "nan inf -1 101 1e999 text",
    "choose scan.csv --density .5 --method joint --evaluations {} --out new": "nan 0 -1 1.5 9"
    + 30 * "9",
    "choose scan.csv --density .5 --evaluations {} --out new": "5",
    "scan dense.safetensors --densities .5 {} --out new.csv": "nan inf -1 1.5 50 text",
    "scan dense.safetensors --qualities .5 {} --out new.csv": "nan inf -1 1e999 text",
    "run --compression {} --out new": "0 -1 nan inf 1e999 0.5 text 1e300",
    "run --density {} --out new": "nan inf -1 1.5 50 0.001",
    "run --max-drop {} --out new": "nan inf -1 101",
    "run --density .5 --evaluations {} --out new": "0 -1 nan",
    "run --evaluations {} --out new": "5",
    "run --seed {} --out new": "-1 1.5 nan text 99999999999999999999",
    "run --model alexnet --width {} --out new": "0 -1 nan inf 1e9",
    "run --model alexnet --size {} --out new": "0 -1 1.5 nan 99999999 16",
    "run --model alexnet --dropout {} --out new": "-1 1 nan inf text",
    "train --epochs {} --out new": "-1 1.5 nan 99999999999",
    "train --lr {} --out new": "0 -1 nan inf 1e999 text",
    "train --batch-size {} --out new": "0 -1 1.5 nan 99999999999",
    "train --weight-decay {} --out new": "-1 nan inf",
    "train --shift {} --out new": "-1 nan 1.5 99999999999",
    "train --data mnist-5k --shift {} --out new": "28 300",
    "train --crop {} --out new": "0 -1 1.5 nan",
    "train --colour {} --out new": "-1 nan inf 1e9",
    "train --accumulate {} --out new": "0 -1 nan 99999999999",
    "train --threads {} --out new": "0 -1 nan 100000",
    "studio --port {}": "-1 65536 nan text",
}


@pytest.mark.parametrize("words", NUMBERS)
def test_a_number_that_makes_no_sense_is_refused(words, here):
    for number in NUMBERS[words].split():
        check_refused(
            [*words.format(number).split(), *new(words)], r"must|takes one|goes with|at least"
        )


def new(words):
    return [] if "--out" in words or "studio" in words else ["--out", "new"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("prune dense.safetensors --frob", "Unknown option: --frob"),
        ("prine", 'Unknown command "prine". Did you mean "prune"'),
        ("prune dense.safetensors --density =.5 --out new", "takes one number"),
        ("prune dense.safetensors --density fc1= --out new", "takes one number"),
        ("prune dense.safetensors --density fc1=.5 fc1=.4 --out new", "for each layer once"),
        ("prune dense.safetensors --density", "--density requires at least 1 element"),
        ("train --model resnet --out new", "no built-in network 'resnet'; there are lenet-300"),
        ("run --model resnet", "no built-in network 'resnet'; there are lenet-300"),
        ("train --device tpu", 'Invalid value "tpu" for --device'),
    ],
)
def test_words_that_are_unknown_get_one_sentence(words, says, here):
    check_refused(words.split(), says)


def test_a_network_too_large_for_this_machine_is_refused(here, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1000))
    words = ("train", "--model", "vgg-16", "--data", "shapes", "--width", "1", "--out", "new")
    check_refused(words, r"training vgg-16.* takes \d GB of memory, .* choose a smaller --width")


# ------------------------------------------------------------------------------------------ resume


def interrupted(monkeypatch, words, after):
    """Ctrl-C when `train` begins an epoch for the time number `after`."""
    modes, seen = training.mode, []

    def stop(model, *, training):
        seen.append(1)
        if len(seen) > after:
            raise KeyboardInterrupt
        return modes(model, training=training)

    with monkeypatch.context() as patch:
        patch.setattr(training, "mode", stop)
        assert typed(*words)[0] == 130


def test_a_run_resumes_by_its_own_advice_with_the_same_options_from_any_moment(here, monkeypatch):
    words = ("run", *DIGITS, "--density", "0.5", "--method", "single", "--seed", "2")
    words = (*words, "--bf16", "--out", "again")
    recipe = experiments.chosen_recipe

    def quick(*given, **more):
        made = recipe(*given, **more)
        once = [replace(c, epochs=1, batch_size=400) for c in (made.dense, *made.retrain)]
        return replace(made, dense=once[0], retrain=tuple(once[1:]), scan=(0.7, 0.3))

    monkeypatch.setattr(experiments, "chosen_recipe", quick)
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        code, said = typed(*words)
        assert (code, Path("again").exists()) == (130, False)
        assert "the same command with --resume" in said
    interrupted(monkeypatch, (*words, "--resume"), after=0)
    assert Path("again/config.json").exists()
    interrupted(monkeypatch, (*words, "--resume"), after=2)
    for other, says in (
        (
            ("--seed", "3"),
            "was started with --seed 2, not 3; resume with the same options, or with",
        ),
        (("--model", "lenet-5"), "was started with --model lenet-300-100, not lenet-5"),
        (("--data", "mnist"), "was started with --data mnist-5k, not mnist"),
        (("--density", "0.4"), "was started with --density .*0.5.*, not 0.4"),
        (("--compression", "4"), "was started with .*--density 0.5, not --compression 4"),
        (("--max-drop", "1"), "was started with .*--density 0.5, not --max-drop 1"),
        (("--density", "0.5", "--method", "joint"), "was started with"),
        (("--width", "0.5"), "was started with --width 1.0, not 0.5"),
        (("--no-control",), "was started with --no-control False, not True"),
    ):
        check_refused(("run", "--resume", "--out", "again", *other), says)
    assert typed(*words, "--resume") == (0, "")
    whole = (*words[:-1], "whole")
    assert typed(*whole) == (0, "")
    for name in ("model.safetensors", "mask.safetensors", "plan.json"):
        assert Path("again", name).read_bytes() == Path("whole", name).read_bytes()
    assert typed("run", "--resume", "--out", "again") == (0, "")  # finished: shown again


def test_bf16_that_a_run_was_not_started_with_is_refused_when_it_is_resumed(here):
    Path("run/run.json").unlink()
    words = ("run", "--resume", "--out", "run", "--bf16")
    check_refused(words, "was started with --bf16 False")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: config.pop("recipe"), "the field 'recipe' is missing"),
        (lambda config: config.pop("seed"), "the field 'seed' is missing"),
        (lambda config: config.update(seed="x"), "seed must be whole number"),
        (lambda config: config.update(format="pruning_lab config 0"), "config of another version"),
        (lambda config: config["recipe"]["dense"].update(epochs=-4), "recipe.dense: epochs must"),
        (lambda config: config["recipe"].update(network="x"), "no built-in network 'x'"),
    ],
)
def test_what_a_run_was_started_with_is_checked(change, says, here):
    Path("run/run.json").unlink()
    edit("run/config.json", change)
    check_refused(("run", "--resume", "--out", "run"), says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda about: about["rows"].append({**about["rows"][0], "epoch": 2}),
            r"its rows \(2\) do not fit epochs=1",
        ),
        (lambda about: about["rows"][0].update(epoch=3), r"its rows \(1\) do not"),
        (lambda about: about["rows"].clear(), r"its rows \(0\) do not"),
        (lambda about: about["rows"][0].update(loss="x"), r"rows\[0\].loss must be number"),
        (lambda about: about.update(steps="x"), "steps must be whole number"),
        (lambda about: about.update(settings=[]), "settings must be object, got list"),
        (lambda about: about["settings"].update(lr=9), "of another training, with another lr"),
        (lambda about: about.update(optimizer=7), "optimizer must be object, got whole number"),
    ],
)
def test_a_checkpoint_that_lies_is_refused(change, says, toy, split, tmp_path):
    config, path = training.TrainConfig(epochs=1), tmp_path / "c"
    list(training.train(toy, split, config, checkpoint=path))
    edit(path, change)
    old, before = path.read_bytes(), [p.clone() for p in toy.parameters()]
    with pytest.raises(ValueError, match=says) as caught:
        list(training.train(toy, split, config, checkpoint=path))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == old
    assert all(map(torch.equal, before, toy.parameters()))


# ------------------------------------------------------------------------------------ the library


class Answers(nn.Module):
    """A network whose forward answers with what `wrap` makes of the logits."""

    def __init__(self, wrap):
        super().__init__()
        self.fc, self.wrap = nn.Linear(64, 4), wrap

    def forward(self, x):
        return self.wrap(self.fc(x.flatten(1)))


@pytest.mark.parametrize(
    "wrap", [lambda y: (y, y), lambda y: {"logits": y}, lambda y: [y], lambda y: None]
)
def test_a_network_that_answers_with_more_than_logits_is_told_to_wrap_it(wrap, split):
    model = Answers(wrap)
    for call in (
        lambda: evaluation.evaluate(model, split),
        lambda: list(training.train(model, replace(split, name="train"))),
        lambda: criteria.taylor(model, split),
        lambda: sensitivity.scan(model, split, [0.5]),
    ):
        with pytest.raises(
            ValueError, match="wrap it in a module whose forward returns the logits"
        ):
            call()


def test_a_model_without_weights_or_in_half_precision_is_told_what_to_type(toy, split):
    train = replace(split, name="train")
    with torch.device("meta"):
        empty = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    for call in (
        lambda: evaluation.evaluate(empty, split),
        lambda: list(training.train(empty, train)),
        lambda: masks.prune(empty, density=0.5),
    ):
        with pytest.raises(ValueError, match=r"meta device, .*to_empty"):
            call()
    with pytest.raises(ValueError, match="meta device"):
        files.save_tensors("x", empty.state_dict())
    with pytest.raises(ValueError, match=r"conv1.weight is in float16, .* type model.float\(\)"):
        list(training.train(toy.half(), train))


def test_an_amount_for_no_layer_a_shift_off_the_image_and_odd_saliencies_are_refused(toy, split):
    for kind in ("density", "quality", "threshold"):
        with pytest.raises(ValueError, match=f"no layer is named; give {kind}=NUMBER"):
            masks.prune(toy, **{kind: {}})
    with pytest.raises(ValueError, match="shift must be below 8, the images' side"):
        list(training.train(toy, replace(split, name="train"), training.TrainConfig(shift=8)))
    for saliency in (lambda w: w.norm(), lambda w: None, {n: torch.ones(1) for n in toy._modules}):
        with pytest.raises(ValueError, match="must be a tensor shaped like its weight"):
            masks.prune(toy, density=0.5, saliency=saliency)


def test_internal_errors_are_not_called_bad_input(here, monkeypatch):
    for error in (ValueError("x"), KeyError("weights"), ZeroDivisionError(), IndexError("odd")):

        def fails(*_, error=error, **__):
            exec("raise error", {"error": error})  # as in any library's line

        monkeypatch.setattr(masks, "prune", fails)
        code, said = typed("prune", "dense.safetensors", "--density", ".5", "--out", "new")
        assert (code, said.count("\n")) == (1, 1)
        assert f"internal error: {type(error).__name__}: " in said


# ---------------------------------------------------------------------------- what a search costs


def test_a_joint_search_says_its_cost_first_and_keeps_to_it(here, capsys):
    words = ("choose", "scan.csv", "dense.safetensors", *DIGITS, "--density", ".5", "--out", "new")
    for typed_, most in (((), "1,000"), (("--evaluations", "3"), "3")):
        assert cli.main([*words, "--method", "joint", *typed_, "--force"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == (f"a search of at most {most} evaluations, each on 1,000 images")
    assert cli.main([*words, "--method", "joint", "--json", "--force"]) == 0
    json.loads(capsys.readouterr().out)


def test_a_run_says_what_its_search_costs_before_it_trains(here, capsys, monkeypatch):
    for words, says in (
        (("--density", "0.5"), " and a search of at most 1,000 evaluations; files go to"),
        (("--max-drop", "1", "--evaluations", "7"), " and a search of at most 7 evaluations; file"),
        (("--density", "0.5", "--method", "single", "--no-control"), "epochs in all; files go to"),
        (("--density", "0.5", "--method", "single"), "of them for the control; files go to"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(experiments, "run", lambda *_, **__: (_ for _ in ()).throw(KeyError))
            with pytest.raises(KeyError):
                cli.main(["run", *DIGITS, *words, "--out", "new", "--debug"])
        assert says in capsys.readouterr().out.splitlines()[1]


# -------------------------------------------------------------------------------- random mutations

SUBJECTS = {
    "plan.json": PLAN,
    "scan.json": ("choose", "scan.csv", "--density", ".3", "--out", "new"),
    "scan.csv": ("choose", "scan.csv", "--density", ".3", "--out", "new"),
    "run/run.json": ("report", "run", "--out", "new"),
    "run/config.json": ("run", "--resume", "--out", "run"),
    "mask.safetensors": (
        *("prune", "dense.safetensors", "--within", "mask.safetensors", "--density", "0.4"),
        *("--out", "new"),
    ),
    "dense.safetensors": ("prune", "dense.safetensors", "--density", ".5", "--out", "new"),
}
VALUES = [None, True, -1, 0, 1, 0.5, 7, 1e300, 10**30, "", "x", [], [0.5], {}, {"a": 1}]


def places(value, path=()):
    """The path of every entry in a JSON value."""
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            yield (*path, key)
            yield from places(entry, (*path, key))


def mutated(draw, raw):
    """Bytes flipped or cut; or a JSON value replaced, dropped or doubled."""
    how = draw(st.sampled_from(["flip", "cut", "value", "drop", "double", "shuffle"]))
    if how in ("flip", "cut") or not raw.lstrip().startswith(b"{"):
        raw = bytearray(raw)
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, min(len(raw), 6000) - 1))
            raw[place] = draw(st.integers(0, 255))
        return bytes(raw[: draw(st.integers(0, len(raw)))] if how == "cut" else raw)
    about = json.loads(raw)
    *path, key = draw(st.sampled_from(list(places(about))))
    inner = about
    for step in path:
        inner = inner[step]
    if how == "value":
        inner[key] = draw(st.sampled_from(VALUES))
    elif how == "drop":
        del inner[key]
    elif how == "double" and isinstance(inner, list):
        inner.insert(key, inner[key])
    elif how == "shuffle" and isinstance(inner, list):
        inner.reverse()
    else:
        text = json.dumps(inner[key])
        twice = json.dumps({key: 0})[1:-2] + text + ", "
        return (
            json.dumps(about)
            .replace(json.dumps(inner), "{" + twice + json.dumps(inner)[1:])
            .encode()
        )
    return json.dumps(about).encode()


@pytest.mark.parametrize("name", SUBJECTS)
@settings(max_examples=15)
@given(draw=st.data())
def test_a_mutated_file_is_refused_or_gives_the_right_result(name, made, draw, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / f"mutated {name.replace('/', ' ')}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    target = folder / name
    old = target.read_bytes()
    new = mutated(draw.draw, old)
    target.write_bytes(new)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with contextlib.chdir(folder):
        code, said = typed(*SUBJECTS[name])
        assert code in (0, 2), said
        after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        result = after.pop(folder / "new", None)
        after.pop(folder / "run" / "report.html", None)
        before.pop(folder / "run" / "report.html", None)
        assert after == before
        if code == 2:
            assert result is None
            assert said.startswith("pruning-lab: ")
            assert said.count("\n") == 1
            return
        assert said == ""
        check_right(name, new, folder, made)


def check_right(name, new, folder, made):
    """What came out is what the file says, and nothing that was measured has changed."""
    if name == "plan.json":
        rows = {row["layer"]: row for row in json.loads(new)["rows"]}
        mask = masks.Mask.load(folder / "new")
        assert {n: int(kept.sum()) for n, kept in mask.items()} == {
            n: round(rows[n]["density"] * rows[n]["weights"]) for n in mask
        }
    elif name in ("scan.json", "scan.csv"):
        one, other = (sensitivity.Scan.load(where / "scan.csv") for where in (folder, made))
        for ours, theirs in zip(one, other, strict=True):
            assert ours == theirs
    elif name == "mask.safetensors":
        assert masks.Mask.load(folder / name) == masks.Mask.load(made / name)
    elif name == "dense.safetensors":
        model, about = models.load(folder / name)
        assert masks.Mask.load(folder / "new") == masks.prune(model, density=0.5)
        assert about["network"] == "lenet-300-100"
    else:
        one, other = (json.loads((where / "run/run.json").read_text()) for where in (folder, made))
        assert one["parameters"] == other["parameters"]
        for key in ("value", "low", "high", "n"):
            for part in ("dense", "pruned", "drop"):
                assert one["test"][part][key] == other["test"][part][key]
