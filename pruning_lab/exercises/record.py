"""What a student did, in `.pruning_lab/progress.json` of the current folder; nothing is sent."""

import math
import os
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pruning_lab import files
from pruning_lab.exercises.checking import judge
from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Verdict
from pruning_lab.exercises.tables import EXERCISES, unknown
from pruning_lab.rows import Rows, decode, plain, printable

FORM = "pruning_lab progress 1"
_WORDS = {"✓": "right", "✗": "wrong", "○": "not yet", "": ""}


@dataclass
class Entry:
    """What a student did of one task."""

    sign: str = ""  # of the last check
    said: str = ""
    checks: int = 0
    hints: int = 0
    guess: Any = None
    near: str = ""  # how near the guess was; "" until it was revealed
    sentence: str = ""


@dataclass
class State:
    """The file: who works here now, and by student and task what was done."""

    student: str = ""
    students: dict[str, dict[str, Entry]] = field(default_factory=dict)
    term: str = ""

    @property
    def who(self) -> str:
        return who(self.student, self.term)

    def entry(self, id_: str) -> Entry:
        return self.students.setdefault(self.who, {}).setdefault(id_, Entry())


def who(student: object, term: str = "") -> str:
    """What seeds the cases of a student in a term: the name, without needless spaces."""
    name = unicodedata.normalize("NFC", " ".join(str(student).split()))
    return f"{name} in {term}" if term else name


def read(path: str | Path) -> State:
    """The file of a student's progress; ValueError or OSError where it is none."""
    return decode(State, files.load_json(path), path, FORM, whole=False)


_unsaved: dict[Path, State] = {}  # where a file cannot be written


def _path() -> Path:
    return Path(".pruning_lab", "progress.json").absolute()


def current() -> State:
    """The progress of the current folder."""
    path = _path()
    if path in _unsaved or not path.exists():
        return _unsaved.get(path, State())
    try:
        return read(path)
    except (ValueError, OSError) as error:
        aside = path.with_name("progress-broken.json")
        print(f"{error}. It is kept as {aside.name}, and a new one is begun.")
        with suppress(OSError):
            os.replace(path, aside)
        return State()


@contextmanager
def _changed() -> Iterator[State]:
    """The state, written after the block; kept in memory where no file can be written."""
    state = current()
    yield state
    path = _path()
    try:
        files.save_json(path, {"format": FORM, **plain(state)})
        _unsaved.pop(path, None)
    except (OSError, ValueError) as error:
        if path not in _unsaved:
            print(f"{error}. Until then progress is kept in memory only.")
        _unsaved[path] = state


def student(name: str | None = None, *, term: str | None = None) -> Verdict:
    """Say who works here: the name seeds the cases of all checks. "" is the demo; None asks.

    A term's notebooks give a `term` too, so that each term has cases of its own.
    """
    with _changed() as state:
        if name is not None:
            state.student = who(name)
        if term is not None:
            state.term = str(term)
        named, when = printable(state.student), f", term {printable(state.term)}" * bool(state.term)
    return Verdict("", f"student: {named or 'none (demo cases)'}{when}")


def check(id_: str, answer: object, **context) -> Verdict:
    """Check an answer (a function, or a value) to a task; it shows a verdict and raises nothing.

    ✓ right, ✗ wrong with what is wrong and the smallest case that shows it, ○ not yet written.
    A task that measures takes what it measures by keywords, such as model= and images=.
    """
    if (exercise := EXERCISES.get(id_)) is None:
        return Verdict("✗", unknown(id_))
    verdict = judge(exercise, answer, current().who, **context)
    with _changed() as state:
        entry = state.entry(id_)
        entry.sign, entry.said, entry.checks = verdict.sign, verdict.text, entry.checks + 1
    return verdict


def case(id_: str) -> tuple:
    """This student's smallest case: what a function is called with, or what a design is asked."""
    if id_ not in EXERCISES:
        raise KeyError(unknown(id_))
    return EXERCISES[id_].cases_of(current().who)[0]


def hint(id_: str) -> Verdict:
    """The next hint of a task; how many were taken is noted."""
    if (exercise := EXERCISES.get(id_)) is None:
        return Verdict("✗", unknown(id_))
    if not exercise.hints:
        return Verdict("", f"{id_} has no hints")
    with _changed() as state:
        entry = state.entry(id_)
        entry.hints = taken = min(entry.hints + 1, len(exercise.hints))
    return Verdict("", f"hint {taken} of {len(exercise.hints)}: {exercise.hints[taken - 1]}")


def guess(id_: str, value: object) -> Verdict:
    """Note a guess, until `reveal` has told how near it was; None notes nothing."""
    if (exercise := EXERCISES.get(id_)) is None or exercise.guess is None:
        return Verdict("✗", f"{id_} asks for no guess" if exercise else unknown(id_))
    like = _words(exercise, exercise.guess.example)
    if value is None:
        return Verdict("○", f"not yet: guess something like {like}")
    try:
        value = _fitting(exercise, value, exercise.guess.example)
    except (ValueError, TypeError, OverflowError) as error:
        return Verdict("✗", f"not noted: {error}; guess something like {like}")
    with _changed() as state:
        entry = state.entry(id_)
        if entry.near and entry.guess != value:
            words = _words(exercise, entry.guess)
            return Verdict("✓", f"noted before the answer was shown: {words}; that one counts")
        entry.guess = value
    return Verdict("✓", f"noted: {_words(exercise, value)}")


def guessed(id_: str) -> object:
    """The noted guess; None where there is none."""
    return current().entry(id_).guess


def reveal(id_: str, truth: object) -> Verdict:
    """Say how near the noted guess was to what came out."""
    if (exercise := EXERCISES.get(id_)) is None or exercise.guess is None:
        return Verdict("✗", f"{id_} asks for no guess" if exercise else unknown(id_))
    value = guessed(id_)
    if value is None:
        return Verdict("○", "not yet: no guess noted")
    try:
        truth = _fitting(exercise, truth, exercise.guess.example, limits=False)
        near = exercise.guess.nearness(value, truth)
        slips = {
            message: exercise.guess.nearness(value, slip(truth)).score
            for message, slip in exercise.guess.slips.items()
        }
    except Exception as error:
        return Verdict("✗", f"the guess cannot be compared with {brief(truth)}: {error}")
    slip = max(slips, key=slips.get, default=None)
    said = f". {slip}" if slip and slips[slip] > max(near.score, 0.499) else ""
    with _changed() as state:
        state.entry(id_).near = near.words
    pair = f"guess {_words(exercise, value)}, answer {_words(exercise, truth)}"
    return Verdict("✓", f"{pair}: {near.words}{said}")


def explain(id_: str, sentence: str | None) -> Verdict:
    """Keep a sentence of the student's, and show what a good one says."""
    if (exercise := EXERCISES.get(id_)) is None or not exercise.rubric:
        return Verdict("✗", f"{id_} asks for no sentence" if exercise else unknown(id_))
    text = "" if sentence is None or sentence is ... else " ".join(str(sentence).split())
    if not text:
        return Verdict("○", "not yet: write a sentence")
    with _changed() as state:
        state.entry(id_).sentence = text
    lines = tuple((f"{number}.", line) for number, line in enumerate(exercise.rubric, 1))
    return Verdict("✓", "noted. Does your sentence say this?", lines)


def _fitting(exercise: Exercise, value: object, example: object, limits: bool = True) -> object:
    """A guess as plain numbers, texts, lists and dicts; ValueError where its form is another."""
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch
    if isinstance(example, dict):
        if not isinstance(value, dict) or value.keys() != example.keys():
            raise ValueError(f"{brief(value)} has not the keys {', '.join(map(str, example))}")
        return {k: _fitting(exercise, value[k], example[k], limits) for k in example}
    if isinstance(example, list):
        if not isinstance(value, list | tuple | set) or len(value) != len(example):
            raise ValueError(f"{brief(value)} is not a list of {len(example)}")
        if isinstance(example[0], str) and sorted(map(str, value)) != sorted(example):
            raise ValueError(f"{brief(value)} is no order of {', '.join(sorted(example))}")
        pairs = zip(value, example, strict=True)
        return [_fitting(exercise, entry, like, limits) for entry, like in pairs]
    if isinstance(example, str):
        return str(value)
    number = float(value)
    low, high = exercise.guess.low, exercise.guess.high
    if not math.isfinite(number) or (limits and not low <= number <= high):
        raise ValueError(f"{brief(value)} does not lie between {low:g} and {high:g}")
    return int(number) if number == int(number) else number


def _words(exercise: Exercise, value: object) -> str:
    unit = exercise.guess.unit if exercise.guess else ""
    return f"{brief(value)} {unit}".strip()


@dataclass(frozen=True)
class Row:
    """One task in the table of progress."""

    task: str
    kind: str
    verdict: str
    checks: int
    hints: int
    guess: Any
    near: str
    points: int  # earned
    most: int


class Progress(Rows[Row]):
    """A row for each task; prints as a table with the sum of the points below."""

    columns: ClassVar = {
        "task": lambda row: row.task,
        "kind": lambda row: row.kind,
        "verdict": lambda row: row.verdict,
        "hints": lambda row: row.hints or "",
        "guess": lambda row: "" if row.guess is None else brief(row.guess),
        "how near": lambda row: textwrap.shorten(row.near, 50, placeholder=" ..."),
        "points": lambda row: f"{row.points} of {row.most}",
    }

    def __str__(self) -> str:
        earned, most = (sum(getattr(row, name) for row in self) for name in ("points", "most"))
        return f"{self.table(self)}\n\n{earned} of {most} points"

    __repr__ = __str__


def progress(begins: str = "") -> Progress:
    """A row for each task of the course: what was checked, hints, guesses and how near they were.

    `progress("02")` has those of notebook 02 alone, whose ids begin so.
    A task earns its points when it is right; one that asks for a guess, or a sentence, when one
    was noted, however near it is.
    """
    state, rows = current(), []
    done = state.students.get(state.who, {})
    for id_, exercise in EXERCISES.items():
        if not id_.startswith(begins):
            continue
        entry = done.get(id_, Entry())
        noted = {"predict": entry.guess is not None, "explain": bool(entry.sentence)}
        earned = noted.get(exercise.kind, entry.sign == "✓")
        words = "noted" if exercise.kind in noted and earned else _WORDS.get(entry.sign, "")
        sign = "✓" if earned else entry.sign or "○"
        rows.append(
            Row(
                id_,
                exercise.kind,
                f"{sign} {words or 'not yet'}",
                entry.checks,
                entry.hints,
                entry.guess,
                entry.near,
                exercise.points * earned,
                exercise.points,
            )
        )
    return Progress(rows)


def header(id_: str) -> str:
    """The line of Markdown above a task in a notebook; KeyError for an unknown one."""
    if id_ not in EXERCISES:
        raise KeyError(unknown(id_))
    return EXERCISES[id_].header
