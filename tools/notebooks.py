"""Make two editions of each notebook from its source: one to work in, one to read.

    python tools/notebooks.py              every notebook
    python tools/notebooks.py 01 03        those
    python tools/notebooks.py --student    only the students' editions, which need no run
    python tools/notebooks.py --check      write nothing; say what is not as it should be

From notebooks/source/01_dense.py (jupytext, percent format) come

    notebooks/01_dense.ipynb        the student's: no outputs, no solutions, no cells tagged `ci`
    notebooks/read/01_dense.ipynb   solved, with the outputs of a fresh run on MNIST

and the people's minutes and the tasks in the index. Edit the source, run this, commit all of it.
notebooks/README.md says how a source marks solutions, tasks and cells.

Outputs come from MNIST, found in $PRUNING_LAB_DATA or data/.
"""

import argparse
import ast
import hashlib
import math
import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from pruning_lab import exercises

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
TAGS = {"exercise", "check", "guess", "reveal", "ci", "nbval-check-output"}
BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
# Without a kernel JupyterLab asks for one before it runs anything.
METADATA = nbformat.from_dict(
    {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
)
WIDGET = "application/vnd.jupyter.widget-view+json"
WORDS_A_MINUTE = 180


def sources() -> list[Path]:
    return sorted((NOTEBOOKS / "source").glob("*.py"))


def targets(source: Path) -> tuple[Path, Path]:
    """The student's edition and the one to read."""
    return NOTEBOOKS / f"{source.stem}.ipynb", NOTEBOOKS / "read" / f"{source.stem}.ipynb"


# What a source says


def assemble(source: Path) -> nbformat.NotebookNode:
    """The edition to read, without its outputs; ValueError, one sentence, for wrong markup."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        try:
            _check_cell(cell)
            if cell.cell_type == "markdown":
                cell.source = re.sub(r"(?m)^@task\b(.*)$", _header, cell.source)
        except ValueError as error:
            raise ValueError(f"{source.name}, cell {number}: {error}") from None
    return _finished(notebook)


def strip(source: Path) -> nbformat.NotebookNode:
    """The student's edition: solutions replaced, cells of the tests left out, no output."""
    notebook = assemble(source)
    notebook.cells = [c for c in notebook.cells if "ci" not in c.metadata.get("tags", ())]
    for cell in notebook.cells:
        if tags := [tag for tag in cell.metadata.pop("tags", ()) if tag != "nbval-check-output"]:
            cell.metadata.tags = tags
        if cell.cell_type == "code":
            cell.source = without_solutions(cell.source)
    return _finished(notebook)


def without_solutions(code: str) -> str:
    """Code with `your code here` in place of each solution; ValueError where marks do not pair."""
    kept, opened = [], None  # the indentation of the region that a line is in
    for line in code.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        if line.strip() == BEGIN:
            if opened is not None:
                raise ValueError(f"`{BEGIN}` stands inside a solution; end that one first")
            opened = indent
            kept.append(f"{indent}...  # your code here" if indent else "# your code here")
        elif line.strip() == END:
            if opened is None:
                raise ValueError(f"`{END}` ends no solution; begin it with `{BEGIN}`")
            if indent != opened:
                raise ValueError(f"`{BEGIN}` and its `{END}` are not indented alike")
            opened = None
        elif re.search(r"\b(BEGIN|END)\W*SOLUTION", line):
            raise ValueError(f"write `{BEGIN}` or `{END}`, alone in a line, not `{line.strip()}`")
        elif opened is None:
            kept.append(line)
    if opened is not None:
        raise ValueError(f"a solution has no end; close it with `{END}`")
    return "\n".join(kept)


def _check_cell(cell: nbformat.NotebookNode) -> None:
    if unknown := set(cell.metadata.get("tags", ())) - TAGS:
        raise ValueError(f"unknown tag {', '.join(sorted(unknown))}; there are {sorted(TAGS)}")
    stripped = without_solutions(cell.source)
    if cell.cell_type != "code":
        if stripped != cell.source:
            raise ValueError("a solution in a text; it belongs into a cell of code")
        return
    for edition, code in (("", cell.source), (" without its solution", stripped)):
        try:
            ast.parse(TransformerManager().transform_cell(code))
        except SyntaxError as error:
            raise ValueError(f"no Python{edition}: {error.msg}, line {error.lineno}") from None


def _header(line: re.Match) -> str:
    """The line that stands for `@task 02.keep`."""
    task = line[1].strip()
    if task not in exercises.EXERCISES:
        raise ValueError(f"there is no task {task!r}; pruning_lab.exercises has the list")
    return exercises.header(task)


def _finished(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        # An id of what the cell says stays when cells around it come and go.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook.metadata = METADATA.copy()
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


# The run


def run(notebook: nbformat.NotebookNode, data: Path | None) -> None:
    """Execute in a folder where `data` is the only thing, so that no path of this machine shows.

    Nobody has worked there, so the record of tasks and guesses begins empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        if data is not None:
            (Path(folder) / "data").symlink_to(data.resolve())
        environment = {k: v for k, v in os.environ.items() if k != "PRUNING_LAB_DATA"}
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute(env=environment)
    notebook.metadata = METADATA.copy()  # the kernel has added its version
    notebook.metadata.drawn_by = drawn_by()
    for cell in notebook.cells:
        for output in [*cell.get("outputs", ())]:
            # A widget lives in its kernel; the picture beside it is what a reader can see.
            is_widget = output.get("data", {}).pop(WIDGET, None)
            if is_widget and set(output.data) == {"text/plain"}:  # it has no picture
                cell.outputs.remove(output)


def drawn_by() -> str:
    """A digest of the code that draws: stored with the pictures, it tells when they are old."""
    package = ROOT / "pruning_lab"
    files = [*package.glob("plots*.py"), *package.glob("plots/*.py"), *package.glob("widgets/*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# The index


def tasks(source: Path) -> list[str]:
    return re.findall(r"(?m)^# @task +(\S+)$", source.read_text(encoding="utf-8"))


def minutes(source: Path) -> int:
    """Of a person: the words of the student's edition, code too, and its tasks; in steps of 5."""
    words = sum(len(cell.source.split()) for cell in strip(source).cells)
    working = sum(exercises.EXERCISES[task].minutes for task in tasks(source))
    return 5 * math.ceil((words / WORDS_A_MINUTE + working) / 5)


def index(text: str) -> str:
    """notebooks/README.md with the last two columns of each notebook's row computed."""
    for source in sources():
        row = re.compile(rf"(?m)^(\| \[{source.stem}\].*\|)[^|]*\|[^|]*\|$")
        if not row.search(text):
            raise ValueError(f"notebooks/README.md has no row for {source.stem}")
        text = row.sub(rf"\g<1> {minutes(source)} | {len(tasks(source)) or '–'} |", text)
    return text


# What teachers are told

_LAB = ("00.watts", "02.three", "02.keep", "02.budget", "03.back", "03.step", "03.control")
TRACKS = {
    "90 minutes: one lab": lambda id_: id_ in _LAB,
    "two weeks: 00 to 05, and 07": lambda id_: (
        id_[:2] in ("00", "01", "02", "03", "04", "05", "07")
    ),
    "a project: 09": lambda id_: id_.startswith("09"),
    "everything": lambda id_: True,
}


def teaching(text: str) -> str:
    """notebooks/TEACHING.md with its two tables made from those of the tasks."""
    rows = ["| task | kind | minutes | points |", "| --- | --- | --- | --- |"]
    for id_, task in exercises.EXERCISES.items():
        rows.append(f"| {id_} | {task.kind} | {task.minutes} | {task.points} |")
    tracks = ["| track | tasks | their minutes | points |", "| --- | --- | --- | --- |"]
    for name, holds in TRACKS.items():
        among = [task for id_, task in exercises.EXERCISES.items() if holds(id_)]
        sums = (sum(getattr(task, what) for task in among) for what in ("minutes", "points"))
        tracks.append(f"| {name} | {len(among)} | {' | '.join(map(str, sums))} |")
    tracks.append("")
    tracks.append(f"The tasks of the 90 minutes: {', '.join(_LAB)}.")
    for name, lines in (("tasks", rows), ("tracks", tracks)):
        head = f"<!-- {name}: made by tools/notebooks.py -->"
        made = "\n".join([head, "", *lines, "", "<!-- end -->"])
        text, found = re.subn(rf"(?s){re.escape(head)}.*?<!-- end -->", lambda _: made, text)  # noqa: B023
        if found != 1:
            raise ValueError(f"notebooks/TEACHING.md has no place for its {name}: {head}")
    return text


PAGES = {"README.md": index, "TEACHING.md": teaching}


# What is not as it should be


def same(left: nbformat.NotebookNode, right: nbformat.NotebookNode) -> bool:
    """Whether two notebooks ask the same, whatever their outputs."""

    def asked(notebook):
        about = {k: v for k, v in notebook.metadata.items() if k != "drawn_by"}
        return about, [(c.cell_type, c.id, c.source, dict(c.metadata)) for c in notebook.cells]

    return asked(left) == asked(right)


def faults(source: Path) -> list[str]:
    """A sentence for each edition that its source or the code that draws has left behind."""
    found, again = [], f"type: python tools/notebooks.py {source.stem}"
    for wanted, path in zip((strip(source), assemble(source)), targets(source), strict=True):
        name = path.relative_to(NOTEBOOKS)
        if not path.exists():
            found.append(f"{name} is not there; {again}")
            continue
        stored = nbformat.read(path, as_version=4)
        if not same(wanted, stored):
            found.append(f"{name} is not what its source says; {again}")
        elif path.parent != NOTEBOOKS and stored.metadata.get("drawn_by") != drawn_by():
            found.append(f"the pictures in {name} are older than the code that draws them; {again}")
    return found


def check(chosen: list[Path]) -> int:
    found = [fault for source in chosen for fault in faults(source)]
    for name, made in PAGES.items():
        page = (NOTEBOOKS / name).read_text(encoding="utf-8")
        if made(page) != page:
            found.append(f"the tables in notebooks/{name} are old; type: python tools/notebooks.py")
    print(*found, sep="\n", end="\n" * bool(found))
    return 1 if found else 0


def build(chosen: list[Path], data: Path | None) -> None:
    """Write the editions; without `data` only the student's."""
    for source in chosen:
        print(source.stem, flush=True)
        student, read = targets(source)
        nbformat.write(strip(source), student)
        if data is not None:
            solved = assemble(source)
            run(solved, data)
            read.parent.mkdir(exist_ok=True)
            nbformat.write(solved, read)
    for name, made in PAGES.items():
        page = NOTEBOOKS / name
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="how the notebooks' names begin; all if none")
    parser.add_argument("--student", action="store_true", help="only the students' editions")
    parser.add_argument("--check", action="store_true", help="compare, write and run nothing")
    options = parser.parse_args()
    chosen = [s for s in sources() if not options.names or s.name.startswith(tuple(options.names))]
    if not chosen:
        parser.error(f"no notebook begins with {' or '.join(options.names)}")
    data = Path(os.environ.get("PRUNING_LAB_DATA", ROOT / "data"))
    if not (options.check or options.student or (data / "MNIST").is_dir()):
        parser.error(f"the stored outputs are MNIST's, and there is no MNIST in {data}")
    try:
        if options.check:
            return check(chosen)
        build(chosen, None if options.student else data)
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
