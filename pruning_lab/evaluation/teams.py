"""Work spread over torch's threads, or over workers of one thread each: what is quicker here."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
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
    """Workers at a pace; torch's number of threads is as before when they are done."""

    def __init__(self, pace: Pace):
        self.pace = pace
        self.before = torch.get_num_threads()
        self.pool = None
        if pace.workers > 1:
            begin = torch.set_num_threads
            self.pool = ThreadPoolExecutor(
                pace.workers, initializer=begin, initargs=(pace.threads,)
            )

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.before)

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
            yield from map(self._alone, jobs)
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

    def _alone(self, job: Callable[[], object]):
        torch.set_num_threads(self.pace.threads)
        try:
            return job()
        finally:
            torch.set_num_threads(self.before)


def _measured(job: Callable[[], object]):
    with torch.inference_mode():  # which holds for one thread only
        return job()
