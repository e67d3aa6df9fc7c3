"""Receipts: what each layer was asked for, what it got, and what no mask covers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tabulate import tabulate
from torch import Tensor

from pruning_lab.layers import NotCovered


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


class Receipt(tuple[ReceiptRow, ...]):
    """A row per layer; print it, or hand it to pandas.DataFrame.

    `not_covered` lists the parameters that the mask leaves alone, biases and norms in one last row.
    """

    not_covered: tuple[NotCovered, ...]

    def __new__(cls, rows: Iterable[ReceiptRow] = (), not_covered: Iterable[NotCovered] = ()):
        receipt = super().__new__(cls, rows)
        receipt.not_covered = tuple(not_covered)
        return receipt

    def __getnewargs__(self) -> tuple:
        return tuple(self), self.not_covered  # for copies and pickles

    @classmethod
    def of(cls, kept: Mapping[str, Tensor]) -> "Receipt":
        """Of a mask that no call of `prune` made."""
        return cls(row_of(name, None, tensor) for name, tensor in kept.items())

    def __str__(self) -> str:
        weights, kept = sum(r.weights for r in self), sum(r.kept for r in self)
        rows = [
            (
                r.layer,
                r.asked,
                "" if r.threshold is None else f"{r.threshold:.4g}",
                "" if r.sigma is None else f"{r.sigma:.4g}",
                f"{r.weights:,}",
                f"{r.kept:,}",
                f"{r.density:.1%}",
                r.note,
            )
            for r in self
        ]
        rows.append(
            ("total", "", "", "", f"{weights:,}", f"{kept:,}", f"{kept / max(weights, 1):.1%}", "")
        )
        headers = ("layer", "asked", "threshold", "sigma", "weights", "kept", "density", "note")
        align = ("left", "left", "right", "right", "right", "right", "right", "left")
        table = tabulate(rows, headers, colalign=align, disable_numparse=True)
        return "\n".join([table, *self._not_covered()])

    def _not_covered(self) -> list[str]:
        """The last lines: first what might have been pruned, then what never is."""
        if not self.not_covered:
            return []
        *others, vectors = self.not_covered
        lines = [
            f"not covered: {row.name}, {row.parameters:,} weights ({row.why})" for row in others
        ]
        return [*lines, f"not covered: {vectors.parameters:,} {vectors.name} ({vectors.why})"]


def row_of(layer: str, sigma: float | None, kept: Tensor) -> ReceiptRow:
    """The row of a layer of which nothing was asked."""
    weights, left = kept.numel(), int(kept.sum())
    return ReceiptRow(layer, "-", None, sigma, weights, left, left / max(weights, 1))
