"""A task of the course: cases, answer, known mistakes, hints; and the verdict on an answer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from random import Random
from typing import NamedTuple

KINDS = ("predict", "write", "debug", "design", "explain")
_COLOURS = {"✓": "#009E73", "✗": "#D55E00", "○": "#888888", "": "#888888"}


@dataclass(frozen=True)
class Verdict:
    """A sign (✓ ✗ ○, "" for a mere line), a sentence, and lines of detail: (label, words)."""

    sign: str
    text: str
    lines: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        width = max((len(label) for label, _ in self.lines), default=0)
        below = [f"   {label:{width}}  {words}" for label, words in self.lines]
        return "\n".join([f"{self.sign} {self.text}".strip(), *below])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(label)}</td><td style='text-align: left'>"
            f"<code>{escape(words)}</code></td></tr>"
            for label, words in self.lines
        )
        style = f"border-left: 4px solid {_COLOURS[self.sign]}; padding: 2px 8px"
        table = f"<table>{rows}</table>" if rows else ""
        words = f"<b>{self.sign}</b> {escape(self.text)}".removeprefix("<b></b> ")
        return f'<div role="status" style="{style}">{words}{table}</div>'


class Near(NamedTuple):
    """How near a guess was: 1 for exact, a half for still near, towards 0; and in words."""

    score: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a guess looks like, how near one is to the truth, and known slips."""

    example: object  # a number, or a list or dict of them: a guess must have this form
    nearness: Callable[[object, object], Near]  # of a guess and the truth
    unit: str = ""
    low: float = float("-inf")
    high: float = float("inf")
    slips: Mapping[str, Callable[[object], object]] = field(default_factory=dict)
    # message -> from the truth to what one gets by this slip; said where the guess is nearer to it


def call(answer: object, *case: object, **_context: object) -> object:
    """What a function returns for a case; an answer that is no function is its own value."""
    return answer(*case) if callable(answer) else answer


def no_arguments(_random: Random) -> Iterable[tuple]:
    return [()]


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A task: what is checked, and against what.

    `twins` are wrong answers by message: an answer whose values equal a twin's on all cases gets
    its message. `notes` are other right readings, accepted with their message. Either may be a
    tuple of variants. Cases come smallest first. With `answer=None`, `observe` gives the Verdict.
    """

    id: str
    kind: str
    minutes: int
    difficulty: int  # of 5
    importance: int  # of 5
    points: int
    cases: Callable[[Random], Iterable[tuple]] = no_arguments
    answer: object = None
    twins: Mapping[str, object] = field(default_factory=dict)
    notes: Mapping[str, object] = field(default_factory=dict)
    # From an answer, a case and check's keywords to a value to compare, or to a whole Verdict.
    observe: Callable[..., object] = call
    shows: Callable[..., str] | None = None  # a sentence after "right", from the same arguments
    shown: Callable[..., str] | None = None  # a case in words, where it is not what a student gets
    given: Callable | None = None  # the code that a debug task starts from
    blocked: tuple[str, ...] = ()  # "criteria.by_quality": not to be called while checked
    hints: tuple[str, ...] = ()
    seconds: float = 5.0  # for the student's function, over all cases
    guess: Guess | None = None
    rubric: tuple[str, ...] = ()  # of an explain task: what a good sentence says

    def cases_of(self, student: str) -> list[tuple]:
        """This student's cases: the same on every machine."""
        return list(self.cases(Random(f"{student}:{self.id}")))

    @property
    def header(self) -> str:
        """The line of Markdown above a task."""
        dots = "●" * self.difficulty + "○" * (5 - self.difficulty)
        parts = (
            f"**{self.id}** · {self.kind} · {self.minutes} min · difficulty {dots}",
            f"importance {self.importance} of 5 · {self.points} points",
        )
        return " · ".join(parts)
