"""The command line as a person types it: real processes, real files."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from contextlib import chdir
from pathlib import Path

import pytest
import torch
import tqdm

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
    studio,
)
from pruning_lab.cli import common, page
from pruning_lab.cli import studio as studio_command


def lab(*words, cwd):
    """`pruning-lab WORDS` in a process of its own, on mnist-5k, with one thread."""
    return subprocess.run(
        [sys.executable, "-m", "pruning_lab", *words],
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )


def here(*words):
    """The same in this process."""
    return cli.main(words)


SCAN = ("scan", "dense.safetensors", "--data", "mnist-5k")


def without_clocks(record):
    """A record less what differs between equal runs: times, memory, the folder in the command."""
    record = json.loads(json.dumps(record))
    del record["seconds"], record["sha256"], record["command"]
    for row in record["epochs"]:
        del row["seconds"], row["peak_bytes"]
    return record


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with one whole run on mnist-5k, and what it printed.

    `killed` is what would be there if it had been killed in its third round.
    """
    folder = tmp_path_factory.mktemp("run")
    words = [sys.executable, "-m", "pruning_lab", "run", "--data", "mnist-5k", "--out", "first"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen(words, cwd=folder, text=True, **pipes)
    waiting = folder / "first" / "checkpoints" / "round-2.safetensors"
    deadline = time.monotonic() + 240
    while not waiting.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGSTOP)
    shutil.copytree(folder / "first", folder / "killed")
    run.send_signal(signal.SIGCONT)
    said = subprocess.CompletedProcess(words, 0, *run.communicate(timeout=300))
    assert run.returncode == 0
    return folder, said


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A folder in which train, prune and retrain were typed one after the other."""
    folder = tmp_path_factory.mktemp("by_hand")
    with chdir(folder):
        assert here("train", "--data", "mnist-5k", "--epochs", "30") == 0
        assert here("prune", "dense.safetensors", "--density", "fc1=0.05", "fc2=0.1") == 0
        words = ("retrain", "dense.safetensors", "--mask", "mask.safetensors", "--freeze", "fc3")
        assert here(*words, "--data", "mnist-5k", "--epochs", "10") == 0
    return folder


def test_run_ends_in_two_tables_beside_the_papers(finished):
    _, said = finished
    assert "mnist-5k: 3,000 train / 1,000 val / 1,000 test" in said.stdout.splitlines()[0]
    for word in (
        "Table 1",
        "1.64%",
        "1.59%",
        "267K",
        "12x",
        "Table 2",
        "fc3",
        "paper",
        "% interval",
    ):
        assert word in said.stdout
    assert said.stderr == ""  # no bar where nobody watches


def test_run_leaves_every_file_it_promises(finished):
    folder, _ = finished
    names = {path.name for path in (folder / "first").iterdir()}
    expected = {"config.json", "run.json", "report.html", "scan.csv", "scan.json"}
    expected |= {f"{name}.safetensors" for name in ("dense", "model", "control", "mask")}
    assert names == expected


def test_the_network_in_the_files_is_the_one_in_the_record(finished):
    folder, _ = finished
    record = json.loads((folder / "first" / "run.json").read_text())
    model = models.lenet_300_100()
    models.load_(model, folder / "first" / "model.safetensors")
    mask = masks.Mask.load(folder / "first" / "mask.safetensors")
    splits = data.load("mnist-5k")
    assert evaluation.evaluate(model, splits.test).value == record["test"]["pruned"]["value"]
    alive = sum(int(p.count_nonzero()) for n, p in model.named_parameters() if "weight" in n)
    biases = sum(p.numel() for n, p in model.named_parameters() if "bias" in n)
    assert alive <= mask.kept
    assert record["parameters"]["pruned"] == alive + biases <= 22_000
    assert all((model.get_submodule(name).weight[~kept] == 0).all() for name, kept in mask.items())


def test_the_report_is_one_file_that_asks_nothing_of_the_network(finished):
    folder, _ = finished
    page = (folder / "first" / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") >= 5
    assert "://" not in page
    assert "<script" not in page
    assert str(folder) not in page


def test_a_killed_run_resumed_ends_as_an_uninterrupted_one(finished, monkeypatch, capsys):
    folder, _ = finished
    assert (folder / "killed" / "checkpoints" / "round-2.safetensors").exists()
    assert not (folder / "killed" / "run.json").exists()
    monkeypatch.chdir(folder)
    assert here("run", "--data", "mnist-5k", "--out", "killed") == 2
    assert "--resume" in capsys.readouterr().err

    assert here("run", "--resume", "--out", "killed") == 0
    resumed, whole = folder / "killed", folder / "first"
    for name in ("dense.safetensors", "model.safetensors", "mask.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    records = [json.loads((place / "run.json").read_text()) for place in (resumed, whole)]
    assert without_clocks(records[0]) == without_clocks(records[1])


def test_resume_refuses_other_settings_than_the_runs(finished, capsys):
    folder, _ = finished
    assert here("run", "--resume", "--out", str(folder / "first"), "--seed", "3") == 2
    assert "--seed 0, not 3" in capsys.readouterr().err
    assert here("run", "--resume", "--out", str(folder / "first"), "--density", "0.1") == 2
    assert "with 3 fixed rounds, not --density 0.1; resume" in capsys.readouterr().err


def test_report_shows_a_finished_run_again(finished, capsys):
    folder, said = finished
    assert here("report", str(folder / "first")) == 0
    again = capsys.readouterr().out
    assert said.stdout.split("Table 1")[1].split("The plots")[0].strip() in again


def test_json_is_all_that_is_printed_when_asked(finished, capsys):
    folder, _ = finished
    assert here("report", str(folder / "first"), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((folder / "first" / "run.json").read_text())


def test_train_prune_and_retrain_hand_files_on(by_hand):
    dense, pruned = models.lenet_300_100(), models.lenet_300_100()
    models.load_(dense, by_hand / "dense.safetensors")
    models.load_(pruned, by_hand / "pruned.safetensors")
    assert pruned.fc1.weight.count_nonzero() == round(0.05 * 235_200)
    assert pruned.fc2.weight.count_nonzero() == round(0.1 * 30_000)
    assert torch.equal(pruned.fc3.weight, dense.fc3.weight)  # --freeze
    assert not torch.equal(pruned.fc2.bias, dense.fc2.bias)
    assert not list(by_hand.glob("*.checkpoint"))


def test_report_compares_two_files(by_hand, monkeypatch, capsys):
    monkeypatch.chdir(by_hand)
    words = ("report", "pruned.safetensors", "--dense", "dense.safetensors", "--data", "mnist-5k")
    assert here(*words, "--out", "page.html") == 0
    assert "Table 1: LeNet-300-100" in capsys.readouterr().out
    assert (by_hand / "page.html").read_text().startswith("<!doctype html>")


def test_the_same_seed_trains_the_same_network_and_another_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "--data", "mnist-5k", "--epochs", "1", "--out")
    lab(*words, "a", "--seed", "1", cwd=tmp_path)  # in a process of its own, and in this one
    for name, seed in (("b", "1"), ("c", "2")):
        assert here(*words, name, "--seed", seed) == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("prune", "nowhere.safetensors", "--density", "0.1"),
            "nowhere.safetensors could not be read",
        ),
        (("prune", "dense.safetensors", "--density", "8"), "divide by 100"),
        (("prune", "dense.safetensors", "--density", "much"), "takes one number (0.08), or LAYER"),
        (("prune", "dense.safetensors", "--density", "fc1=.1", ".2"), "got fc1=.1 .2"),
        (("prune", "dense.safetensors", "--density", "fc1=.1", "fc1=.2"), "for each layer once"),
        (("prune", "dense.safetensors", "--quality", "fcl=1"), "did you mean fc"),
        (("prune", "dense.safetensors"), "exactly one of"),
        (("prune", "--density", "0.1"), "name a network's file"),
        (("prune", "dense.safetensors", "--plan", "p", "--density", ".1"), "leave --density out"),
        (("prune", "dense.safetensors", "--plan", "p", "--within", "m"), "leave --within out"),
        (
            ("prune", "dense.safetensors", "--plan", "nowhere.json"),
            "nowhere.json could not be read",
        ),
        (("prune", "dense.safetensors", "--plan", "dense.safetensors"), "is not"),
        (("retrain", "dense.safetensors", "--mask", "dense.safetensors"), "not a mask file"),
        (("report", "dense.safetensors"), "--dense"),
        (("report", "."), "no finished run"),
        (("run", "--compression", "1000"), "biases are never pruned"),
        (("run", "--density", "8"), "divide by 100"),
        (("run", "--density", "0.1", "--max-drop", "1"), "one of --compression, --density and"),
        (("run", "--method", "joint"), "goes with --density or --max-drop"),
        (("train", "--lr", "-1"), "must be a number above 0"),
        (("train", "--device", "cuda"), "no device 'cuda"),
        (("train", "--data", "mnist", "--root", "nowhere"), "--download"),
        (("train", "--data", "minst"), f"there are {', '.join(common.DATA)}"),
        (("run", "--data", "folder:nowhere"), "type folder:PATH"),
        (("scan",), "name a network's file"),
        (
            ("scan", "dense.safetensors", "--weights", "dense.safetensors"),
            "nothing takes 'dense.safetensors'",
        ),
        (("scan", "mask.safetensors"), "does not say which network it is; add --model NAME"),
        (
            ("scan", "dense.safetensors", "--model", "lenet"),
            "no built-in network 'lenet'; there are",
        ),
        (("scan", "dense.safetensors", "--model", "lenet-5"), "is it of another network, width"),
        (("scan", "dense.safetensors", "--out", "."), "--out . is a folder"),
        (("scan", "dense.safetensors", "--out", "a.json"), "the rows go to a .csv"),
        ((*SCAN, "--densities", "50"), "divide by 100"),
        ((*SCAN, "--densities", ".5", "--qualities", "1"), "one of the two"),
        ((*SCAN, "--layers", "fcl"), "did you mean fc"),
        (("choose", "nowhere.csv", "--density", ".1"), "nowhere.json could not be read"),
        (("choose", "scan.csv"), "give one of --max-drop, --max-drop-per-layer and --density"),
        (("choose", "scan.csv", "--density", ".1", "--max-drop", "1"), "give one of --max-drop, "),
        (("choose", "scan.csv", "--density", "10"), "divide by 100"),
        (
            ("choose", "scan.csv", "--max-drop", "0.5"),
            "name the network's file: pruning-lab",
        ),
        (("choose", "scan.csv", "--density", "0.5", "--method", "joint"), "name the network's"),
        (("report", "runs/nothing"), "no file or folder runs/nothing; check the path"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(words, expected, scanned, capsys, monkeypatch):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has what the sentence is about")
    folder, _ = scanned
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PRUNING_LAB_DATA", "nowhere")
    before = sorted(folder.iterdir())
    force = () if words[0] == "run" else ("--force",)  # the files of `scanned` are there
    assert cli.main((*words, *force)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert sorted(folder.iterdir()) == before  # nothing half-done


def test_debug_shows_the_traceback(by_hand, monkeypatch):
    monkeypatch.chdir(by_hand)
    with pytest.raises(FileNotFoundError):
        cli.main(("prune", "nowhere", "--density", "0.1", "--debug", "--force"))


def test_help_answers_at_once_with_an_example():
    course = [f"course {word}" for word in ("start", "release", "grade", "score")]
    for command in [*({*cli.COMMANDS} - {"course"}), *course]:
        words = [*command.split(), "--help"]
        code = f"import sys; from pruning_lab import cli; cli.main({words}); "
        code += "assert 'torch' not in sys.modules"
        words = [sys.executable, "-c", code]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert f"example:\n  pruning-lab {command}" in said
        assert not set(said) & set("\x1b╭│─")  # plain where it is piped


def test_help_names_all_commands_and_shows_defaults_and_choices(capsys):
    for words in ((), ("--help",)):
        assert here(*words) == 0
        said = capsys.readouterr().out
        assert all(f"    {command} " in said for command in cli.COMMANDS)
    assert here("train", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("[default: dense.safetensors]", "[choices: auto, cpu, cuda, mps]", "Training"):
        assert text in said
    for network in ("lenet-300-100", "lenet-5", "alexnet", "vgg-16"):
        dense = experiments.paper_recipe(network, "mnist").dense
        assert re.search(rf"Passes [^]]*{network}[a-z0-9 -]* {dense.epochs}\b", said)
        assert re.search(rf"rate [^]]*{network}[a-z0-9 -]* {dense.lr:g}\b", said)
        batch = "128;" if network != "vgg-16" else "vgg-16 64"
        assert str(dense.batch_size) in batch
        assert batch in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("scn",), 'Unknown command "scn". Did you mean "scan"?'),
        (("scan", "--densites", "0.1"), "Unknown option: --densites. Did you mean --densities?"),
        (("train", "--device", "cda"), 'Did you mean "cuda"?'),
    ],
)
def test_a_typing_mistake_gets_the_nearest_word(words, expected, capsys):
    assert here(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pruning-lab: ")
    assert expected in line


def test_shells_complete_commands_and_options():
    script = cli.app().generate_completion(shell="bash")
    assert "retrain" in script
    assert "--densities" in script


def test_the_names_a_person_types_are_those_the_library_knows():
    assert list(common.NETWORKS) == list(models.BUILT_IN)
    assert list(common.DATA) == ["auto", *data.LOADERS, "folder:PATH"]


# --- scan, choose, prune --plan ----------------------------------------------------------------

LEVELS = ("--densities", "0.5", "0.1", "0.02")


@pytest.fixture(scope="module")
def scanned(by_hand):
    """The folder of `by_hand` with a scan in it, and what the scan printed."""
    return by_hand, lab(*SCAN, *LEVELS, cwd=by_hand)


@pytest.fixture
def dense(by_hand):
    model = models.lenet_300_100()
    models.load_(model, by_hand / "dense.safetensors")
    return model.eval()


@pytest.fixture
def inside(scanned, monkeypatch):
    """The folder of the scan, entered; what is imported there is forgotten again."""
    folder, _ = scanned
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def by_pruning(model, density, images):
    """Accuracy and drop of masks.prune at these densities, by two plain evaluations."""
    before = evaluation.evaluate(model, images)
    with masks.masked(model, masks.prune(model, density=density)):
        after = evaluation.evaluate(model, images)
    return after, evaluation.drop(before, after)


def test_scan_writes_what_pruning_each_layer_gives_on_val(scanned, dense):
    folder, _ = scanned
    scan, val = sensitivity.Scan.load(folder / "scan.csv"), data.load("mnist-5k").val
    cells = [(layer, d) for layer in ("fc1", "fc2", "fc3") for d in (0.5, 0.1, 0.02)]
    assert [(p.layer, p.asked) for p in scan] == [(n, f"density {d:g}") for n, d in cells]
    for point, (layer, density) in zip(scan, cells, strict=True):
        assert (point.accuracy, point.drop) == by_pruning(dense, {layer: density}, val)
    assert scan.about["images_sha256"] == val.fingerprint()


def test_scan_says_how_before_and_shows_a_table_for_each_layer(scanned):
    folder, said = scanned
    data_line, how, *_ = lines = said.stdout.splitlines()
    assert data_line.startswith("mnist-5k: ")
    assert how == "9 points on 1,000 images"
    assert lines[-1] == "wrote scan.csv and scan.json"
    assert said.stderr == ""  # no bar where nobody watches
    scan = sensitivity.Scan.load(folder / "scan.csv")
    for layer in scan.layers:
        heading = f"{layer}: {scan.about['layers'][layer]['weights']:,} weights, sigma "
        start = next(k for k, line in enumerate(lines) if line.startswith(heading))
        for point, line in zip(scan.of(layer), lines[start + 3 :], strict=False):
            accuracy = point.accuracy
            for text in (
                point.asked,
                f"{point.density:.2%}",
                f"{point.quality:.2f}",
                f"{accuracy.value:.2%} ({accuracy.low:.2%} to {accuracy.high:.2%})",
                str(point.drop),
            ):
                assert text in line


def test_scan_in_json_is_all_that_is_printed(inside, capsys):
    assert here(*SCAN, *LEVELS, "--out", "again.csv", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    scan = sensitivity.Scan.load("scan.csv")
    assert [(p["layer"], p["accuracy"]["value"], p["drop"]["low"]) for p in said["points"]] == [
        (p.layer, p.accuracy.value, p.drop.low) for p in scan
    ]
    assert said["dense"]["value"] == scan.dense.value
    assert (inside / "again.csv").read_bytes() == (inside / "scan.csv").read_bytes()


def test_scan_without_levels_takes_nine_densities(inside, capsys):
    assert here(*SCAN, "--layers", "fc3", "fc2", "--out", "default.csv") == 0
    assert "18 points on 1,000 images" in capsys.readouterr().out
    scan = sensitivity.Scan.load("default.csv")
    assert [p.asked for p in scan if p.layer == "fc2"] == [
        f"density {level}" for level in (0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
    ]
    assert scan.layers == ["fc2", "fc3"]


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("--qualities", "0.5", "1.5"), {"qualities": [0.5, 1.5]}),
        ((*LEVELS, "--saliency", "random", "--seed", "4"), {"saliency": criteria.random(4)}),
    ],
)
def test_what_is_typed_reaches_the_scan(words, settings, inside, dense, tmp_path):
    assert here(*SCAN, *words, "--out", f"{tmp_path}/typed.csv") == 0
    torch.manual_seed(4)
    densities = None if "qualities" in settings else [0.5, 0.1, 0.02]
    expected = sensitivity.scan(dense, data.load("mnist-5k").val, densities, **settings)
    expected.save(tmp_path / "expected.csv")
    assert same_bytes(tmp_path / "typed", tmp_path / "expected")
    assert not same_bytes(tmp_path / "typed", inside / "scan")  # so the word did something


@pytest.fixture
def on_mnist(mnist_root, tmp_path, monkeypatch):
    """The words of a scan in ten batches, in a folder with the network that comes with us."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNING_LAB_DATA", str(mnist_root))
    model = models.lenet_300_100(trained="mnist")
    models.save("dense.safetensors", model, about={"network": "lenet-300-100"})
    return ("scan", "dense.safetensors", "--densities", "0.3", "0.1", "0.0001", "0")


def same_bytes(name, other):
    return all(
        Path(f"{name}.{suffix}").read_bytes() == Path(f"{other}.{suffix}").read_bytes()
        for suffix in ("csv", "json")
    )


def test_two_processes_write_the_bytes_of_one(on_mnist, capsys):
    assert here(*on_mnist, "--out", "one.csv") == 0
    one = capsys.readouterr().out.splitlines()
    launch = ("torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m")
    words = [sys.executable, "-m", *launch, "pruning_lab", *on_mnist, "--out", "two.csv"]
    said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=300)
    two = said.stdout.replace("two.", "one.").splitlines()
    assert same_bytes("one", "two")
    # Said by the first process alone, in the same words but for the line of the estimate.
    assert two[1].startswith("12 points on 5,000 images, shared by 2 processes")
    assert [two[0], *two[2:]] == [one[0], *one[2:]]
    assert not list(Path().glob("*.part*"))


def test_an_interrupted_scan_resumed_ends_as_an_uninterrupted_one(on_mnist, capsys, monkeypatch):
    def interrupt(bar, images):
        bar.n += images
        if bar.n >= 1500:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tqdm.tqdm, "update", interrupt)
        assert here(*on_mnist) == 130
    said = capsys.readouterr().err
    assert (
        "interrupted; the same command with --resume continues after the last finished batch"
        in said
    )
    assert len(Path("scan.csv.part0").read_text().splitlines()) == 1 + 3  # what it is, and batches
    assert not Path("scan.csv").exists()
    assert here(*on_mnist) == 2
    assert "resume it by --resume" in capsys.readouterr().err
    assert here(*on_mnist, "--resume") == 0
    assert here(*on_mnist, "--out", "whole.csv") == 0
    assert same_bytes("scan", "whole")
    assert not list(Path().glob("*.part*"))


def test_on_a_terminal_a_bar_says_how_much_is_left_and_vanishes(on_mnist, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    assert here(*on_mnist) == 0
    bars = capsys.readouterr().err.split("\r")
    assert bars[-1].strip() == ""
    assert any(re.search(r"^ *\d+%\|.*\| \d+/5000 images, [\d:?]+ left$", bar) for bar in bars)


@pytest.mark.parametrize("amount", [("--max-drop-per-layer", "2"), ("--density", "0.2")])
def test_choose_writes_a_plan_and_says_how_to_measure_it(amount, inside, capsys):
    assert here("choose", "scan.csv", *amount, "--force") == 0
    said = capsys.readouterr().out
    plan, number = sensitivity.Plan.load("plan.json"), float(amount[1])
    if amount[0] == "--density":
        assert plan.density == pytest.approx(number, abs=1e-3)
    else:
        assert all(row.drop == pytest.approx(number / 100, abs=1e-3) for row in plan.rows)
    assert said.startswith(str(plan))
    assert f"pruning-lab choose scan.csv NETWORK.safetensors {' '.join(amount)}" in said
    assert "wrote plan.json" in said


@pytest.mark.parametrize("method", ["single", "joint"])
def test_choose_with_the_network_measures_all_layers_together(method, inside, dense, capsys):
    words = ("choose", "scan.csv", "dense.safetensors", "--data", "mnist-5k", "--density", "0.1")
    assert here(*words, "--method", method, "--out", "measured.json", "--json", "--force") == 0
    said = json.loads(capsys.readouterr().out)
    plan = sensitivity.Plan.load("measured.json")
    assert (plan.method, plan.densities) == (
        method,
        {row["layer"]: row["density"] for row in said["rows"]},
    )
    _, drop = by_pruning(dense, plan.densities, data.load("mnist-5k").val)
    assert plan.together == drop
    assert said["together"]["value"] == drop.value
    assert plan.density == pytest.approx(0.1, abs=1e-4)


def test_choose_names_the_prune_that_comes_next_and_it_follows_the_plan(inside, dense, capsys):
    words = ("choose", "scan.csv", "dense.safetensors", "--max-drop-per-layer", "3")
    assert here(*words, "--out", "next.json") == 0
    *_, last = capsys.readouterr().out.splitlines()
    typed = last.partition("next: pruning-lab ")[2].split()
    assert typed == ["prune", "dense.safetensors", "--plan", "next.json"]
    assert here(*typed, "--out", "planned.safetensors") == 0
    mask = masks.Mask.load("planned.safetensors")
    rows = json.loads((inside / "next.json").read_text())["rows"]
    assert 0 < sum(row["density"] for row in rows) < 3
    for row in rows:
        weight, kept = dense.get_submodule(row["layer"]).weight.detach(), mask[row["layer"]]
        assert int(kept.sum()) == round(row["density"] * weight.numel())
        assert weight[kept].abs().min() >= weight[~kept].abs().max()


def test_a_plan_of_random_choices_carries_its_seed_and_replays_to_the_same_mask(inside, dense):
    assert here(*SCAN, *LEVELS, "--saliency", "random", "--seed", "3", "--out", "random.csv") == 0
    assert here("choose", "random.csv", "--density", "0.5", "--out", "replay.json") == 0
    for name, seed in (("a", "1"), ("b", "2")):
        words = ("prune", "dense.safetensors", "--plan", "replay.json", "--seed", seed)
        assert here(*words, "--out", f"{name}.safetensors") == 0
    a, b = (masks.Mask.load(f"{name}.safetensors") for name in "ab")
    densities = sensitivity.Plan.load("replay.json").densities
    assert a == b == masks.prune(dense, density=densities, saliency=criteria.random(3))


def test_choose_on_other_images_than_the_scans_is_refused(inside, mnist_root, capsys):
    words = ("choose", "scan.csv", "dense.safetensors", "--max-drop", "1", "--out", "other.json")
    assert here(*words, "--data", "mnist", "--root", str(mnist_root)) == 2
    assert "other images than these; name the same --data" in capsys.readouterr().err
    assert not (inside / "other.json").exists()


def test_a_scan_by_a_function_of_a_users_is_continued_in_python(inside, dense, capsys):
    val = data.load("mnist-5k").val
    sensitivity.scan(dense, val, [0.5], saliency=lambda weight: weight.abs()).save("aged.csv")
    assert here("choose", "aged.csv", "--density", "0.9", "--force") == 2
    assert "which its name alone does not make; continue in Python" in capsys.readouterr().err


# --- networks of one's own ---------------------------------------------------------------------

OWN = """
import torch
from torch import nn

print("loaded")


class Net(nn.Module):  # a shortcut, so no chain; and batch norm
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.mix = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.head((x + self.mix(x)).mean((2, 3)))


CLASSES = 3


def make():
    return Net()


def text():
    return "a network"


def fails():
    raise RuntimeError("no luck\\nat all")


ready = Net()
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module, weights for its network, and photos in three classes."""
    from PIL import Image

    (tmp_path / "own_nets.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import nothing_like_this\n")
    (tmp_path / "own_exits.py").write_text("import sys\nsys.exit('usage: ...')\n")
    draw = torch.Generator().manual_seed(0)
    for part, count in (("train", 30), ("val", 40), ("test", 2)):
        for label, name in enumerate("abc"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (9, 7, 3), generator=draw, dtype=torch.uint8)
                pixels[..., label] //= 2
                Image.fromarray(pixels.numpy()).save(folder / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    torch.manual_seed(3)
    import own_nets

    yield tmp_path, own_nets.make()
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_network_of_ones_own_is_scanned_chosen_for_and_pruned(own, capsys):
    _, model = own
    models.save("own.safetensors", model.eval())
    network = ("--model", "own_nets:make", "--weights", "own.safetensors")
    photos = ("--data", "folder:photos")
    assert here("scan", *network, *photos, *LEVELS, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["split"] == "val"  # what the module prints goes elsewhere
    scan, val = sensitivity.Scan.load("scan.csv"), data.load("folder:photos").val
    assert scan.layers == ["conv", "mix", "head"]
    for point in scan:
        density = {point.layer: float(point.asked.split()[1])}
        assert (point.accuracy, point.drop) == by_pruning(model, density, val)
    assert len({point.accuracy for point in scan}) > 3

    assert here("choose", "scan.csv", *network, *photos, "--density", "0.4") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    file = "own.safetensors --model own_nets:make"
    assert last == f"next: pruning-lab prune {file} --plan plan.json"
    words = ("prune", *last.split()[3:], "--save-model", "pruned.safetensors")
    assert here(*words) == 0
    wrote = "wrote mask.safetensors and pruned.safetensors"
    assert capsys.readouterr().out.splitlines()[-1] == wrote
    assert here(*words, "--json", "--force") == 0
    assert json.loads(capsys.readouterr().out)["save_model"] == "pruned.safetensors"
    plan = sensitivity.Plan.load("plan.json")
    mask = masks.prune(model, density=plan.densities)
    assert masks.Mask.load("mask.safetensors").fingerprint() == mask.fingerprint()
    mask.apply_(model)
    pruned = sys.modules["own_nets"].make()
    assert models.load_(pruned, "pruned.safetensors") == {"network": "own_nets:make"}
    assert all(
        torch.equal(a, b) for a, b in zip(pruned.parameters(), model.parameters(), strict=True)
    )


def test_a_network_without_weights_is_as_its_function_and_the_seed_make_it(own):
    folder, _ = own
    words = ("scan", "--model", "own_nets:make", "--data", "folder:photos", *LEVELS)
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert here(*words, "--seed", seed, "--out", f"{name}.csv") == 0
    a, b, c = ((folder / f"{name}.json").read_bytes() for name in "abc")
    assert a == b != c


def test_a_file_never_has_code_imported_that_was_not_typed(own, capsys):
    _, model = own
    models.save("sly.safetensors", model, about={"network": "own_broken:make"})
    expected = "code that is not run unasked; if you trust it, add --model own_broken:make"
    for words in (("scan",), ("retrain", "--mask", "mask.safetensors"), ("prune",), ("studio",)):
        assert here(*words, "sly.safetensors") == 2
        assert expected in capsys.readouterr().err
        assert "own_broken" not in sys.modules


@pytest.mark.parametrize("safe", [(), ("-P",)])  # with it, Python leaves the current folder out
def test_the_current_folder_is_the_last_in_which_modules_are_found(safe, own):
    folder, _ = own
    for name in ("sklearn", "tabulate", "PIL"):  # imported before and after the own module
        (folder / f"{name}.py").write_text("raise SystemExit('run from the current folder')")
    words = ("-m", "pruning_lab", "scan", "--model", "own_nets:make", "--data", "folder:photos")
    said = subprocess.run(
        [sys.executable, *safe, *words], cwd=folder, capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "loaded\n")


def test_a_network_of_ones_own_does_the_whole_run(own, capsys, monkeypatch):
    """Interrupted once; its code is only run where it is typed."""

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    made_by = ("--model", "own_nets:make")
    words = ("run", *made_by, "--data", "folder:photos", "--out", "made", "--lr", "0.05")
    asked = ("--epochs", "8", "--max-drop", "15", "--evaluations", "30")
    with monkeypatch.context() as patched:
        patched.setattr(sensitivity, "choose", interrupt)
        assert here(*words, *asked) == 130
    capsys.readouterr()
    assert here("report", "made") == 2
    typed = "pruning-lab run --resume --out made --model own_nets:make"
    assert capsys.readouterr().err.endswith(f"finish it with: {typed}\n")
    unasked = "code that is not run unasked; if you trust it, add --model own_nets:make"
    assert here("run", "--resume", "--out", "made") == 2
    assert unasked in capsys.readouterr().err
    assert here(*typed.split()[1:]) == 0
    said, page_ = capsys.readouterr().out, Path("made/report.html").read_text()
    assert "own_nets:make keeps " in said
    assert "paper" not in said + page_

    splits, make = data.load("folder:photos"), sys.modules["own_nets"].make
    dense, pruned = make().eval(), make().eval()
    models.load_(dense, "made/dense.safetensors")
    models.load_(pruned, "made/model.safetensors")
    record = json.loads(Path("made/run.json").read_text())
    assert [row["phase"] for row in record["epochs"]] == (
        ["train"] * 8 + ["round 1"] * 2 + ["round 2"] * 2 + ["round 3"] * 8 + ["control"] * 12
    )
    for which, network in (("dense", dense), ("pruned", pruned)):
        assert record["test"][which]["value"] == evaluation.evaluate(network, splits.test).value
    plan = sensitivity.Plan.load("made/plan.json")
    mask = plan.mask(dense)
    assert 0 < mask.density < 1
    before = evaluation.evaluate(dense, splits.val)
    assert before.value > 0.6
    with masks.masked(dense, mask):
        cut = evaluation.drop(before, evaluation.evaluate(dense, splits.val))
    assert plan.together == cut
    assert cut.value <= 0.15
    last = masks.Mask.load("made/mask.safetensors")
    assert last.kept == mask.kept
    for name, kept in last.items():
        assert (pruned.get_submodule(name).weight[~kept] == 0).all()

    assert here("report", "made") == 2
    assert unasked in capsys.readouterr().err
    assert here("report", "made", *made_by) == 0
    assert here("run", *made_by, "--resume", "--out", "made", "--epochs", "7") == 2
    assert "was started with --epochs 8, not 7" in capsys.readouterr().err
    for typed, expected in {
        ("--max-drop", "5"): "started with --max-drop 15.0, not 5.0; resume",
        ("--max-drop", "15", "--evaluations", "9"): "with --evaluations 30, not 9; resume",
        ("--density", "0.5"): "--max-drop 15.0 --evaluations 30, not --density 0.5; resume",
    }.items():
        assert here("run", *made_by, "--resume", "--out", "made", *typed) == 2
        assert expected in capsys.readouterr().err
    assert here("run", *made_by, "--resume", "--out", "made", "--epochs", "8") == 0
    assert "made is finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--compression", "20"), "--compression has no recipe for own_nets:make; give --density"),
        (("--density", "0.1", "--max-drop", "1"), "give one of --compression, --density and"),
        (("--density", "0.0001"), "keep 0.002 of the weights at least, got 0.0001"),
    ],
)
def test_what_a_run_of_ones_own_network_cannot_be_asked(words, expected, own, capsys):
    made = ("run", "--model", "own_nets:make", "--data", "folder:photos", "--out", "made")
    assert here(*made, *words) == 2
    assert expected in capsys.readouterr().err
    assert not Path("made").exists()


def test_a_network_of_ones_own_goes_from_training_to_the_report(own, capsys):
    """The folder is typed once, then the files name it; the function is typed for each command."""
    made_by = ("--model", "own_nets:make")
    words = ("train", "--model", "own_nets:make", "--data", "folder:photos", "--epochs", "2")
    assert here(*words, "--lr", "0.01", "--out", "own.safetensors") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "2 epochs, learning rate 0.01, batches of 128 images"
    for line, number in zip(said[2:4], "12", strict=True):
        assert re.match(rf"epoch {number}/2  loss [\d.]+.*[\d.]+%.*(s|epoch)( left)?$", line)
    _, about = files.load_tensors("own.safetensors")
    folder = f"folder:{Path('photos').absolute()}"
    assert about == {"network": "own_nets:make", "data": folder, "seed": 0}

    assert here("scan", "own.safetensors", *made_by, *LEVELS) == 0
    val = data.load("folder:photos").val
    scan = sensitivity.Scan.load("scan.csv")
    assert scan.about["images_sha256"] == val.fingerprint()
    assert here("choose", "scan.csv", "own.safetensors", *made_by, "--max-drop", "5") == 0
    assert here("prune", "own.safetensors", *made_by, "--plan", "plan.json") == 0
    words = (
        "own.safetensors",
        *made_by,
        "--mask",
        "mask.safetensors",
        "--epochs",
        "1",
        "--lr",
        "0.01",
    )
    assert here("retrain", *words) == 0
    capsys.readouterr()
    assert here("report", "pruned.safetensors", "--dense", "own.safetensors", *made_by) == 0
    said, page_ = capsys.readouterr().out, Path("report.html").read_text()
    test = data.load("folder:photos").test
    for name in ("own", "pruned"):
        model = sys.modules["own_nets"].make()
        models.load_(model, f"{name}.safetensors")
        for text in (said, page_):
            assert f"{evaluation.evaluate(model, test).error:.2%}" in text
    mask = masks.Mask.load("mask.safetensors")
    assert all((model.get_submodule(name).weight[~kept] == 0).all() for name, kept in mask.items())
    assert "own_nets:make keeps " in said
    assert "paper" not in said
    assert "used once" not in said
    assert "beside the paper" not in page_


@pytest.mark.parametrize("about", [{"data": 7}, {"size": "large"}, {"root": []}, {"data": "mnits"}])
def test_odd_data_in_a_networks_file_gets_one_sentence(about, own, capsys):
    models.save("odd", models.lenet_300_100(), about={"network": "lenet-300-100", **about})
    assert here("scan", "odd") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"its {next(iter(about))} must be a n|no data set 'mnits'", line)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("own_nets:mak",), "module 'own_nets' has no attribute 'mak'; name a function without"),
        (("own_nets:",), "name a function without arguments as package.module:function"),
        ((":make",), "name a function without arguments as package.module:function"),
        (("own_nest:make",), "ModuleNotFoundError: No module named 'own_nest'; name a function"),
        (("own_nets.py:make",), "No module named 'own_nets.py'"),
        (("own_broken:make",), "ModuleNotFoundError: No module named 'nothing_like_this'; name"),
        (("own_exits:make",), "own_exits:make failed with SystemExit: usage: ..."),
        (("own_nets:text",), "gave a str, expected a torch.nn.Module"),
        (("own_nets:fails",), "failed with RuntimeError: no luck; name a function"),
        (("own_nets:number",), "'int' object is not callable"),
        (("own_nets:ready",), "own_nets:ready failed with TypeError"),
        (
            ("own_nets:make", "--weights", "other.safetensors"),
            "other.safetensors: conv.weight is missing",
        ),
        (("own_nets:make", "--data", "mnist-5k"), "cannot take the images of mnist-5k"),
        (("own_nets:Net",), "this network has 2 outputs, and folder:photos has 3 classes"),
        (("own_nets:make", "--data", "folder:photo"), "no folder 'photo'"),
    ],
)
def test_a_mistake_about_a_network_of_ones_own_gets_one_sentence(words, expected, own, capsys):
    if "2 outputs" in expected:
        sys.modules["own_nets"].CLASSES = 2
    models.save("other.safetensors", models.lenet_300_100())
    data = () if "--data" in words else ("--data", "folder:photos")
    assert here("scan", "--model", *words, *data) == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text != "loaded")
    assert expected in line
    assert not Path("scan.csv").exists()


def test_what_went_wrong_in_ones_own_code_is_shown_with_debug(own):
    with pytest.raises(ValueError, match="no luck") as caught:
        here("scan", "--model", "own_nets:fails", "--debug")
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("breaks", "code", "says"),
    [
        ("{}['weights']", 1, r"internal error: KeyError: 'weights'; run it again with --debug"),
        ("x.nothing", 1, "internal error: AttributeError: .*nothing.*; run it again with --debug"),
        ("1 + None", 1, "internal error: TypeError: .*; run it again with --debug"),
        ("_raise(MemoryError())", 1, "out of memory; try a smaller --batch-size or --size"),
        ("_raise(RuntimeError('CUDA out of memory. Tried 2 GiB'))", 1, "out of memory; try a"),
        ('_raise(RuntimeError("can\'t allocate memory"))', 1, "out of memory; try a smaller"),
        ("_raise(DistNetworkError('peer gone'))", 1, "cannot reach each other: peer gone; start"),
        ("_raise(ValueError('no such thing'))", 1, "internal error: ValueError: no such thing"),
    ],
)
def test_a_mistake_in_the_code_and_a_full_memory_are_not_called_bad_input(
    breaks, code, says, own, capsys
):
    """The network takes one image, with which it is tried first, and breaks on more."""
    Path("own_breaks.py").write_text(
        f"""
from own_nets import Net
from torch.distributed import DistNetworkError

def _raise(error):
    raise error

class Breaks(Net):
    def forward(self, x):
        return super().forward(x) if len(x) == 1 else {breaks}
"""
    )
    words = ("scan", "--model", "own_breaks:Breaks", "--data", "folder:photos")
    sys.modules.pop("own_breaks", None)
    assert here(*words) == code
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text != "loaded")
    assert re.search(says, line)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever it is
        here(*words, "--debug")


def test_a_layer_that_is_not_there_is_bad_input(inside, capsys):
    assert here(*SCAN, *LEVELS, "--layers", "fc9", "--out", "odd.csv") == 2
    assert "no layer 'fc9' to prune; did you mean fc" in capsys.readouterr().err


def test_a_module_is_found_in_the_current_folder_by_a_python_that_would_not_look(own):
    words = ("scan", "--model", "own_nets:make", "--data", "folder:photos", "--json")
    said = subprocess.run(
        [sys.executable, "-P", "-m", "pruning_lab", *words],  # as lab.py calls it
        cwd=own[0],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(said.stdout)["points"]


def test_images_that_do_not_fit_a_built_in_network_are_refused_before_training(own, capsys):
    assert here("train", "--data", "folder:photos", "--epochs", "1") == 2
    said = capsys.readouterr().err
    assert "cannot take the images of folder:photos, which are 3 x 9 x 7" in said
    assert "its first layer is " in said
    assert "fc1" in said
    assert "in_features=784" in said
    assert here("run", "--data", "folder:photos", "--out", "runs/photos") == 2
    assert not Path("runs").exists()
    assert here("train", "--model", "lenet-5", "--data", "folder:photos", "--epochs", "1") == 2
    assert "its first layer is conv1 = Conv2d(1, 20" in capsys.readouterr().err


# --- what a network's file says of its data ----------------------------------------------------


def test_the_data_that_a_network_was_trained_on_is_its_default(
    by_hand, mnist_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNING_LAB_DATA", str(mnist_root))  # which auto would take
    words = ("scan", f"{by_hand}/dense.safetensors", "--densities", "0.5", "--out")
    assert here(*words, "unasked.csv", "--verbose") == 0
    said = capsys.readouterr()
    assert said.out.startswith("mnist-5k: ")
    assert said.err == ""
    assert "3 points on 1,000 images (graph, 1 worker)" in said.out
    scan = sensitivity.Scan.load("unasked.csv")
    assert scan.about["images_sha256"] == data.load("mnist-5k").val.fingerprint()
    assert here(*words, "mnist.csv", "--data", "mnist") == 0
    note = "NOTE: this network was trained on mnist-5k, not on mnist\n"
    assert capsys.readouterr().err == note
    files_ = (f"{by_hand}/pruned.safetensors", "--dense", f"{by_hand}/dense.safetensors")
    assert here("report", *files_) == 0
    said = capsys.readouterr().out
    assert "paper, mnist" in said
    assert "this run, mnist-5k" in said
    assert "used once" not in said


def test_a_line_for_each_epoch_and_no_plural_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert here("train", "--data", "mnist-5k", "--epochs", "1") == 0
    _, settings, epoch, accuracy, wrote = capsys.readouterr().out.splitlines()
    assert settings == "1 epoch, learning rate 0.1, batches of 128 images"
    assert re.match(r"epoch +1/1 .*loss \d\.\d{3}.* \d+\.\d\d%", epoch)
    assert accuracy.startswith("accuracy on val: ")
    assert wrote == "wrote dense.safetensors"
    assert here("train", "--data", "mnist-5k", "--epochs", "1") == 2
    assert "dense.safetensors is there already; add --force" in capsys.readouterr().err


# --- the course --------------------------------------------------------------------------------


def test_the_course_is_copied_and_what_is_there_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert here("course", "start", "--solved") == 0
    said = capsys.readouterr().out
    assert "open them with: jupyter lab pruning_lab_course" in said
    source = Path(cli.__file__).parents[2] / "notebooks"
    notebooks = sorted(path.name for path in source.glob("*.ipynb"))
    assert sorted(os.listdir("pruning_lab_course")) == [*notebooks, "read"]  # for the solved ones
    assert sorted(os.listdir(Path("pruning_lab_course", "read"))) == notebooks
    mine = Path("pruning_lab_course", notebooks[-1])
    mine.write_text(mine.read_text().replace("lab", "my lab"))
    before = mine.read_bytes()
    assert here("course", "start") == 2
    assert f"{Path('pruning_lab_course', notebooks[0])} is there already" in capsys.readouterr().err
    assert mine.read_bytes() == before
    assert here("course", "start", "another folder") == 0
    assert "jupyter lab 'another folder'" in capsys.readouterr().out
    assert here("course", "start", "--force") == 0
    assert mine.read_bytes() == (source / mine.name).read_bytes()
    mine.write_text("no notebook")
    assert here("course", "start", "--force") == 2
    assert "of another kind" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- the studio


@pytest.fixture
def served(monkeypatch):
    """What a page would have served: studios, used by the functions of this list in turn."""
    uses = []

    def serve(opened, listening, ready):
        ready("http://127.0.0.1:1/?token=t")
        uses.pop(0)(opened.settle(60))

    monkeypatch.setattr(page, "serve", serve)
    return uses


def test_the_page_opens_what_was_typed_and_opens_it_again(own, served, capsys):
    folder, model = own
    models.save("own.safetensors", model.eval())
    words = ("--model", "own_nets:make", "--weights", "own.safetensors", "--data", "folder:photos")
    assert here("scan", *words, *LEVELS) == 0
    commands, val = [], data.load("folder:photos").val

    def use(opened):
        assert opened.layers == ["conv", "mix", "head"]
        assert opened.scan == sensitivity.Scan.load("scan.csv")
        assert opened.metrics().accuracy.value == evaluation.evaluate(model, val).value
        opened.set({"mix": 1.0}).settle()
        commands.append(opened.export("plan.json").command)

    def again(opened):
        assert [a.what for a in opened.attempts] == ["as it came", "mix: quality 1"]
        opened.go(1)

    served += [use, again, again, again]
    assert here("studio", *words, "--scan", "scan.csv", "--no-browser") == 0
    out = capsys.readouterr().out
    assert "attempts are saved in studio.json\n" in out
    typed = out.splitlines()[-1].partition("; pruning-lab ")[2].removesuffix(" opens it again")
    assert typed == "studio --resume studio.json --model own_nets:make"
    assert here("studio", "--resume", "studio.json", "--no-browser") == 2
    assert "if you trust it, add --model own_nets:make" in capsys.readouterr().err
    assert here(*typed.split(), "--no-browser") == 0
    saved = str(folder / "studio.json")
    with chdir(folder.parent):  # the images are found from everywhere
        assert here("studio", "--resume", saved, *words[:2], "--no-browser") == 0
    assert here("studio", "--resume", saved, *words[:2], "--no-browser") == 0
    assert len(studio.files.read(saved)["history"].attempts) == 2
    (line,) = commands[0].splitlines()
    assert here(*line.split()[1:]) == 0  # its function was typed in this folder


def test_a_studio_is_never_saved_over_another(served, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("studio", "--model", "lenet-300-100", "--data", "mnist-5k", "--no-browser", "--json")
    served += [lambda opened: None] * 5
    paths = []
    for saved in ((), (), ("--save", "other.json"), ("--resume", "other.json")):
        typed = words if "--resume" not in saved else ("studio", *words[-2:])
        assert here(*typed, *saved) == 0
        paths.append(json.loads(capsys.readouterr().out)["path"])
    assert paths == ["studio.json", "studio-2.json", "other.json", "other.json"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    Path("mine.json").write_text("{}")
    Path("thing-0.safetensors").touch()
    (tmp_path / "folder").mkdir()
    mistakes = {
        ("--save", "studio.json"): "open it again with --resume studio.json, or name another",
        ("--save", "mine.json"): "--save mine.json: mine.json is there already; name another",
        ("--save", "thing.json"): "thing-0.safetensors is there already; name another",
        ("--save", "plan.txt"): "a studio is JSON; name it plan.json",
        ("--save", "mine.json/x.json"): "Not a directory; give it another name",
        ("--resume", "mine.json"): "mine.json is not a studio file",
        ("--resume", "none.json"): "No such file",
        ("--resume", "other.json", "--save", "x.json"): "leave out --save",
        ("--resume", "other.json", "--scan", "studio.json"): "leave out --scan",
        ("--resume", "other.json", "--recalibrate", "5"): "leave out --recalibrate",
        ("--resume", "other.json", "other-0.safetensors"): "leave out a network's file",
        ("--resume", "other.json", "--data", "shapes"): "cannot take the images of shapes",
        ("--resume", "other.json", "--model", "lenet-5"): "this network expects",
    }
    for typed, expected in mistakes.items():
        own = words if "--resume" not in typed else ("studio", *words[-2:])
        assert here(*own, *typed) == 2, typed
        (said,) = capsys.readouterr().err.splitlines()
        assert expected in said
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(("words", "weights"), [((), 430_500), (("lenet-300-100",), 266_200)])
def test_without_a_file_the_studio_has_a_lenet_as_it_ships(words, weights, capsys):
    given = {"file": None, "scan": None, "recalibrate": None, "seed": 0}
    network, images = (
        common.Network(model=words[0] if words else None),
        common.Images(data="mnist-5k"),
    )
    opened = studio_command.open_studio(
        **given, network=network, images=images, output=common.Output()
    )
    opened.close()
    assert opened.metrics().weights == weights
    shipped = models.lenet_300_100 if words else models.lenet_5
    expected = shipped(trained="mnist").state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in opened.network().state_dict().items())
    assert capsys.readouterr().out.startswith("mnist-5k: ")
    expected_to_open_again = {"data": "mnist-5k", "root": None, "size": None, "recalibrate": None}
    assert opened.about["opened"] == expected_to_open_again


def test_mistakes_about_the_studio_get_one_sentence_and_no_server(own, capsys, monkeypatch):
    monkeypatch.setattr(page, "serve", lambda *_, **__: pytest.fail("there is a server"))
    _, model = own
    models.save("own.safetensors", model.eval())
    models.save("lenet.safetensors", models.lenet_300_100(), about={"network": "lenet-300-100"})
    Path("own_dull.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Flatten()\n")
    network = ("--model", "own_nets:make", "--data", "folder:photos")
    assert here("scan", *network, *LEVELS, "--seed", "9") == 0
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    capsys.readouterr()
    mistakes = {
        ("nothing.safetensors",): "nothing.safetensors",
        ("lenet.safetensors", "--data", "digit"): "digit",
        ("lenet.safetensors", "--data", "folder:photos"): "cannot take the images",
        ("--model", "alexnet"): "name a network's file",
        ("--model", "own_dull:make", "--data", "mnist-5k"): "nothing to set",
        (*network, "--weights", "own.safetensors", "--scan", "scan.csv"): "other weights",
        (*network, "--seed", "9", "--scan", "no.csv"): "no.json could not be read",
        ("--port", port): f"--port {port}: Address already in use; leave --port out",
    }
    for typed, expected in mistakes.items():
        assert here("studio", *typed, "--no-browser") == 2, typed
        said = [line for line in capsys.readouterr().err.splitlines() if line != "loaded"]
        assert len(said) == 1, said
        assert expected in said[0]
    taken.close()


def test_the_browser_is_sent_by_a_file_of_ones_own(tmp_path, monkeypatch):
    """Where the token is in a command line, everybody on the machine can read it."""
    opened = []
    monkeypatch.setattr(page.webbrowser, "open", opened.append)
    page.browse("http://127.0.0.1:1/?token=secret", str(tmp_path))
    while not opened:
        time.sleep(0.01)
    assert "secret" not in opened[0]
    way = Path(urllib.parse.unquote(urllib.parse.urlsplit(opened[0]).path))
    assert 'url=http://127.0.0.1:1/?token=secret"' in way.read_text()
