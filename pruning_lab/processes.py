"""One process or many: what torch's own launcher started, counted and trained together.

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


def gathered(tensor: Tensor) -> Tensor:
    """(world, ...): what each process has, on the CPU; every process has to ask."""
    tensor = tensor.detach().cpu()
    if not _many():
        return tensor[None].clone()
    rows = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(rows, tensor)
    return torch.stack(rows)


def copy_first_(tensors: Iterable[Tensor]) -> None:
    """Every process gets the values of the first, in place."""
    for tensor in tensors if _many() else ():
        dist.broadcast(tensor.detach(), src=0)


def agree(text: str) -> bool:
    """Whether all processes ask with the same text; every process has to ask."""
    digest = int(files.sha256(text.encode())[:15], 16)  # what an int64 holds
    return len(gathered(torch.tensor(digest)).unique()) == 1


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


def wait() -> None:
    """Go on when all processes have come here."""
    summed(torch.zeros(1))


def check(device: torch.device) -> None:
    """That the processes which torch's launcher started are joined, each with a device of its own.

    Raises RuntimeError where this one would work alone, as all the others, on the same files;
    ValueError where they are more than the GPUs.
    """
    if not _many() and (started := _started()) > 1:
        raise RuntimeError(
            f"this is one of {started} processes, but they are not joined; do this inside "
            f"`with processes.joined():`"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if _many() and device.type == "cuda" and here > (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"{here} processes cannot train on {gpus} GPUs; start with --nproc-per-node={gpus}"
        )


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes where torch's launcher started some; else do nothing.

    Counts travel by gloo, the gradients of a GPU by nccl, and each process takes the GPU of its
    local rank. Raises ConnectionError where another process ends before its time or the launcher
    tells this one to, ValueError where the launcher's words about the processes are wrong.
    """
    if _many() or _started() == 1:
        yield
        return
    _join()
    lost = False
    try:
        with _told_to_end():
            yield
    except (RuntimeError, ConnectionError) as error:
        lost = isinstance(error, dist.DistError | ConnectionError) or "gloo" in str(error)
        if lost and not isinstance(error, ConnectionError):
            raise ConnectionError(
                f"another process has ended, or has not answered for {_PATIENCE}; {_GO_ON}"
            ) from error
        raise
    finally:
        if not lost:  # else it might wait for the others
            dist.destroy_process_group()


def _join() -> None:
    # DDP would import this while the group is there; its functions, whose defaults are the group of
    # that moment, would keep the group and its threads beyond destroy_process_group, and a thread
    # that wants Python while the interpreter shuts down aborts the process.
    import torch.distributed.nn

    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    if nccl:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=_PATIENCE)
    if world() != _started():
        raise ValueError(f"WORLD_SIZE says {_started()} processes, but {world()} have joined")


def _started() -> int:
    """How many processes the launcher says it started, this one included."""
    size = os.environ.get("WORLD_SIZE")
    if size is None and not any(name in os.environ for name in _LAUNCHED):
        return 1
    try:
        count, place = int(size or 0), int(os.environ.get("RANK", "0"))
    except ValueError:
        count = place = 0
    if not 0 <= place < count:
        raise ValueError(
            f"a launcher has set WORLD_SIZE={size} and RANK={os.environ.get('RANK')}, which do not "
            f"fit; start with python -m torch.distributed.run --nproc-per-node=N, or unset both"
        )
    return count


@contextmanager
def _told_to_end() -> Iterator[None]:
    """The launcher ends the others when one process dies; they say so instead of just stopping."""

    def end(*_):
        raise ConnectionError(
            f"the launcher ends this process, as it does when another one has died; {_GO_ON}"
        )

    if threading.current_thread() is not threading.main_thread():  # signals come to that one alone
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


_LAUNCHED = ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")  # what torch's launcher sets besides
_PATIENCE = timedelta(minutes=30)  # a batch or a checkpoint takes less, a hang should not last
_GO_ON = "what was done up to the last checkpoint is kept, and the same start with --resume goes on"
