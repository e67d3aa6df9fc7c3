"""Known mistakes of the tasks that are functions: told from the answer and from one another."""

from pruning_lab.exercises import EXERCISES
from pruning_lab.exercises.comparison import difference
from pruning_lab.isolation import raised, untouched

STUDENTS = [f"student {number}" for number in range(200)]


def variants(known):
    """(message, function) of each twin or note."""
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


def check_told_apart(id_):
    """By what is observed in the cases of 200 students."""
    exercise = EXERCISES[id_]
    with untouched():
        for student in STUDENTS:
            cases = exercise.cases_of(student)
            right = values(exercise, exercise.answer, cases)
            twins = [(m, values(exercise, f, cases)) for m, f in variants(exercise.twins)]
            for message, observed in twins:
                assert difference(right, observed) is not None, (student, message)
                same = next(m for m, other in twins if difference(other, observed) is None)
                assert same == message, student
            for message, function in variants(exercise.notes):
                observed = values(exercise, function, cases)
                assert difference(right, observed) is not None, (student, message)
