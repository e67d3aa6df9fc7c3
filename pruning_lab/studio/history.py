"""The studio's history as a frozen value: attempts, and pure transitions between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import quote, unquote

import msgspec

from pruning_lab import criteria
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.layers import unknown_layer
from pruning_lab.masks import Amount
from pruning_lab.rows import Rows, plain

KINDS = ("quality", "density")


@dataclass(frozen=True)
class Setting:
    """What one layer was asked for: a quality (threshold / sigma) or a density."""

    kind: str = "quality"
    amount: float = 0.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"a setting is a {' or a '.join(KINDS)}, got {self.kind!r}")
        criteria.check_amount(self.kind, self.amount)
        object.__setattr__(self, "amount", float(self.amount))  # numpy's are no JSON

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:.4g}"


ALL = Setting()  # every weight that is not zero stays


@dataclass(frozen=True)
class Attempt:
    """One state of the studio; layers that `settings` does not name keep all their weights."""

    number: int
    parent: int | None  # the attempt that it was made from
    version: int  # of the weights: 0 the network as it came, n what the nth retraining left
    what: str  # "fc1: quality 1.2", "retrained 2 epochs from 26 % kept"
    line: str = "main"
    name: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    density: float = 1.0
    bytes: int = 0  # an estimate, as `LayerMetrics` says
    accuracy: Accuracy | None = None  # None: another step came before it was measured
    drop: Drop | None = None

    def __post_init__(self):
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        if not 0 <= self.density <= 1 or self.bytes < 0:
            raise ValueError(f"attempt {self.number} has the density {self.density:g}")

    @property
    def key(self) -> tuple:
        """Attempts with the same key are the same network."""
        return self.version, frozenset(self.settings.items())

    @cached_property
    def json(self) -> msgspec.Raw:
        """Made once: a history of many attempts is written after each."""
        return msgspec.Raw(msgspec.json.encode(plain(self)))


class Comparison(Rows[Attempt]):
    """Attempts side by side. `chance` is the accuracy of always naming the commonest label."""

    chance: float = 0.0
    columns: ClassVar = {  # of pairs: an attempt, and whether no other beats it
        "": lambda pair: "*" if pair[1] else "",
        "attempt": lambda pair: str(pair[0].number),
        "line": lambda pair: pair[0].line,
        "name": lambda pair: pair[0].name,
        "what": lambda pair: pair[0].what,
        "density": lambda pair: f"{pair[0].density:.2%}",
        "bytes": lambda pair: f"~{pair[0].bytes:,}",
        "accuracy": lambda pair: f"{pair[0].accuracy.value:.2%}" if pair[0].accuracy else "",
        "change": lambda pair: str(pair[0].drop or ""),
    }

    @property
    def pareto(self) -> "Comparison":
        """The attempts that no other beats: as accurate on fewer weights, or better.

        One whose accuracy is not above chance, by its interval, is none of them.
        """
        above = [a for a in self if a.accuracy is not None and a.accuracy.low > self.chance]
        best = []
        for attempt in sorted(above, key=lambda a: (a.density, -a.accuracy.value, a.number)):
            if not best or attempt.accuracy.value > best[-1].accuracy.value:
                best.append(attempt)
        return Comparison(best, chance=self.chance)

    def __str__(self) -> str:
        best = {attempt.number for attempt in self.pareto}
        table = self.table((attempt, attempt.number in best) for attempt in self)
        return f"{table}\n\n* no other attempt is as accurate with as few weights"


@dataclass(frozen=True)
class History:
    """All attempts, and which is the current one; every transition returns another history.

    >>> history = History(("fc1", "fc2")).set({"fc1": 1.4})
    >>> history.attempt.what, history.undo().attempt.what
    ('fc1: quality 1.4', 'as it came')
    """

    layers: tuple[str, ...]
    attempts: tuple[Attempt, ...] = (Attempt(1, None, 0, "as it came"),)
    now: int = 1  # the number of the current attempt
    children: tuple[int, ...] = (0,)  # of each attempt: the child that redo goes to, 0 for none
    locks: tuple[str, ...] = ()
    drag: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # its layers

    def __post_init__(self):
        """Raises ValueError unless transitions can have led here; a file may hold anything."""
        attempts, numbers = self.attempts, range(1, len(self.attempts) + 1)
        parents, versions = [a.parent for a in attempts], [a.version for a in attempts]
        if not (
            self.now in numbers
            and [a.number for a in attempts] == [*numbers]
            and parents[0] is None
            and all(1 <= (parent or 0) < n for n, parent in enumerate(parents[1:], start=2))
            and versions[0] == 0
            and sorted({*versions}) == [*range(len({*versions}))]
            and len(self.children) == len(attempts)
            and all(not c or (c in numbers and parents[c - 1] == n) for n, c in self._redos())
        ):
            raise ValueError("its attempts do not come from one another in order")
        if unknown := {*self.locks}.union(*(a.settings for a in attempts)) - {*self.layers}:
            raise ValueError(unknown_layer(min(unknown), dict.fromkeys(self.layers)))

    def _redos(self) -> enumerate:
        return enumerate(self.children, start=1)

    @property
    def attempt(self) -> Attempt:
        return self.attempts[self.now - 1]

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(attempt.line for attempt in self.attempts))

    @property
    def made(self) -> str:
        """What made the current weights: "as it came", "retrained 2 epochs from 26 % kept"."""
        return next(a.what for a in self.attempts if a.version == self.attempt.version)

    def set(
        self, quality: Amount | None = None, *, density: Amount | None = None, merge: bool = False
    ) -> "History":
        """A step by amounts: a number for every layer that is not locked, or a dict."""
        asked: dict[str, Setting] = {}
        for kind, amount in (("quality", quality), ("density", density)):
            if amount is not None and not isinstance(amount, Mapping):
                Setting(kind, amount)  # raises for an impossible one, if all layers are locked too
                amount = {name: amount for name in self.layers if name not in self.locks}
            new = {name: Setting(kind, value) for name, value in (amount or {}).items()}
            if twice := asked.keys() & new.keys():
                raise ValueError(f"layer {min(twice)!r} was asked for a quality and for a density")
            asked |= new
        return self.step(asked, merge=merge) if asked else self

    def step(
        self, asked: Mapping[str, Setting], what: str | None = None, *, merge: bool = False
    ) -> "History":
        """Another attempt: these settings on top of the current ones.

        With `merge` it replaces the current one, if that is a step of the same layers and has no
        name: a drag is one attempt.
        """
        for name in self.known(*asked):
            if name in self.locks:
                raise ValueError(f"layer {name!r} is locked; unlock it first")
        settings = {n: s for n, s in {**self.attempt.settings, **asked}.items() if s != ALL}
        what = what or _summary(asked, self.layers)
        changes = {"settings": settings, "what": what, "accuracy": None, "drop": None}
        if merge and self.drag == asked.keys() and not self.attempt.name:
            return self.update(**changes)
        return replace(self._add(**changes), drag=frozenset(asked))

    def to_string(self) -> str:
        """The current settings, to send: "fc1=1.4&conv2=d0.05", qualities, and densities after d.

        Names are quoted as in a URL. Nothing set gives the empty text.
        """
        own = self.attempt.settings
        return "&".join(f"{quote(n, safe='')}={_amount(own[n])}" for n in self.layers if n in own)

    def from_string(self, text: str) -> "History":
        """A step to exactly the settings of a text by `to_string`: other layers keep everything.

        Layers that stay as they are may be locked. Raises as `set` does, and ValueError for a text
        of another form.
        """
        asked = _parsed(text)
        self.known(*asked)
        before = self.attempt.settings
        now = {name: asked.get(name, ALL) for name in self.layers}
        changed = {name: s for name, s in now.items() if s != before.get(name, ALL)}
        return self.step(changed) if changed else self

    def retrained(self, what: str) -> "History":
        """Another attempt, with the next version of the weights."""
        version = 1 + max(attempt.version for attempt in self.attempts)
        return self._add(what, version=version, settings={}, accuracy=None, drop=None)

    def branch(self, name: str = "") -> "History":
        """Begin another line of attempts at the current one."""
        line = name or next(f"line {n}" for n in range(2, 10**6) if f"line {n}" not in self.lines)
        if line in self.lines:
            raise ValueError(f"there is a line {line!r} already; it has {', '.join(self.lines)}")
        return self._add(f"from attempt {self.now}", line=line)

    def undo(self) -> "History":
        if self.attempt.parent is None:
            raise ValueError("there is nothing to undo")
        return self.go(self.attempt.parent)

    def redo(self) -> "History":
        if not self.children[self.now - 1]:
            raise ValueError("there is nothing to redo")
        return self.go(self.children[self.now - 1])

    def go(self, number: int) -> "History":
        """Make any attempt the current one; `redo` will come this way again."""
        children, child = list(self.children), number
        while (parent := self._numbered(child).parent) is not None:
            children[parent - 1], child = child, parent
        return replace(self, now=number, children=tuple(children), drag=frozenset())

    def rename(self, name: str, number: int | None = None) -> "History":
        return self.update(number, name=str(name))

    def lock(self, *layers: str) -> "History":
        return replace(self, locks=tuple(sorted({*self.locks, *self.known(*layers)})))

    def unlock(self, *layers: str) -> "History":
        return replace(self, locks=tuple(sorted({*self.locks} - {*self.known(*layers)})))

    def measured(self, key: tuple, accuracy: Accuracy, drop: Drop) -> "History":
        """With what was measured of a network, in all attempts that are this network."""
        result = {"accuracy": replace(accuracy, hits=None), "drop": drop}
        attempts = (replace(a, **result) if a.key == key else a for a in self.attempts)
        return replace(self, attempts=tuple(attempts))

    def update(self, number: int | None = None, **changes) -> "History":
        """With other fields in one attempt, the current one unless `number` names another."""
        new = replace(self._numbered(self.now if number is None else number), **changes)
        attempts = (*self.attempts[: new.number - 1], new, *self.attempts[new.number :])
        return replace(self, attempts=attempts)

    def _add(self, what: str, **changes) -> "History":
        number, own = len(self.attempts) + 1, {"parent": self.now, "what": what, "name": ""}
        attempts = (*self.attempts, replace(self.attempt, number=number, **own, **changes))
        return replace(self, attempts=attempts, children=(*self.children, 0)).go(number)

    def known(self, *layers: str) -> tuple[str, ...]:
        """These names; raises KeyError for an unknown one."""
        for name in layers:
            if name not in self.layers:
                raise KeyError(unknown_layer(name, dict.fromkeys(self.layers)))
        return layers

    def _numbered(self, number: int) -> Attempt:
        if not 1 <= number <= len(self.attempts):
            raise ValueError(f"attempts go from 1 to {len(self.attempts)}, got {number}")
        return self.attempts[number - 1]


def _summary(settings: Mapping[str, Setting], layers: tuple[str, ...]) -> str:
    """In a few words: "fc1: quality 1.2", "all layers: density 0.1"."""
    first, words = next(iter(settings.values())), [f"{n}: {s}" for n, s in settings.items()]
    if len(settings) > 1 and {*settings.values()} == {first}:
        if settings.keys() == {*layers}:
            return f"all layers: {first}"
        if len(settings) > 3:
            return f"{len(settings)} layers: {first}"
    if len(words) > 3:  # a table of attempts has a line for each
        return f"{words[0]} and {len(words) - 1} more"
    return ", ".join(words)


def _amount(setting: Setting) -> str:
    number = repr(setting.amount).removesuffix(".0")
    return quote(f"d{number}" if setting.kind == "density" else number)


def _parsed(text: str) -> dict[str, Setting]:
    asked = {}
    for part in text.split("&") if text else ():
        name, _, amount = (unquote(word) for word in part.partition("="))
        try:
            number = float(amount.removeprefix("d"))
        except ValueError:
            raise ValueError(
                f"{part!r} is no setting of a layer; write fc1=1.4&conv2=d0.05: a quality, or d "
                f"and a density"
            ) from None
        if name in asked:
            raise ValueError(f"layer {name!r} stands twice in {text!r}; name it once")
        asked[name] = Setting("density" if amount.startswith("d") else "quality", number)
    return asked
