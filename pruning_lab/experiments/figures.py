"""The paper's Figures 1, 4, 6 and 7 as rows, with what they show in sentences.

A `caption` says what the paper's figure was of and what this one is of; `sentences` are computed
from the rows, and say where they are not as in the paper.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from pruning_lab import models, paper, sensitivity
from pruning_lab.data import Splits
from pruning_lab.experiments.recipes import Recipe
from pruning_lab.experiments.records import Run
from pruning_lab.experiments.running import Note, dense_settings
from pruning_lab.experiments.tables import described, recipe_for
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.layers import seeded
from pruning_lab.masks import prunable
from pruning_lab.rows import Rows
from pruning_lab.sensitivity import Scan
from pruning_lab.training import train

T = TypeVar("T")
Build = Callable[[dict], nn.Module]  # as in `experiments.run`


class Figure(Rows[T]):
    """What a figure draws."""

    caption: str
    sentences: tuple[str, ...] = ()
    layer: str = ""  # that it is of


@dataclass(frozen=True)
class Energy:
    """What one operation costs in a 45 nm process."""

    operation: str
    picojoules: float
    relative: int  # to an addition of integers


def figure_1() -> Figure[Energy]:
    """The energy of arithmetic and of memory, and what that means for a large network."""
    least, fetch = min(paper.ENERGY_PJ.values()), paper.ENERGY_PJ["32 bit DRAM memory"]
    rows = (Energy(name, pj, round(pj / least)) for name, pj in paper.ENERGY_PJ.items())
    hertz, connections = 20, 10**9
    example = (
        f"A network of {connections:,} connections that runs at {hertz} Hz from DRAM takes "
        f"{hertz} x {connections:,} x {fetch:g} pJ = {hertz * connections * fetch * 1e-12:.1f} W "
        f"for memory access alone."
    )
    return Figure(rows, caption="Paper, Fig. 1: a 45 nm process; the same.", sentences=(example,))


@dataclass(frozen=True)
class KeptLine:
    """A row of the image (a band of the first matrix), or a column of it."""

    along: str  # "row" or "column"
    number: int  # from 1
    kept: int  # connections, over all neurons
    density: float


def figure_4(run: Run, *, image: tuple[int, int] = (28, 28)) -> Figure[KeptLine]:
    """Which pixels the first matrix of a pruned network still takes in.

    Raises ValueError where the first layer's inputs are not the pixels of such an image.
    """
    layer, kept = next(iter(run.mask.items()))
    check_takes_pixels(kept, image)
    height, width = image
    pixels = kept.reshape(-1, height, width)
    rows = [
        KeptLine(along, number, int(line.sum()), float(line.float().mean()))
        for along, axis in (("row", 1), ("column", 2))
        for number, line in enumerate(pixels.unbind(axis), start=1)
    ]
    down, across = height // 4, width // 4
    middle = pixels[:, down : height - down, across : width - across]
    centre = float(middle.float().mean())
    edge = int(pixels.sum() - middle.sum()) / (pixels.numel() - middle.numel())
    verdict = "as in the paper, the centre keeps more"
    if centre <= edge:
        verdict = "unlike in the paper, the centre does not keep more"
    sentence = (
        f"{layer} keeps {centre:.1%} of the connections of the {height - 2 * down} x "
        f"{width - 2 * across} pixels in the centre, and {edge:.1%} of those around: {verdict}."
    )
    caption = f"Paper, Fig. 4: fc1 of LeNet-300-100 on MNIST. Here: {layer} of {_of(run)}."
    return Figure(rows, caption=caption, sentences=(sentence,), layer=layer)


def check_takes_pixels(kept: Tensor, image: tuple[int, int] = (28, 28)) -> None:
    """Raise ValueError unless it is the mask of a matrix that takes in an image's pixels."""
    height, width = image
    if kept.ndim != 2 or kept.shape[1] != height * width:
        raise ValueError(
            f"expected a mask of shape (neurons, {height * width}), got {tuple(kept.shape)}; "
            f"this picture is of the layer that takes in the pixels"
        )


_LIMIT = 0.01  # the loss by which layers are compared: 1 point


def figure_6(
    splits: Splits,
    network: Recipe | nn.Module | None = None,
    *,
    densities: Sequence[float] = Recipe.scan,
    seed: int = 0,
    workspace: Workspace = Workspace(),
    build: Build = models.build,
) -> Scan:
    """The sensitivity of each layer, on val: a scan, with `caption` and `sentences` as a `Figure`.

    `network` is a trained one, or the recipe of one (default: AlexNet of reduced width).
    """
    name = "a network"
    if not isinstance(network, nn.Module):
        recipe = network or recipe_for("alexnet", splits)
        name = described(recipe.network, recipe.shape)
        network = trained(recipe, splits, seed=seed, workspace=workspace, build=build)
    scan = sensitivity.scan(network, splits.val, densities)
    lost = {  # the highest density at which too much is lost; 0: at none
        layer: max((p.density for p in scan.of(layer) if p.drop.value > _LIMIT), default=0.0)
        for layer in scan.layers
    }
    each = (f"{layer} {100 * density:.3g} %" for layer, density in lost.items() if density)
    at = ", ".join(each) or "none of those measured"
    sentences = [f"More than {100 * _LIMIT:g} point is lost from these densities down: {at}."]
    conv = [layer for layer in lost if len(scan.about["layers"][layer]["shape"]) > 2]
    fc = [layer for layer in lost if layer not in conv]
    if conv and fc:
        first, others = conv[0], [layer for layer in lost if layer != conv[0]]
        sentences += [
            _verdict(scan, f"{first} and another layer", [(first, other) for other in others]),
            _verdict(scan, "a convolution and a fully connected layer", [*product(conv, fc)]),
        ]
    caption = f"Paper, Fig. 6: AlexNet on ImageNet, top-5. Here: {name} on {splits.name}, top-1."
    return Scan(scan, **vars(scan), caption=caption, sentences=tuple(sentences))


def more_sensitive(scan: Scan, pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The pairs in which the first layer is "more" sensitive, "less", or "not measurably more".

    More: at a level its interval lies beyond the other's, and at none the other way round.
    """
    found = {"more": [], "less": [], "not measurably more": []}
    for one, other in pairs:
        levels = list(zip(scan.of(one), scan.of(other), strict=True))
        more = any(a.drop.low > b.drop.high for a, b in levels)
        less = any(a.drop.high < b.drop.low for a, b in levels)
        verdict = "not measurably more" if more == less else "more" if more else "less"
        found[verdict].append(f"{one} than {other}")
    return found


def _verdict(scan: Scan, pair: str, pairs: Sequence[tuple[str, str]]) -> str:
    """In how many pairs the first layer is more sensitive, by intervals that do not overlap."""
    found = more_sensitive(scan, pairs)
    many = len(found.pop("more"))
    agrees = "as in the paper" if many == len(pairs) else "the paper has it in all"
    others = (f"; {how} sensitive: {', '.join(those)}" for how, those in found.items() if those)
    said = f"the first is more sensitive in {many}, {agrees}"
    return f"Of {len(pairs)} pairs of {pair}, {said}{''.join(others)}."


@dataclass(frozen=True)
class Bin:
    """How many weights of a layer lie in [low, high): dense, and those left after retraining."""

    low: float
    high: float
    dense: int
    pruned: int


def figure_7(run: Run, *, layer: str | None = None, bins: int = 101) -> Figure[Bin]:
    """The weights of a layer before pruning and after retraining (default: of the first fc layer).

    Bimodal: in the middle the histogram is lower than half of either side's peak.
    """
    matrices = [name for name, kept in run.mask.items() if kept.ndim == 2]
    layer = layer or next(iter(matrices or run.mask))
    dense, pruned = (prunable(model)[layer].weight.detach() for model in (run.dense, run.model))
    before = dense.flatten().float().cpu().numpy()
    after = pruned[run.mask[layer]].float().cpu().numpy()
    if not len(after):
        raise ValueError(f"no weight of {layer} is left; name another layer")
    reach = float(np.quantile(np.abs(np.concatenate([before, after])), 0.9999))
    (old, edges), (new, _) = (np.histogram(w, bins, (-reach, reach)) for w in (before, after))
    narrow = float(before.std()) / 2
    inside = [np.mean(np.abs(w) < narrow) for w in (before, after)]
    wide = [np.quantile(np.abs(w), 0.95) for w in (before, after)]
    two = is_bimodal(*peaks(new.tolist()))
    shape = "bimodal, as in the paper" if two else "not bimodal, unlike in the paper"
    spread = "wider" if wide[1] > wide[0] else "not wider"
    sentence = (
        f"Of {layer}, {inside[0]:.0%} of the weights lie within half a sigma ({narrow:.2g}) of 0 "
        f"before and {inside[1]:.0%} of those left after; the histogram of these is {shape}, and "
        f"{spread} than before: 95 % lie within {wide[1]:.2g}, before within {wide[0]:.2g}."
    )
    rows = map(Bin, edges[:-1].tolist(), edges[1:].tolist(), old.tolist(), new.tolist())
    caption = f"Paper, Fig. 7: fc1 of AlexNet on ImageNet. Here: {layer} of {_of(run)}."
    return Figure(rows, caption=caption, sentences=(sentence,), layer=layer)


def peaks(counts: Sequence[int]) -> tuple[int, int, int]:
    """Of a histogram, the bin in the middle and the highest on either side."""
    half = len(counts) // 2
    return counts[half], max(counts[:half]), max(counts[half + 1 :])


def is_bimodal(middle: int, left: int, right: int) -> bool:
    return 2 * middle < min(left, right)


def _of(run: Run) -> str:
    recipe = run.record["recipe"]
    name = described(recipe["network"], recipe.get("shape"))
    return f"{name} on {run.record['data']['name']}"


def trained(
    recipe: Recipe,
    splits: Splits,
    *,
    seed: int = 0,
    workspace: Workspace = Workspace(),
    build: Build = models.build,
    **options,
) -> nn.Module:
    """The dense network of a recipe, as its run has it; one that the workspace holds is read.

    `options` are those of `training.train`.
    """
    recipe, device = recipe.seeded(seed), splits.train.device
    with seeded(seed, device):
        model = build(recipe.about).to(device)

    def training(checkpoint: Path | None) -> Iterator:
        for epoch in train(model, splits.train, recipe.dense, checkpoint=checkpoint, **options):
            workspace.notify(Note("train", epoch=epoch))
            yield epoch

    return workspace.network(dense_settings(recipe, splits, seed), model, training)
