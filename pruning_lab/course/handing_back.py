"""What grading leaves: a page for each student, tables for the class, files for other systems."""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from pruning_lab import files, plots
from pruning_lab.course.grading import Grade, Graded

_STATUS = {"✓": "passed"}


def write(folder: Path, graded: Sequence[Graded]) -> list[Path]:
    """Write all of it; the paths of the class's files first.

    grades.csv has a column for each task, moodle.csv and canvas.csv what these import, points.png
    a bar for each task; feedback/NAME.html is for the student, results/NAME.json for Gradescope.
    """
    folder, names = Path(folder), file_names([each.name for each in graded])
    rows = [row for each in graded for row in each.grades]
    written = [
        files.write(folder / "grades.csv", _table(_class_table(graded))),
        files.write(folder / "moodle.csv", _table(_moodle(graded))),
        files.write(folder / "canvas.csv", _table(_canvas(graded))),
        files.write(folder / "points.png", _picture(rows)),
    ]
    for each, name in zip(graded, names, strict=True):
        written.append(files.write(folder / "feedback" / f"{name}.html", page(each)))
        written.append(files.save_json(folder / "results" / f"{name}.json", results(each)))
    return written


def file_names(students: Iterable[str]) -> list[str]:
    """A file name for each student: letters of any script, and no two alike on any disk."""
    made: list[str] = []
    for student in students:
        plain = unicodedata.normalize("NFC", student)
        name = re.sub(r"[^\w .-]", "_", plain).strip(" .")[:80] or "student"
        tried, number = name, 2
        while tried.casefold() in (other.casefold() for other in made):
            tried, number = f"{name} {number}", number + 1
        made.append(tried)
    return made


def page(graded: Graded) -> str:
    """The feedback for a student as one file of HTML."""
    loader = Environment(loader=PackageLoader("pruning_lab", "pages"), autoescape=True)
    seed = f"Cases of {graded.seed!r}." if graded.seed else "Cases of the demo."
    return loader.get_template("feedback.html").render(
        title=f"{graded.name}: what was handed in",
        points=graded.points,
        most=graded.most,
        about=f"{seed} ✓ right, ✗ wrong, ○ not yet; a task earns all of its points or none.",
        faults=graded.faults,
        rows=graded.grades,
    )


def results(graded: Graded) -> dict:
    """The points as Gradescope's autograder has them in results.json."""
    tests = [
        {
            "name": row.task,
            "score": row.points,
            "max_score": row.most,
            "status": _STATUS.get(row.sign, "failed"),
            "output": "\n".join([f"{row.sign} {row.said}", *map(": ".join, row.lines)]),
        }
        for row in graded.grades
    ]
    return {"score": graded.points, "output": "\n".join(graded.faults), "tests": tests}


def _class_table(graded: Sequence[Graded]) -> list[list]:
    tasks = [row.task for row in graded[0].grades] if graded else []
    seeds, terms = [each.seed for each in graded], Counter(each.term for each in graded)
    table = [["student", "id", "cases of", "points", "of", *tasks, "notes"]]
    for each in graded:
        notes = list(each.faults)
        if each.seed and seeds.count(each.seed) > 1:
            notes.append(f"others have cases of {each.seed!r} too")
        if each.term != (usual := terms.most_common(1)[0][0]):
            notes.append(f"of term {each.term or 'none'!r}, most others of {usual or 'none'!r}")
        notes += [f"{row.task}: {row.said}" for row in each.grades if _is_noted(row)]
        points = [each.points, each.most, *(row.points for row in each.grades)]
        table.append([each.name, each.number, each.seed, *points, "; ".join(notes)])
    return table


def _is_noted(row: Grade) -> bool:
    return row.sign == "" or row.said.startswith(("stopped:", "blocked:"))


def _moodle(graded: Sequence[Graded]) -> list[list]:
    rows = [[f"Participant {g.number}" if g.number else "", g.name, g.points] for g in graded]
    return [["Identifier", "Full name", "Grade"], *rows]


def _canvas(graded: Sequence[Graded]) -> list[list]:
    most = max((each.most for each in graded), default=0)
    head = ["Student", "ID", "SIS Login ID", "Section", "pruning_lab"]
    rows = [[each.name, each.number, "", "", each.points] for each in graded]
    return [head, ["    Points Possible", "", "", "", most], *rows]


def _table(rows: list[list]) -> str:
    """CSV with a byte order mark, without which spreadsheets misread letters."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[_safe(cell) for cell in r] for r in rows])
    return "\ufeff" + file.getvalue()


def _safe(cell: object) -> object:
    """A spreadsheet would compute a text that begins like a formula."""
    is_formula = isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{cell}" if is_formula else cell


def _picture(rows: Sequence[Grade]) -> bytes:
    with plots.style():
        figure = Figure(figsize=(7, 1.2 + 0.26 * len({row.task for row in rows})))
        plots.class_points(rows, title="The class, task by task", ax=figure.subplots())
    figure.set_layout_engine("constrained")
    return plots.png(figure)


def as_json(graded: Sequence[Graded]) -> list[dict]:
    """All results, for programs."""
    return [{"student": each.name, **results(each)} for each in graded]
