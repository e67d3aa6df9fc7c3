"""Pruning: one number per layer, or one for all layers, to a mask with its receipt."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pruning_lab import criteria
from pruning_lab.criteria import Saliency
from pruning_lab.layers import Layers, device_of, not_covered, prunable
from pruning_lab.masks.mask import Mask, Receipt, row_of

Amount = float | Mapping[str, float]
ACROSS = ("layer", "network", "lamp")


def prune(
    model: nn.Module,
    *,
    quality: Amount | None = None,
    density: Amount | None = None,
    threshold: Amount | None = None,
    across: str = "layer",
    saliency: Saliency = criteria.magnitude,
    regrow: bool = False,
) -> Mask:
    """Choose a mask by one of quality, density or threshold; the model is not changed.

    An amount is one number for every layer, or a dict of layer name -> number; other layers stay
    as they are. A weight that is zero is gone and stays gone, unless `regrow=True`; a density
    refers to the original layer all the same, so that asking for it twice prunes once.
    `across="network"` ranks all layers together by one density, "lamp" by LAMP's scores (Lee et
    al. 2021). `saliency` may be computed: criteria.taylor(model, splits.train).

    A density is the fraction that is kept: 0.08, not 92 and not 8.

    >>> prune(nn.Sequential(nn.Linear(50, 2)), density={"0": 0.08})
    Mask(8 of 100 weights kept in 1 layer)
    >>> prune(nn.Sequential(nn.Linear(50, 2)), density=92)
    Traceback (most recent call last):
    ValueError: density must lie in [0, 1], got 92; for a percentage, divide by 100
    """
    given = {"quality": quality, "density": density, "threshold": threshold}
    given = {kind: amount for kind, amount in given.items() if amount is not None}
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise ValueError(f"give exactly one of quality, density and threshold, got {got}")
    ((kind, amount),) = given.items()
    device_of(model)  # raises for the meta device
    layers = prunable(model)
    amounts = _checked(kind, amount, across, saliency, layers)
    before = Mask.of(model)
    pools = {n: torch.ones_like(before[n]) if regrow else before[n] for n in amounts}
    sigmas = {name: criteria.sigma(layer.weight, layer=name) for name, layer in layers.items()}
    saliencies = {n: criteria.saliency_of(saliency, n, layers[n].weight) for n in amounts}
    if across == "layer":
        chosen = {
            n: next(criteria.by_levels(kind, [value], saliencies[n], pools[n], sigmas[n]))
            for n, value in amounts.items()
        }
    else:
        lamp = across == "lamp"
        scores = {n: criteria.lamp(s * pools[n]) if lamp else s for n, s in saliencies.items()}
        chosen = criteria.across_layers(scores, amount, pools, signed=True)
        cuts = {n: saliencies[n][k].min().item() if k.any() else None for n, k in chosen.items()}
        chosen = {n: (chosen[n], cuts[n]) for n in chosen}
    rows = []
    for name in layers:
        kept, cut = chosen.get(name, (before[name], None))
        row = row_of(name, sigmas[name], kept)
        if name in amounts:
            asked = f"{kind} {amounts[name]:g}" + ("" if across == "layer" else f" across {across}")
            requested = ties = 0
            if kind == "density":
                requested = round(amounts[name] * row.weights) if across == "layer" else 0
                if row.kept:  # no gather of those that go: it takes ten times as long
                    gone = (saliencies[name] == cut) & before[name] & ~kept
                    ties = int(gone.count_nonzero())
            note = _note(before[name], kept, requested, ties)
            row = replace(row, asked=asked, threshold=cut, note=note)
        rows.append(row)
    masks = {**before, **{name: kept for name, (kept, _) in chosen.items()}}
    return Mask(masks, Receipt(rows, not_covered=not_covered(model)))


def _checked(
    kind: str, amount: Amount, across: str, saliency: Saliency, layers: Layers
) -> dict[str, float]:
    """The amount of each layer; raises unless it is one that `prune` can be asked for."""
    if kind == "quality" and saliency is not criteria.magnitude:
        todo = "give another saliency a density or a threshold"
        raise ValueError(f"quality is a multiple of sigma, so it goes with magnitude; {todo}")
    if across not in ACROSS:
        raise ValueError(f"across must be {', '.join(ACROSS[:-1])} or lamp, got {across!r}")
    if across != "layer" and (kind != "density" or isinstance(amount, Mapping)):
        raise ValueError(f"across={across!r} ranks all layers by one density; give density=NUMBER")
    if not layers:
        kinds = "(linear, convolution or attention); masks.ADAPTERS takes further types"
        raise ValueError(f"this model has no layer to prune {kinds}")
    amounts = dict(amount if isinstance(amount, Mapping) else dict.fromkeys(layers, amount))
    if not amounts:
        todo = f"give {kind}=NUMBER, or a dict of layer name -> number"
        raise ValueError(f"no layer is named; {todo}")
    for name, value in amounts.items():
        _ = layers[name]  # raises for an unknown one
        criteria.check_amount(kind, value)
    return amounts


def _note(before: Tensor, kept: Tensor, requested: int, ties: int) -> str:
    """What a reader should not overlook."""
    left, regrown = int(kept.count_nonzero()), int((kept & ~before).count_nonzero())
    notes = {
        f"asked for {requested:,} weights, only {left:,} are left": left < requested,
        "all gone: this layer now answers with its biases alone": not left,
        "nothing gone": left and torch.equal(before, kept),
        f"{regrown:,} regrown": regrown,
        f"ties: {ties:,} of the dropped equal the smallest kept; earlier ones stayed": ties,
    }
    return "; ".join(note for note, applies in notes.items() if applies)
