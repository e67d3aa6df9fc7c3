"""What a threshold of quality * sigma would keep if a layer's weights were of a known shape.

The paper gives no quality for any layer. These two shapes turn one into a density before anything
is measured; `prior` shows how far a trained layer is from either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pruning_lab import criteria
from pruning_lab.layers import prunable


@dataclass(frozen=True, kw_only=True)
class PriorRow:
    """One layer at one quality: the fraction of its surviving weights that stays, and predicted."""

    layer: str
    quality: float
    density: float
    gaussian: float
    laplace: float


def gaussian(quality: float) -> float:
    """Fraction of normally distributed weights with |w| >= quality * sigma: 32 % at 1, 5 % at 2."""
    criteria.check_amount("quality", quality)
    return math.erfc(quality / math.sqrt(2))


def laplace(quality: float) -> float:
    """The same of Laplace-distributed weights, whose scale is sigma / sqrt(2): 24 % at 1."""
    criteria.check_amount("quality", quality)
    return math.exp(-quality * math.sqrt(2))


def prior(model: nn.Module, qualities: Sequence[float]) -> list[PriorRow]:
    """Every prunable layer at every quality: what is kept, beside what either shape would keep."""
    rows = []
    for layer, module in prunable(model).items():
        weight = module.weight.detach()
        alive, sigma = weight != 0, criteria.sigma(weight, layer=layer)
        chosen = criteria.by_levels("quality", qualities, criteria.magnitude(weight), alive, sigma)
        for quality, (kept, _) in zip(qualities, chosen, strict=True):
            predicted = {"gaussian": gaussian(quality), "laplace": laplace(quality)}
            density = int(kept.count_nonzero()) / max(1, int(alive.count_nonzero()))
            rows.append(PriorRow(layer=layer, quality=quality, density=density, **predicted))
    return rows
