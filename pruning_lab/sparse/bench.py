"""What sparse weights bring on this machine: times, break-even densities, a verdict in words."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruning_lab.data import Images
from pruning_lab.sparse.choosing import (
    WHOLE,
    Choices,
    SparseRow,
    Spread,
    chosen,
    example_images,
    timed,
)

GRID = (0.8, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02)  # densities for the break-even


class Bench(Choices):
    """`Choices` of each batch size; `verdicts` has a sentence for each."""

    columns: ClassVar = {
        **Choices.columns,
        "break-even": lambda row: "" if row.layer == WHOLE else _density(row.break_even),
    }

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What the rows say, computed from them."""
        return tuple(_verdict(*rows) for _, rows in groupby(self, lambda row: row.batch))

    def __str__(self) -> str:
        return "\n".join([self.table(self), "", *self.verdicts])


def bench(
    model: nn.Module,
    example: Images | Tensor | Sequence[int],
    batches: Iterable[int] = (1, 16, 64),
) -> Bench:
    """Time every layer, and the network that `to_sparse` makes, dense and sparse in turn.

    `example` is that of `to_sparse`. The break-even of a layer is the density below which it is
    faster sparse on this machine, at this batch size, measured with random masks. The model is not
    changed.
    """
    rows: list[SparseRow] = []
    for batch in batches:
        x = example_images(example, batch, model)
        rows += chosen(model, None, x, _with_break_even)[1]
    return Bench(rows)


def _with_break_even(row: SparseRow, layer: nn.Module, x: Tensor) -> SparseRow:
    """By bisection of GRID, then between two of its densities, on logarithmic scales."""
    thin, drawn, logs = copy.deepcopy(layer), torch.Generator().manual_seed(0), {}
    places = torch.rand(layer.weight.shape, generator=drawn)
    low, high = 0, len(GRID)  # not faster before `low`, faster from `high` on
    while low < high:
        middle = (low + high) // 2
        thin.weight.data.copy_(places < GRID[middle])
        logs[middle] = math.log(timed(row.layer, thin, x).speedup.value)
        low, high = (low, middle) if logs[middle] > 0 else (middle + 1, high)
    if high == len(GRID):
        return row
    found = GRID[high]
    if high > 0:
        found *= (GRID[high - 1] / found) ** (logs[high] / (logs[high] - logs[high - 1]))
    return replace(row, break_even=found)


def _density(break_even: float | None) -> str:
    if break_even is None:
        return f"below {GRID[-1]:.0%}"
    return f"{break_even:.1%}" if break_even < GRID[0] else f"{GRID[0]:.0%} or more"


def _verdict(*rows: SparseRow) -> str:
    """The network, then layers that are faster, then the others."""
    *layers, whole = rows
    said = f"the network is {_times(whole.speedup)} as fast as dense"
    if whole.chosen == "dense" or whole.speedup.low <= 1:
        said = f"the network at density {whole.density:.2g} is not faster sparse on this machine"
    fast = [row for row in layers if row.speedup.low > 1]
    parts = [said, *(f"{row.layer} is {_times(row.speedup)} as fast" for row in fast)]
    for row in (row for row in layers if row not in fast):
        what = "not faster" if row.speedup.high > 1 else f"{_times(row.speedup)} as fast"
        edge = f"break-even {_density(row.break_even)}"
        parts.append(f"{row.layer} is {what} at density {row.density:.2g} ({edge})")
    return f"batch {whole.batch}: {'; '.join(parts)}."


def _times(speedup: Spread) -> str:
    return f"{speedup.value:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
