"""Work spread over torch's threads, or over workers of one thread each: what is quicker here."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from threading import Barrier, Lock, Thread
from typing import TypeVar

import torch

ROUNDS, CLEARLY = 5, 0.8  # of trials; the share of another's time that is clearly less
AHEAD = 1  # jobs for each worker that may wait or be done, unasked for
Way = TypeVar("Way")


@dataclass(frozen=True)
class Pace:
    """How work is spread: `workers` Python threads, each of `threads` threads of torch."""

    workers: int
    threads: int
    seconds: float = float("inf")  # for the images it was tried on

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads} threads"


def paces(alone: bool) -> list[Pace]:
    """Torch's threads on one batch, or as many workers of one thread each."""
    count = torch.get_num_threads()
    other = Pace(1, 1) if alone else Pace(count, 1)
    return [Pace(1, count), other] if count > 1 else [Pace(1, 1)]


def quickest(
    works: Mapping[Way, Callable[[], object]], candidates: list[Pace], device: torch.device
) -> tuple[Way, Pace]:
    """Of some ways to do the same work, and the paces for it: those that take least time.

    Torch's threads wait for each other at every step. What that costs once the machine has more to
    do, a trial does not show: they have to be clearly quicker than the last candidate.
    """
    if device.type != "cpu":
        return next(iter(works)), Pace(1, torch.get_num_threads())
    trials = list(product(works, candidates))
    with ExitStack() as stack:
        teams = {pace: stack.enter_context(Team(pace)) for pace in candidates}
        # By turns: a moment in which the machine is busy then counts for none.
        _, *rounds = [
            [teams[pace].seconds(works[way]) for way, pace in trials] for _ in range(1 + ROUNDS)
        ]
    best = dict(zip(trials, map(min, *rounds), strict=True))
    chosen = {
        way: _pace([replace(pace, seconds=best[way, pace]) for pace in candidates]) for way in works
    }
    return min(chosen.items(), key=lambda item: item[1].seconds)


def _pace(timed: list[Pace]) -> Pace:
    *others, last = timed
    other = min(others, key=lambda pace: pace.seconds, default=last)
    return other if other.seconds < CLEARLY * last.seconds else last


class Team:
    """Worker threads of one thread plan; the number of torch's threads stays for all others.

    Where the plan is what the calling thread has anyway, that thread does the jobs itself.
    """

    def __init__(self, pace: Pace):
        self.pace = pace
        self.pool = None
        if pace.workers > 1 or pace.threads != torch.get_num_threads():
            self.pool = ThreadPoolExecutor(pace.workers)
            self._start()

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        """Start all workers, each with the plan's number of threads.

        torch.set_num_threads sets two numbers: the calling thread's, and the one that threads born
        later inherit. The second is read by the first worker, and set back by one more thread.
        """
        started = Barrier(self.pace.workers)  # so that no worker is given two of these jobs
        begin = partial(_begin, self.pace.threads, started)
        with _STARTING:
            inherited = self.pool.submit(torch.get_num_threads).result()
            try:
                for future in [self.pool.submit(begin) for _ in range(self.pace.workers)]:
                    future.result()
            except BaseException:
                started.abort()  # no worker is left waiting, or begins later
                self.pool.shutdown(cancel_futures=True)
                raise
            finally:
                last = Thread(target=torch.set_num_threads, args=(inherited,))
                last.start()
                last.join()

    def seconds(self, work: Callable[[], object]) -> float:
        """How long it takes when every worker does this once, per worker."""
        began = time.perf_counter()
        self.do([work] * self.pace.workers)
        return (time.perf_counter() - began) / self.pace.workers

    def do(self, jobs: Iterable[Callable[[], object]]) -> list:
        """What the jobs give, in their order."""
        return list(self.each(jobs))

    def each(self, jobs: Iterable[Callable[[], object]]) -> Iterator:
        """What the jobs give, one after another; workers are a few jobs ahead of whoever asks."""
        if self.pool is None:
            for job in jobs:
                yield job()
            return
        running = deque()
        try:
            for job in jobs:
                running.append(self.pool.submit(_measured, job))
                if len(running) > AHEAD * self.pace.workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:  # after an interrupt: none is left working behind our back
                future.cancel() or future.exception()


_STARTING = Lock()  # one team at a time: another one would take its number for everybody's


def _begin(threads: int, started: Barrier) -> None:
    torch.get_num_threads()  # the first call in a thread sets its number to the inherited one
    torch.set_num_threads(threads)
    started.wait()


def _measured(job: Callable[[], object]):
    with torch.no_grad():  # it holds for one thread only
        return job()
