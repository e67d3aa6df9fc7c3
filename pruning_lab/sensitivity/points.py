"""The rows of a scan, in memory and on disk."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from pruning_lab import files
from pruning_lab.evaluation import Accuracy, Drop


@dataclass(frozen=True, kw_only=True)
class ScanPoint:
    """One layer at one level: what is left of it, and what the network then answers."""

    layer: str
    asked: str = ""  # "density 0.1", "quality 1.2"
    density: float  # what came out
    quality: float | None  # threshold / sigma, where the saliency is magnitude
    threshold: float | None  # saliencies from here on stay
    accuracy: Accuracy
    drop: Drop  # against the network as it came, on the same images
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
        files.save_json(_beside(path), {"format": _FORMAT, "dense": self.dense.row(), **self.about})
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(map(_cells, self))
        return files.write(path, table.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Scan":
        """Read what `save` wrote. Raises ValueError with the file and line of what is broken."""
        about = files.load_json(_beside(path))
        if not isinstance(about, dict) or about.pop("format", None) != _FORMAT:
            raise ValueError(f"{_beside(path)} is not of a scan; expected what Scan.save wrote")
        try:
            dense = Accuracy(**about.pop("dense"))
            sizes = dict(about["layers"])
            # Without these nothing can be chosen.
            about["saliency"], about["cumulative"], about["other_layers"]["weights"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{_beside(path)} is broken: {error!r}") from None
        table = csv.reader(files.read_text(path).splitlines())
        try:
            lines = list(table)
        except csv.Error as error:
            raise ValueError(f"{path}, line {table.line_num} is broken: {error}") from None
        if not lines or lines[0] != _COLUMNS:
            raise ValueError(f"{path}, line 1: expected the columns {','.join(_COLUMNS)}")
        points = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                points.append(_point(line))
                if points[-1].layer not in sizes:
                    raise ValueError(f"no layer {points[-1].layer!r} in {_beside(path).name}")
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {number} is broken: {error}") from None
        return cls(points, dense, about)


_FORMAT = "pruning_lab scan 2"
_COLUMNS = [
    *("layer", "asked", "density", "quality", "threshold", "accuracy", "low", "high"),
    *("drop", "drop_low", "drop_high", "images", "note"),
]


def _cells(point: ScanPoint) -> list:
    numbers = (point.density, point.quality, point.threshold)
    accuracy, drop = point.accuracy, point.drop
    return [
        *(point.layer, point.asked),
        *("" if number is None else repr(number) for number in numbers),
        *map(repr, (accuracy.value, accuracy.low, accuracy.high)),
        *map(repr, (drop.value, drop.low, drop.high)),
        *(accuracy.n, point.note),
    ]


def _point(cells: list[str]) -> ScanPoint:
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{len(cells)} cells, expected {len(_COLUMNS)}")
    layer, asked, *numbers, images, note = cells
    density, quality, threshold, *measured = (float(text) if text else None for text in numbers)
    if density is None or None in measured:
        raise ValueError("a number is missing")
    n = int(images)
    return ScanPoint(
        layer=layer,
        asked=asked,
        density=density,
        quality=quality,
        threshold=threshold,
        accuracy=Accuracy(*measured[:3], n),
        drop=Drop(*measured[3:], n),
        note=note,
    )


def _beside(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix == ".json":
        raise ValueError(f"{path}: the rows go to a .csv, and a .json is written beside it")
    return path.with_suffix(".json")
