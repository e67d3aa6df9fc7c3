"""The cells of a scan: a layer at a level, and what the network computes with there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import methodcaller

import torch
from torch import Tensor

from pruning_lab import criteria
from pruning_lab.data import Images
from pruning_lab.evaluation import Changes, Thresholded, workers
from pruning_lab.evaluation.replica import NOTHING, Replica
from pruning_lab.evaluation.thresholded import prepared
from pruning_lab.layers import device_of


@dataclass(kw_only=True)
class Cell:
    """One layer at one level: what is left of it, and what stands in for its weight."""

    layer: str
    asked: str
    density: float
    quality: float | None
    threshold: float | None
    first: str  # the first layer that changes
    changes: Changes


def cells_of(
    layer: str,
    weight: Tensor,
    saliency: criteria.Saliency,
    kind: str,
    levels: Sequence[float],
    sigma: float,
) -> Iterator[Cell]:
    """A layer at all levels, with one byte for each weight instead of a tensor for each level.

    Levels are nested: a weight stays at one if it stays at as many as keep no fewer weights.
    """
    values, rows = criteria.saliency_of(saliency, layer, weight), []
    ranks = torch.zeros_like(weight, dtype=torch.int16 if len(levels) > 255 else torch.uint8)
    for kept, cut in criteria.by_levels(kind, levels, values, weight != 0, sigma):
        rows.append((int(kept.count_nonzero()), cut))
        ranks += kept
    for level, (count, cut) in zip(levels, rows, strict=True):
        quality = level if kind == "quality" else None
        if quality is None and saliency is criteria.magnitude and cut is not None and sigma > 0:
            quality = cut / sigma
        rank = sum(other >= count for other, _ in rows)
        yield Cell(
            layer=layer,
            asked=f"{kind} {level:g}",
            density=count / max(1, weight.numel()),
            quality=quality,
            threshold=cut,
            first=layer,
            changes={layer: prepared(Thresholded(weight, rank, ranks))},
        )


def join(
    copies: list[Replica],
    cells: list[Cell],
    levels: int,
    cumulative: bool,
    recalibrate: Images | None,
) -> Changes:
    """Make cells change earlier layers too, and BatchNorm buffers; the dense network's buffers."""
    for before, cell in zip(cells, cells[levels:], strict=False) if cumulative else ():
        cell.first, cell.changes = before.first, {**before.changes, **cell.changes}
    if recalibrate is None:
        return NOTHING
    images = [(x.to(device_of(copies[0].model)), y) for x, y in recalibrate]
    changes = [NOTHING, *(cell.changes for cell in cells)]
    jobs = (methodcaller("statistics", images, change) for change in changes)
    base, *renewed = workers.each(copies, jobs)
    for cell, buffers in zip(cells, renewed, strict=True):
        cell.changes = {**cell.changes, **buffers}
    return base
