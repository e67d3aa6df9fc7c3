"""Saliencies at equal density of the whole network, before and after retraining."""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import gt, lt
from statistics import fmean
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab import criteria, models, retraining
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, measuring, pooled
from pruning_lab.experiments.figures import Build, trained
from pruning_lab.experiments.recipes import Recipe, paper_recipe
from pruning_lab.experiments.running import Note, dense_settings
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.masks import masked, prune
from pruning_lab.rows import Rows
from pruning_lab.training import Loss, TrainConfig


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
        "change from\nthe dense, cut": lambda row: row.cut.brief,
        "change from\nmagnitude, cut": lambda row: row.rival.brief,
        "from the control,\nretrained": lambda row: row.cost.brief if row.cost else "",
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
        for key, amounts, cut in _cuts(dense, splits, seed, densities, F.cross_entropy):
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
    """Delete a small tanh network's weights in order of saliency, as LeCun et al. 1989 in Figure 1.

    Nothing is retrained. 196-40-20-10 on images of half the size, trained on the squared error
    without a penalty on its weights (default: 20 epochs), so that the error itself is near a
    minimum, as OBD assumes. Pixels are 0 on the background: normalised ones are not, and OBD, which
    leaves out what weights do together, then does not see that all those on the background act as
    one bias; in that case magnitude is the better order.
    """
    config = config or TrainConfig(epochs=20, lr=0.05, weight_decay=0.0)
    recipe, results = Recipe(network="tanh 196-40-20-10", dense=config), defaultdict(list)
    parts = {name: getattr(splits, name) for name in ("train", "val", "test")}
    splits = replace(splits, **{n: part.renormalised(0, 255) for n, part in parts.items()})
    how = {"workspace": workspace, "loss": squared_error}
    for seed in seeds:
        dense = trained(recipe, splits, seed=seed, build=_small_tanh, **how)
        for key, _, cut in _cuts(dense, splits, seed, densities, squared_error):
            results[key].append((*cut, None))
    return _table(results)


def squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """The sum over the classes of (logit - target)^2, of which the label's is 1, all others -1."""
    targets = 2 * F.one_hot(y, logits.shape[1]) - 1
    return (logits - targets).square().sum(1).mean()


def _small_tanh(about: Mapping) -> nn.Sequential:
    hidden = nn.Linear(196, 40), nn.Tanh(), nn.Linear(40, 20), nn.Tanh()
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), *hidden, nn.Linear(20, 10))


def _cuts(
    dense: nn.Module, splits: Splits, seed: int, densities: Sequence[float], loss: Loss
) -> Iterator[tuple]:
    """(name, density), how to prune, and (loss, change, change from magnitude) of what is left."""
    known = {"magnitude": criteria.magnitude, "random": criteria.random(seed)}
    known["OBD"] = criteria.obd(dense, splits.train, loss=loss)
    if loss is F.cross_entropy:
        known |= {"gradient": criteria.gradient(dense, splits.train), "LAMP": criteria.magnitude}
        known["Taylor"] = criteria.taylor(dense, splits.train)
    before, rivals = evaluate(dense, splits.val), {}
    for name, saliency in known.items():
        for density in densities:
            across = "lamp" if name == "LAMP" else "network"
            amounts = {"density": density, "across": across, "saliency": saliency}
            with masked(dense, prune(dense, **amounts)), measuring(dense):
                after, images = evaluate(dense, splits.val), splits.train
                sums = [len(y) * loss(dense(x), y).item() for x, y in images]
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
