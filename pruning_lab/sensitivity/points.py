"""The rows of a scan, in memory and on disk."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from tabulate import tabulate

from pruning_lab import files
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.evaluation.accuracy import Z
from pruning_lab.rows import decode, plain


@dataclass(frozen=True, kw_only=True)
class ScanPoint:
    """One layer at one level: what is left of it, and what the network then answers."""

    layer: str
    asked: str = ""  # "density 0.1", "quality 1.2"
    density: float  # what came out
    quality: float | None  # threshold / sigma, where the saliency is magnitude
    threshold: float | None  # saliencies from here on stay
    accuracy: Accuracy
    drop: Drop  # against the dense network, on the same images
    note: str = ""


class Scan(tuple[ScanPoint, ...]):
    """The points of a scan, a row each; print it, or hand it to pandas.DataFrame.

    `dense` is the accuracy of the network as it came; `about` says what was scanned, and how.
    """

    dense: Accuracy
    about: dict

    def __new__(cls, points: Iterable[ScanPoint], dense: Accuracy, about: Mapping):
        scan = super().__new__(cls, points)
        scan.dense, scan.about = dense, dict(about)
        return scan

    def __getnewargs__(self) -> tuple:
        return tuple(self), self.dense, self.about  # for copies and pickles

    @property
    def layers(self) -> list[str]:
        return list(self.about["layers"])

    def of(self, layer: str) -> list[ScanPoint]:
        """The points of one layer, the densest first."""
        return sorted((p for p in self if p.layer == layer), key=lambda point: -point.density)

    def __str__(self) -> str:
        headers = ("asked", "density", "quality", "accuracy", "drop", "note")
        align = ("left", "right", "right", "left", "left", "left")
        renewed = ", BatchNorm recalibrated" if self.about.get("recalibrated") else ""
        blocks = [f"dense{renewed}: {self.dense}"]
        for layer, about in self.about["layers"].items():
            rows = [
                (
                    point.asked,
                    f"{point.density:.2%}",
                    "" if point.quality is None else f"{point.quality:.2f}",
                    f"{point.accuracy.value:.2%} "
                    f"({point.accuracy.low:.2%} to {point.accuracy.high:.2%})",
                    str(point.drop),
                    point.note,
                )
                for point in self.of(layer)
            ]
            table = tabulate(rows, headers, colalign=align, disable_numparse=True)
            size = f"{about['weights']:,} weights, sigma {about['sigma']:.4g}"
            blocks.append(f"{layer}: {size}\n{table}")
        return "\n\n".join(blocks)

    def save(self, path: str | Path) -> Path:
        """Write the rows as CSV, and beside them as .json what was scanned and how."""
        about = {"format": _FORMAT, "dense": plain(self.dense), **self.about}
        files.save_json(_beside(path), about)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(map(_cells, self))
        return files.write(path, table.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Scan":
        """Read what `save` wrote. Raises ValueError with the file and line of what is broken.

        Every row has to be of a layer and level that the .json names, in its order, and its numbers
        have to agree with each other, as those that were measured do.
        """
        beside = _beside(path)
        about = decode(ScanAbout, files.load_json(beside), beside, _FORMAT)
        table = csv.reader(files.read_text(path).splitlines(), strict=True)
        try:
            header, *lines = list(table) or [[]]
        except csv.Error as error:
            raise ValueError(f"{path}, line {table.line_num} is broken: {error}") from None
        if header != _COLUMNS:
            raise ValueError(f"{path}, line 1: expected the columns {','.join(_COLUMNS)}")
        dense = about.pop("dense")
        points = [_point(line, f"{path}, line {n}") for n, line in enumerate(lines, start=2)]
        _check(beside, _wrong_about, about, dense)
        cells = [(layer, level) for layer in about["layers"] for level in about["levels"]]
        for number, (point, cell) in enumerate(zip(points, cells, strict=False), start=2):
            _check(f"{path}, line {number}", _wrong_point, point, *cell, about, dense)
        if len(points) != len(cells):
            raise ValueError(
                f"{path} is broken: {len(points)} rows, and {beside.name} names {len(cells)} "
                f"layers x levels"
            )
        return cls(points, dense, about)


class Sizes(TypedDict):
    """Weights of one or more layers, and those that are not zero."""

    weights: int
    kept: int


class LayerAbout(Sizes):
    shape: list[int]
    sigma: float


class ScanAbout(TypedDict):
    """What a scan's .json holds."""

    pruning_lab: str
    torch: str
    split: str | None
    images_sha256: str | None
    model_sha256: str
    saliency: str
    asked: Literal["density", "quality"]
    levels: list[float]
    cumulative: bool
    stop_at_chance: bool
    recalibrated: bool  # BatchNorm statistics renewed in every cell
    layers: dict[str, LayerAbout]
    other_layers: Sizes
    dense: NotRequired[Accuracy]  # in the file; in memory it is the scan's


_FORMAT = "pruning_lab scan 2"
_COLUMNS = [
    *("layer", "asked", "density", "quality", "threshold", "accuracy", "low", "high"),
    *("drop", "drop_low", "drop_high", "images", "note"),
]


def _cells(point: ScanPoint) -> list:
    levels = point.density, point.quality, point.threshold
    accuracy, lost = point.accuracy, point.drop
    measured = accuracy.value, accuracy.low, accuracy.high, lost.value, lost.low, lost.high
    return [point.layer, point.asked, *levels, *measured, accuracy.n, point.note]


def _point(cells: list[str], where: str) -> ScanPoint:
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{where} is broken: {len(cells)} cells, expected {len(_COLUMNS)}")
    row = dict(zip(_COLUMNS, cells, strict=True))
    for name in ("quality", "threshold"):
        row[name] = row[name] or None
    for name, columns in _MEASURED.items():
        values = [row.pop(column) for column in columns]
        row[name] = dict(zip(("value", "low", "high"), values, strict=True)) | {"n": row["images"]}
    del row["images"]
    return decode(ScanPoint, row, where, strict=False)


_MEASURED = {
    "accuracy": ("accuracy", "low", "high"),
    "drop": ("drop", "drop_low", "drop_high"),
}


# ------------------------------------------------------------------------------ what must be true


def _check(where: object, wrong: Callable, *values: object) -> None:
    if said := wrong(*values):
        raise ValueError(f"{where} is broken: {said}")


def wrong_measurement(accuracy: Accuracy, lost: Drop | None = None) -> str | None:
    """What in an accuracy (and a drop on the same images) cannot have been counted; else None."""
    n, right = accuracy.n, round(accuracy.value * accuracy.n)
    if n < 1 or not 0 <= right <= n or not _near(accuracy, Accuracy.counted(right, n)):
        return f"accuracy {accuracy.value:g} ({accuracy.low:g} to {accuracy.high:g}) of {n} images"
    if lost is None:
        return None
    # How many answers changed follows from the width of the interval, of which one side may be cut.
    net, middle = round(lost.value * n), round(lost.value * n) / (n + 2)
    half = max(lost.high - middle, middle - lost.low)
    changed = round((half * (n + 2) / Z) ** 2 + net**2 / (n + 2) - 1)
    counted = (changed + net) // 2, (changed - net) // 2
    if lost.n != n or min(counted) < 0 or not _near(lost, Drop.counted(*counted, n)):
        return f"drop {lost.value:g} ({lost.low:g} to {lost.high:g}) of {lost.n} images"
    return None


def _near(one: Accuracy | Drop, other: Accuracy | Drop) -> bool:
    names = ("value", "low", "high")
    return all(math.isclose(getattr(one, n), getattr(other, n), abs_tol=1e-9) for n in names)


def _wrong_about(about: ScanAbout, dense: Accuracy) -> str | None:
    most = 1 if about["asked"] == "density" else math.inf
    for level in about["levels"]:
        if not 0 <= level <= most:
            return f"levels has the {about['asked']} {level:g}"
    for name, row in {**about["layers"], "other_layers": about["other_layers"]}.items():
        if not 0 <= row["kept"] <= row["weights"] or row.get("sigma", 0) < 0:
            return f"{name} has {row['kept']:,} of {row['weights']:,} weights"
        if "shape" in row and math.prod(row["shape"]) != row["weights"]:
            return f"{name} has {row['weights']:,} weights, and the shape {row['shape']}"
    if not about["layers"] or not about["levels"]:
        return "it names no layer or no level"
    return wrong_measurement(dense)


def _wrong_point(
    point: ScanPoint, layer: str, level: float, about: ScanAbout, dense: Accuracy
) -> str | None:
    row, asked = about["layers"][layer], f"{about['asked']} {level:g}"
    if (point.layer, point.asked) != (layer, asked):
        return f"expected layer {layer!r} at {asked}, got {point.layer!r} at {point.asked}"
    weights, kept = row["weights"], round(point.density * row["weights"])
    expected = kept / max(weights, 1)
    if about["asked"] == "density":
        expected = min(round(level * weights), row["kept"]) / max(weights, 1)
    if not math.isclose(point.density, expected, abs_tol=1e-12) or not 0 <= kept <= row["kept"]:
        return f"density {point.density:g} at {asked} of {weights:,} weights"
    quality, threshold = point.quality, point.threshold
    if quality is not None and row["sigma"] > 0:
        if about["asked"] == "quality" and quality != level:
            return f"quality {quality:g} at {asked}"
        if threshold is None or not math.isclose(quality * row["sigma"], threshold, rel_tol=1e-6):
            return f"quality {quality:g}, threshold {threshold}, sigma {row['sigma']:g}"
    if wrong := wrong_measurement(point.accuracy, point.drop):
        return wrong
    lost = dense.value - point.accuracy.value
    same = point.accuracy.n == dense.n
    if point.accuracy.n > dense.n or (
        same and not math.isclose(lost, point.drop.value, abs_tol=1e-9)
    ):
        return f"drop {point.drop.value:g} from {dense.value:g} to {point.accuracy.value:g}"
    return None


def _beside(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix == ".json":
        raise ValueError(f"{path}: the rows go to a .csv, and a .json is written beside it")
    return path.with_suffix(".json")
