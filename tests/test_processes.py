"""Many processes count as one does; two here as torch launches them, two on this machine."""

import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import distributed_worker as worker
import pytest
import torch
from distributed_worker import FINE, many, scannable, uneven

from pruning_lab import processes, sensitivity
from pruning_lab.sensitivity import Scan


def files_in(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    points = sensitivity.scan(scannable(), many(), FINE, out=folder / "scan.csv")
    assert {point.accuracy.n for point in points} == {1500}
    return files_in(folder)


def of_both(two, key: str) -> list:
    return [about["scanned"][key] for about in two[1]]


def test_one_process_is_all_there_is_until_others_are_joined():
    counts = torch.tensor([1, 2])
    with processes.joined():
        assert (processes.rank(), processes.world()) == (0, 1)
        total = processes.summed(counts)
        processes.wait()
    total.add_(1)
    assert counts.tolist() == [1, 2]


def test_two_processes_know_and_wait_for_each_other_and_sum_their_counts(two):
    assert [about["world"] for about in two[1]] == [2, 2]
    assert of_both(two, "waited") == [True, True]
    assert of_both(two, "summed") == 2 * [[1, 3, 5]]
    assert of_both(two, "left") == 2 * [[0, 1, 2]]


def test_two_processes_write_what_one_writes(two, alone):
    assert files_in(two[0] / "uninterrupted") == alone


def test_two_processes_share_the_batches(two):
    """Of 5 batches the first process counts 3; each takes the other to be as far as itself."""
    assert of_both(two, "told") == [[0, 600, 1200, 1500], [0, 600, 1200]]


def test_both_processes_return_the_same_scan_without_files_too(two):
    expected = sensitivity.scan(scannable(), uneven(), FINE)
    for rank in range(2):
        assert Scan.load(two[0] / f"unnoted{rank}.csv") == expected
    assert of_both(two, "same") == [True, True]


def test_killed_processes_leave_their_own_batches_behind(scan_killed):
    assert sorted(files_in(scan_killed)) == ["scan.csv.part0", "scan.csv.part1"]
    noted = [
        [json.loads(line)[0] for line in (scan_killed / name).read_text().splitlines()[1:]]
        for name in ("scan.csv.part0", "scan.csv.part1")
    ]
    assert noted[0] == [0, 2]
    assert noted[1] == [1, 3]


def test_two_processes_go_on_where_two_were_killed(two, alone):
    assert files_in(two[0] / "killed") == alone
    for said in of_both(two, "refused"):
        assert "is left of an interrupted scan; resume it by --resume" in said


def test_one_process_goes_on_where_two_were_killed(scan_killed, alone, tmp_path):
    shutil.copytree(scan_killed, tmp_path, dirs_exist_ok=True)
    sensitivity.scan(scannable(), many(), FINE, out=tmp_path / "scan.csv", resume=True)
    assert files_in(tmp_path) == alone


def test_a_killed_scan_ends_as_one_that_was_not(alone, tmp_path):
    """Killed for real, by a signal that nothing can catch."""
    done = subprocess.run([sys.executable, worker.__file__, tmp_path, "scan"])
    assert done.returncode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    assert [json.loads(line)[0] for line in part.read_text().splitlines()[1:]] == [0, 1, 2]
    go_on = partial(sensitivity.scan, scannable(), many(), FINE, out=tmp_path / "scan.csv")
    with pytest.raises(FileExistsError, match="resume it by --resume"):
        go_on()
    go_on(resume=True)
    assert files_in(tmp_path) == alone


# --- starts that went wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        {"RANK": "0"},
        {"LOCAL_RANK": "1"},
        {"TORCHELASTIC_RUN_ID": "none"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "2", "RANK": "2"},
    ],
)
def test_a_launcher_that_does_not_say_how_many_there_are_is_refused(monkeypatch, words):
    """Else each of its processes would do the whole work, and all write the same files."""
    for name, word in words.items():
        monkeypatch.setenv(name, word)
    with (
        pytest.raises(ValueError, match=r"torch\.distributed\.run --nproc-per-node=N"),
        processes.joined(),
    ):
        pass
    with pytest.raises(ValueError, match=r"torch\.distributed\.run --nproc-per-node=N"):
        processes.check(torch.device("cpu"))


def test_one_of_many_does_not_work_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match=r"one of 2 processes.* `with processes\.joined\(\):`"):
        processes.check(torch.device("cpu"))


def test_one_process_agrees_with_itself_and_gathers_its_own():
    assert processes.agree("anything")
    assert processes.gathered(torch.tensor([1, 2])).tolist() == [[1, 2]]
    values = torch.tensor([1.0, 2.0])
    processes.copy_first_([values])
    assert values.tolist() == [1, 2]


def test_a_stopped_process_says_why_and_leaves_the_signal_as_it_was():
    script = """
import os, signal
from pruning_lab import processes

before = signal.getsignal(signal.SIGTERM)
try:
    with processes.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
except ConnectionError as error:
    print(error)
print(signal.getsignal(signal.SIGTERM) is before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, same = done.stdout.splitlines()
    assert said.startswith("stopped by torch's launcher, probably because another process failed;")
    assert said.endswith("; run the same command with --resume")
    assert same == "True"
