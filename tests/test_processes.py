"""Many processes count as one does; launched here as torch launches them, two on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from pruning_lab import processes, sensitivity
from pruning_lab.data import Split
from pruning_lab.sensitivity import Scan

FINE = [0.0, 0.02, 0.05, 0.1, 0.5, 1.0]


def many(count=1500, batch_size=300):
    """Random images that the network below answers rightly but for one in ten."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split("val", pixels, torch.zeros(count).long(), 127.5, 74.0, batch_size)
    model = network()
    with torch.no_grad():
        labels = model(split.normalise(pixels)).argmax(1)
    labels[::10] = torch.randint(4, labels[::10].shape, generator=generator)
    return replace(split, labels=labels)


def network():
    torch.manual_seed(5)
    layers = nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False)
    return nn.Sequential(nn.Flatten(), *layers).eval()


def uneven():
    """The same, but every other batch is answered wrongly: two processes see different images."""
    split = many()
    wrong = torch.arange(split.n) // 300 % 2
    return replace(split, labels=(split.labels + wrong) % 4)


# What the processes run: `main.py FOLDER TASK`. Killed, a process has no time for goodbyes.
MAIN = """
import json, os, signal, sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from test_processes import FINE, many, network, uneven

from pruning_lab import processes, sensitivity

folder, task = Path(sys.argv[1]), sys.argv[2]
scan = partial(sensitivity.scan, network(), many(), FINE)


def die(progress):
    if progress.images >= 900:
        os.kill(os.getpid(), signal.SIGKILL)


assert (processes.rank(), processes.world()) == (0, 1)
with processes.joined(), processes.joined():  # the inner one finds them joined
    if task == "die":
        scan(out=folder / "scan.csv", notify=die)
    rank, counts = processes.rank(), torch.arange(3)
    if rank:
        (folder / "late1").touch()
    processes.wait()
    told = []
    about = {
        "world": processes.world(),
        "waited": (folder / "late1").exists(),
        "summed": processes.summed(counts + rank).tolist(),
        "left": counts.tolist(),
        "refused": None,
    }
    try:
        scan(out=folder / "killed" / "scan.csv")
    except FileExistsError as error:
        about["refused"] = str(error)
    points = scan(out=folder / "killed" / "scan.csv", resume=True)
    again = scan(out=folder / "whole" / "scan.csv", notify=lambda p: told.append(p.images))
    unnoted = sensitivity.scan(network(), uneven(), FINE)
    about |= {"told": told, "same": points == again, "notes": sorted({p.note for p in unnoted})}
    sensitivity.Scan.save(unnoted, folder / f"unnoted{rank}.csv")
    (folder / f"about{rank}.json").write_text(json.dumps(about))
assert (processes.rank(), processes.world(), dist.is_initialized()) == (0, 1, False)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**more) -> dict:
    tests = Path(__file__).parent
    here = {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **here, **more}


def files_in(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    points = sensitivity.scan(network(), many(), FINE, out=folder / "scan.csv")
    assert {point.accuracy.n for point in points} == {1200, 1500}  # some levels are left at chance
    return files_in(folder)


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    path = tmp_path_factory.mktemp("main") / "main.py"
    path.write_text(MAIN)
    return path


@pytest.fixture(scope="module")
def killed(main, tmp_path_factory):
    """A folder with what two processes leave that were killed in the middle of a scan."""
    folder = tmp_path_factory.mktemp("killed")
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, main, folder, "die"],
            env=environment(**there, RANK=str(rank)),
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == 2 * [-signal.SIGKILL], errors
    return folder


@pytest.fixture(scope="module")
def launched(main, killed, tmp_path_factory):
    """What two processes leave that torch's own launcher started."""
    folder = tmp_path_factory.mktemp("launched")
    shutil.copytree(killed, folder / "killed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    address = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    done = subprocess.run(
        [*launcher, *address, main, folder, "scan"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def of_both(folder: Path, key: str) -> list:
    return [json.loads((folder / f"about{rank}.json").read_text())[key] for rank in range(2)]


def test_one_process_is_all_there_is_until_others_are_joined():
    counts = torch.tensor([1, 2])
    with processes.joined():
        assert (processes.rank(), processes.world()) == (0, 1)
        total = processes.summed(counts)
        processes.wait()
    total.add_(1)
    assert counts.tolist() == [1, 2]


def test_two_processes_know_and_wait_for_each_other_and_sum_their_counts(launched):
    assert of_both(launched, "world") == [2, 2]
    assert of_both(launched, "waited") == [True, True]
    assert of_both(launched, "summed") == 2 * [[1, 3, 5]]
    assert of_both(launched, "left") == 2 * [[0, 1, 2]]


def test_two_processes_write_what_one_writes_levels_at_chance_and_all(launched, alone):
    assert files_in(launched / "whole") == alone


def test_two_processes_share_the_batches(launched):
    """Of 5 batches the first process counts 3, and tells of them all."""
    first, second = of_both(launched, "told")
    assert first == [0, 300, 600, 900, 1200, 1500]
    assert second == [0, 600, 900, 1200, 1500]  # of nothing before its first batch


def test_both_processes_return_the_same_scan_without_files_too(launched):
    expected = sensitivity.scan(network(), uneven(), FINE)
    assert {point.accuracy.n for point in expected} == {1200, 1500}
    for rank in range(2):
        assert Scan.load(launched / f"unnoted{rank}.csv") == expected
    assert of_both(launched, "notes") == 2 * [sorted({point.note for point in expected})]
    assert of_both(launched, "same") == [True, True]


def test_killed_processes_leave_their_own_batches_behind(killed):
    assert sorted(files_in(killed)) == ["scan.csv.part0", "scan.csv.part1"]
    noted = [
        [json.loads(line)[0] for line in (killed / name).read_text().splitlines()[1:]]
        for name in ("scan.csv.part0", "scan.csv.part1")
    ]
    assert noted[0] == [0, 2]
    assert noted[1] == [1]


def test_two_processes_go_on_where_two_were_killed(launched, alone):
    assert files_in(launched / "killed") == alone
    for said in of_both(launched, "refused"):
        assert "is left of an interrupted scan; go on with it by --resume" in said


def test_one_process_goes_on_where_two_were_killed(killed, alone, tmp_path):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    sensitivity.scan(network(), many(), FINE, out=tmp_path / "scan.csv", resume=True)
    assert files_in(tmp_path) == alone


def test_a_killed_scan_ends_as_one_that_was_not(main, alone, tmp_path):
    """Killed for real, by a signal that nothing can catch."""
    done = subprocess.run([sys.executable, main, tmp_path, "die"], env=environment())
    assert done.returncode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    assert [json.loads(line)[0] for line in part.read_text().splitlines()[1:]] == [0, 1, 2]
    go_on = partial(sensitivity.scan, network(), many(), FINE, out=tmp_path / "scan.csv")
    with pytest.raises(FileExistsError, match="go on with it by --resume"):
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


def test_a_process_told_to_end_says_why_and_leaves_the_signal_as_it_was():
    script = """
import os, signal
from pruning_lab import processes

before = signal.getsignal(signal.SIGTERM)
try:
    with processes._told_to_end():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
except ConnectionError as error:
    print(error)
print(signal.getsignal(signal.SIGTERM) is before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, same = done.stdout.splitlines()
    assert said.startswith("the launcher ends this process, as it does when another one has died")
    assert said.endswith("--resume goes on")
    assert same == "True"
