"""Saves a studio in the background after every change: latest only, in a thread that ends."""

import threading
from collections.abc import Callable
from contextlib import suppress

WAIT_SECONDS = 0.1  # for more changes, such as those of a drag


class Saver:
    """Calls `save` soon after `changed`; what goes wrong is told once, and tried again next time.

    The thread is no daemon: where the program ends by itself, it saves first.
    """

    def __init__(self, save: Callable[[], object], fail: Callable[[str], None]):
        self._save, self._fail, self._problem = save, fail, ""
        self._lock = threading.Condition()
        self._changes = self._saved = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def changed(self, event: object = None) -> None:
        """To be called as a listener, in any thread; takes no time."""
        with self._lock:
            self._changes += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="studio-saver")
                self._thread.start()

    def close(self) -> None:
        """Wait until the latest state is saved, or cannot be; later changes are saved too."""
        if self._problem:
            self.changed()
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            thread = self._thread
        if thread not in (None, threading.current_thread()):
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed, WAIT_SECONDS)
                if self._saved == self._changes:
                    self._thread = None
                    return
                self._saved = self._changes
            try:
                self._save()
                self._problem = ""
            except Exception as error:
                told, self._problem = self._problem, str(error)
                if told != self._problem:
                    with suppress(Exception):  # a listener's own: it must not end the saving
                        self._fail(self._problem)
