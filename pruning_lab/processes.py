"""One process or many: what torch's own launcher started, counted together.

python -m torch.distributed.run --nproc-per-node=2 -m pruning_lab scan ...
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Which of the processes this is, from 0; the first one writes the files."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if _many() else 1


def summed(counts: Tensor) -> Tensor:
    """The sum over all processes, on the CPU; every process has to ask."""
    counts = counts.detach().cpu().clone()
    if _many():
        dist.all_reduce(counts)
    return counts


def wait() -> None:
    """Go on when all processes have come here."""
    summed(torch.zeros(1))


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes where torch's launcher started some; else do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _many():
        yield
        return
    dist.init_process_group("gloo")  # counts travel, not gradients
    try:
        yield
    finally:
        dist.destroy_process_group()


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()
