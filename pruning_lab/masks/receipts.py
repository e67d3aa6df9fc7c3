"""Receipts: what each layer was asked for, what it got, and what no mask covers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruning_lab.layers import NotCovered
from pruning_lab.rows import Rows, printable


@dataclass(frozen=True)
class ReceiptRow:
    """What one layer was asked for and what it got."""

    layer: str
    asked: str  # "quality 1.1", "density 0.08", "threshold 0.05", "-" where nothing was asked
    threshold: float | None  # the smallest saliency that stayed, where there is one
    sigma: float | None  # of the weights that were there at the time of the call
    weights: int
    kept: int
    density: float
    note: str = ""


class Receipt(Rows[ReceiptRow]):
    """A row per layer; `not_covered` lists the parameters that the mask leaves alone."""

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "asked": lambda row: row.asked,
        "threshold": lambda row: "" if row.threshold is None else f"{row.threshold:.4g}",
        "sigma": lambda row: "" if row.sigma is None else f"{row.sigma:.4g}",
        "weights": lambda row: f"{row.weights:,}",
        "kept": lambda row: f"{row.kept:,}",
        "density": lambda row: f"{row.density:.1%}",
        "note": lambda row: row.note,
    }
    not_covered: tuple[NotCovered, ...] = ()

    @classmethod
    def of(cls, kept: Mapping[str, Tensor]) -> "Receipt":
        """Of a mask that no call of `prune` made."""
        return cls(row_of(name, None, tensor) for name, tensor in kept.items())

    @property
    def total(self) -> ReceiptRow:
        weights, kept = sum(row.weights for row in self), sum(row.kept for row in self)
        return ReceiptRow("total", "", None, None, weights, kept, kept / max(weights, 1))

    def __str__(self) -> str:
        *others, vectors = self.not_covered or [None]
        lines = [f"{row.name}, {row.parameters:,} weights ({row.why})" for row in others]
        if vectors is not None:  # biases and normalisation
            lines.append(f"{vectors.parameters:,} {vectors.name} ({vectors.why})")
        lines = [printable(f"not covered: {line}") for line in lines]
        return "\n".join([self.table((*self, self.total)), *lines])


def row_of(layer: str, sigma: float | None, kept: Tensor) -> ReceiptRow:
    """The row of a layer of which nothing was asked."""
    weights, left = kept.numel(), int(kept.sum())
    return ReceiptRow(layer, "-", None, sigma, weights, left, left / max(weights, 1))
