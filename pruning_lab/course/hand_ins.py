"""What students have handed in: a notebook each, or a folder each with notebooks and progress."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from pruning_lab.course import reading
from pruning_lab.course.reading import Notebook
from pruning_lab.exercises import record
from pruning_lab.exercises.record import Entry, State

_NOTEBOOK = re.compile(r"[ _-]*\b\d\d_[a-z][a-z_]*")  # "ada - 02_prune_once" is ada's
_MOODLE = re.compile(r"^(.+)_(\d+)_assignsubmission_file_?$")
_CANVAS = re.compile(r"^([^\W\d_]+)(?:_LATE)?_(\d+)_\d+_(.+)$")


@dataclass
class HandIn:
    """A student's notebooks and progress; what could not be read is in `faults`."""

    name: str
    number: str = ""  # of the student in Moodle or Canvas
    paths: list[Path] = field(default_factory=list)
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
    def term(self) -> str:
        """The term that the notebooks were released for."""
        for notebook in self.notebooks:
            for call in reading.calls(notebook, "student"):
                for keyword in call.keywords:
                    if keyword.arg == "term":
                        return str(getattr(keyword.value, "value", ""))
        return self.state.term if self.state else ""

    @property
    def plan(self) -> Path | None:
        """The plan of a project, with its network beside it."""
        there = set(self.paths)
        plans = [
            p for p in self.paths if p.suffix == ".json" and p.with_suffix(".safetensors") in there
        ]
        return plans[-1] if plans else None

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
    found: dict[str, HandIn] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts[:-1])
        is_progress = path.name == "progress.json"
        if path.is_symlink() or not path.is_file() or (hidden and not is_progress):
            continue
        in_folder = len(place.parts) > 1
        is_plan = path.suffix in (".json", ".safetensors")  # of a project
        if path.suffix != ".ipynb" and not (in_folder and (is_progress or is_plan)):
            continue
        name, number = _who(place.parts[0] if in_folder else path.stem)
        found.setdefault(name, HandIn(name, number)).paths.append(path)
    if not found:
        raise FileNotFoundError(f"{folder} has no notebooks (.ipynb), nor folders with some")
    return [found[name] for name in sorted(found)]


def _who(name: str) -> tuple[str, str]:
    if match := _MOODLE.match(name):
        return match[1], match[2]
    if match := _CANVAS.match(name):
        return match[1], match[2]
    return _NOTEBOOK.sub("", name).strip(" _-") or name, ""


def load(hand_in: HandIn) -> HandIn:
    """The same with its files read; nothing that a file holds raises."""
    for path in hand_in.paths:
        if path.name != "progress.json" and path.suffix != ".ipynb":
            continue
        if path.suffix == ".ipynb":
            notebook = reading.read(path)
            hand_in.notebooks.append(notebook)
            hand_in.faults += notebook.faults
            continue
        try:
            hand_in.state = record.read(path)
        except (ValueError, OSError) as error:
            hand_in.faults.append(str(error).replace(f"{path.parent}/", ""))
    return hand_in
