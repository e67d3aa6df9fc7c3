"""`pruning-lab course`: copy the notebooks, release a term's edition, grade what is handed in."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import App, Parameter

import pruning_lab as lab
from pruning_lab.cli import common, outputs

course = App(
    name="course",
    help="The course: copy its notebooks, release a term's edition, grade, score a project.",
)
_NBGRADER = "Also write nbgrader's cells, with points."
_DATA = "Images that plans are measured on."


@course.command
def start(
    folder: str = "pruning_lab_course",
    *,
    solved: bool = False,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Copy the notebooks for students into a folder.

    example:
      pruning-lab course start && jupyter lab pruning_lab_course

    Args:
        folder: Where to; it is made if it is not there.
        solved: Also the solved notebooks, into `read` below it.
    """
    copies = {Path(folder, name): path for name, path in lab.course.notebooks().items()}
    if solved:
        others = lab.course.notebooks(solved=True)
        copies |= {Path(folder, "read", name): path for name, path in others.items()}
    contents = {copy: path.read_bytes() for copy, path in copies.items()}
    _write(folder, contents, output, f"open them with: jupyter lab {quote(folder)}")


@course.command
def release(
    *,
    term: str,
    out: str,
    nbgrader: Annotated[bool, Parameter(help=_NBGRADER)] = False,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Write a term's notebooks: its seed changes the cases, budgets and planted mistakes.

    Into OUT/student go the notebooks to hand out, into OUT/solved those to keep.
    With the seed and the student's name, everyone has numbers of their own.

    example:
      pruning-lab course release --term autumn-2027 --out release

    Args:
        term: Any word; another one gives other numbers.
        out: Folder for both editions.
    """
    if not (term := term.strip()) or not term.isprintable() or len(term) > 80:
        raise ValueError(f"--term is a word of 1 to 80 letters, such as autumn-2027, got {term!r}")
    contents = {}
    for edition in ("student", "solved"):
        for name, path in lab.course.notebooks(solved=edition == "solved").items():
            made = lab.course.for_term(lab.files.load_json(path), term, nbgrader=nbgrader)
            contents[Path(out, edition, name)] = lab.course.as_text(made).encode()
    _write(out, contents, output, f"hand out {Path(out, 'student')}, keep {Path(out, 'solved')}")


@course.command
def grade(
    folder: str,
    *,
    out: str = "grades",
    term: str | None = None,
    tasks: str = "",
    processes: Annotated[int | None, common.number(1, 64)] = None,
    memory: Annotated[int, common.number(256, 1_000_000)] = 2048,
    data: Annotated[str, Parameter(help=_DATA)] = "auto",
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Grade a folder with a notebook, or a folder, for each student.

    The functions that students wrote run one by one in a process with limits,
    without files and network where the system allows that. No notebook is run.

    example:
      pruning-lab course grade hand-ins --out grades
      pruning-lab course grade hand-ins --tasks 02,03.step --term autumn-2027

    Args:
        folder: What was handed in.
        out: Folder for tables, feedback pages and results.
        term: The seed of the release, if not the one that the notebooks name.
        tasks: How the tasks begin that count, such as 02,03.step; all if left out.
        processes: How many students at once (default: one for each processor).
        memory: Most megabytes that a function may take.
    """
    begins = tuple(part.strip() for part in tasks.split(","))
    for part in begins:
        if not any(id_.startswith(part) for id_ in lab.exercises.EXERCISES):
            raise ValueError(f"no task begins with {part!r}; 02 takes those of notebook 02")
    _digits(data)
    for name in ("grades.csv", "moodle.csv", "canvas.csv", "points.png"):
        path = Path(out, name)
        outputs.check_place("--out", path)
        if path.exists() and not output.force:
            raise FileExistsError(f"{path} is there already; add --force to replace it")
    many = processes or os.cpu_count() or 1
    found = lab.course.grade(
        Path(folder), term=term, begins=begins, processes=many, images=data, memory=memory << 20
    )
    graded = []
    for each in found:
        graded.append(each)
        output.say(f"{each.name}: {each.points} of {each.most}")
    written = lab.course.write(Path(out), graded)
    record = {"out": out, "files": list(map(str, written)), "students": lab.course.as_json(graded)}
    output.show(record, _summary(out, graded))


@course.command
def score(
    plan: common.InputFile,
    *,
    file: common.NetworkFile = None,
    student: str | None = None,
    term: str | None = None,
    fame: str = "hall-of-fame.json",
    data: Annotated[str, Parameter(help="Images of digits: auto, mnist, mnist-5k.")] = "auto",
    again: bool = False,
    output: common.Output = common.Output(),
) -> None:
    """Score a project's plan against its budget, on the test images, once.

    A plan is what studio.export writes, with the network beside it. The hall of
    fame remembers who has used test: fewest weights at half a point at most.

    example:
      pruning-lab course score plan.json --student ada

    Args:
        plan: The plan's file.
        student: Whose budget (default: the name in this folder's progress).
        term: The seed of the release (default: that of the progress).
        fame: File of the hall of fame.
        again: Use the test images once more; it is counted.
    """
    state = lab.exercises.record.current()
    student = state.student if student is None else student
    term = state.term if term is None else term
    outputs.check_place("--fame", Path(fame))
    splits = _digits(data)
    options = {"student": student, "term": term, "network": file, "again": again}
    verdict, entry, hall = lab.course.score(Path(plan), splits.test, Path(fame), **options)
    whose = f"budget of {lab.exercises.record.who(student, term) or 'the demo'!r}"
    lines = [f"{whose}, on the {splits.test.n:,} test images of {splits.name}:", verdict, "", hall]
    record = {"verdict": str(verdict), **lab.rows.plain(entry), "fame": lab.rows.plain(list(hall))}
    output.show(record, "\n".join(map(str, lines)))


def _digits(name: str) -> lab.data.Splits:
    if name not in (digits := ("auto", "mnist", "mnist-5k")):
        raise ValueError(f"--data is {' or '.join(digits)} here, got {name!r}")
    return lab.data.load(name)


def _summary(out: str, graded: list) -> str:
    seen = [each.isolated for each in graded if each.isolated is not None]
    kinds = ("files", "network", "processes")
    missing = [kind for kind in kinds if any(kind not in isolated for isolated in seen)]
    lines = [f"\n{lab.rows.counted(len(graded), 'student')}: {Path(out, 'grades.csv')}"]
    if missing:
        what = " and ".join(missing)
        lines.append(f"not isolated here: {what}; this system allows no user namespaces")
    return "\n".join(lines)


def _write(
    folder: str, contents: dict[Path, bytes], output: common.WritingOutput, advice: str
) -> None:
    for path in contents:
        outputs.check_file("the notebook", path, "notebook", replace=output.force)
    for path, content in contents.items():
        lab.files.write(path, content)
    text = f"wrote {lab.rows.counted(len(contents), 'notebook')} to {folder}; {advice}"
    output.show({"out": folder, "notebooks": list(map(str, contents))}, text)
