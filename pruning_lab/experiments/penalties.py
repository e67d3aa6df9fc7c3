"""The paper's Figure 5: L1 and L2 regularization, without retraining, with it, and iteratively."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from pruning_lab import criteria, models, retraining
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, pooled
from pruning_lab.evaluation.accuracy import Z
from pruning_lab.experiments.figures import Build, Figure, trained
from pruning_lab.experiments.recipes import Recipe, paper_recipe
from pruning_lab.experiments.running import Note, dense_settings
from pruning_lab.experiments.tables import change_of, described, error_of, together
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.rows import counted

# Of LeNet-300-100 on MNIST: the strongest factors with which the dense network's error on val, a
# mean of two seeds, is within 0.1 point of the best. Tried: L1 1e-5, 3e-5, 1e-4, 2e-4, 4e-4; L2
# 1e-4, 3e-4, 1e-3, 2e-3, 4e-3 (benchmarks/figure_5.py --factors).
L1, L2 = 3e-5, 1e-3
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
CURVES = (
    *("L1 without retraining", "L2 without retraining", "L1 with retraining"),
    *("L2 with retraining", "L2 iterative", "L2 control"),
)
_CLAIMS = (  # of the paper, which curve is above which; the last by what pruning itself costs
    ("L1 without retraining", "L2 without retraining", False),
    ("L2 with retraining", "L1 with retraining", False),
    ("L2 iterative", "L1 with retraining", False),
    ("L2 iterative", "L2 with retraining", False),
    ("L2 iterative", "L2 with retraining", True),
)


@dataclass(frozen=True)
class CurvePoint:
    """One curve at one density; intervals are over all images, of all seeds."""

    curve: str
    density: float
    epochs: int  # of retraining, in all rounds
    accuracy: Accuracy
    dense_drop: Drop  # from the dense network trained with L2
    control_drop: Drop  # from the dense network of the same penalty, trained on for these epochs


@dataclass(frozen=True)
class Comparison:
    """Two curves at one density: what is lost from `below` to `above`, on the same images."""

    above: str  # in the paper
    below: str
    density: float
    by_control: bool  # each as a change from its own control, which was trained for as long
    drop: Drop


class PenaltyCurves(Figure[CurvePoint]):
    """Figure 5; `comparisons` are what `order` speaks of."""

    columns: ClassVar = {
        "curve": lambda row: row.curve,
        "density": lambda row: f"{100 * row.density:g} %",
        "epochs": lambda row: str(row.epochs),
        "error": lambda row: "{} ({})".format(*error_of(row.accuracy)),
        "change from dense": lambda row: row.dense_drop.brief,
        "change from the control": lambda row: row.control_drop.brief,
    }
    comparisons: tuple[Comparison, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        return order(self)


def figure_5(
    splits: Splits,
    recipe: Recipe | None = None,
    *,
    densities: Sequence[float] = DENSITIES,
    seeds: Sequence[int] = (0, 1, 2),
    l1: float = L1,
    l2: float = L2,
    workspace: Workspace = Workspace(),
    build: Build = models.build,
) -> PenaltyCurves:
    """L1 and L2 regularization without retraining and with it, and L2 pruned iteratively.

    Of the recipe (default: that of LeNet-300-100) the network and the dense training count. The
    largest weights of all layers together stay. A retraining takes half of the dense training's
    epochs, with the same penalty. The iterative curve is one chain, with a retraining at every
    density, so that it is trained for longer; and so is its control: each point has one that was
    trained on for as many epochs, with nothing pruned. Nothing is chosen by the test split.
    """
    recipe = recipe or paper_recipe("lenet-300-100", splits.name)
    levels = sorted({*densities}, reverse=True)
    if not levels or not seeds:
        raise ValueError("figure 5 needs a density and a seed, such as densities=[0.1], seeds=[0]")
    for level in levels:
        criteria.check_amount("density", level)
    penalties = {"L1": {"l1": l1, "weight_decay": 0.0}, "L2": {"l1": 0.0, "weight_decay": l2}}
    options = {"workspace": workspace, "build": build}
    each = [_curves(recipe, splits, levels, penalties, seed, options) for seed in seeds]
    rows, comparisons = [], []
    for place, level in enumerate(levels):
        at = {name: [curves[name][place] for curves in each] for name in (*CURVES, "dense")}
        found = {name: [point[1] for point in points] for name, points in at.items()}
        for name in CURVES:
            (epochs, *_), *_ = at[name]
            controls = [point[2] for point in at[name]]
            drops = (pooled([*map(drop, by, found[name])]) for by in (found["dense"], controls))
            rows.append(CurvePoint(name, level, epochs, together(found[name]), *drops))
        for above, below, by_control in _CLAIMS:
            lost = _lost(at[below], at[above], by_control)
            comparisons.append(Comparison(above, below, level, by_control, lost))
    rows.sort(key=lambda row: CURVES.index(row.curve))
    caption = (
        f"Paper, Fig. 5: AlexNet on ImageNet, top-5 accuracy. Here: "
        f"{described(recipe.network, recipe.shape)} on {splits.name}, top-1; L1 {l1:g}, L2 {l2:g}; "
        f"{counted(len(each), 'seed')}; {counted(_half(recipe), 'epoch')} for each retraining."
    )
    return PenaltyCurves(rows, caption=caption, comparisons=tuple(comparisons))


def order(figure: PenaltyCurves) -> tuple[str, ...]:
    """For each claim of the paper a sentence: at which densities it holds, and by how much."""
    words, sentences = {"better": "holds", "worse": "is reversed"}, []
    for above, below, by_control in _CLAIMS:
        places = {}
        for one in figure.comparisons:
            if (one.above, one.below, one.by_control) == (above, below, by_control):
                verdict = words.get(one.drop.conclusion, "cannot be told")
                gain = "{}, {}".format(*change_of(one.drop))
                places.setdefault(verdict, []).append(f"{100 * one.density:g} % ({gain})")
        claim = f"{above} above {below}" + ", each against its own control" * by_control
        found = "; ".join(f"{verdict} at {', '.join(each)}" for verdict, each in places.items())
        sentences.append(f"{claim}: {found}.")
    return tuple(sentences)


def epochs_of(recipe: Recipe, densities: Sequence[float] = DENSITIES) -> int:
    """How many epochs figure 5 takes for one seed."""
    return 2 * recipe.dense.epochs + (4 * len({*densities}) + 1) * _half(recipe)


def _half(recipe: Recipe) -> int:
    return max(1, recipe.dense.epochs // 2)


def _lost(below: list[tuple], above: list[tuple], by_control: bool) -> Drop:
    """From one curve's points to the other's, a point for each seed: (epochs, ours, control's)."""
    if not by_control:
        return pooled(
            [drop(before[1], after[1]) for before, after in zip(below, above, strict=True)]
        )
    costs = [
        torch.cat([c.hits.int() - a.hits.int() for _, a, c in points]) for points in (below, above)
    ]
    more = (costs[1] - costs[0]).double()  # per image, -2 to 2: a difference of paired differences
    value, half = float(more.mean()), Z * float(more.std()) / len(more) ** 0.5
    return Drop(value, max(-1.0, value - half), min(1.0, value + half), len(more))


def _curves(recipe, splits, levels, penalties, seed, options) -> dict[str, list[tuple]]:
    """Curve -> for each level (epochs of retraining, accuracy, the control's accuracy)."""
    epochs, curves = _half(recipe), {}
    for name, penalty in penalties.items():
        dense = replace(recipe.dense, **penalty)
        retrain = len(levels) * (replace(dense, epochs=epochs),)
        own = replace(recipe, dense=dense, retrain=retrain).seeded(seed)
        model = trained(own, splits, seed=seed, **options)
        stages = partial(_stages, model, own, splits, seed, options["workspace"])
        base, once = evaluate(model, splits.test), [stages([level]) for level in levels]
        controls = stages([1.0] * (len(levels) if name == "L2" else 1))[1::2]
        curves[f"{name} without retraining"] = [(0, cut, base) for cut, _ in once]
        curves[f"{name} with retraining"] = [(epochs, now, controls[0]) for _, now in once]
    chain, longer = stages(levels)[1::2], [epochs * (n + 1) for n in range(len(levels))]
    curves["L2 iterative"] = list(zip(longer, chain, controls, strict=True))
    curves["L2 control"] = list(zip(longer, controls, controls, strict=True))
    curves["dense"] = [(0, base, base)] * len(levels)
    return curves


def _stages(dense, recipe, splits, seed, workspace, levels) -> list[Accuracy]:
    """On the test split, after each pruning and each retraining of a chain of densities."""
    model, configs, found = copy.deepcopy(dense), recipe.retrain[: len(levels)], []
    rounds = [{"density": level, "across": "network"} for level in levels]

    def training(checkpoints: Path | None) -> Iterator:
        watch = {"on_epoch": lambda epoch: workspace.notify(Note("retrain", epoch=epoch))}
        watch["checkpoints"] = checkpoints
        for stage in retraining.iterative(model, splits.train, configs, rounds, **watch):
            found.append(evaluate(model, splits.test))
            yield stage

    what = {**dense_settings(recipe, splits, seed), "on": configs, "rounds": rounds}
    workspace.network(what, model, training)
    return found
