"""A layer at all levels of a scan: what stays of it, and what stands in for its weight."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from operator import methodcaller

import torch
from torch import Tensor

from pruning_lab import criteria, files
from pruning_lab.data import Images
from pruning_lab.evaluation import Thresholded, workers
from pruning_lab.evaluation.replica import NOTHING, Changes, Replica
from pruning_lab.evaluation.thresholded import prepared
from pruning_lab.layers import device_of


class LayerLevels:
    """One layer at all levels: what stays of it, and what stands in for its weight."""

    def __init__(
        self,
        name: str,
        weight: Tensor,
        values: Tensor,
        kind: str,
        levels: Sequence[float],
        *,
        by_magnitude: bool,
    ):
        """`values` are the saliencies of the weight."""
        alive = weight != 0
        self.name, self.sigma = name, criteria.sigma(weight, layer=name)
        self.about = {
            "weights": weight.numel(),
            "kept": int(alive.count_nonzero()),
            "shape": list(weight.shape),
            "sigma": self.sigma,
        }
        self.asked = [f"{kind} {level:g}" for level in levels]
        self.thresholds, counts, exact = [], [], []
        ranks = torch.zeros_like(weight, dtype=torch.int16 if len(levels) > 255 else torch.uint8)
        for kept, cut in criteria.by_levels(kind, levels, values, alive, self.sigma):
            self.thresholds.append(cut)
            counts.append(int(kept.count_nonzero()))
            reached = 0 if cut is None else int((values >= cut).count_nonzero())
            exact.append(by_magnitude and reached == counts[-1])
            ranks += kept
        # Levels are nested: a weight stays at one if it stays at as many as are no sparser.
        least = [sum(other >= mine for other in counts) for mine in counts]
        cuts = [math.inf if cut is None else cut for cut in self.thresholds]
        limits = [
            (cut, None) if fits else (rank, ranks)
            for cut, rank, fits in zip(cuts, least, exact, strict=True)
        ]
        whole = "" if all(exact) else files.sha256(ranks.cpu().contiguous().numpy())
        self.digest = json.dumps([counts, [limit for limit, _ in limits], whole])
        self.first = name
        self.changes: list[Changes] = [
            {name: prepared(Thresholded(weight, *limit))} for limit in limits
        ]
        self.densities = [count / max(1, weight.numel()) for count in counts]
        self.qualities: list[float | None] = [None] * len(levels)
        if kind == "quality":
            self.qualities = list(levels)
        elif by_magnitude and self.sigma > 0:
            self.qualities = [None if cut is None else cut / self.sigma for cut in self.thresholds]
        self.stopped: dict[int, str] = {}  # level -> why it is not measured any further


def join(
    copies: list[Replica], table: list[LayerLevels], cumulative: bool, images: Images | None
) -> Changes:
    """Let cells change earlier layers too, and BatchNorm buffers; the dense network's buffers."""
    for before, row in pairwise(table) if cumulative else ():
        row.first = before.first
        pairs = zip(before.changes, row.changes, strict=True)
        row.changes = [{**theirs, **own} for theirs, own in pairs]
    if images is None:
        return NOTHING
    device = device_of(copies[0].model)
    x = [x.to(device) for x, _ in images]
    for row in table:
        jobs = [methodcaller("statistics", x, changes) for changes in row.changes]
        renewed = list(workers.each(copies, jobs))
        row.changes = [{**c, **new} for c, new in zip(row.changes, renewed, strict=True)]
    return copies[0].statistics(x, NOTHING)
