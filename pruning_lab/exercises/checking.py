"""A verdict on an answer: the values of all cases beside those of the answer and its twins."""

import dis
from collections.abc import Callable
from copy import deepcopy
from types import CodeType

from torch import Tensor

from pruning_lab.exercises.comparison import brief, difference
from pruning_lab.exercises.exercise import Exercise, Verdict, call
from pruning_lab.isolation import (
    Blocked,
    Ended,
    Guarded,
    Raised,
    TimeUp,
    raised,
    seed,
    untouched,
)
from pruning_lab.rows import counted


def judge(exercise: Exercise, answer: object, student: str = "", **context) -> Verdict:
    """The verdict on an answer for this student's cases; it raises nothing and records nothing.

    A `Guarded` answer says itself how it is called, such as in another process.
    """
    if why := _unwritten(exercise, answer):
        return Verdict("○", f"not yet: {why}")
    if exercise.answer is None and exercise.observe is call:
        asked = "exercises.explain(...)" if exercise.rubric else "exercises.guess(...)"
        return Verdict("✗", f"{exercise.id} is not checked; answer it by {asked}")
    if callable(exercise.answer) and not callable(answer):
        return Verdict("✗", f"wrong: a function is checked here, got {brief(answer)}")
    with untouched():
        try:
            return _Judgement(exercise, answer, context).of(exercise.cases_of(student))
        except Blocked as error:
            task = f"this task is to write what lab.{error} does"
            return Verdict("✗", f"blocked: {task}, so it cannot be called here")
        except TimeUp:
            limit = f"your function still ran after {exercise.seconds:g} seconds"
            return Verdict("✗", f"stopped: {limit}; look for a loop that does not end")
        except Ended as error:
            return Verdict("✗", f"stopped: {error}")
        except Exception as error:  # a value of a strange type, a list that contains itself
            return Verdict("✗", f"wrong: the answer cannot be compared: {error}")


class _Judgement:
    """The answer, those it is compared with, and where it differs first."""

    def __init__(self, exercise: Exercise, answer: object, context: dict):
        self.exercise, self.answer, self.context = exercise, answer, context
        self.function = answer
        if callable(answer) and not isinstance(answer, Guarded):
            self.function = Guarded(answer, exercise.seconds, exercise.blocked)
        # Variants whose values have been those of the answer so far, by message.
        self.notes, self.twins = _variants(exercise.notes), _variants(exercise.twins)

    def of(self, cases: list[tuple]) -> Verdict:
        differing, values = [], []
        for case in cases:
            got = self._value(self.function, case)
            if isinstance(got, Verdict):
                return got
            if isinstance(got, Raised) and _is_to_come(got, self.answer):
                return Verdict("○", f"not yet: {self._name} raises NotImplementedError")
            if self.exercise.answer is None:
                return Verdict("✗", f"wrong: {got.message if isinstance(got, Raised) else got}")
            expected = self._value(self.exercise.answer, case)
            if isinstance(expected, Raised):  # a keyword is missing
                return Verdict("✗", f"{self.exercise.id} cannot be checked so: {expected}")
            values.append((expected, got))
            for alive in (self.notes, self.twins):
                for message, variants in list(alive.items()):
                    same = [v for v in variants if difference(self._value(v, case), got) is None]
                    alive[message] = same
                    if not same:
                        del alive[message]
            if (place := difference(expected, got)) is not None:
                differing.append((case, expected, got, place))
        if all(_empty(got) and not _empty(expected) for expected, got in values):
            return Verdict("○", f"not yet: {self._name} returns {brief(values[0][1])}")
        count, note = counted(len(cases), "case"), next(iter(self.notes), "")
        if differing and not note:
            return self._wrong(*differing[0], f"in {len(differing)} of {count}, such as this:")
        said = f"right: {count}" + (f"; {note}" if differing else "")
        if self.exercise.shows:
            said += f". {self._value(self.function, cases[0], self.exercise.shows)}"
        return Verdict("✓", said)

    def _wrong(self, case: tuple, expected: object, got: object, place: str, unknown: str):
        call = f"{self._name}({', '.join(map(brief, case))})"
        shown = self.exercise.shown(*case) if self.exercise.shown else call
        lines = [("case", shown)] if case else []
        ours, theirs = _first_part(expected, got)
        lines += [("expected", ours), ("got", theirs)]
        if isinstance(got, Raised):
            unknown = f"it raises {brief(got)}"
            lines += [("in your line", got.line)] * bool(got.line)
        elif place.startswith("at "):  # else it says no more than the two lines above
            lines.append(("difference", place))
        return Verdict("✗", f"wrong: {next(iter(self.twins), unknown)}", tuple(lines))

    def _value(self, answer: object, case: tuple, observe: Callable | None = None) -> object:
        """What is observed of an answer; an exception is a value too."""
        seed()
        if isinstance(answer, Guarded):
            answer.begin()
        try:
            return (observe or self.exercise.observe)(answer, *_copied(case), **self.context)
        except (Blocked, Ended, TimeUp, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too
            return raised(error, self.answer)

    @property
    def _name(self) -> str:
        return getattr(self.answer, "__name__", "the answer")


def _is_to_come(got: Raised, answer: object) -> bool:
    """Whether the function itself says that it is not implemented; torch raises this error too."""
    names = getattr(getattr(answer, "__code__", None), "co_names", ())
    return got.kind == "NotImplementedError" and got.kind in names


def _first_part(expected: object, got: object) -> tuple[str, str]:
    """Both in few words; of two observations with many parts, the first part that differs."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in expected:
            if key in got and difference(expected[key], got[key]) is not None:
                return f"{key}: {brief(expected[key])}", f"{key}: {brief(got[key])}"
    return brief(expected), brief(got)


def _copied(case: tuple) -> tuple:
    """A copy whose parts may share parts; of tensors and numbers alone, ten times as fast."""
    if all(type(part) in (Tensor, float, int) for part in case):
        return tuple(part.clone() if isinstance(part, Tensor) else part for part in case)
    return deepcopy(case)


def _variants(known) -> dict[str, list]:
    return {m: list(v) if isinstance(v, tuple) else [v] for m, v in known.items()}


def _empty(value: object) -> bool:
    return value is None or value is ...


def _unwritten(exercise: Exercise, answer: object) -> str:
    """Why an answer is still a stub, or the code that was given; "" where it is neither."""
    if _empty(answer):
        return "no answer is there yet"
    if isinstance(answer, dict | list) and len(answer):
        entries = answer.items() if isinstance(answer, dict) else enumerate(answer)
        if empty := [key for key, value in entries if _empty(value)]:
            return f"the entry {empty[0]!r} is still {answer[empty[0]]}"
    code = getattr(answer, "__code__", None)
    if isinstance(code, CodeType):
        if _steps(code) == _steps(_stub.__code__):
            return f"{answer.__name__} is still empty"
        if exercise.given and _steps(code) == _steps(exercise.given.__code__):
            return f"{answer.__name__} is still as it was given; find its mistake"
    return ""


def _stub(): ...


def _steps(code: CodeType) -> list:
    """What a function does, without its names, docstring and place: equal for equal bodies.

    A call of a module's function is compiled to another instruction, and so to other jumps, where
    the same file imports the module.
    """
    jumps, names = {*dis.hasjrel, *dis.hasjabs}, {"LOAD_METHOD": "LOAD_ATTR"}
    steps = [
        (names.get(step.opname, step.opname), None if step.opcode in jumps else step.argval)
        for step in dis.get_instructions(code)
    ]
    return [(name, _steps(v) if isinstance(v, CodeType) else v) for name, v in steps]
