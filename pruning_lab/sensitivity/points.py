"""The rows of a scan, in memory and on disk."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, Literal, TypedDict

from torch import nn

from pruning_lab import files
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.rows import Rows, decode, flat, plain


@dataclass(frozen=True, kw_only=True)
class ScanPoint:
    """One layer at one level: what is left of it, and what the network then answers."""

    layer: str
    asked: str = ""  # "density 0.1", "quality 1.2"
    density: float  # what came out
    quality: float | None  # threshold / sigma, where the saliency is magnitude
    threshold: float | None  # saliencies from here on stay
    accuracy: Accuracy
    drop: Drop  # from the dense network, on the same images


@dataclass(frozen=True, eq=False)
class Origin:
    """What a scan measured: as long as the scan is in memory. A pickle or deep copy forgets it."""

    model: nn.Module
    images: Images
    recalibrate: Images | None
    saliency: Saliency

    def __reduce__(self) -> tuple:
        return type(None), ()


class Scan(Rows[ScanPoint]):
    """The points of a scan, a row each: print it, slice it, or take it `.to_pandas()`.

    `dense` is the accuracy of the network as it came; `about` says what was scanned, and how.
    """

    columns: ClassVar = {
        "asked": lambda row: row.asked,
        "density": lambda row: f"{row.density:.2%}",
        "quality": lambda row: "" if row.quality is None else f"{row.quality:.2f}",
        "accuracy": lambda row: str(row.accuracy).rpartition(", ")[0] + ")",
        "change": lambda row: str(row.drop),
    }
    dense: Accuracy
    about: "ScanAbout"
    origin: Origin | None = None

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(point.layer for point in self))

    def of(self, layer: str) -> "Scan":
        """The points of one layer, the densest first."""
        rows = sorted((p for p in self if p.layer == layer), key=lambda point: -point.density)
        return type(self)(rows, **vars(self))

    def __str__(self) -> str:
        renewed = ", BatchNorm recalibrated" if self.about.get("recalibrated") else ""
        blocks = [f"dense{renewed}: {self.dense}"]
        for layer in self.layers:
            about = self.about["layers"][layer]
            size = f"{about['weights']:,} weights, sigma {about['sigma']:.4g}"
            blocks.append(f"{layer}: {size}\n{self.table(self.of(layer))}")
        return "\n\n".join([*blocks, self.summary])

    @property
    def summary(self) -> str:
        """In one sentence the most sensitive layer, and the one that can go lowest."""
        lowest = {layer: self._lowest(layer) for layer in self.layers}
        if not lowest:
            return "No points."
        sparsest = {layer: self.of(layer)[-1] for layer in lowest}
        least = min(lowest, key=lowest.get)
        most = max(lowest, key=lambda name: (lowest[name], sparsest[name].drop.value))
        within = f"at a loss of at most {100 * TOLERATED:g} points"
        if all(lowest[n] == p.density for n, p in sparsest.items()):
            return f"Every layer can go down to its sparsest level {within}."
        text = f"{least} can go down to density {100 * lowest[least]:.3g} % {within}."
        if lowest[least] == 1:
            text = f"no layer can be pruned to any level {within}."
        return text if most == least else f"{most} is the most sensitive layer; {text}"

    def _lowest(self, layer: str) -> float:
        """The lowest density at which, as at all above, the loss is tolerated; 1 where none is."""
        points = takewhile(lambda point: point.drop.value <= TOLERATED, self.of(layer))
        return min((point.density for point in points), default=1)

    def save(self, path: str | Path) -> Path:
        """Write the rows as CSV, and beside them as .json what was scanned and how."""
        table = io.StringIO()
        writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(flat, self))
        about = {**self.about, "dense": plain(self.dense)}
        seal = {"format": _FORMAT, "sha256": _digest(about, table.getvalue())}
        files.save_json(_beside(path), {**seal, **about})
        return files.write(path, table.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Scan":
        """Read what `save` wrote. Raises ValueError where either file has changed since then."""
        beside = _beside(path)
        content, table = files.load_json(beside), files.read_text(path)
        about = decode(ScanAbout, content, beside, _FORMAT)
        if about.pop("sha256") != _digest({n: content[n] for n in about}, table):
            raise ValueError(
                f"{path} is broken: it or {beside.name} has changed since the scan; scan again"
            )
        lines = csv.DictReader(table.splitlines())
        points = [_point(line, f"{path}, line {n}") for n, line in enumerate(lines, start=2)]
        return cls(points, dense=about.pop("dense"), about=about)


class Sizes(TypedDict):
    weights: int
    kept: int  # those that are not zero


class LayerAbout(Sizes):
    shape: list[int]
    sigma: float


class ScanAbout(TypedDict):
    """What a scan's .json holds; in memory `dense` is the scan's, and there is no seal."""

    sha256: str  # of the other entries and the rows
    dense: Accuracy
    pruning_lab: str
    torch: str
    split: str | None
    images_sha256: str | None
    model_sha256: str
    saliency: str
    asked: Literal["density", "quality"]
    levels: list[float]
    recalibrated: bool  # BatchNorm statistics renewed in every cell
    layers: dict[str, LayerAbout]
    other_layers: Sizes


TOLERATED = 0.005  # the loss that the summary of a scan speaks of
_FORMAT = "pruning_lab scan 3"
_PARTS = {"value": "", "low": "_low", "high": "_high", "n": "_n"}  # as `flat` names them
_COLUMNS = [
    *("layer", "asked", "density", "quality", "threshold"),
    *(name + part for name in ("accuracy", "drop") for part in _PARTS.values()),
]


def _digest(about: Mapping, table: str) -> str:
    return files.sha256(json.dumps(about, sort_keys=True).encode(), table.encode())


def _point(line: dict[str, str], where: str) -> ScanPoint:
    row = line | {name: line[name] or None for name in ("quality", "threshold")}
    for name in ("accuracy", "drop"):
        row[name] = {part: row.pop(name + suffix) for part, suffix in _PARTS.items()}
    return decode(ScanPoint, row, where, strict=False)


def _beside(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix == ".json":
        raise ValueError(f"{path}: the rows go to a .csv, and a .json is written beside it")
    return path.with_suffix(".json")
