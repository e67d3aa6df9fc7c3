"""What the tests share: toys as fixtures, and settings."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["OMP_NUM_THREADS"] = "1"  # of what is started, too: two tests run at a time

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn
from toys import CLASSES, Branching, lively
from xdist.scheduler import LoadScopeScheduling

from pruning_lab.data import Split

# Shells have what they start in the background ignore Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, max_examples=60
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mnist", action="store_true", help="run the notebooks on MNIST too")


def pytest_xdist_auto_num_workers() -> int:
    """Two workers: each takes more than 1 GB. `-n 0` and `--pdb` use this process, `-n 8` eight."""
    return min(2, os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup() -> None:
    """A test draws the same random numbers whichever worker does it, and after whichever others."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)


TWO_PROCESSES = {"test_distributed", "test_holding", "test_photo_runs", "test_processes"}


def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """A worker does whole files, those together that share what is expensive to start.

    But notebook by notebook, for each takes long. Groups by marks (`--dist loadgroup`) are silently
    none in pytest-xdist 3.8 with pytest 9.2.
    """
    if config.getvalue("dist") != "loadscope":
        return None

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            if path.stem == "test_notebooks":
                return nodeid
            if path.parent.name == "browser":
                return "browser"
            return "two processes" if path.stem in TWO_PROCESSES else path.stem

    return ByFile(config, log)


@pytest.fixture
def toy() -> nn.Sequential:
    """A chain with one convolution and two fully connected layers, for images of 1 x 8 x 8."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 4, kernel_size=3),  # 8 x 8 -> 6 x 6
            pool1=nn.MaxPool2d(2),  # -> 3 x 3
            relu1=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(36, 12),
            relu2=nn.ReLU(),
            drop2=nn.Dropout(0.5),
            fc2=nn.Linear(12, CLASSES),
        )
    )
    return lively(chain)


@pytest.fixture
def branching() -> Branching:
    torch.manual_seed(0)
    return lively(Branching())


@pytest.fixture
def split() -> Split:
    """50 random images in batches of 16: the last batch has two."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (50,), generator=generator)
    return Split("val", images, labels, mean=127.5, std=74.0, batch_size=16)


@pytest.fixture
def batches(split) -> list:
    """The same images as a plain list of (x, y)."""
    return list(split)


@pytest.fixture
def everything_of():
    """A function: every byte, mode and gradient flag of a model, and every random state."""

    def look(model: nn.Module) -> tuple:
        return (
            {name: t.numpy().tobytes() for name, t in model.state_dict().items()},
            [module.training for module in model.modules()],
            [(p.requires_grad, p.grad is None) for p in model.parameters()],
            [len(module._forward_hooks) for module in model.modules()],
            torch.get_rng_state().numpy().tobytes(),
            str(np.random.get_state()),
            random.getstate(),
        )

    return look


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds MNIST/, where there is one."""
    root = Path(os.environ.get("PRUNING_LAB_DATA", Path(__file__).parents[1] / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip("MNIST is not there; set PRUNING_LAB_DATA to the folder that holds MNIST/")
    return root


# Two processes: started once, by the one worker that does the files of TWO_PROCESSES.

WORKER = Path(__file__).parent / "distributed_worker.py"
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def _launched(folder: Path, task: str, **environment: str) -> subprocess.CompletedProcess:
    """By torch's own launcher, which ends the other process where one dies."""
    command = [sys.executable, *LAUNCHER, WORKER, folder, task]
    options = {"capture_output": True, "text": True, "timeout": 240}
    return subprocess.run(command, env=os.environ | environment, **options)


def _unwatched(folder: Path, task: str) -> list[tuple[int, bytes]]:
    """Without a launcher: how each of two processes ended, and what it said then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    there = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, WORKER, folder, task]
    running = [
        subprocess.Popen(command, env=there | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    return [(process.returncode, said) for process, said in zip(running, errors, strict=True)]


@pytest.fixture(scope="session")
def one_killed(tmp_path_factory):
    """What is left, printed and taken when of two processes one is killed in the second epoch."""
    folder = tmp_path_factory.mktemp("one")
    began = time.monotonic()
    done = _launched(folder, "one")
    return folder, done, time.monotonic() - began


@pytest.fixture(scope="session")
def all_killed(tmp_path_factory):
    """The same of both processes."""
    folder = tmp_path_factory.mktemp("all")
    ends = _unwatched(folder, "all")
    assert -signal.SIGKILL in [code for code, _ in ends], ends  # the other may notice that first
    return folder


@pytest.fixture(scope="session")
def scan_killed(tmp_path_factory):
    """What two processes leave that were killed in the middle of a scan."""
    folder = tmp_path_factory.mktemp("scan")
    ends = _unwatched(folder, "scan")
    assert [code for code, _ in ends] == 2 * [-signal.SIGKILL], ends
    return folder


@pytest.fixture(scope="session")
def two(one_killed, all_killed, scan_killed, tmp_path_factory):
    """What two processes do in one launch, after those that were killed: a folder, and by rank."""
    from test_photo_runs import draw_photos

    folder = tmp_path_factory.mktemp("two")
    for name, left in (("one", one_killed[0]), ("all", all_killed), ("killed", scan_killed)):
        shutil.copytree(left, folder / name)
    draw_photos(folder / "photos")
    nothing = {"PRUNING_LAB_CACHE": str(folder / "cache"), "PRUNING_LAB_DATA": "nowhere"}
    done = _launched(folder, "everything", **nothing)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"about{rank}.json").read_text()) for rank in range(2)]
