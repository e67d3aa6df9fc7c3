"""The course's notebooks, to copy: as they are, or a term's own edition with a seed."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pruning_lab
from pruning_lab.exercises import EXERCISES

_STUDENT = re.compile(r"""\bexercises\.student\((["'][^"'\n]*["'])\)""")
_ASKED = re.compile(r"""["'](\d\d\.\w+)["']""")


def notebooks(*, solved: bool = False) -> dict[str, Path]:
    """Name and file of each notebook: the student's edition, or the solved one."""
    package = Path(pruning_lab.__file__).resolve().parent
    places = (package / "notebooks", package.parent / "notebooks")  # installed, or a checkout
    place = next((place for place in places if place.is_dir()), package)
    found = sorted((place / "read" if solved else place).glob("[0-9]*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks in {places[0]}; install pruning_lab again")
    return {path.name: path for path in found}


def as_text(notebook: dict) -> str:
    """A notebook as nbformat writes it."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def text_of(cell: dict) -> str:
    """A cell's source, which is a text or a list of lines."""
    source = cell.get("source", cell.get("input", ""))  # `input` in files of before 2014
    return source if isinstance(source, str) else "".join(map(str, source))


def for_term(notebook: dict, term: str, *, nbgrader: bool = False) -> dict:
    """The notebook with this term's cases; without outputs, for they were those of other cases.

    With `nbgrader` each task has that tool's cells: the exercise to solve, and one for its points.
    """
    made, cells, named = deepcopy(notebook), [], False
    for cell in made["cells"]:
        cells.append(cell)
        if cell["cell_type"] != "code":
            continue
        cell["outputs"], cell["execution_count"] = [], None
        text = text_of(cell)
        code = _STUDENT.sub(rf"exercises.student(\1, term={json.dumps(term)})", text)
        if code != text:
            cell["source"], named = code, True
        elif not named and re.search(r"^import pruning_lab as lab$", text, re.MULTILINE):
            named = True
            if not any(_STUDENT.search(text_of(other)) for other in made["cells"]):
                line = f"lab.exercises.student(term={json.dumps(term)})  # your name is that of 00"
                cells.append(_code(f"term-{term}", line))
    made["cells"] = list(_graded(cells)) if nbgrader else cells
    made["metadata"]["pruning_lab"] = {"term": term}
    made["metadata"].pop("drawn_by", None)
    return made


def _code(id_: str, source: str, **metadata) -> dict:
    id_ = re.sub(r"[^A-Za-z0-9_-]", "-", id_)[:64]
    empty = {"cell_type": "code", "execution_count": None, "outputs": []}
    return {**empty, "id": id_, "metadata": metadata, "source": source}


def _graded(cells: list[dict]) -> Iterator[dict]:
    """The cells with nbgrader's metadata; a cell whose value is the points follows each task's."""
    begun = None  # the cell to write in, until its check
    asked = [_asked(cell) for cell in cells]
    for place, cell in enumerate(cells):
        if "exercise" in cell.get("metadata", {}).get("tags", ()):
            begun = cell
        yield cell
        id_ = asked[place]
        if begun is None or id_ is None or id_ in asked[place + 1 :]:  # its last one counts
            continue
        most = EXERCISES[id_].points
        name = id_.replace(".", "-")
        begun["metadata"]["nbgrader"] = _cell(name, solution=True)
        points = f'sum(row.points for row in lab.exercises.progress("{id_}"))  # of {most}'
        about = {**_cell(f"{name}-points", grade=True), "locked": True, "points": most}
        yield _code(f"{name}-points", points, nbgrader=about)
        begun = None


def _asked(cell: dict) -> str | None:
    """The task that a cell checks, or takes a guess of."""
    tags = {*cell.get("metadata", {}).get("tags", ())}
    found = [id_ for id_ in _ASKED.findall(text_of(cell)) if id_ in EXERCISES]
    return found[-1] if found and tags & {"check", "guess"} else None


def _cell(name: str, *, grade: bool = False, solution: bool = False) -> dict:
    about = {"grade": grade, "solution": solution, "locked": False, "task": False}
    return {**about, "grade_id": name, "schema_version": 3, "cell_type": "code"}
