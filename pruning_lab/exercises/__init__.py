"""Tasks of the notebooks that check themselves: cases, known mistakes, verdicts, guesses, progress.

    lab.exercises.student("ada")
    lab.exercises.check("02.keep", keep)

Each notebook has a table of tasks (`dense` for 00 and 01, `once` for 02), a module with a tuple
`EXERCISES`; a further table is named in `tables`.
"""

from pruning_lab.exercises.checking import judge
from pruning_lab.exercises.dense import Run
from pruning_lab.exercises.exercise import Exercise, Guess, Near, Verdict
from pruning_lab.exercises.record import (
    case,
    check,
    explain,
    guess,
    guessed,
    header,
    hint,
    progress,
    reveal,
    student,
)
from pruning_lab.exercises.tables import EXERCISES

__all__ = ["EXERCISES", "Exercise", "Guess", "Near", "Run", "Verdict", "case", "check", "explain"]
__all__ += ["guess", "guessed", "header", "hint", "judge", "progress", "reveal", "student"]
