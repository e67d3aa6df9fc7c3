"""The paper's techniques one by one: arms that differ in one thing, with one control."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from torch import nn

from pruning_lab import criteria, masks, models, retraining
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, pooled
from pruning_lab.experiments.recipes import Recipe, down_to, paper_recipe
from pruning_lab.experiments.running import Note
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.rows import Rows

ARMS = {  # technique -> what is compared, first what the paper settled on
    "survivors": ("kept", "re-initialised"),
    "schedule": ("iterative", "one-shot", "gradual"),
    "penalty": ("L2", "L1"),
    "saliency": ("magnitude", "probabilistic"),
    "dropout": ("adjusted", "not adjusted"),
    "freezing": ("in turn", "none"),
}
_WORSE_IN_THE_PAPER = ("re-initialised", "one-shot", "L1", "probabilistic")


@dataclass(frozen=True)
class TechniqueRow:
    """One arm of a technique, measured on the test split."""

    technique: str
    arm: str
    network: str
    density: float  # of all weights
    seeds: int
    error: float  # mean over the seeds
    drop: Drop  # from the control, pooled over the seeds
    drops: tuple[float, ...]  # of each seed
    difference: Drop | None  # from the first arm, pooled; None for that arm itself


class Techniques(Rows[TechniqueRow]):
    """Two or three rows per technique; `conclusions` says what came out."""

    columns: ClassVar = {
        "technique": lambda row: row.technique,
        "arm": lambda row: row.arm,
        "network": lambda row: row.network,
        "density": lambda row: f"{row.density:.1%}",
        "seeds": lambda row: row.seeds,
        "test error": lambda row: f"{row.error:.2%}",
        "change from the control": lambda row: row.drop,
        "from the first arm": lambda row: row.difference or "",
    }

    @property
    def conclusions(self) -> list[str]:
        """A sentence for each arm but a first one, whichever way it came out."""
        sentences = []
        for row in (row for row in self if row.difference is not None):
            first, outcome, paper = ARMS[row.technique][0], row.difference.conclusion, ""
            said = f"{row.arm} is {outcome} than {first}"
            if outcome not in ("worse", "better"):
                said = f"{row.arm} or {first}, {outcome}"
            elif row.arm in _WORSE_IN_THE_PAPER:
                paper = f", {'as' if outcome == 'worse' else 'unlike'} in the paper"
            where = f"{row.technique} at {row.density:.1%} kept"
            sentences.append(f"{where}: {said}{paper}; {row.difference}.")
        return sentences


def techniques(
    splits: Splits,
    *,
    recipes: Mapping[str, Recipe] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    workspace: Workspace = Workspace(),
) -> Techniques:
    """Retrain every arm of each technique for as many epochs, from the same dense network.

    `recipes`, technique -> recipe, says which are tried on what (default: `technique_recipes`). The
    arms of a technique have data, seed, final density and number of epochs in common, and the
    control, the dense network trained on. But for "schedule" and "freezing" they prune once, to
    the densities of the recipe's last round. No arm is chosen by its result, so each network is
    measured on the test split, once. Each seed is compared with itself (`evaluation.pooled`).
    """
    recipes = technique_recipes(splits.name) if recipes is None else recipes
    for technique, recipe in recipes.items():
        if technique not in ARMS or not recipe.rounds:
            there = f"a recipe with rounds for any of {', '.join(ARMS)}"
            raise ValueError(f"got {technique!r} with {len(recipe.rounds)} rounds; give {there}")
    if workspace.folder is None:  # techniques share networks
        with TemporaryDirectory() as folder:
            own = replace(workspace, folder=Path(folder))
            return techniques(splits, recipes=recipes, seeds=seeds, workspace=own)
    rows = []
    for technique, recipe in recipes.items():
        trials = [_trial(technique, recipe, splits, seed, workspace) for seed in seeds]
        control, first, *others = zip(*trials, strict=True)
        for arm, answers in zip(ARMS[technique], (first, *others), strict=True):
            density = fmean(density for _, density in answers)
            error = fmean(accuracy.error for accuracy, _ in answers)
            lost, worse = (
                [drop(old, new) for (old, _), (new, _) in zip(before, answers, strict=True)]
                for before in (control, first)
            )
            about = technique, arm, recipe.network, density, len(trials), error, pooled(lost)
            difference = None if arm == ARMS[technique][0] else pooled(worse)
            rows.append(TechniqueRow(*about, tuple(d.value for d in lost), difference))
    return Techniques(rows)


def technique_recipes(data: str = "mnist", fraction: float = 1.0) -> dict[str, Recipe]:
    """LeNet-300-100 for every technique, with dropout where it is adjusted; LeNet-5 for freezing.

    They end at a fraction of the densities that the paper reports. LeNet-5's fully connected layers
    are pruned in a first round, its convolutions in a second.
    """
    recipes = {technique: paper_recipe("lenet-300-100", data) for technique in ARMS}
    recipes["dropout"] = paper_recipe("lenet-300-100", data, {"dropout": 0.5})
    recipes["freezing"] = paper_recipe("lenet-5", data)
    for technique, recipe in recipes.items():
        final = {n: fraction * density for n, density in recipe.rounds[-1]["density"].items()}
        changed = {"rounds": down_to(final, len(recipe.rounds)), "scan": recipe.scan[-1:]}
        if technique == "freezing":
            fc, conv = ({n: final[n] for n in final if n.startswith(k)} for k in ("fc", "conv"))
            half = replace(recipe.retrain[-1], epochs=recipe.retrain[-1].epochs // 2)
            changed |= {"rounds": ({"density": fc}, {"density": conv}), "retrain": (half, half)}
            changed |= {"freeze": (tuple(conv), tuple(fc))}
        recipes[technique] = replace(recipe, **changed)
    return recipes


def _trial(
    technique: str, recipe: Recipe, splits: Splits, seed: int, workspace: Workspace
) -> Iterator[tuple[Accuracy, float]]:
    """Accuracy on test and density of the control, then of every arm."""
    base, epochs = recipe, sum(config.epochs for config in recipe.retrain)
    if technique != "freezing":
        retrain = (replace(recipe.retrain[-1], epochs=epochs),)
        base = replace(recipe, rounds=recipe.rounds[-1:], retrain=retrain, freeze=())
    run = workspace.run(base, splits, seed=seed)
    base, recipe = base.seeded(seed), recipe.seeded(seed)
    what = {"base": base, "recipe": recipe, "seed": seed, "train": splits.train.fingerprint()}
    for arm in ("control", *ARMS[technique]):
        model = run.control if arm == "control" else run.model
        if retrain := _retrainings(base, recipe, run.dense).get(arm):
            model, note = copy.deepcopy(run.dense), partial(Note, f"{technique}: {arm}")
            watch = {"on_epoch": lambda epoch, note=note: workspace.notify(note(epoch=epoch))}
            train = partial(retrain, model, splits.train, **watch)
            what["arm"] = arm
            model = workspace.network(what, model, lambda at, train=train: train(checkpoints=at))
        yield evaluate(model, splits.test), masks.Mask.of(model).density


def _retrainings(base: Recipe, recipe: Recipe, dense: nn.Module) -> dict[str, Callable]:
    """Arm -> its retraining, a function of the network and the images, where `base` is not it."""
    config, amounts = base.retrain[0], base.rounds[0]
    own = [replace(config, epochs=each.epochs, seed=each.seed) for each in recipe.retrain]
    mask, layers = masks.prune(dense, **amounts), masks.prunable(dense)
    size = torch.cat([layers[name].weight[mask[name]] for name in mask]).abs().mean().item()
    l1 = size * config.weight_decay  # pulls the mean survivor as strongly as the L2 does
    chances = {**amounts, "saliency": criteria.probabilistic(config.seed)}
    same = partial(retraining.iterative, config=base.retrain, rounds=base.rounds)
    return {
        "re-initialised": partial(same, reinitialise=partial(models.build, base.about)),
        "iterative": partial(same, config=own, rounds=recipe.rounds),
        "gradual": partial(retraining.gradual, config=config, **amounts),
        "L1": partial(same, config=replace(config, weight_decay=0.0, l1=l1)),
        "probabilistic": partial(same, rounds=[chances]),
        "not adjusted": partial(same, adjust_dropout=False),
        "none": same,
    }
