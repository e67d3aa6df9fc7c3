"""The values that pages show of a studio, kept current, and the requests that pages send."""

import threading
import time
from collections.abc import Callable, Mapping

from pruning_lab.studio import Failed, Measured, Moved, Progress, Studio
from pruning_lab.widgets import state

POINTS, VIEWS = 300, 64  # kept at most: of a task's progress, and of pages that sent requests
PAUSE = 0.1  # seconds between two messages of a task's progress
_EVENTS = Moved, Measured, Progress, Failed


class Board:
    """What pages show of a studio: `values`, by the names of `state`.

    A request is answered with numbers alone; pictures, curves and losses come from the studio's
    thread.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self.lock = threading.RLock()  # of the values
        self._changed: Callable[[dict], None] = lambda values: None
        self._turn = threading.Lock()  # of those whose requests are carried out
        self._made: dict[str, object] = {}  # part -> what it was made of
        self._pictures, self._points = state.Pictures(studio), Points()
        self._drag: tuple = "", 0  # whose the last request was, and of which drag
        self._told, self._cost = 0.0, (0.0, 0.0)  # when progress was told; losses: when, how long
        message = {"text": "", "problem": ""}
        self.values: dict[str, object] = {"message": message, "handled": {}, "progress": {}}
        self.values |= {"losses": state.losses(None, final=False), "pictures": b""}
        self.values |= self._numbers() | self._parts() | self._losses(final=True)
        self._ends = [studio.on(kind, self._follow) for kind in _EVENTS]
        studio.refresh()  # what happened in between is told again

    def show(self, changed: Callable[[dict], None]) -> None:
        """Call `changed` with all values now, and from then on with those that have changed.

        It is called in several threads, one at a time, and the latest values last.
        """
        with self.lock:
            self._changed = changed
            changed(self.values)

    def close(self) -> None:
        """Listen no longer; the studio stays as it is."""
        for end in self._ends:
            end()
        self._ends = []

    # ---------------------------------------------------------------------- what pages ask for

    def carry_out(self, requests: Mapping) -> None:
        """Do what a page asks for, in its order; what was done before is not done again."""
        view, asked = _checked(requests)
        with self._turn:
            handled = dict(self.values["handled"])
            done, message = handled.pop(view, 0), {"text": "", "problem": ""}
            new = [request for request in asked if request["n"] > done]
            for request in new:
                try:
                    message["text"] = self._do(view, request) or ""
                except Exception as error:
                    message["problem"] = sentence(error)
                done = request["n"]
            if not new:
                return
            while len(handled) >= VIEWS:  # pages that are gone
                del handled[next(iter(handled))]
            self._tell({"message": message, "handled": handled | {view: done}}, numbers=True)

    def _do(self, view: str, request: Mapping) -> str | None:
        """One request; returns what to say of it."""
        studio, before = self.studio, self._drag
        self._drag = view, request.get("drag")
        match request:
            case {"do": "set", "kind": "quality" | "density" as kind, "layers": dict() as layers}:
                studio.set(**{kind: layers}, merge=bool(self._drag[1]) and self._drag == before)
            case {"do": "string", "text": str(text)}:
                studio.from_string(text)
            case {"do": "lock", "layer": str(layer), "locked": bool(locked)}:
                (studio.lock if locked else studio.unlock)(layer)
            case {"do": "undo"}:
                studio.undo()
            case {"do": "redo"}:
                studio.redo()
            case {"do": "go", "number": int(number)}:
                studio.go(number)
            case {"do": "name", "text": str(text)}:
                studio.rename(text)
            case {"do": "branch", "text": str(text)}:
                studio.branch(text)
            case {"do": "suggest", "density": density}:
                studio.suggest(density=density, wait=False)
            case {"do": "suggest", "max_drop": max_drop}:
                studio.suggest(max_drop, wait=False)
            case {"do": "retrain", "epochs": epochs}:
                studio.retrain(epochs, wait=False)
            case {"do": "test"}:
                studio.test(wait=False)
            case {"do": "stop"}:
                studio.stop()
            case {"do": "export", "path": str(path)}:
                return self._export(path, overwrite=bool(request.get("overwrite")))
            case {"do": "save", "path": str(path)}:
                return f"saved to {studio.save(path)}"
            case _:
                raise ValueError(f"there is no such request: {dict(request)}")
        return None

    def _export(self, path: str, *, overwrite: bool) -> str:
        try:
            done = self.studio.export(path, overwrite=overwrite)
        except FileExistsError as error:
            if error.errno is not None:  # the system says it, of a folder
                raise
            files = str(error).partition(";")[0]
            raise FileExistsError(f"{files}; press export again to do so") from None
        return f"wrote {done.plan} and {done.network}; the same mask again: {done.command}"

    # -------------------------------------------------------------------- what follows from it

    def _follow(self, event: object) -> None:
        """Called by the studio, in its thread."""
        if isinstance(event, Progress) and (task := self.studio.task):
            self._points.add(event, task)
            soon = time.monotonic() - self._told < PAUSE
            if soon and event.point is not None:
                return
            self._told = time.monotonic()
            self._tell({"progress": self._points.value}, numbers=True)
            return
        if not self.studio.task:
            self._points = Points()
        self._tell({"progress": self._points.value}, numbers=True)  # first: parts take longer
        parts = self._parts() if isinstance(event, Moved | Measured) else {}
        if isinstance(event, Measured):
            parts |= self._losses(event.final)
        self._tell(parts)

    def _tell(self, values: dict, *, numbers: bool = False) -> None:
        with self.lock:
            values = values | (self._numbers() if numbers else {})
            new = {name: v for name, v in values.items() if self.values.get(name) != v}
            if new:
                self.values = {**self.values, **new}
                self._changed(new)

    def _numbers(self) -> dict:
        """What follows a request at once."""
        values, history = {"now": state.now(self.studio)}, self.studio.history
        # A drag changes the last attempt with each step: that is told when it is measured.
        told, listed = self._made.get("attempts", {}), {}
        for a in history.attempts:
            known = (a.accuracy, a.density) if a.accuracy else told.get(a.number, [None])[-1]
            listed[a.number] = a.name, a.line, known
        if told != listed:
            self._made["attempts"] = listed
            values["attempts"] = state.attempts(self.studio)
        return values

    def _parts(self) -> dict:
        """What takes longer than a step of a slider may, as far as it is no longer right."""
        studio, values = self.studio, {}
        version, layer = studio.attempt.version, studio.layers[0]
        if self._is_new("network", (version, studio.dense is None, str(studio.path or ""))):
            values["network"], values["counts"] = state.network(studio)
        if self._is_new("curves", studio.scan):
            values["curves"] = state.curves(studio)
        if self._is_new("first", (version, studio.setting(layer))):
            values["first"], values["first_values"] = state.first(studio)
        return values

    def _losses(self, final: bool) -> dict:
        """Of estimates only so many that a tenth of the time goes into them."""
        began, (last, cost) = time.monotonic(), self._cost
        if not final and began - last < 10 * cost:
            return {}
        metrics = self.studio.metrics()
        if metrics.change is None:  # another step has come
            return {}
        losses = state.losses(metrics.change, metrics.final)
        side, pixels = self._pictures.of([flip["index"] for flip in losses["shown"]])
        self._cost = time.monotonic(), time.monotonic() - began
        return {"losses": losses | {"side": side}, "pictures": pixels}

    def _is_new(self, part: str, made_of: object) -> bool:
        is_new = part not in self._made or self._made[part] != made_of
        self._made[part] = made_of
        return is_new


class Points:
    """A task's progress, with at most 300 of its points, evenly spread."""

    def __init__(self):
        self.value: dict = {}
        self._kept: list[list] = []
        self._step = self._seen = 0

    def add(self, event: Progress, task: str) -> None:
        point = [] if event.point is None else [[state.finite(x) for x in event.point]]
        self._step = self._step or 1
        if point and self._seen % self._step == 0:
            self._kept = [*self._kept, *point]
            if len(self._kept) >= POINTS:
                self._kept, self._step = self._kept[::2], 2 * self._step
        self._seen += len(point)
        latest = [p for p in point if p not in self._kept[-1:]]
        done, left = state.finite(event.done), state.finite(event.left)
        about = {"task": task, "text": event.text, "done": done, "left": left}
        self.value = about | {"points": [*self._kept, *latest]}


def sentence(error: Exception) -> str:
    """What went wrong, in one line."""
    words = error.args[0] if isinstance(error, KeyError) and error.args else error  # it adds quotes
    return " ".join(str(words).split()) or type(error).__name__


def _checked(requests: Mapping) -> tuple[str, list[Mapping]]:
    """A page's name and its requests. Raises ValueError for anything else."""
    match requests:
        case {"view": str(view), "list": [*asked]} if 0 < len(view) <= 64:
            if all(isinstance(r, Mapping) and type(r.get("n")) is int for r in asked):
                return view, asked
    raise ValueError('requests are {"view": NAME, "list": [{"n": 1, "do": ...}, ...]}')
