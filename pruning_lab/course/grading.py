"""Points for what was handed in: student's code runs in a worker, the values are judged here."""

import ast
import multiprocessing
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch

from pruning_lab.course import editions, hand_ins, reading
from pruning_lab.course.context import Context
from pruning_lab.course.hand_ins import HandIn
from pruning_lab.exercises import EXERCISES, Exercise, Verdict, judge
from pruning_lab.exercises.record import who
from pruning_lab.isolation import Definition, Ended, Remote, TimeUp, Worker
from pruning_lab.rows import Rows, printable


@dataclass(frozen=True)
class Grade:
    """One task of one student."""

    student: str
    task: str
    kind: str
    sign: str
    said: str
    points: int
    most: int
    where: str = ""  # the cell
    lines: tuple[tuple[str, str], ...] = ()


class Grades(Rows[Grade]):
    """A row for each student and task."""

    columns: ClassVar = {
        "student": lambda row: row.student,
        "task": lambda row: row.task,
        "verdict": lambda row: f"{row.sign} {row.said}".strip()[:60],
        "points": lambda row: f"{row.points} of {row.most}",
    }


@dataclass(frozen=True)
class Graded:
    """A student with all rows, and what there is to say of the files."""

    name: str
    number: str
    term: str
    seed: str  # what the cases come from
    grades: Grades
    faults: tuple[str, ...]
    isolated: frozenset[str] | None  # what functions did not see; None where none was run

    @property
    def points(self) -> int:
        return sum(row.points for row in self.grades)

    @property
    def most(self) -> int:
        return sum(row.most for row in self.grades)


@cache
def asked() -> Mapping[str, str]:
    """The name that each task checks, read off the students' notebooks."""
    found = {}
    for path in editions.notebooks().values():
        notebook = reading.read(path)
        for function in ("check", "explain"):
            for call in reading.calls(notebook, function):
                id_, *others = call.args
                if others and isinstance(others[0], ast.Name):
                    found[getattr(id_, "value", "")] = others[0].id
    return found


def grade(
    folder: Path,
    *,
    term: str | None = None,
    begins: str | tuple[str, ...] = "",
    processes: int = 1,
    images: str = "auto",
    memory: int = 2**31,
) -> Iterator[Graded]:
    """Grade all hand-ins of a folder, in the order of their names.

    `term` is the seed of the release, by default what the notebooks say; `begins` takes the tasks
    whose ids begin so, or with one of these. Raises OSError where nothing was handed in.
    """
    found = hand_ins.find(Path(folder))
    tasks = [id_ for id_ in EXERCISES if id_.startswith(begins)]
    options = (term, tasks, images, memory)
    if processes == 1:
        with _Grader(*options) as grader:
            yield from map(grader.graded, found)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, _begin, options) as pool:
        yield from pool.map(_graded, found)


_graders: list["_Grader"] = []  # of this process


def _begin(*options) -> None:
    _graders.append(_Grader(*options).__enter__())  # until the pool ends


def _graded(hand_in: HandIn) -> Graded:
    return _graders[0].graded(hand_in)


class _Grader:
    def __init__(self, term: str | None, tasks: Sequence[str], images: str, memory: int):
        self._term, self._tasks, self._context = term, tasks, Context(images)
        self._worker = Worker(memory=memory)

    def __enter__(self) -> "_Grader":
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)  # networks of a few weights
        return self

    def __exit__(self, *about) -> None:
        torch.set_num_threads(self._threads)
        self._worker.__exit__(*about)

    def graded(self, hand_in: HandIn) -> Graded:
        hand_ins.load(hand_in)
        term = hand_in.terms[-1] if self._term is None else self._term
        name = hand_in.name if hand_in.typed is None else hand_in.typed
        seed, faults = who(name, term), list(hand_in.faults)
        if hand_in.notebooks and set(hand_in.terms) != {term}:
            terms = " and ".join(repr(each or "none") for each in hand_in.terms)
            faults.insert(0, f"the notebooks are of term {terms}, not of {term!r}")
        rows = [self._row(hand_in, EXERCISES[id_], seed) for id_ in self._tasks]
        isolated = self._worker.isolated if self._worker.has_run else None
        shown = tuple(map(printable, faults))
        return Graded(hand_in.name, hand_in.number, term, seed, Grades(rows), shown, isolated)

    def _row(self, hand_in: HandIn, exercise: Exercise, seed: str) -> Grade:
        where = ""
        if exercise.kind == "predict":
            verdict = _of_guess(hand_in, exercise, seed)
        elif exercise.rubric:  # a sentence
            verdict = _of_sentence(hand_in, exercise, seed)
        elif exercise.id == "09.budget":  # what counts is a file
            verdict, where = self._of_plan(hand_in, exercise, seed)
        else:
            verdict, where = self._of_code(hand_in, exercise, seed)
        points = exercise.points * (verdict.sign == "✓")
        about = hand_in.name, exercise.id, exercise.kind, verdict.sign, printable(verdict.text)
        return Grade(*about, points, exercise.points, where, verdict.lines)

    def _of_plan(self, hand_in: HandIn, exercise: Exercise, seed: str) -> tuple[Verdict, str]:
        if (pair := hand_in.plan) is None:
            return Verdict("○", "not yet: no plan.json with its network was handed in"), ""
        with TemporaryDirectory() as folder:
            for path in pair:  # Canvas gives them names that differ
                shutil.copy(path, Path(folder, f"plan{path.suffix}"))
            ((keywords, _),) = self._context.of(exercise.id)
            return judge(exercise, str(Path(folder, "plan.json")), seed, **keywords), pair[0].name

    def _of_code(self, hand_in: HandIn, exercise: Exercise, seed: str) -> tuple[Verdict, str]:
        id_ = exercise.id
        if (name := asked().get(id_)) is None:
            return Verdict("", "no notebook asks this; grade it by hand"), ""
        if not any(_is_of(notebook, id_) for notebook in hand_in.notebooks):
            return Verdict("○", f"not yet: notebook {id_[:2]} was not handed in"), ""
        if (notebook := _where(hand_in, id_, name)) is None:
            return Verdict("○", f"not yet: there is no {name}"), ""
        case, verdicts = exercise.cases_of(seed)[0], []
        for keywords, given in self._context.of(id_, case):
            made = reading.definition(notebook, name, given=given, case=case)
            verdicts.append(self._judged(made, exercise, seed, keywords))
            if verdicts[-1].sign == "✓":
                return verdicts[-1], made.place
        verdict = verdicts[0]
        if id_ == "05.race" and verdict.lines and verdict.text.startswith("wrong: "):
            # By a network of ours; on the student's own it may have come out otherwise.
            measured = verdict.text.removeprefix("wrong: ")
            verdict = replace(verdict, sign="", text=f"measured here: {measured}; look at it")
        return verdict, made.place

    def _judged(
        self, made: Definition, exercise: Exercise, seed: str, keywords: Mapping
    ) -> Verdict:
        remote = Remote(self._worker, made, exercise.seconds, exercise.blocked)
        try:
            answer = remote if reading.is_function(made) else remote.value()
            return judge(exercise, answer, seed, **keywords)
        except (Ended, TimeUp) as error:
            return Verdict("✗", f"stopped: {error or 'it took too long'}")
        except Exception as error:  # of the cell itself
            return Verdict("✗", f"wrong: {made.name} raises {printable(error)[:300]}")
        finally:
            remote.close()


def _where(hand_in: HandIn, id_: str, name: str) -> reading.Notebook | None:
    """The notebook that asks this task and defines the name, else one of the same number."""
    there = [each for each in hand_in.notebooks if each.binds(name) and _is_of(each, id_)]
    asking = [notebook for notebook in there if re.search(rf"\b{re.escape(id_)}\b", notebook.text)]
    own = [notebook for notebook in asking if id_[:2] in notebook.name]
    return next((found[-1] for found in (own, asking, there) if found), None)


def _is_of(notebook: reading.Notebook, id_: str) -> bool:
    """Whether it is the task's notebook, by its name or by tasks that it asks."""
    number = id_[:2]
    named = re.search(rf"(?<!\d){number}(?!\d)", notebook.name)
    return bool(named or re.search(rf"\b{number}\.[a-z]+\b", notebook.text))


def _of_guess(hand_in: HandIn, exercise: Exercise, seed: str) -> Verdict:
    entry = hand_in.entry(exercise.id, seed)
    if entry.guess is not None:
        return Verdict(
            "✓", f"noted: {printable(entry.guess)}" + f" ({entry.near})" * bool(entry.near)
        )
    why = "no progress.json was handed in" if hand_in.state is None else "no guess is noted"
    return Verdict("○", f"not yet: {why}")


def _of_sentence(hand_in: HandIn, exercise: Exercise, seed: str) -> Verdict:
    """Earned by writing one; a teacher who reads it finds what a good one says below it."""
    sentence = hand_in.entry(exercise.id, seed).sentence
    for notebook in hand_in.notebooks:
        if not sentence and (name := asked().get(exercise.id)):
            found = reading.literal(notebook, name)
            if isinstance(found, str) and f"{exercise.id}" in notebook.text:
                sentence = " ".join(found.split())
    if not sentence:
        return Verdict("○", "not yet: there is no sentence")
    lines = tuple((f"{number}.", line) for number, line in enumerate(exercise.rubric, 1))
    return Verdict("✓", f"to be read: {sentence[:1000]}", lines)
