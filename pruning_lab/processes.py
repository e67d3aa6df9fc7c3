"""One process or many: those that torch's launcher started count and train together.

python -m torch.distributed.run --nproc-per-node=2 -m pruning_lab scan ...
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pruning_lab import files

_LAUNCHED = ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")  # what torch's launcher sets besides
_PATIENCE = timedelta(minutes=30)  # a batch or a checkpoint takes less, a hang should not last
_RESUME = "progress up to the last checkpoint is kept; run the same command with --resume"


def rank() -> int:
    """Which of the processes this is, from 0; the first one writes the files."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if _many() else 1


def gathered(tensor: Tensor) -> Tensor:
    """(world, ...): what each process has, on the CPU; every process has to ask."""
    tensor = tensor.detach().cpu()
    rows = [tensor.clone() for _ in range(world())]
    if _many():
        dist.all_gather(rows, tensor)
    return torch.stack(rows)


def summed(counts: Tensor) -> Tensor:
    """The sum over all processes, on the CPU; every process has to ask."""
    counts = counts.detach().cpu().clone()
    if _many():
        dist.all_reduce(counts)
    return counts


def copy_first_(tensors: Iterable[Tensor]) -> None:
    """Every process gets the values of the first, in place."""
    for tensor in tensors if _many() else ():
        dist.broadcast(tensor.detach(), src=0)


def agree(text: str) -> bool:
    """Whether all processes ask with the same text; every process has to ask."""
    digest = int(files.sha256(text.encode())[:15], 16)  # what an int64 holds
    return len(gathered(torch.tensor(digest)).unique()) == 1


def wait() -> None:
    """Return when all processes have called this."""
    summed(torch.zeros(1))


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process does it, then all the others: what it leaves on disk they find."""
    if rank() > 0:
        wait()
    try:
        yield
    finally:  # where it failed, the others fail likewise, and say so
        if rank() == 0:
            wait()


def check(device: torch.device) -> None:
    """Raise an error where the launcher's processes are not joined, or are more than the GPUs."""
    if not _many() and (count := _started()) > 1:  # each would do all the work, on the same files
        sentence = f"this is one of {count} processes, but they are not joined; do this inside"
        raise RuntimeError(f"{sentence} `with processes.joined():`")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if _many() and device.type == "cuda" and here > (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"{here} processes cannot train on {gpus} GPUs; start with --nproc-per-node={gpus}"
        )


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes where torch's launcher started some; else do nothing.

    Counts travel by gloo, the gradients of a GPU by nccl, and each process takes the GPU of its
    local rank. Raises ConnectionError where another process failed or the launcher stops this one.
    """
    if _many() or _started() == 1:
        yield
        return
    # If DDP imported this later, default arguments would keep the group and its threads beyond
    # destroy_process_group, and such a thread can abort the process while the interpreter exits.
    import torch.distributed.nn

    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    if nccl:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=_PATIENCE)
    lost = False
    try:
        with stoppable():
            yield
    except (RuntimeError, ConnectionError) as error:
        lost = isinstance(error, dist.DistError | ConnectionError) or "gloo" in str(error)
        if lost and not isinstance(error, ConnectionError):
            sentence = f"another process has ended, or has not answered for {_PATIENCE}; {_RESUME}"
            raise ConnectionError(sentence) from error
        raise
    finally:
        if not lost:  # else it might wait for the others
            dist.destroy_process_group()


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise ConnectionError where the launcher stops this process, as when another one failed."""

    def stop(*_):
        why = "stopped by torch's launcher, probably because another process failed"
        raise ConnectionError(f"{why}; {_RESUME}")

    main = threading.current_thread() is threading.main_thread()  # only that one gets signals
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _started() -> int:
    """How many processes the launcher says it started, this one included."""
    size, place = os.environ.get("WORLD_SIZE"), os.environ.get("RANK", "0")
    if size is None and not any(name in os.environ for name in _LAUNCHED):
        return 1
    if not (str(size).isdecimal() and place.isdecimal() and int(place) < int(size)):
        raise ValueError(
            f"WORLD_SIZE={size} and RANK={os.environ.get('RANK')} do not fit; start with "
            f"python -m torch.distributed.run --nproc-per-node=N, or unset both"
        )
    return int(size)


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()
