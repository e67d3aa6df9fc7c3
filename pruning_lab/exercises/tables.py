"""All tasks of the course by id, in its order. The table of a further notebook goes in here."""

import difflib

from pruning_lab.exercises import (
    counting,
    dense,
    iterate,
    once,
    photos,
    project,
    retrain,
    running,
    sensitivity,
    storing,
)
from pruning_lab.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {
    exercise.id: exercise
    for table in (
        *(dense, once, retrain, sensitivity, iterate, counting),
        *(storing, running, photos, project),
    )
    for exercise in table.EXERCISES
}


def unknown(id_: object) -> str:
    """The sentence for an id that is no task's, with the nearest first."""
    near = difflib.get_close_matches(str(id_), EXERCISES, n=3, cutoff=0.5)
    known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(EXERCISES)}"
    return f"no task is called {str(id_)[:80]!r}; {known}"
