"""What students have handed in: a notebook each, or a folder each with notebooks and progress."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pruning_lab.course import reading
from pruning_lab.course.reading import Notebook
from pruning_lab.exercises import record
from pruning_lab.exercises.record import Entry, State

_NOTEBOOK = re.compile(r"[ _-]*(?<!\d)\d\d_[a-z].*")  # "ada - 02_prune_once (1)" is ada's
_SYSTEMS = (  # a student's name and number, and the file's own name where all are in one folder
    re.compile(r"^(.+)_(\d+)_assignsubmission_file_?(.*)$"),  # Moodle
    re.compile(r"^([^\W\d_]+)(?:_LATE)?_(\d+)_\d+_(.+)$"),  # Canvas
)
_PROGRESS = re.compile(r"(.*/)?progress(-\d+)?\.json")
_READ = (".ipynb", ".json", ".safetensors")  # notebooks; progress and plan; the plan's network


@dataclass
class HandIn:
    """A student's notebooks and progress; what could not be read is in `faults`."""

    name: str
    number: str = ""  # of the student in Moodle or Canvas
    paths: dict[str, Path] = field(default_factory=dict)  # by the student's own name of the file
    others: list[str] = field(default_factory=list)  # files that are not read
    notebooks: list[Notebook] = field(default_factory=list)
    state: State | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def typed(self) -> str | None:
        """The name that the student typed in notebook 00, which seeds the cases."""
        for notebook in reversed(self.notebooks):
            for call in reversed(list(reading.calls(notebook, "student"))):
                if call.args and isinstance(name := getattr(call.args[0], "value", None), str):
                    return name
        return self.state.student if self.state else None

    @property
    def terms(self) -> list[str]:
        """The terms that the notebooks were released for: one, unless they are mixed."""
        found = {}
        for notebook in self.notebooks:
            for call in reading.calls(notebook, "student"):
                words = {each.arg: getattr(each.value, "value", "") for each in call.keywords}
                found[str(words.get("term", ""))] = None
        return list(found) or [self.state.term if self.state else ""]

    @property
    def plan(self) -> tuple[Path, Path] | None:
        """The plan of a project, and its network, which stands beside it."""
        names = {name: f"{name.removesuffix('.json')}.safetensors" for name in self.paths}
        pairs = [(self.paths[name], self.paths.get(network)) for name, network in names.items()]
        return next((pair for pair in reversed(pairs) if pair[1] not in (None, pair[0])), None)

    def entry(self, id_: str, who: str) -> Entry:
        """What the progress file says of a task: of this name, or of the only one that is there."""
        students = self.state.students if self.state else {}
        if who not in students and len(students) == 1:
            (who,) = students
        return students.get(who, {}).get(id_, Entry())


def find(folder: Path) -> list[HandIn]:
    """A hand-in for each sub-folder and each notebook beside them, by name; links are left out."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; name the one with the hand-ins")
    folder, found = _of_students(folder), {}
    for path in sorted(folder.rglob("*"), key=_place):
        place = path.relative_to(folder)
        in_folder, first = len(place.parts) > 1, place.parts[0]
        name, number, own = _who(first if in_folder else path.name)
        own = place.as_posix() if in_folder else own
        hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
        if path.is_symlink() or not path.is_file() or (hidden and not _PROGRESS.fullmatch(own)):
            continue
        is_graded = in_folder and (folder / first / "grades.csv").is_file()  # what we have written
        if is_graded or not (in_folder or number or path.suffix == ".ipynb"):
            continue
        hand_in = found.setdefault((name, number), HandIn(name, number))
        if path.suffix in _READ:
            hand_in.paths[own] = path
        else:
            hand_in.others.append(place.name if in_folder else own)
    if not any(each.paths for each in found.values()):
        raise FileNotFoundError(f"{folder} has no notebooks (.ipynb), nor folders with some")
    return [found[key] for key in sorted(found)]


def _place(path: Path) -> tuple:
    """By folder and name; "02 (1).ipynb", which was saved later, after "02.ipynb"."""
    return path.parent, len(path.stem), path.name


def _of_students(folder: Path) -> Path:
    """The folder itself, or the only one in it, into which a zip of students was unpacked."""
    there = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(there) != 1 or not there[0].is_dir():
        return folder
    inner = [path for path in there[0].iterdir() if path.is_dir() and any(path.rglob("*.ipynb"))]
    return there[0] if len(inner) > 1 and not any(there[0].glob("*.ipynb")) else folder


def _who(name: str) -> tuple[str, str, str]:
    """A student's name and number, and the file's own name."""
    for system in _SYSTEMS:
        if match := system.match(name):
            return match[1], match[2], match[3]
    stem = name.removesuffix(".ipynb")
    return _NOTEBOOK.sub("", stem).strip(" _-") or stem, "", name


def load(hand_in: HandIn) -> HandIn:
    """The same with its files read; nothing that a file holds raises."""
    for name, path in hand_in.paths.items():
        if path.suffix == ".ipynb":
            notebook = reading.read(path)
            hand_in.notebooks.append(notebook)
            hand_in.faults += notebook.faults
        elif _PROGRESS.fullmatch(name):
            try:
                hand_in.state = record.read(path)
            except (ValueError, OSError) as error:
                hand_in.faults.append(str(error).replace(f"{path.parent}/", ""))
    hand_in.faults += _missing(hand_in)
    return hand_in


def _missing(hand_in: HandIn) -> Iterator[str]:
    numbers: dict[str, list[str]] = {}
    for notebook in hand_in.notebooks:
        if match := re.search(r"(?<!\d)(\d\d)_[a-z]", notebook.name):
            numbers.setdefault(match[1], []).append(notebook.name)
    for names in numbers.values():
        if len(names) > 1:
            yield f"{' and '.join(names)}: the last one counts"
    if not hand_in.notebooks:
        files = ", ".join([*hand_in.paths, *hand_in.others])
        yield f"no notebook (.ipynb) was handed in, only {files}; unpack what is packed"
    elif hand_in.typed is None:
        yield f"no name was found (notebook 00, progress.json): the cases are of {hand_in.name!r}"
    if not any(map(_PROGRESS.fullmatch, hand_in.paths)):
        yield "no progress.json was handed in, so guesses earn no points"
