"""A function of a student's, called in this process so that nothing it does outlasts the call.

It ends after a time, may not call blocked functions of the library, prints nothing; random states
are restored.
"""

import ctypes
import io
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
import torch

import pruning_lab
from pruning_lab.layers import in_main_thread, seeded


@dataclass(frozen=True)
class Raised:
    """What takes the place of a value where a function raised an exception."""

    kind: str
    message: str = field(compare=False)  # torch and Python word the same mistake differently
    line: str = field(default="", compare=False)  # of the student's code

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class TimeUp(BaseException):
    """Not an Exception, so that `except Exception` in a student's loop does not keep it going."""


class Blocked(BaseException):
    """A function was called that the task is to write; its name."""


class Ended(BaseException):
    """The process that a function ran in has ended, in words."""


class RemoteError(Exception):
    """A function that runs in another process has raised this there."""

    def __init__(self, raised: Raised):
        super().__init__(str(raised))
        self.raised = raised


class Guarded:
    """A student's function, which has so many seconds for all its calls."""

    def __init__(self, function: Callable, seconds: float, blocked: tuple[str, ...] = ()):
        self._function, self._left, self._blocked = function, seconds, blocked

    def begin(self) -> None:
        """Called before each case."""

    def __call__(self, *args, **kwargs):
        def work():
            with torch.enable_grad():
                return self._function(*args, **kwargs)

        began = time.monotonic()
        try:
            with silent(), refused(self._blocked):
                return _limited(work, self._left)
        finally:
            self._left -= time.monotonic() - began
            if self._left <= 0:  # though the function may have caught the first TimeUp
                raise TimeUp


def raised(error: BaseException, function: object = None) -> Raised:
    """An exception as a value, with the last line of the student's own file that it passed."""
    if isinstance(error, RemoteError):
        return error.raised
    try:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = " ".join(str(message).split())
    except Exception:
        message = "(its message cannot be shown)"
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = f"{own[-1].lineno}: {own[-1].line}" if own else ""
    return Raised(type(error).__name__, message, line)


@contextmanager
def untouched() -> Iterator[None]:
    """The random states of Python, numpy and torch are afterwards as before."""
    states = random.getstate(), np.random.get_state()
    device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    try:
        with seeded(0, device):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def seed() -> None:
    """The same random numbers for every call, so that a verdict does not change between runs."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@contextmanager
def silent() -> Iterator[None]:
    """Nothing is printed, and no warning shown."""
    nowhere = io.StringIO()
    with redirect_stdout(nowhere), redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def refused(names: tuple[str, ...]) -> Iterator[None]:
    """The library's functions refuse, under whatever name they were imported: their code does."""
    functions = [attrgetter(name)(pruning_lab) for name in names]
    codes = [function.__code__ for function in functions]
    try:
        for name, function in zip(names, functions, strict=True):
            function.__code__ = _refuse.__code__.replace(co_name=name)
        yield
    finally:
        for function, code in zip(functions, codes, strict=True):
            function.__code__ = code


def _refuse(*_args, **_kwargs):
    # Runs with the globals of the function whose code it replaces, so it imports what it needs.
    import sys

    home = sys.modules["pruning_lab.isolation.calls"]
    raise home.Blocked(sys._getframe().f_code.co_name)


def _limited(work: Callable[[], object], seconds: float) -> object:
    """What `work` returns; TimeUp where it takes longer."""
    if seconds <= 0:
        raise TimeUp
    if not (hasattr(signal, "setitimer") and in_main_thread()):
        return _limited_in_thread(work, seconds)
    running = False

    def stop(*_):
        if running:
            raise TimeUp

    handler = signal.signal(signal.SIGALRM, stop) or signal.SIG_DFL
    before, running = signal.setitimer(signal.ITIMER_REAL, seconds, 0.05), True
    try:
        try:  # again and again: a bare `except:` in a loop catches some of them
            return work()
        finally:
            running = False
    finally:
        running = False  # again, for the signal may have come in the line above
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


def _limited_in_thread(work: Callable[[], object], seconds: float) -> object:
    """As `_limited`, where no signal may be used: on Windows, and outside the main thread."""
    made, errors = [], []

    def run():
        try:
            made.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    for _ in range(100 * thread.is_alive()):
        if not thread.is_alive():
            break
        name = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(name, ctypes.py_object(TimeUp))
        thread.join(0.01)
    if thread.is_alive():
        raise TimeUp
    if errors:
        raise errors[0]
    return made[0]
