"""The files of the paper's tables and figures: rows, and how and where they were made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pruning_lab import files, provenance
from pruning_lab.experiments.figures import Bin, Energy, KeptLine
from pruning_lab.experiments.penalties import Comparison, CurvePoint
from pruning_lab.experiments.recipes import Recipe
from pruning_lab.experiments.rivals import Rival
from pruning_lab.experiments.tables import LayerRow, NetworkRow
from pruning_lab.rows import Rows, decode, plain
from pruning_lab.sensitivity import ScanPoint

FOLDER = Path("runs", "paper")  # where the commands leave them
ROWS = {  # the rows of each; figures 2 and 3 of the paper draw the method
    "table-1": NetworkRow,
    **dict.fromkeys(("table-2", "table-3", "table-4", "table-5"), LayerRow),
    "table-6": Rival,
    "figure-1": Energy,
    "figure-4": KeptLine,
    "figure-5": CurvePoint,
    "figure-6": ScanPoint,
    "figure-7": Bin,
}
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """A network, how it was made, and of which images."""

    recipe: Recipe
    data: str


@dataclass(frozen=True, kw_only=True)
class Result(Generic[T]):
    """A table or figure of the paper made here, as its file holds it."""

    name: str  # "table-3"
    caption: str
    sentences: Sequence[str]
    rows: Sequence[T]
    comparisons: Sequence[Comparison]  # of Figure 5
    trained: Sequence[Trained]
    seeds: Sequence[int]
    versions: dict[str, str]
    machine: dict[str, str | int | None]
    command: str

    @classmethod
    def of(
        cls,
        name: str,
        rows: Rows[T],
        trained: Sequence[Trained] = (),
        seeds: Iterable[int] = (0,),
        device: str = "cpu",
        command: str = "",
    ) -> "Result[T]":
        """What an experiment has just returned."""
        about = {key: getattr(rows, key, ()) for key in ("sentences", "comparisons")}
        about |= {"caption": getattr(rows, "caption", ""), "trained": trained, "command": command}
        about |= {"versions": provenance.versions(), "machine": provenance.machine(device)}
        return cls(name=name, rows=rows, seeds=tuple(seeds), **about)

    @property
    def record(self) -> dict:
        """For JSON, with the format."""
        return {"format": _form(self.name), **plain(self)}

    @classmethod
    def load(cls, path: str | Path, name: str) -> "Result":
        """Read the file of this table or figure. Raises ValueError where it is another's."""
        made = decode(cls[ROWS[name]], files.load_json(path), path, _form(name))
        if made.name != name:
            raise files.wrong(path, f"is the file of {made.name!r}, not of {name}; make it again")
        return made


def _form(name: str) -> str:
    return f"pruning_lab {name.partition('-')[0]} 1"
