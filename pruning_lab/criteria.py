"""Which weights stay: plain functions from a weight or saliency and one number to a bool tensor.

True means kept. `kept` restricts a choice to the weights that earlier pruning left; the number
always refers to the whole layer, so that repeating a call never compounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """|w|: the saliency of Han et al. 2015, section 3."""
    return weight.detach().abs()


def random(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A saliency that knows nothing, uniform in [0, 1): the control of every comparison."""
    device = weight.device if generator is None else generator.device
    return torch.rand(weight.shape, generator=generator, device=device).to(weight.device)


def sigma(weight: Tensor, kept: Tensor | None = None) -> float:
    """Population standard deviation of the surviving weights, 0 where none survive.

    Our reading of the paper, which does not say: of the survivors at the time of the call, so
    thresholds grow as a network is pruned again.
    """
    count, mean = _mean(weight, kept, lambda part: part)
    if not count:
        return 0.0
    return math.sqrt(_mean(weight, kept, lambda part: (part - mean).square())[1])


def _mean(weight: Tensor, kept: Tensor | None, of: Callable[[Tensor], Tensor]) -> tuple[int, float]:
    """How many survivors there are, and the mean of a function of them.

    In double, and part by part: a large layer's survivors, taken out at once, need four times the
    memory of the layer.
    """
    parts = weight.detach().reshape(-1).split(_PART)
    masks = [None] * len(parts) if kept is None else kept.reshape(-1).split(_PART)
    count, total = 0, 0.0
    for part, mask in zip(parts, masks, strict=True):
        survivors = part if mask is None else part[mask]
        count += survivors.numel()
        total += of(survivors.double()).sum().item()
    return count, total / max(count, 1)


_PART = 2**20  # weights


def by_quality(weight: Tensor, quality: float, kept: Tensor | None = None) -> Tensor:
    """Keep |w| >= quality * sigma, one layer at a time (Han et al. 2015, section 4).

    Raises ValueError unless quality is a finite number >= 0.
    """
    check_amount("quality", quality)
    return by_threshold(magnitude(weight), quality * sigma(weight, kept), kept)


def by_threshold(saliency: Tensor, threshold: float, kept: Tensor | None = None) -> Tensor:
    """Keep saliency >= threshold. Raises ValueError unless threshold is a finite number >= 0."""
    _check_comparable(saliency)
    check_amount("threshold", threshold)
    chosen = saliency >= threshold
    return chosen if kept is None else chosen & kept


def by_density(saliency: Tensor, density: float, kept: Tensor | None = None) -> Tensor:
    """Keep the round(density * n) most salient of a layer's n weights, never one more.

    Ties go to the earlier position. With `kept`, at most as many as are still there.
    Raises ValueError unless density lies in [0, 1].
    """
    return across_layers({"": saliency}, density, None if kept is None else {"": kept})[""]


def by_densities(saliency: Tensor, densities: Sequence[float]) -> list[tuple[Tensor, float | None]]:
    """`by_density` for several densities of one layer, which is ranked only once.

    Each comes with its threshold: the smallest saliency that stayed, None where nothing did.
    """
    for density in densities:
        check_amount("density", density)
    _check_comparable(saliency)
    flat = _sortable(saliency).reshape(-1)
    counts = [round(density * flat.numel()) for density in densities]
    places = sorted({flat.numel() - count for count in counts if count})
    if flat.device.type == "cpu":  # four times as fast as sorting everything
        ranked = torch.from_numpy(np.partition(flat.numpy(), places)) if places else flat
    else:
        ranked = flat.sort().values
    chosen: list[tuple[Tensor, float | None]] = []
    for count in counts:
        if count == 0:
            chosen.append((torch.zeros_like(saliency, dtype=torch.bool), None))
            continue
        cut = ranked[flat.numel() - count]
        chosen.append((_from_cut(flat, cut, count).reshape(saliency.shape), cut.item()))
    return chosen


def across_layers(
    saliencies: Mapping[str, Tensor], density: float, kept: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Rank all layers together and keep the round(density * n) most salient of their n weights.

    Ties go to the earlier layer, then to the earlier position. The result has the same keys.
    """
    check_amount("density", density)
    for saliency in saliencies.values():
        _check_comparable(saliency)
    device = next(iter(saliencies.values())).device
    flat = torch.cat([_sortable(s).reshape(-1).to(device) for s in saliencies.values()])
    budget = round(density * flat.numel())
    if kept is None:
        chosen = _top(flat, budget)
    else:
        alive = torch.cat([kept[name].reshape(-1).to(device) for name in saliencies])
        chosen = alive.clone()
        chosen[alive] = _top(flat[alive], min(budget, int(alive.sum())))
    parts = chosen.split([s.numel() for s in saliencies.values()])
    return {
        name: part.reshape(saliency.shape).to(saliency.device)
        for part, (name, saliency) in zip(parts, saliencies.items(), strict=True)
    }


def _sortable(saliency: Tensor) -> Tensor:
    """Half precisions widened: kthvalue does not know all of them."""
    return saliency.detach().float() if saliency.element_size() < 4 else saliency.detach()


def _top(flat: Tensor, count: int) -> Tensor:
    """The `count` largest of a 1-d tensor as a bool tensor; ties go to the earlier position."""
    if count == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    return _from_cut(flat, flat.kthvalue(flat.numel() - count + 1).values, count)


def _from_cut(flat: Tensor, cut: Tensor, count: int) -> Tensor:
    """The `count` largest, where `cut` is the smallest of them."""
    chosen = flat >= cut
    if surplus := int(chosen.count_nonzero()) - count:  # sum() takes 20 times as long
        chosen[(flat == cut).nonzero().squeeze(1)[-surplus:]] = False
    return chosen


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


def _check_comparable(saliency: Tensor) -> None:
    if saliency.isnan().any():
        raise ValueError(
            "a weight is not a number (NaN), so it has no rank; train again with a lower lr"
        )
