"""Measures the latest request in a thread: the only owner of a thread and of a lock."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from pruning_lab import counts
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy, Drop, Evaluator
from pruning_lab.studio.history import Attempt
from pruning_lab.studio.images import Stopped, StudioImages
from pruning_lab.studio.metrics import Answers, Change
from pruning_lab.studio.versions import Settings, Version

LOOK_SECONDS = 0.4  # between two estimates of an accuracy that is being measured
REST_SECONDS = 0.06  # without a step, after which a drag that was too fast counts as resting


@dataclass(frozen=True)
class Moved:
    """The studio stands elsewhere, or knows more of where it stands."""


@dataclass(frozen=True)
class Measured:
    """An estimate on the first images, or with `final` what was measured on all."""

    attempt: int
    accuracy: Accuracy
    drop: Drop
    final: bool


@dataclass(frozen=True)
class Progress:
    """What the studio does now, in a few words."""

    text: str


@dataclass(frozen=True)
class Failed:
    """What went wrong in the studio's thread; `settle` raises it."""

    text: str


Event = Moved | Measured | Progress | Failed


class LatestOnlyWorker:
    """A thread that works on the latest request only; it ends when there is nothing to do.

    `work(request, stale)` should return when stale() is true; nothing needs to be cancelled or
    timed. stale(0.1) waits so many seconds for a later request, and is true as soon as there is one.
    """

    def __init__(self, work: Callable[[object, Callable[..., bool]], None]):
        self._work = work
        self._changed = threading.Condition()
        self._latest = self._finished = 0  # requests are numbered
        self._request: object = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.closed = False

    def submit(self, request: object) -> None:
        with self._changed:
            self._latest += 1
            self._request = request
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="latest-only", daemon=True)
                self._thread.start()

    def settle(self, timeout: float | None = None) -> None:
        """Wait until the latest request is done; raises what went wrong in it."""
        with self._changed:
            if self._thread is threading.current_thread():
                raise RuntimeError("a listener cannot wait for the thread that it is called in")
            if not self._changed.wait_for(lambda: self._thread is None, timeout):
                raise TimeoutError(
                    f"still measuring after {timeout:g} s; wait longer, or use fewer images"
                )
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the thread; what it was working on stays undone."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self.closed or self._finished == self._latest:
                    self._thread = None
                    self._changed.notify_all()
                    return
                number, request = self._latest, self._request
            error = None
            try:
                self._work(request, partial(self._is_stale, number))
            except BaseException as raised:  # settle() raises it, in the thread that asks
                error = raised
            with self._changed:
                self._finished = number
                if number == self._latest:
                    self._error = error

    def _is_stale(self, number: int, seconds: float = 0) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.closed or number != self._latest, seconds)


class Measurer:
    """Measures networks on the same images, the latest request only, and tells by events.

    `first` is the version that drops are measured against. `record(attempt, change)` is called with
    what was measured of an attempt on all images, before anyone is told.
    """

    def __init__(
        self,
        first: Version,
        images: Images,
        record: Callable[[Attempt, Change], None],
        *,
        budget: int,
        recalibrate: Images | None,
    ):
        self.lock = threading.RLock()
        self.status, self.busy = "ready", ""  # busy: what is done that nothing may disturb
        self.dense: Answers | None = None  # of the network as it came
        self.flops: dict[str, int] = {}
        self.listeners: list[tuple[type, Callable]] = []
        self._worker = LatestOnlyWorker(self._work)
        self._first, self._images, self._record = first, images, record
        if recalibrate is not None:
            recalibrate = StudioImages(recalibrate, self._check_open)
        self._options = {"budget": budget, "recalibrate": recalibrate}
        self._request: tuple[Version, Attempt] | None = None
        self._halted = False
        self._hurried = False  # the last measurement was cut short by a later request
        self._answers: dict[tuple, Answers] = {}  # attempt.key -> on all images
        self._estimate: tuple[tuple | None, Answers | None] = None, None
        self._version: Version | None = None  # whose network the evaluator holds
        self._evaluator: Evaluator | None = None
        self._settings: Settings = {}  # that the evaluator last went through with

    @property
    def chance(self) -> float:
        """The accuracy of always naming the commonest label; 0 until labels are known."""
        if self.dense is None:
            return 0.0
        return int(self.dense.labels.unique(return_counts=True)[1].max()) / len(self.dense.labels)

    def change(self, attempt: Attempt) -> Change | None:
        """The answers to all images, or to the first ones; None until there are any."""
        key, estimate = self._estimate
        answers = self._answers.get(attempt.key, estimate if key == attempt.key else None)
        if answers is None:
            return None
        return Change(self.dense.first(len(answers.labels)), answers)

    def request(self, version: Version, attempt: Attempt) -> None:
        """Have this measured, or, while a task runs, when it has ended."""
        with self.lock:
            self._request = version, attempt
            if not self.busy:
                self.status = "measuring"
                self._worker.submit(self._measure)

    def start(self, busy: str, task: Callable[[], None]) -> None:
        """Have a task done in the thread; meanwhile nothing is measured."""
        with self.free():
            self.busy, self._halted = busy, False
            self.status = f"{busy} …"
            self._worker.submit(partial(self._long, task))

    @contextmanager
    def free(self) -> Iterator[None]:
        """With the lock; raises RuntimeError while a task runs, and after `close`."""
        with self.lock:
            if self._worker.closed:
                raise RuntimeError(
                    "this studio is closed; make a new one, or load the one you saved"
                )
            if self.busy:
                raise RuntimeError(f"the studio is {self.busy}; stop() it, or wait with settle()")
            yield

    def stop(self) -> None:
        self._halted = True

    def check(self) -> None:
        """Raise Stopped where the running task should end."""
        if self._halted:
            raise Stopped

    def settle(self, timeout: float | None = None) -> None:
        try:
            self._worker.settle(timeout)
        except KeyboardInterrupt:
            if self.busy:
                self.stop()
                self._worker.settle()
            raise

    def close(self) -> None:
        self.stop()
        self._worker.close()

    def say(self, text: str) -> None:
        self.status = text
        self.tell(Progress(text))

    def tell(self, event: Event) -> None:
        for kind, listener in tuple(self.listeners):
            if isinstance(event, kind):
                listener(event)

    # ------------------------------------------------------------------------ in the thread

    def _work(self, task: Callable, stale: Callable[[], bool]) -> None:
        try:
            task(stale)
        except Stopped:  # it was closed
            pass
        except BaseException as error:
            self.status = f"failed: {error}"
            self.tell(Failed(str(error)))
            raise

    def _long(self, task: Callable, stale: Callable[[], bool]) -> None:
        try:
            self.say(f"{self.busy} …")
            task()
        except Stopped:
            pass
        finally:
            self.busy = ""
        self._measure(stale)

    def _measure(self, stale: Callable[[], bool]) -> None:
        version, attempt = self._request
        self.tell(Moved())
        version.prepare(self.say, stale)
        if stale():
            return
        if self.dense is None:
            self._open(self._first)
            self.dense = self._whole()
            counted = counts.layers(self._first.network(), [(self._evaluator.image, None)])
            flops = {row.layer: row.flops for row in counted}
            self.flops = {name: flops.get(name, 0) for name in self._first.layers}
            self.tell(Moved())
        if attempt.key not in self._answers:
            self._open(version)
            self.status = "measuring"
            self._refine(version, attempt, stale)
        if attempt.key in self._answers:
            change = self.change(attempt)
            self._record(attempt, change)
            if not stale():
                self.status = "ready"
                self.tell(Measured(attempt.number, change.after.accuracy, change.drop, True))

    def _refine(self, version: Version, attempt: Attempt, stale: Callable[[], bool]) -> None:
        """Estimate on the first images, then on ever more, then know it of all."""
        # In a drag that leaves no time for all images, measuring would be for nothing, and would
        # take the time that its pictures need.
        if self._hurried and stale(REST_SECONDS):
            return
        self._hurried = True
        looked, seen, parts = 0.0, 0, []
        labels = self._evaluator.labels
        for logits in self._evaluator.advance(version.changes(attempt.settings, self._settings)):
            if stale():
                return
            parts.append(Answers.of(logits, labels[seen : seen + len(logits)]))
            seen += len(logits)
            if time.perf_counter() - looked > LOOK_SECONDS:
                looked = time.perf_counter()
                self._estimate = attempt.key, Answers.joined(parts)
                change = self.change(attempt)
                event = Measured(attempt.number, change.after.accuracy, change.drop, False)
                self.tell(event)
        self._hurried, self._settings = False, attempt.settings
        self._answers[attempt.key] = Answers.joined(parts)

    def _open(self, version: Version) -> None:
        """Evaluate this version from here on; reads the images."""
        if self._version is version:
            return
        self.say("preparing the images …")
        self._version = self._evaluator = None  # frees its memory
        images = StudioImages(self._images, self._check_open)
        self._evaluator = Evaluator(version.network(), images, **self._options)
        self._version, self._settings = version, {}
        if self.dense and not torch.equal(self._evaluator.labels.cpu(), self.dense.labels):
            raise ValueError("the images come in another order each time; give some that do not")

    def _whole(self) -> Answers:
        return Answers.of(self._evaluator.logits(), self._evaluator.labels)

    def _check_open(self) -> None:
        if self._worker.closed:
            raise Stopped
