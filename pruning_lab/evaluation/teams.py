"""Work spread over torch's threads, or over workers of one thread each: what is quicker here."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch


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


def quickest(work: Callable[[], object], candidates: list[Pace], device: torch.device) -> Pace:
    """The pace at which every worker doing `work` once takes least time for each."""
    if device.type != "cpu":
        return Pace(1, torch.get_num_threads())
    timed = []
    for pace in candidates:
        with Team(pace) as team:
            jobs = [work] * pace.workers
            team.do(jobs)
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                team.do(jobs)
                seconds.append((time.perf_counter() - began) / pace.workers)
        timed.append(Pace(pace.workers, pace.threads, min(seconds)))
    return min(timed, key=lambda pace: pace.seconds)


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

    def do(self, jobs: list[Callable[[], object]]) -> list:
        """What the jobs give, in their order."""
        if self.pool is None:
            torch.set_num_threads(self.pace.threads)
            try:
                return [job() for job in jobs]
            finally:
                torch.set_num_threads(self.before)
        running = [self.pool.submit(_measured, job) for job in jobs]
        try:
            return [future.result() for future in running]
        finally:
            for future in running:  # after an interrupt: none is left working behind our back
                future.cancel() or future.exception()


def _measured(job: Callable[[], object]):
    with torch.inference_mode():  # which holds for one thread only
        return job()
