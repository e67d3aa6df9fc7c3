"""Attempts: what was tried in the studio, as rows that stay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tabulate import tabulate

from pruning_lab import criteria
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.sensitivity import wrong_measurement

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


ALL = Setting()  # every weight that is there stays


@dataclass(frozen=True)
class Attempt:
    """One state of the studio. `parent` is the attempt it came from, `base` whose weights it has.

    Layers that `settings` does not name keep all their weights.
    """

    number: int
    parent: int | None
    base: int  # 0: the network as it came; n: what the nth retraining left
    what: str  # "fc1: quality 1.2", "retrained 2 epochs"
    line: str = "main"
    name: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    density: float = 1.0
    bytes: int = 0
    accuracy: Accuracy | None = None  # None: it was left before it was measured
    drop: Drop | None = None

    def __post_init__(self):
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))


class Comparison(tuple[Attempt, ...]):
    """Attempts side by side; print it, or hand `rows()` to pandas.DataFrame."""

    @property
    def pareto(self) -> "Comparison":
        """The measured attempts that no other beats: as accurate on fewer weights, or better."""
        best = []
        measured = [attempt for attempt in self if attempt.accuracy is not None]
        for attempt in sorted(measured, key=lambda a: (a.density, -a.accuracy.value, a.number)):
            if not best or attempt.accuracy.value > best[-1].accuracy.value:
                best.append(attempt)
        return Comparison(best)

    def rows(self) -> list[dict]:
        best = {attempt.number for attempt in self.pareto}
        return [_row(attempt, attempt.number in best) for attempt in self]

    def __str__(self) -> str:
        headers = ("", "attempt", "line", "name", "what", "density", "bytes", "accuracy", "drop")
        best = {attempt.number for attempt in self.pareto}
        rows = [
            (
                "*" if attempt.number in best else "",
                attempt.number,
                attempt.line,
                attempt.name,
                attempt.what,
                f"{attempt.density:.2%}",
                f"{attempt.bytes:,}",
                "not measured" if attempt.accuracy is None else f"{attempt.accuracy.value:.2%}",
                "" if attempt.drop is None else str(attempt.drop),
            )
            for attempt in self
        ]
        align = ("left", "right", "left", "left", "left", "right", "right", "right", "left")
        table = tabulate(rows, headers, colalign=align, disable_numparse=True)
        return f"{table}\n\n* no other attempt is as accurate with as few weights"


def _row(attempt: Attempt, pareto: bool) -> dict:
    accuracy, drop = attempt.accuracy, attempt.drop
    return {
        "attempt": attempt.number,
        "line": attempt.line,
        "name": attempt.name,
        "what": attempt.what,
        "density": attempt.density,
        "bytes": attempt.bytes,
        "accuracy": None if accuracy is None else accuracy.value,
        "low": None if accuracy is None else accuracy.low,
        "high": None if accuracy is None else accuracy.high,
        "drop": None if drop is None else drop.value,
        "pareto": pareto,
    }


def summary(settings: Mapping[str, Setting], sizes: Iterable[str]) -> str:
    """What was asked, in a few words: "fc1: quality 1.2", "all layers: density 0.1"."""
    layers = list(settings)
    same = len(set(settings.values())) == 1
    if same and len(layers) > 1 and set(layers) == set(sizes):
        return f"all layers: {settings[layers[0]]}"
    if same and len(layers) > 3:
        return f"{len(layers)} layers: {settings[layers[0]]}"
    words = [f"{layer}: {setting}" for layer, setting in settings.items()]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def check_tree(attempts: list[Attempt], now: int) -> None:
    """Raise ValueError unless attempts are numbered, and come from earlier ones and bases."""
    numbers = [attempt.number for attempt in attempts]
    if numbers != [*range(1, len(attempts) + 1)] or now not in numbers:
        raise ValueError("its attempts are not in order")
    first, *others = attempts
    if first.parent is not None or not all(1 <= (a.parent or 0) < a.number for a in others):
        raise ValueError("its attempts do not come from one another")
    if first.base != 0 or {a.base for a in attempts} != {*range(max(a.base for a in attempts) + 1)}:
        raise ValueError("its weights are not in order")
    for attempt in attempts:
        if attempt.accuracy and (wrong := wrong_measurement(attempt.accuracy, attempt.drop)):
            raise ValueError(f"attempt {attempt.number} has the {wrong}")
        if not 0 <= attempt.density <= 1 or attempt.bytes < 0:
            raise ValueError(f"attempt {attempt.number} has the density {attempt.density:g}")
