"""Saliencies at equal density of the whole network, before and after retraining."""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import gt, lt
from statistics import fmean
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from pruning_lab import criteria, models, retraining
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, measuring, pooled
from pruning_lab.experiments.figures import Build, dense_settings, trained
from pruning_lab.experiments.recipes import Recipe, paper_recipe
from pruning_lab.experiments.running import Note
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.masks import masked, prune
from pruning_lab.rows import Rows
from pruning_lab.training import TrainConfig


@dataclass(frozen=True)
class SaliencyRow:
    """One saliency at one density: changes of accuracy on val, pooled over the seeds."""

    saliency: str
    density: float
    losses: tuple[float, ...]  # before retraining, on all training images, with each seed
    cut: Drop  # before retraining, from the dense network
    rival: Drop  # before retraining, from what magnitude leaves at the same density
    cost: Drop | None  # after retraining, from the control; None where nothing is retrained


class Saliencies(Rows[SaliencyRow]):
    """A row per saliency and density; a change below zero is a loss of accuracy in points."""

    columns: ClassVar = {
        "saliency": lambda row: row.saliency,
        "density": lambda row: f"{row.density:.1%}",
        "training\nloss, cut": lambda row: f"{fmean(row.losses):.4f}",
        "change from\nthe dense, cut": lambda row: str(row.cut).replace(" points", ""),
        "change from\nmagnitude, cut": lambda row: str(row.rival).replace(" points", ""),
        "from the control,\nretrained": lambda row: str(row.cost or "").replace(" points", ""),
    }

    @property
    def conclusion(self) -> str:
        """How OBD compares with magnitude before retraining, by the seeds and by the intervals."""
        theirs = {row.density: row.losses for row in self if row.saliency == "magnitude"}
        rows = [row for row in self if row.saliency == "OBD"]
        lower = sum(all(map(lt, row.losses, theirs[row.density])) for row in rows)
        higher = sum(all(map(gt, row.losses, theirs[row.density])) for row in rows)
        found = Counter(row.rival.conclusion for row in rows)
        return (
            f"OBD beside magnitude at {len(rows)} densities, nothing retrained: training loss "
            f"lower with every seed at {lower}, higher at {higher}; accuracy on val better at "
            f"{found['better']}, worse at {found['worse']}."
        )


def saliencies(
    splits: Splits,
    recipe: Recipe | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    densities: Sequence[float] = (0.2, 0.1, 0.05, 0.02, 0.01),
    workspace: Workspace = Workspace(),
    build: Build = models.build,
) -> Saliencies:
    """Prune a dense network for each seed by six saliencies, and retrain all in the same way.

    `recipe` (default: the paper's for LeNet-300-100) says how to train and, by the config of its
    first round, how to retrain; the control is the dense network trained on by that config. All
    weights are ranked together, so that a saliency also decides what each layer keeps; LAMP is
    such a decision for magnitudes. Saliencies are computed once, on train, and compared on val.
    """
    recipe = recipe or paper_recipe("lenet-300-100", splits.name)
    results = defaultdict(list)
    for seed in seeds:
        dense = trained(recipe, splits, seed=seed, workspace=workspace, build=build)
        settings = dense_settings(recipe, splits, seed) | {"on": recipe.retrain[0]}
        again = partial(_retrained, dense, splits, recipe.seeded(seed).retrain[0], workspace)
        control = again({"density": 1.0}, settings)
        for key, amounts, cut in _cuts(dense, splits, seed, densities):
            cost = drop(control, again(amounts, {**settings, "cut": key}))
            workspace.notify(Note("retrain", f"seed {seed}, {key[0]} at {key[1]:.1%}: {cost}"))
            results[key].append((*cut, cost))
    return _table(results)


def obd_against_magnitude(
    splits: Splits,
    config: TrainConfig | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    densities: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
    workspace: Workspace = Workspace(),
) -> Saliencies:
    """Delete a tanh network's weights in order of saliency, as LeCun et al. 1989 in Figure 1.

    Nothing is retrained. The network is theirs of 1990 with all maps connected (3,220 weights, not
    2,578), trained without a penalty on its weights (default: 20 epochs), so that the loss itself
    is near a minimum; the loss is the cross-entropy, theirs the squared error.
    """
    config = config or TrainConfig(epochs=20, lr=0.1, weight_decay=0.0)
    recipe, results = Recipe(network="lenet-1", dense=config), defaultdict(list)
    for seed in seeds:
        dense = trained(recipe, splits, seed=seed, workspace=workspace, build=_lenet_1)
        for key, _, cut in _cuts(dense, splits, seed, densities):
            results[key].append((*cut, None))
    return _table(results)


def _lenet_1(about: Mapping) -> nn.Sequential:
    convolutions = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 12, 5)
    maps = [layer for c in convolutions for layer in (c, nn.Tanh(), nn.AvgPool2d(2))]
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(192, 10))  # of 12 maps of 4 x 4


def _cuts(dense: nn.Module, splits: Splits, seed: int, densities) -> Iterator[tuple]:
    """(name, density), how to prune, and (loss, change, change from magnitude) of what is left."""
    known = {"magnitude": criteria.magnitude, "random": criteria.random(seed)}
    computed = {"gradient": criteria.gradient, "Taylor": criteria.taylor, "OBD": criteria.obd}
    known |= {name: compute(dense, splits.train) for name, compute in computed.items()}
    before, rivals = evaluate(dense, splits.val), {}
    for name, saliency in {**known, "LAMP": criteria.magnitude}.items():
        for density in densities:
            across = "lamp" if name == "LAMP" else "network"
            amounts = {"density": density, "across": across, "saliency": saliency}
            with masked(dense, prune(dense, **amounts)), measuring(dense):
                after, images = evaluate(dense, splits.val), splits.train
                sums = [F.cross_entropy(dense(x), y, reduction="sum").item() for x, y in images]
            rival = rivals.setdefault(density, after)  # magnitude comes first
            cut = sum(sums) / images.n, drop(before, after), drop(rival, after)
            yield (name, density), amounts, cut


def _retrained(dense, splits, config, workspace, amounts: Mapping, what: Mapping) -> Accuracy:
    """On val, pruned by `amounts` and retrained."""
    model = copy.deepcopy(dense)

    def training(folder):
        watch = {"on_epoch": lambda epoch: workspace.notify(Note("retrain", epoch=epoch))}
        return retraining.once(model, splits.train, config, amounts, checkpoints=folder, **watch)

    return evaluate(workspace.network(what, model, training), splits.val)


def _table(results: Mapping[tuple[str, float], list[tuple]]) -> Saliencies:
    rows = []
    for key, each in results.items():
        losses, cuts, rivals, costs = zip(*each, strict=True)
        cost = None if None in costs else pooled(costs)
        rows.append(SaliencyRow(*key, losses, pooled(cuts), pooled(rivals), cost))
    return Saliencies(rows)
