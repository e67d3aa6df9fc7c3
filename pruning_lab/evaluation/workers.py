"""Worker threads with one torch thread each: on a CPU the fastest way to measure many batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier, Lock, Thread
from typing import TypeVar

import torch

Tool = TypeVar("Tool")
_STARTING = Lock()


def each(tools: list[Tool], jobs: Iterable[Callable[[Tool], object]]) -> Iterator:
    """The jobs' results in order; every tool serves one job at a time, in a thread of its own.

    One tool alone serves in the calling thread. Workers are one job ahead of the caller.
    """
    free: SimpleQueue[Tool] = SimpleQueue()
    for tool in tools:
        free.put(tool)
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(job):
        tool = free.get()
        try:  # gradient mode and autocast are those of one thread
            with torch.no_grad(), torch.autocast("cpu", autocast[1], autocast[0]):
                return job(tool)
        finally:
            free.put(tool)

    if len(tools) == 1:
        yield from map(run, jobs)
        return

    running = deque()
    with _single_threaded(len(tools)) as pool:
        try:
            for job in jobs:
                running.append(pool.submit(run, job))
                if len(running) > len(tools):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an interrupt nobody works on


def _single_threaded(count: int) -> ThreadPoolExecutor:
    """A pool whose threads have one torch thread each.

    torch.set_num_threads sets two numbers: the calling thread's, and the one that later threads
    start with. The second is read by the first worker, and restored by one more thread.
    """
    pool, started = ThreadPoolExecutor(count), Barrier(count)

    def start():
        torch.get_num_threads()  # the first call in a thread sets its number to the inherited one
        torch.set_num_threads(1)
        started.wait()  # so that no worker does this twice

    with _STARTING:
        inherited = pool.submit(torch.get_num_threads).result()
        try:
            for future in [pool.submit(start) for _ in range(count)]:
                future.result()
        except BaseException:
            started.abort()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            last = Thread(target=torch.set_num_threads, args=(inherited,))
            last.start()
            last.join()
    return pool
