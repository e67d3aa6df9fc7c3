"""How much each layer minds: prune one layer at a time, the others dense, and look at accuracy.

Only what lies behind the changed layer is computed again where the network is a chain.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning_lab import criteria
from pruning_lab.data import Split
from pruning_lab.evaluation import Accuracy, Drop, Images, device_of, drop, measuring
from pruning_lab.masks import Criterion, Mask, prunable, prune
from pruning_lab.models import is_chain


@dataclass(frozen=True)
class ScanPoint:
    """One layer at one level: its density, and what the network then answers."""

    layer: str
    density: float
    quality: float | None
    threshold: float | None
    accuracy: Accuracy
    drop: Drop  # against the network as it came, on the same images


def scan(
    model: nn.Module,
    images: Images,
    densities: Sequence[float] | None = None,
    *,
    qualities: Sequence[float] | None = None,
    criterion: Criterion = criteria.magnitude,
) -> list[ScanPoint]:
    """Every prunable layer at every density (or quality), one at a time (paper, section 5, Fig. 6).

    The model is left as it was, to the byte. Raises ValueError for the test split: choosing by it
    would spoil it.
    """
    if isinstance(images, Split) and images.name == "test":
        raise ValueError("a scan chooses, and the test split is not for choosing; give splits.val")
    if (densities is None) == (qualities is None):
        raise ValueError("give densities or qualities, one of the two")
    kind, levels = ("density", densities) if qualities is None else ("quality", qualities)
    before: list[Tensor] = []
    device = device_of(model)
    with measuring(model):
        points = [
            (name, level, prune(model, **{kind: {name: level}}, criterion=criterion))
            for name in prunable(model)
            for level in levels
        ]
        after: list[list[Tensor]] = [[] for _ in points]
        for x, y in images:
            x, y = x.to(device), y.to(device)
            before.append(model(x).argmax(1) == y)
            inputs = dict(_inputs(model, x))
            for hits, (name, _, mask) in zip(after, points, strict=True):
                hits.append(_answer(model, name, mask, inputs.get(name, x)).argmax(1) == y)
    dense = Accuracy.of(torch.cat(before).cpu())
    rows = []
    for hits, (name, level, mask) in zip(after, points, strict=True):
        accuracy = Accuracy.of(torch.cat(hits).cpu())
        receipt = next(row for row in mask.receipt if row.layer == name)
        quality = level if kind == "quality" else None
        rows.append(
            ScanPoint(
                name, receipt.density, quality, receipt.threshold, accuracy, drop(dense, accuracy)
            )
        )
    return rows


def _inputs(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What enters each layer of a chain; nothing for other networks."""
    if is_chain(model):
        for name, module in model._modules.items():  # a layer used twice stands here twice
            yield name, x
            x = module(x)


def _answer(model: nn.Module, name: str, mask: Mask, x: Tensor) -> Tensor:
    """The network's answer with one layer masked, the weight itself never touched.

    For a chain `x` is what enters the layer, else what enters the network.
    """
    pruned = prunable(model)[name].weight * mask[name]
    if is_chain(model):
        place = list(model._modules).index(name)
        model = nn.Sequential(OrderedDict(list(model._modules.items())[place:]))
    return torch.func.functional_call(model, {f"{name}.weight": pruned}, (x,))
