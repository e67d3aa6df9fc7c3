"""What sparse weights bring on this machine: times, break-even densities, and a verdict in words."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruning_lab.data import Images
from pruning_lab.layers import device_of
from pruning_lab.masks import Mask
from pruning_lab.sparse.choosing import (
    WHOLE,
    Choices,
    SparseRow,
    Spread,
    choices,
    example_images,
    timed,
)

GRID = (0.8, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02)  # densities for the break-even


class Bench(Choices):
    """A row per layer and batch size, then its whole network; `verdicts` is one for each size."""

    columns: ClassVar = {
        **Choices.columns,
        "by bytes": lambda row: f"at most {row.ceiling:.3g}",
        "break-even": lambda row: "" if row.layer == WHOLE else _shown(row.break_even),
    }

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What the rows say in words, computed from them, for each batch size."""
        return tuple(_verdict(list(rows)) for _, rows in groupby(self, lambda row: row.batch))

    def __str__(self) -> str:
        return "\n".join([self.table(self), "", *self.verdicts])


def bench(
    model: nn.Module,
    example: Images | Tensor | Sequence[int],
    batches: Iterable[int] = (1, 16, 64),
    *,
    mask: Mask | None = None,
) -> Bench:
    """Time every layer, and the network that `to_sparse` makes, dense and sparse in turn.

    `example` is that of `to_sparse`. The break-even of a layer is measured with random masks: the
    density below which it is faster sparse, at this batch size, on this machine. The model is not
    changed.
    """
    rows: list[SparseRow] = []
    for batch in batches:
        x = example_images(example, batch, device_of(model))
        rows += choices(model, mask, x, _with_break_even)[1]
    return Bench(rows)


def _with_break_even(layer: nn.Module, x: Tensor, row: SparseRow) -> SparseRow:
    """By bisection of GRID, then between its two densities, on logarithmic scales."""
    speedups: dict[float, float] = {}

    def is_faster(density: float) -> bool:
        speedups[density] = timed(row.layer, _thinned(layer, density), x).speedup.value
        return speedups[density] > 1

    low, high = 0, len(GRID)  # GRID[high:] is faster
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_faster(GRID[middle]) else (middle + 1, high)
    if high == len(GRID):
        return row
    found = GRID[high]
    if high > 0:
        above, below = (math.log(speedups[GRID[place]]) for place in (high - 1, high))
        found *= (GRID[high - 1] / found) ** (below / max(below - above, 1e-9))
    return replace(row, break_even=found)


def _thinned(layer: nn.Module, density: float) -> nn.Module:
    """A copy of the layer with random weights at random places."""
    thin, drawn = copy.deepcopy(layer), torch.Generator().manual_seed(0)
    kept = torch.rand(layer.weight.shape, generator=drawn) < density
    thin.weight.data = torch.where(kept.to(layer.weight.device), 1.0, 0.0).to(layer.weight)
    return thin


def _shown(break_even: float | None) -> str:
    if break_even is None:
        return f"below {min(GRID):.0%}"
    return f"{break_even:.1%}" if break_even < GRID[0] else f"{GRID[0]:.0%} or more"


def _verdict(rows: list[SparseRow]) -> str:
    """Of one batch size: the network first, then the layers that are faster, then the others."""
    *layers, whole = rows
    if whole.chosen == "sparse":
        said = f"the network is {_times(whole.speedup)} as fast as dense"
    else:
        said = f"the network is not faster sparse at density {whole.density:.2g} on this machine"
    fast = [row for row in layers if row.speedup.low > 1]
    parts = [said, *(f"{row.layer} is {_times(row.speedup)} as fast" for row in fast)]
    for row in (row for row in layers if row not in fast):
        slower = row.speedup.high < 1
        what = f"{_times(row.speedup)} as fast" if slower else "not faster, as far as can be told,"
        parts.append(
            f"{row.layer} is {what} at density {row.density:.2g} "
            f"(break-even with random masks: {_shown(row.break_even)})"
        )
    return f"batch {rows[0].batch}: {'; '.join(parts)}."


def _times(speedup: Spread) -> str:
    return f"{speedup.value:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
