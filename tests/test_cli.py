"""The command line as a person types it: real processes, real files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pruning_lab import cli, data, evaluation, masks, models
from pruning_lab.cli import commands, words


def lab(*words, cwd, check=True, **environment):
    """`pruning-lab WORDS` in a process of its own, on digits, with one thread."""
    return subprocess.run(
        [sys.executable, "-m", "pruning_lab", *words],
        cwd=cwd,
        check=check,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )


def without_clocks(record):
    """A record less what differs between two equal runs."""
    record = json.loads(json.dumps(record))
    record.pop("seconds")
    for row in record["epochs"]:
        row.pop("seconds")
    return record


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with one whole run on digits, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    said = lab("run", "--data", "digits", "--out", "first", cwd=folder)
    return folder, said


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A folder in which train, prune and retrain were typed one after the other."""
    folder = tmp_path_factory.mktemp("by_hand")
    lab("train", "--data", "digits", "--epochs", "30", cwd=folder)
    lab("prune", "dense.safetensors", "--density", "fc1=0.05", "fc2=0.1", cwd=folder)
    words = ("retrain", "dense.safetensors", "--mask", "mask.safetensors", "--freeze", "fc3")
    lab(*words, "--data", "digits", "--epochs", "10", cwd=folder)
    return folder


def test_run_ends_in_two_tables_beside_the_papers(finished):
    _, said = finished
    assert "digits: 1,294 train / 144 val / 359 test" in said.stdout.splitlines()[0]
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
    expected = {"config.json", "run.json", "report.html"}
    expected |= {f"{name}.safetensors" for name in ("dense", "model", "mask")}
    assert names == expected


def test_the_network_in_the_files_is_the_one_in_the_record(finished):
    folder, _ = finished
    record = json.loads((folder / "first" / "run.json").read_text())
    model = models.lenet_300_100()
    models.load_(model, folder / "first" / "model.safetensors")
    mask = masks.Mask.load(folder / "first" / "mask.safetensors")
    splits = data.load("digits")
    assert evaluation.evaluate(model, splits.test).value == record["test"]["pruned"]["value"]
    alive = sum(int(p.count_nonzero()) for n, p in model.named_parameters() if "weight" in n)
    biases = sum(p.numel() for n, p in model.named_parameters() if "bias" in n)
    assert alive <= mask.kept
    assert record["parameters"]["pruned"] == alive + biases <= 22_000
    assert all((model.get_submodule(name).weight[~kept] == 0).all() for name, kept in mask.items())


def test_the_report_is_one_file_that_asks_nothing_of_the_network(finished):
    folder, _ = finished
    page = (folder / "first" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "://" not in page
    assert "<script" not in page
    assert str(folder) not in page


def test_a_killed_run_resumed_ends_as_an_uninterrupted_one(finished, tmp_path):
    folder, _ = finished
    words = [sys.executable, "-m", "pruning_lab", "run", "--data", "digits", "--out", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    waiting = tmp_path / "killed" / "checkpoints" / "round-2.safetensors"
    deadline = time.monotonic() + 240
    while not waiting.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert waiting.exists()
    assert not (tmp_path / "killed" / "run.json").exists()
    again = lab("run", "--data", "digits", "--out", "killed", cwd=tmp_path, check=False)
    assert again.returncode == 2
    assert "--resume" in again.stderr

    lab("run", "--resume", "--out", "killed", cwd=tmp_path)
    resumed, whole = tmp_path / "killed", folder / "first"
    for name in ("dense.safetensors", "model.safetensors", "mask.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    records = [json.loads((place / "run.json").read_text()) for place in (resumed, whole)]
    assert without_clocks(records[0]) == without_clocks(records[1])


def test_resume_refuses_other_settings_than_the_runs(finished):
    folder, _ = finished
    said = lab("run", "--resume", "--out", "first", "--seed", "3", cwd=folder, check=False)
    assert said.returncode == 2
    assert "--seed 0, not 3" in said.stderr


def test_report_shows_a_finished_run_again(finished):
    folder, said = finished
    again = lab("report", "first", cwd=folder)
    assert said.stdout.split("Table 1")[1].split("The plots")[0].strip() in again.stdout


def test_json_is_all_that_is_printed_when_asked(finished):
    folder, _ = finished
    record = json.loads(lab("report", "first", "--json", cwd=folder).stdout)
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


def test_report_compares_two_files(by_hand):
    words = ("report", "pruned.safetensors", "--dense", "dense.safetensors", "--data", "digits")
    said = lab(*words, "--out", "page.html", cwd=by_hand)
    assert "Table 1: LeNet-300-100" in said.stdout
    assert (by_hand / "page.html").read_text().startswith("<!doctype html>")


def test_the_same_seed_trains_the_same_network_and_another_does_not(tmp_path):
    words = ("train", "--data", "digits", "--epochs", "1", "--out")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        lab(*words, name, "--seed", seed, cwd=tmp_path)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("prune", "nowhere.safetensors", "--density", "0.1"), "no file nowhere.safetensors"),
        (("prune", "dense.safetensors", "--density", "8"), "divide by 100"),
        (("prune", "dense.safetensors", "--density", "much"), "takes a number"),
        (("prune", "dense.safetensors", "--density", "fc1=.1", ".2"), "not both"),
        (("prune", "dense.safetensors", "--density", "fc1=.1", "fc1=.2"), "twice"),
        (("prune", "dense.safetensors", "--quality", "fcl=1"), "did you mean fc"),
        (("prune", "dense.safetensors"), "exactly one of"),
        (("retrain", "dense.safetensors", "--mask", "dense.safetensors"), "not a mask file"),
        (("report", "dense.safetensors"), "--dense"),
        (("report", "."), "no finished run"),
        (("run", "--resume", "--out", "nowhere"), "no run in nowhere"),
        (("run", "--compression", "1000"), "biases are never pruned"),
        (("train", "--lr", "-1"), "lr must be > 0"),
        (("train", "--device", "cuda"), "--device auto"),
        (("train", "--data", "mnist", "--root", "nowhere"), "--download"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(words, expected, by_hand, capsys, monkeypatch):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has what the sentence is about")
    monkeypatch.chdir(by_hand)
    monkeypatch.setenv("PRUNING_LAB_DATA", "nowhere")
    before = sorted(by_hand.iterdir())
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert sorted(by_hand.iterdir()) == before  # nothing half-done


def test_debug_shows_the_traceback(by_hand, monkeypatch):
    monkeypatch.chdir(by_hand)
    with pytest.raises(FileNotFoundError):
        cli.main(("prune", "nowhere", "--density", "0.1", "--debug"))


def test_help_answers_at_once_with_an_example():
    code = "import sys; from pruning_lab import cli; cli.parser(); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    for command in ("run", "train", "prune", "retrain", "report"):
        said = subprocess.run(
            [sys.executable, "-m", "pruning_lab", command, "--help"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert f"example:\n  pruning-lab {command}" in said


def test_the_names_a_person_types_are_those_the_library_knows():
    assert list(words.NETWORKS) == list(models.BUILT_IN)
    assert list(words.DATA) == ["auto", *data.LOADERS]
    assert list(words.CRITERIA) == list(commands.CRITERIA)
