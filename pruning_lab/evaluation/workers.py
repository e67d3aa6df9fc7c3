"""Worker threads with one torch thread each: on a CPU the fastest way to measure many batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock
from typing import TypeVar

import torch

Tool = TypeVar("Tool")
_STARTING = Lock()


def each(tools: list[Tool], jobs: Iterable[Callable[[Tool], object]]) -> Iterator:
    """The jobs' results in order; every tool serves one job at a time, in a thread of its own.

    One tool alone serves in the calling thread. Workers are one job ahead of the caller.
    """
    free, running = deque(tools), deque()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(job):
        tool = free.popleft()  # never empty: there are as many threads as tools
        try:  # gradient mode and autocast belong to one thread
            with torch.no_grad(), torch.autocast("cpu", autocast[1], autocast[0]):
                return job(tool)
        finally:
            free.append(tool)

    if len(tools) == 1:
        yield from map(run, jobs)
        return
    with _pool(len(tools)) as pool:
        for job in jobs:
            running.append(pool.submit(run, job))
            if len(running) > len(tools):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


@contextmanager
def _pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads with one torch thread each. After an error or interrupt none of them works on.

    torch.set_num_threads also sets what later threads start with, hence it is called again here.
    """
    pool, all_set = ThreadPoolExecutor(count), Barrier(count)

    def start(_):
        torch.get_num_threads()  # the first call in a thread takes over the common number
        torch.set_num_threads(1)
        all_set.wait()  # so that no worker does this twice

    try:
        with _STARTING:
            before = torch.get_num_threads()
            try:
                list(pool.map(start, range(count)))
            finally:
                all_set.abort()
                torch.set_num_threads(before)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
