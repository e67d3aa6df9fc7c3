"""Every known mistake of a task that is a function is told from all else, and named as itself."""

from dataclasses import replace

import pytest

from pruning_lab.exercises import EXERCISES, judge
from pruning_lab.exercises.comparison import difference
from pruning_lab.isolation import raised, untouched

STUDENTS = [f"student {number}" for number in range(200)]
SAME_FOR_ALL = ("02.which",)  # whose cases do not depend on the student


def variants(known):
    """(message, function) of each mistake, or of each other right reading."""
    pairs = [(message, made) for message, made in known.items()]
    return [(m, f) for m, made in pairs for f in (made if isinstance(made, tuple) else (made,))]


def values(exercise, function, cases):
    """What is observed in all cases; an exception is a value too."""
    made = []
    for case in cases:
        try:
            made.append(exercise.observe(function, *case))
        except Exception as error:
            made.append(raised(error))
    return made


every_function = pytest.mark.parametrize(
    "exercise", [e for e in EXERCISES.values() if callable(e.answer)], ids=lambda e: e.id
)


@every_function
def test_each_is_told_from_the_answer_and_from_every_other_for_200_students(exercise):
    """By what is observed in their cases."""
    with untouched():
        for student in STUDENTS[: 2 if exercise.id in SAME_FOR_ALL else None]:
            cases = exercise.cases_of(student)
            right = values(exercise, exercise.answer, cases)
            twins = [(m, values(exercise, f, cases)) for m, f in variants(exercise.twins)]
            notes = [(m, values(exercise, f, cases)) for m, f in variants(exercise.notes)]
            for known in twins, notes:
                for message, observed in known:
                    assert difference(right, observed) is not None, (student, message)
                    same = next(m for m, other in known if difference(other, observed) is None)
                    assert same == message, student


@every_function
def test_verdicts_name_it_and_accept_the_answer_with_or_without_a_note(exercise):
    for student in "", *STUDENTS[:2]:
        verdict = judge(exercise, exercise.answer, student)
        assert (verdict.sign, verdict.text.count(";")) == ("✓", 0)
        for message, function in variants(exercise.twins):
            verdict = judge(replace(exercise, given=None), function, student)
            assert (verdict.sign, verdict.text) == ("✗", f"wrong: {message}")
            assert verdict.lines[0][0] == "case"
        for message, function in variants(exercise.notes):
            verdict = judge(exercise, function, student)
            assert verdict.sign == "✓"
            assert message in verdict.text
