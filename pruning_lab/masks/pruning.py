"""Pruning: one number per layer, or one for all layers, to a mask with its receipt."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pruning_lab import criteria
from pruning_lab.criteria import Saliency
from pruning_lab.layers import Layer, device_of, find, not_covered, prunable
from pruning_lab.masks.mask import Mask
from pruning_lab.masks.receipts import Receipt, row_of

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

    An amount is one number for every layer or a dict of layer name -> number; layers that a dict
    does not name stay as they are. A weight that is zero is gone and stays gone, unless
    `regrow=True`; a density refers to the original layer all the same, so that a density that is
    asked for twice prunes once. `across="network"` ranks all layers together by one density,
    "lamp" does so by LAMP's scores (Lee et al. 2021).

        mask = prune(model, quality=1.0)                   # |w| >= sigma of the layer's survivors
        mask = prune(model, density={"fc1": 0.08})         # exactly round(0.08 n) weights
        mask = prune(model, density=0.1, saliency=criteria.taylor(model, splits.train))

    Raises KeyError for an unknown layer, ValueError for an impossible amount and for weights that
    are not finite.
    """
    kind, amount = _one_of(quality=quality, density=density, threshold=threshold)
    if kind == "quality" and saliency is not criteria.magnitude:
        raise ValueError(
            "quality is a multiple of the weights' own sigma, so it goes with magnitude; "
            "give another saliency a density or a threshold"
        )
    if across not in ACROSS:
        raise ValueError(f"across must be {', '.join(ACROSS[:-1])} or lamp, got {across!r}")
    if across != "layer" and (kind != "density" or isinstance(amount, Mapping)):
        raise ValueError(f"across={across!r} ranks all layers by one density; give density=NUMBER")
    layers = prunable(model)
    if not layers:
        raise ValueError(
            "this model has no layer to prune (linear, convolution or attention); masks.ADAPTERS "
            "takes further types"
        )
    device_of(model)  # raises for the meta device
    amounts = _per_layer(model, kind, amount, layers)
    before = {name: layer.weight.detach() != 0 for name, layer in layers.items()}
    pools = {
        name: torch.ones_like(alive) if regrow and name in amounts else alive
        for name, alive in before.items()
    }
    sigmas = {name: criteria.sigma_of(name, layer.weight) for name, layer in layers.items()}
    saliencies = {n: criteria.saliency_of(saliency, n, layers[n].weight) for n in amounts}
    if across == "layer":
        chosen = {
            n: next(criteria.by_levels(kind, [value], saliencies[n], pools[n], sigmas[n]))
            for n, value in amounts.items()
        }
    else:
        chosen = _together(saliencies, amount, pools, across)

    rows = []
    for name in layers:
        if name not in amounts:
            rows.append(row_of(name, sigmas[name], before[name]))
            continue
        kept, cut = chosen[name]
        asked = f"{kind} {amounts[name]:g}" + ("" if across == "layer" else f" across {across}")
        note = _note(kind, amounts[name], saliencies[name], before[name], kept, cut, across)
        row = row_of(name, sigmas[name], kept)
        rows.append(replace(row, asked=asked, threshold=cut, note=note))
    kept = {name: kept for name, (kept, _) in chosen.items()}
    return Mask({**before, **kept}, Receipt(rows, not_covered=not_covered(model)))


def _one_of(**amounts: Amount | None) -> tuple[str, Amount]:
    given = {kind: amount for kind, amount in amounts.items() if amount is not None}
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise ValueError(f"give exactly one of quality, density and threshold, got {got}")
    return next(iter(given.items()))


def _per_layer(
    model: nn.Module, kind: str, amount: Amount, layers: Mapping[str, Layer]
) -> dict[str, float]:
    if not isinstance(amount, Mapping):
        amount = dict.fromkeys(layers, amount)
    if not amount:
        raise ValueError(
            f"no layer is named; give {kind}=NUMBER, or a dict of layer name -> number"
        )
    for name, value in amount.items():
        find(model, name, layers)
        criteria.check_amount(kind, value)
    return dict(amount)


def _together(
    saliencies: Mapping[str, Tensor], density: float, pools: Mapping[str, Tensor], across: str
) -> dict[str, tuple[Tensor, float | None]]:
    """All layers ranked together: what stays of each, and its own smallest saliency that stays."""
    ranked = saliencies
    if across == "lamp":
        ranked = {name: criteria.lamp(s * pools[name]) for name, s in saliencies.items()}
    chosen = criteria.across_layers(ranked, density, pools, signed=True)
    return {
        name: (kept, saliencies[name][kept].min().item() if kept.any() else None)
        for name, kept in chosen.items()
    }


def _note(
    kind: str,
    amount: float,
    saliency: Tensor,
    before: Tensor,
    after: Tensor,
    cut: float | None,
    across: str,
) -> str:
    """What a reader should not overlook."""
    notes = []
    wanted = round(amount * after.numel())
    if kind == "density" and across == "layer" and int(after.sum()) < wanted:
        notes.append(f"asked for {wanted:,} weights, only {int(after.sum()):,} are left")
    if not after.any():
        notes.append("all gone: this layer now answers with its biases alone")
    elif torch.equal(before, after):
        notes.append("nothing gone")
    if regrown := int((after & ~before).sum()):
        notes.append(f"{regrown:,} regrown")
    dropped = before & ~after
    if kind == "density" and cut is not None and (ties := int((saliency[dropped] == cut).sum())):
        notes.append(f"ties: {ties:,} of the dropped equal the smallest kept; earlier ones stayed")
    return "; ".join(notes)
