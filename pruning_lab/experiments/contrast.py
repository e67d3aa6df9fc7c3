"""The contrast: single weights pruned, or whole neurons removed, of the same dense network."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import truediv
from statistics import fmean, median
from time import perf_counter
from typing import ClassVar

import torch
from torch import nn

from pruning_lab import counts, neurons, retraining, storage
from pruning_lab.data import Images, Splits
from pruning_lab.evaluation import Drop, drop, evaluate, pooled
from pruning_lab.experiments.recipes import Recipe, compressed_recipe
from pruning_lab.experiments.running import Note
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.layers import prunable
from pruning_lab.rows import Rows

METHODS = ("weights pruned", "neurons removed")
BATCHES = (1, 64)  # images
_STEPS, _REPEATS = 1000, 101  # of a fraction of neurons; of a forward pass


@dataclass(frozen=True)
class ContrastRow:
    """One network: of one seed, or of several together. Accuracy is that of test."""

    method: str
    network: str
    seeds: int
    compression: float  # all parameters, before / after
    size: float  # bytes: "ours" of `storage.sizes` where weights are pruned, else dense float32
    error: float
    drop: Drop  # from the control; of several seeds pooled
    drops: tuple[float, ...]  # of each seed
    difference: Drop | None  # from the network with weights pruned; None for that one
    milliseconds: tuple[float, ...]  # median of a forward pass, for each of `BATCHES`
    speedup: tuple[float, ...]  # the control's time / this one's


class Contrast(Rows[ContrastRow]):
    """Two rows per compression, weights first; `conclusions` says how they differ."""

    columns: ClassVar = {
        "method": lambda row: row.method,
        "compression": lambda row: f"{row.compression:.1f}x",
        "bytes": lambda row: f"{row.size:,.0f}",
        "seeds": lambda row: row.seeds,
        "test error": lambda row: f"{row.error:.2%}",
        "change from the control": lambda row: row.drop,
        "from weights pruned": lambda row: row.difference or "",
        "ms, batches of 1 / 64": lambda row: " / ".join(f"{ms:.3f}" for ms in row.milliseconds),
        "speedup": lambda row: " / ".join(f"{factor:.1f}x" for factor in row.speedup),
    }

    @property
    def conclusions(self) -> list[str]:
        """A sentence per compression, whichever way it came out."""
        return [
            f"At {pruned.compression:.1f}x, neurons removed instead of weights: "
            f"{removed.difference.conclusion}, {removed.difference}; a single image "
            f"{removed.speedup[0]:.1f}x as fast as dense instead of {pruned.speedup[0]:.1f}x."
            for pruned, removed in zip(self[::2], self[1::2], strict=True)
        ]


def contrast(
    splits: Splits,
    *,
    recipes: Sequence[Recipe] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    workspace: Workspace = Workspace(),
    **options,
) -> Contrast:
    """Prune weights by each recipe, and remove neurons down to as many parameters.

    Both start from one dense network and have one control. Where a round of the recipe prunes
    weights, as many parameters go with the smallest neurons, the same fraction of every layer
    (`neurons.remove_smallest`), and the smaller dense network is retrained as that round says, with
    its dropout as it is. Nothing is chosen by results: each network is measured on test, once. Both
    run as dense networks, the pruned one without its dead neurons, in turn with the control.

    By default LeNet-300-100 at four compressions; any chain will do. `options` are those of
    `Workspace.run`; with a folder, recipes that retrain alike train one control. One honest
    comparison, not a library for structured pruning: for that see Torch-Pruning.
    """
    if recipes is None:
        factors = (4, 10, 20, 40)
        recipes = [compressed_recipe("lenet-300-100", x, splits.name) for x in factors]
    rows = []
    for recipe in recipes:
        found = []
        for seed in seeds:
            what = {"contrast": METHODS, "recipe": recipe, "seed": seed}
            what |= {"train": splits.train.fingerprint()}
            measure = partial(_of_seed, recipe, splits, workspace, what, options)
            found.append(workspace.measured(what, list[ContrastRow], measure))
        rows += [_together(of_method) for of_method in zip(*found, strict=True)]
    return Contrast(rows)


def narrowed(model: nn.Sequential, parameters: int) -> nn.Sequential:
    """The chain without its smallest neurons, of at most `parameters`, or as small as it gets."""

    def size(step: int) -> int:
        return counts.parameters(neurons.remove_smallest(model, step / _STEPS)).total

    step = bisect_right(range(1, _STEPS + 1), parameters, key=size)
    return neurons.remove_smallest(model, step / _STEPS)


def _of_seed(
    recipe: Recipe, splits: Splits, workspace: Workspace, what: dict, options: dict
) -> list[ContrastRow]:
    """Both rows of one seed; `what` names the measurement."""
    run, seed = workspace.run(recipe, splits, seed=what["seed"], **options), what["seed"]
    networks = run.control, neurons.remove(run.model)[0], run.dense
    control, pruned, small = (network.to(splits.train.device) for network in networks)
    total = counts.parameters(control).total
    cuts = [row for row in run.record["stages"] if row["kind"] == "cut"]
    retrain, freeze = recipe.seeded(seed).retrain, recipe.freeze or [()] * len(cuts)
    for number, (cut, config, names) in enumerate(zip(cuts, retrain, freeze, strict=True)):
        small = narrowed(small, total - cut["weights"] + cut["kept"])
        how = {"amounts": {"density": 1.0}, "freeze": names}
        how["on_epoch"] = lambda epoch: workspace.notify(Note(METHODS[1], epoch=epoch))
        train = partial(retraining.once, small, splits.train, config, **how)
        key = {**what, "round": number}
        small = workspace.network(key, small, lambda at, train=train: train(checkpoints=at))
    before, *answers = (evaluate(each, splits.test) for each in (control, pruned, small))
    dense, *times = _milliseconds((control, pruned, small), splits.test.head(max(BATCHES)))
    rows = []
    for method, model, accuracy, own in zip(METHODS, (pruned, small), answers, times, strict=True):
        size, left = 4 * counts.parameters(model).total, counts.parameters(model).kept
        if not rows:
            weights = [layer.weight.detach() for layer in prunable(model).values()]
            size += sum(storage.sizes(weight)["ours"] - 4 * weight.numel() for weight in weights)
        lost, speedup = drop(before, accuracy), tuple(map(truediv, dense, own))
        row = method, recipe.network, 1, total / left, size, accuracy.error, lost, (lost.value,)
        difference = drop(answers[0], accuracy) if rows else None
        rows.append(ContrastRow(*row, difference, own, speedup))
    return rows


def _milliseconds(networks: Sequence[nn.Module], images: Images) -> list[tuple[float, ...]]:
    """Each network's median time of a forward pass for every size of a batch; all in turn."""
    x, medians = torch.cat([x for x, _ in images]), []
    for batch in BATCHES:
        times = [[] for _ in networks]
        with torch.inference_mode():
            for network, own in _REPEATS * [*zip(networks, times, strict=True)]:
                began = perf_counter()
                network.eval()(x[:batch]).cpu()  # waits for a GPU
                own.append(1e3 * (perf_counter() - began))
        medians.append([median(own) for own in times])
    return list(zip(*medians, strict=True))


def _together(rows: Sequence[ContrastRow]) -> ContrastRow:
    """The row of all seeds: means, of times medians; each answer to an image counts as one."""
    columns = {name: [getattr(row, name) for row in rows] for name in vars(rows[0])}
    values = {name: fmean(columns[name]) for name in ("compression", "size", "error")}
    for name in ("milliseconds", "speedup"):
        values[name] = tuple(map(median, zip(*columns[name], strict=True)))
    for name in ("drop", "difference"):
        values[name] = pooled(columns[name]) if getattr(rows[0], name) else None
    drops = tuple(drop.value for drop in columns["drop"])
    return replace(rows[0], seeds=len(rows), drops=drops, **values)
