"""Measures the latest request in a thread, which it owns, as it does the studio's lock."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pruning_lab import counts
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy, Drop, Evaluator
from pruning_lab.layers import device_of
from pruning_lab.studio.history import Attempt
from pruning_lab.studio.images import Stopped, own
from pruning_lab.studio.layers import Settings, Version
from pruning_lab.studio.metrics import Change, accuracy_of, answers_of

LOOK_SECONDS = 0.4  # between two estimates of an accuracy that is being measured
REST_SECONDS = 0.06  # without a step, after which a drag that was too fast counts as resting
_FIRST = Attempt(1, None, 0, "as it came").key


@dataclass(frozen=True)
class Moved:
    """Another attempt is the current one, or more is known of its layers."""


@dataclass(frozen=True)
class Measured:
    """An estimate on the first images, or with `final` what was measured on all."""

    attempt: int
    accuracy: Accuracy
    drop: Drop
    final: bool


@dataclass(frozen=True)
class Changed:
    """The history is another one, or test images were used: there is something to save.

    Told at once, in the thread that changed it; all other events are told in the studio's own.
    """


@dataclass(frozen=True)
class Progress:
    """What the studio does now, in a few words; of a long task also how far it is."""

    text: str
    done: float | None = None  # fraction of the task
    left: float | None = None  # seconds, estimated
    point: tuple[float, ...] | None = None  # to draw, as `tasks` says


@dataclass(frozen=True)
class Failed:
    """What went wrong in the studio's thread, which `settle` raises, or while it was saved."""

    text: str


Event = Moved | Measured | Changed | Progress | Failed


class Measurer:
    """Measures pruned networks on the same images and tells by events; does long tasks too.

    The thread works on the latest request only, and ends when there is nothing to do: a measurement
    asks between two batches whether it is stale. `first` is the version that drops are measured
    from; `record(key, change)` gets what was measured on all images, before listeners do.
    """

    def __init__(
        self,
        first: Version,
        images: Images,
        record: Callable[[tuple, Change], None],
        budget: int | None,
        recalibrate: Images | None,
    ):
        self.lock = threading.Condition()  # with an RLock
        self._listeners: dict[object, tuple[type, Callable[[Event], None]]] = {}
        self.status, self.busy = "ready", ""  # busy: the task that nothing may disturb
        self.dense: Accuracy | None = None  # of the network as it came
        self._before: Tensor | None = None  # its answers
        self.flops: dict[str, int] = {}
        self._first, self._record = first, record
        self._images, self._recalibrate = images, recalibrate
        on_cpu = device_of(first.network()).type == "cpu"
        self._budget = budget or (2**28 if on_cpu else 2**32)
        self._open: tuple[Version | None, Evaluator | None, Settings] = None, None, {}
        self._answers: dict[tuple, Tensor] = {}  # attempt.key -> to all images
        self._estimate: tuple[tuple | None, Tensor | None] = None, None  # to the first images
        self._request: tuple[Version, Attempt] | None = None
        self._number, self._task = 0, None  # of the latest request
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._hurried = False  # the last measurement was cut short by a later request
        self._halted = self._closed = False

    @property
    def chance(self) -> float:
        """The accuracy of always naming the commonest label; 0 until labels are known."""
        if self._before is None:
            return 0.0
        return int(self._before[:, 0].unique(return_counts=True)[1].max()) / len(self._before)

    def change(self, attempt: Attempt) -> Change | None:
        """The answers to all images, else to the first ones, else None."""
        key, estimate = self._estimate
        answers = self._answers.get(attempt.key, estimate if key == attempt.key else None)
        return None if answers is None else Change(self._before[: len(answers)], answers)

    def request(self, version: Version, attempt: Attempt) -> None:
        """Have this measured; while a task runs, when it has ended."""
        with self.lock:
            self._request = version, attempt
            if not self.busy:
                self.status = "measuring"
                self._submit(None)

    def start(self, busy: str, task: Callable[[], None], wait: bool) -> None:
        """Do a task in the thread, then measure; raises RuntimeError as `free` does."""
        with self.free():
            self.busy, self._halted, self.status = busy, False, f"{busy} …"
            self._submit(task)
        if wait:
            self.settle()

    @contextmanager
    def free(self) -> Iterator[None]:
        """The lock; raises RuntimeError while a task runs, and after `close`."""
        with self.lock:
            if self._closed:
                raise RuntimeError("this studio is closed; make a new one, or load a saved one")
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
        """Wait until the latest request is done; raises what went wrong in it."""
        try:
            with self.lock:
                if self._thread is threading.current_thread():
                    raise RuntimeError("a listener cannot wait for the thread that it is called in")
                if not self.lock.wait_for(lambda: self._thread is None, timeout):
                    raise TimeoutError(f"still busy after {timeout:g} s; wait longer, or stop() it")
                if self._error is not None:
                    raise self._error
        except KeyboardInterrupt:
            if self.busy:
                self.stop()
                self.settle()
            raise

    def close(self) -> None:
        """End the thread; what it was working on stays undone."""
        self.stop()
        with self.lock:
            self._closed = True
            self.lock.notify_all()
            thread = self._thread
        if thread not in (None, threading.current_thread()):
            thread.join()

    def say(
        self,
        text: str,
        done: float | None = None,
        left: float | None = None,
        point: tuple[float, ...] | None = None,
    ) -> None:
        """Tell of progress; the text is the status too."""
        self.status = text
        self.tell(Progress(text, done, left, point))

    def fail(self, text: str) -> None:
        self.status = f"failed: {text}"
        self.tell(Failed(text))

    def on(self, kind: type[Event], listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with each event of a kind; returns what ends that."""
        self._listeners[key := object()] = kind, listener
        return partial(self._listeners.pop, key, None)

    def tell(self, event: Event) -> None:
        for kind, listener in tuple(self._listeners.values()):
            if isinstance(event, kind):
                listener(event)

    def _submit(self, task: Callable[[], None] | None) -> None:
        self._number, self._task = self._number + 1, task
        self.lock.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="studio", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        number = 0
        while True:
            with self.lock:
                if self._closed or number == self._number:
                    self._thread = None
                    self.lock.notify_all()
                    return
                number, task, self._error = self._number, self._task, None
            try:
                self._work(task, partial(self._is_stale, number))
            except BaseException as error:  # settle() raises it, in the thread that asks
                self._error = error
            if not self._is_stale(number):
                _trim_memory()

    def _is_stale(self, number: int, seconds: float = 0) -> bool:
        """Whether there is a later request; waits so many seconds for one."""
        with self.lock:
            return self.lock.wait_for(lambda: self._closed or number != self._number, seconds)

    def _work(self, task: Callable[[], None] | None, stale: Callable[..., bool]) -> None:
        try:
            if task is not None:
                self._do(task)
            self._measure(*self._request, stale)
        except Stopped:  # it was closed
            pass
        except BaseException as error:
            self.fail(str(error))
            raise

    def _do(self, task: Callable[[], None]) -> None:
        try:
            self.say(f"{self.busy} …")
            task()
        except Stopped:
            pass
        finally:
            self.busy = ""

    def _measure(self, version: Version, attempt: Attempt, stale: Callable[..., bool]) -> None:
        self.tell(Moved())
        if not version.prepare(stale):
            return
        if self.dense is None:
            evaluator = self._opened(self._first)
            counted = counts.layers(self._first.network(), [(evaluator.image, None)])
            flops = {row.layer: row.flops for row in counted}
            self.flops = {name: flops.get(name, 0) for name in self._first.layers}
            self._before = answers_of(evaluator.logits(), evaluator.labels)
            self.dense = accuracy_of(self._before)
            self._answers[_FIRST] = self._before
            self._record(_FIRST, Change(self._before, self._before))
            self.tell(Moved())
        if attempt.key not in self._answers:
            self._refine(version, attempt, stale)
        if attempt.key in self._answers:
            self._record(attempt.key, self.change(attempt))
            if not stale():
                self.status = "ready"
                self._tell_measured(attempt, final=True)

    def _refine(self, version: Version, attempt: Attempt, stale: Callable[..., bool]) -> None:
        """Estimate on the first images, then on more and more, until it is known of all."""
        evaluator = self._opened(version)
        self.status = "measuring"
        # In a drag that leaves no time for all images, measuring would be for nothing, and would
        # take the time that its pictures need.
        if self._hurried and stale(REST_SECONDS):
            return
        self._hurried, looked, seen, parts = True, 0.0, 0, []
        for logits in evaluator.advance(version.changes(attempt.settings, self._open[2])):
            if stale():
                return
            parts.append(answers_of(logits, evaluator.labels[seen : seen + len(logits)]))
            seen += len(logits)
            if time.perf_counter() - looked > LOOK_SECONDS:
                looked, self._estimate = time.perf_counter(), (attempt.key, torch.cat(parts))
                self._tell_measured(attempt, final=False)
        self._hurried, self._open = False, (version, evaluator, attempt.settings)
        self._answers[attempt.key] = torch.cat(parts)

    def _opened(self, version: Version) -> Evaluator:
        """The evaluator of a version; it is made when another version's was open."""
        if self._open[0] is not version:
            self.say("preparing the images …")
            self._open = None, None, {}  # frees memory
            images = own(self._images, self._check_open)  # in the same order as the last time
            training = own(self._recalibrate, self._check_open)
            options = {"budget": self._budget, "recalibrate": training}
            evaluator = Evaluator(version.network(), images, **options)
            labels = evaluator.labels.cpu().double()
            if self.dense and not torch.equal(labels, self._before[:, 0]):
                raise ValueError("the images come in another order each time; give them in one")
            self._open = version, evaluator, {}
        return self._open[1]

    def _tell_measured(self, attempt: Attempt, final: bool) -> None:
        change = self.change(attempt)
        self.tell(Measured(attempt.number, change.accuracy, change.drop, final))

    def _check_open(self) -> None:
        if self._closed:
            raise Stopped


def _trim_memory() -> None:
    """Free what glibc keeps for threads of before: as much again as an evaluator has. Else nothing.

    Torch's aligned tensors leave gaps in a thread's memory, which later ones do not fit into.
    """
    with suppress(OSError, TypeError, AttributeError):  # on other systems
        ctypes.CDLL(None).malloc_trim(0)
