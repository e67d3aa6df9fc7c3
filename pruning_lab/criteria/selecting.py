"""From a saliency and one number to a bool tensor: by quality, density or threshold."""

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from pruning_lab.criteria.saliencies import check_comparable, magnitude, sortable

_PART = 2**20  # weights that `sigma` takes at a time: a layer's copies would be four times as large


def sigma(weight: Tensor, kept: Tensor | None = None, *, layer: str | None = None) -> float:
    """Population standard deviation of the weights that are not zero (and in `kept`); 0 of none.

    Our reading of the paper, which does not say: thresholds grow as a network is pruned again.
    With the name of its `layer`, ValueError where a weight is not finite.
    """
    flat = weight.detach().reshape(-1)
    alive = flat != 0 if kept is None else (flat != 0) & kept.reshape(-1)
    parts = list(zip(flat.split(_PART), alive.split(_PART), strict=True))
    count = max(int(alive.count_nonzero()), 1)
    mean = sum(_survivors(w, mask).sum().item() for w, mask in parts) / count
    squares = sum((_survivors(w, mask) - mean).square().sum().item() for w, mask in parts)
    value = math.sqrt(squares / count)
    if layer is not None and not math.isfinite(value):
        what = f"layer {layer!r} has a weight that is infinite or not a number"
        raise ValueError(f"{what}; train again with a lower lr")
    return value


def _survivors(weights: Tensor, alive: Tensor) -> Tensor:
    """The weights that stay, widened; a dense layer needs no gather, which takes the longest."""
    return _widened(weights if alive.all() else weights[alive])


def by_quality(weight: Tensor, quality: float, kept: Tensor | None = None) -> Tensor:
    """Keep |w| >= quality * sigma, one layer at a time (Han et al. 2015, section 4).

    Takes a weight: sigma is the weights' own. A zero weight is gone and stays gone.
    """
    alive = weight.detach() != 0
    alive = alive if kept is None else alive & kept
    ((chosen, _),) = by_levels("quality", [quality], magnitude(weight), alive, sigma(weight, alive))
    return chosen


def by_threshold(
    saliency: Tensor, threshold: float, kept: Tensor | None = None, *, signed: bool = False
) -> Tensor:
    """Keep saliency >= threshold. Takes a saliency, not a weight, as `by_density` does."""
    check_comparable(saliency, signed)
    check_amount("threshold", threshold)
    chosen = saliency >= threshold
    return chosen if kept is None else chosen & kept


def by_density(
    saliency: Tensor, density: float, kept: Tensor | None = None, *, signed: bool = False
) -> Tensor:
    """Keep the round(density * n) most salient of a layer's n weights, never one more.

    Ties go to the earlier position. With `kept`, at most as many as are still there. Takes a
    saliency, not a weight: by_density(w, 0.5) would rank signed weights and drop -0.7, so a
    negative saliency is refused unless `signed=True` says that the sign is meant.

    >>> by_density(magnitude(torch.tensor([0.9, -0.1, -0.7])), 1 / 3)
    tensor([ True, False, False])
    >>> by_density(torch.tensor([0.9, -0.1, -0.7]), 1 / 3)
    Traceback (most recent call last):
    ValueError: a saliency below 0 (-0.7): rank weights by magnitude(w), or say signed=True ...
    """
    ((chosen, _),) = by_densities(saliency, [density], kept, signed=signed)
    return chosen


def by_densities(
    saliency: Tensor,
    densities: Sequence[float],
    kept: Tensor | None = None,
    *,
    signed: bool = False,
) -> Iterator[tuple[Tensor, float | None]]:
    """`by_density` for several densities of one layer, which is ranked only once.

    Each comes with its threshold: the smallest saliency that stayed, None where nothing did.
    """
    for density in densities:
        check_amount("density", density)
    check_comparable(saliency, signed)
    flat = sortable(saliency).reshape(-1)
    alive = None if kept is None or kept.all() else kept.reshape(-1)  # else a slow gather
    pool = flat if alive is None else flat[alive]
    counts = [min(round(density * flat.numel()), pool.numel()) for density in densities]
    places = sorted({pool.numel() - count for count in counts if count})
    if flat.device.type == "cpu":  # four times as fast as sorting everything
        ranked = torch.from_numpy(np.partition(pool.numpy(), places)) if places else pool
    else:
        ranked = pool.sort().values
    for count in counts:
        if count == 0:
            yield torch.zeros_like(saliency, dtype=torch.bool), None
            continue
        cut = ranked[pool.numel() - count]
        stays = flat >= cut if alive is None else (flat >= cut) & alive
        if surplus := int(stays.count_nonzero()) - count:  # sum() takes 20 times as long
            ties = (stays & (flat == cut)).nonzero().squeeze(1)
            stays[ties[-surplus:]] = False
        yield stays.reshape(saliency.shape), cut.item()


def by_levels(
    kind: str, levels: Sequence[float], saliency: Tensor, kept: Tensor, sigma: float
) -> Iterator[tuple[Tensor, float | None]]:
    """What stays of a layer's survivors `kept` at each quality, density or threshold, and the cut.

    Here and nowhere else a level becomes a threshold; `prune`, `scan` and the studio call it.
    """
    if kind == "density":
        yield from by_densities(saliency, levels, kept, signed=True)
        return
    for level in levels:
        check_amount(kind, level)
        cut = level * sigma if kind == "quality" else level
        yield by_threshold(saliency, cut, kept, signed=True), cut


def across_layers(
    saliencies: Mapping[str, Tensor],
    density: float,
    kept: Mapping[str, Tensor] | None = None,
    *,
    signed: bool = False,
) -> dict[str, Tensor]:
    """Rank all layers together and keep the round(density * n) most salient of their n weights.

    Ties go to the earlier layer, then to the earlier position. The result has the same keys.
    """
    device = next(iter(saliencies.values())).device
    flat = torch.cat([sortable(s).reshape(-1).to(device) for s in saliencies.values()])
    alive = [] if kept is None else [kept[name].reshape(-1).to(device) for name in saliencies]
    chosen = by_density(flat, density, torch.cat(alive) if alive else None, signed=signed)
    parts = chosen.split([s.numel() for s in saliencies.values()])
    return {
        name: part.reshape(saliency.shape).to(saliency.device)
        for part, (name, saliency) in zip(parts, saliencies.items(), strict=True)
    }


def lamp(saliency: Tensor) -> Tensor:
    """The score by which LAMP ranks across layers (Lee et al. 2021, equation 3); same shape.

    s^2 over the sum of the s^2 of all weights of the layer that rank at least as high: 1 for the
    largest, so that no layer is removed. Of ties the earlier position has the higher score.
    """
    squares = _widened(saliency.detach()).reshape(-1).square()
    ranked, order = squares.sort(descending=True, stable=True)
    sums = ranked.cumsum(0)  # of this weight and all that rank higher
    scores = torch.zeros_like(squares)
    scores[order] = torch.where(sums > 0, ranked / sums, sums)
    return scores.reshape(saliency.shape)


def check_amount(kind: str, amount: float) -> None:
    """Raise TypeError or ValueError unless `amount` is a number that a `kind` can have."""
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise TypeError(f"{kind} must be a number, got {amount!r}")
    if kind == "density" and not 0 <= amount <= 1:
        raise ValueError(
            f"density must lie in [0, 1], got {amount:g}; for a percentage, divide by 100"
        )
    if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"{kind} must be a finite number >= 0, got {amount}")


def _widened(values: Tensor) -> Tensor:
    """In float64, or in float32 on devices that lack it (Apple's MPS, some of Intel's)."""
    try:
        return values.to(torch.float64)
    except (TypeError, RuntimeError):
        return values.to(torch.float32)
