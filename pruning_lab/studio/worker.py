"""A thread that follows a hand: always at work on the newest, never on what is old."""

import threading
from collections.abc import Callable
from functools import partial


class NewestFirst:
    """A thread that works on the newest state given to it and leaves older ones undone.

    It lives while there is something to do. `work(state, stale)` should return when stale() is
    true; nothing needs to be cancelled or timed, and a fast hand costs nothing. stale(0.1) waits so
    many seconds for a newer state, and is true as soon as there is one.
    """

    def __init__(self, work: Callable[[object, Callable[..., bool]], None]):
        self._work = work
        self._changed = threading.Condition()
        self._newest = self._finished = 0  # states are numbered as they come
        self._state: object = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.closed = False

    def submit(self, state: object) -> None:
        with self._changed:
            self._newest += 1
            self._state = state
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="newest-first", daemon=True)
                self._thread.start()

    def settle(self, timeout: float | None = None) -> None:
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
        """Let the thread go; what it was working on stays undone."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self.closed or self._finished == self._newest:
                    self._thread = None
                    self._changed.notify_all()
                    return
                number, state = self._newest, self._state
            error = None
            try:
                self._work(state, partial(self._is_stale, number))
            except BaseException as raised:  # settle() raises it, in the thread that asks
                error = raised
            with self._changed:
                self._finished = number
                if number == self._newest:
                    self._error = error

    def _is_stale(self, number: int, seconds: float = 0) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.closed or number != self._newest, seconds)
