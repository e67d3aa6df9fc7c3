"""Table 6: other ways to a smaller network, at as many parameters as pruning leaves.

A narrower dense network, low-rank factors (SVD) and merged neurons are built and measured; what
others reported of AlexNet on ImageNet is quoted from the paper.
"""

import copy
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruning_lab import counts, models, paper, retraining
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, pooled
from pruning_lab.experiments.recipes import REDUCED, Recipe, paper_recipe
from pruning_lab.experiments.running import Note
from pruning_lab.experiments.tables import together
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.layers import seeded, unknown_layer
from pruning_lab.rows import Rows
from pruning_lab.training import TrainConfig

_STEPS = 100_000  # of the width
_ALONE = nn.ReLU, nn.Dropout  # they treat each neuron alone
_LEAST = 1e-300  # in place of 0, where 0 / 0 or 0 * inf would be NaN


def naive_cut(network: str, parameters: int, shape: Mapping | None = None) -> dict:
    """`shape` with the largest `width` (5 digits) for a dense network of at most `parameters`.

    Raises ValueError where the narrowest network has more.

    >>> naive_cut("lenet-300-100", 22_000)
    {'width': 0.09166}
    """
    shape = dict(shape or {})

    def size(number: int) -> int:
        with torch.device("meta"):  # sizes alone
            return _size(models.build({"network": network, **shape, "width": number / _STEPS}))

    numbers = range(1, 1 + round(_STEPS * shape.get("width", 1)))
    if not (number := bisect_right(numbers, parameters, key=size)):
        raise ValueError(
            f"the narrowest {network} has {size(1):,} parameters; give as many or more, "
            f"not {parameters:,}"
        )
    return {**shape, "width": number / _STEPS}


def svd(
    model: nn.Sequential, ranks: Mapping[str, int] | None = None, *, parameters: int | None = None
) -> nn.Sequential:
    """A chain with each named fully connected layer as two, of r * (in + out) + out parameters.

    `fc1` becomes `fc1_in` (r, in), without a bias, and `fc1_out` (out, r): the best approximation
    of rank r (Denton et al. 2014, who factor convolutions too; here they stay). With `parameters`
    the ranks are those of `choose_ranks`.
    """
    layers, chain = _linear(model), nn.Sequential()
    ranks = choose_ranks(model, parameters) if ranks is None else ranks
    if unknown := ranks.keys() - layers.keys():
        raise KeyError(unknown_layer(min(unknown), layers))
    for name, layer in copy.deepcopy(model).named_children():
        if (r := ranks.get(name)) is None:
            chain.add_module(name, layer)
            continue
        if not 1 <= r <= (most := min(layer.weight.shape)):
            raise ValueError(f"the rank of {name} must be 1 to {most}, got {r}")
        u, s, v = torch.linalg.svd(layer.weight.detach().cpu().double(), full_matrices=False)
        root = s[:r].sqrt()  # for both, so that both train alike
        first = _filled(copy.deepcopy(layer), root[:, None] * v[:r], None)
        chain.add_module(f"{name}_in", first)
        chain.add_module(f"{name}_out", _filled(layer, u[:, :r] * root, layer.bias))
    return chain.train(model.training)


def choose_ranks(model: nn.Sequential, parameters: int) -> dict[str, int]:
    """Ranks for `svd` with at most `parameters` in all, greedily by energy per parameter.

    The energy of a rank is its singular value squared, as a fraction of its layer's sum, so that
    scaling a ReLU layer up and the next one down changes nothing. Each layer begins at rank 1, also
    where that alone takes more than `parameters`. A layer that its rank would not make smaller
    stays dense, and is not named.
    """
    layers, ranks, gains = _linear(model), {}, []

    def cost(name: str) -> int:
        weight = layers[name].weight
        return min(ranks[name] * sum(weight.shape), weight.numel())

    for name, layer in layers.items():
        ranks[name], weight = 1, layer.weight.detach().cpu().double()
        energy = torch.linalg.svdvals(weight).square()
        energy /= energy.sum().clamp(min=_LEAST) * sum(weight.shape)
        gains += [(gain, name) for gain in energy[1:].tolist()]
    left = parameters - _size(model) + sum(w.weight.numel() - cost(n) for n, w in layers.items())
    for _, name in sorted(gains, reverse=True):
        ranks[name], before = ranks[name] + 1, cost(name)
        if (added := cost(name) - before) <= left:
            left -= added
        else:
            ranks[name] -= 1
    return {name: r for name, r in ranks.items() if cost(name) < layers[name].weight.numel()}


def merge_neurons(
    model: nn.Sequential, count: int | None = None, *, parameters: int | None = None
) -> nn.Sequential:
    """A chain with `count` neurons fewer: of two similar ones, one takes the other's outputs.

    Data-free (Srinivas and Babu 2015): neuron j joins i where mean(a_j^2) * ||w_i - w_j||^2 is
    least, with w the incoming weights and bias, a the outgoing weights; then a_i += a_j. Neurons
    of a fully connected layer can merge where it feeds another one through ReLU and dropout alone.
    The layer that keeps the largest fraction of its neurons gives the next one, and each keeps one;
    with `parameters`, until at most so many are left. The first layer's neurons merge first.
    """
    chain = copy.deepcopy(model)
    layers, gone = _linear(chain), dict.fromkeys(feeds := _feeds(chain), 0)
    fed_by = {after: name for name, after in feeds.items()}
    surplus = 0 if parameters is None else _size(chain) - parameters
    while feeds and (surplus > 0 or sum(gone.values()) < (count or 0)):
        name = min(feeds, key=lambda name: (gone[name] + 1) / layers[name].out_features)
        before, after = layers[name], layers[feeds[name]]
        if gone[name] + 1 == before.out_features:
            break  # one left everywhere
        surplus -= before.in_features - gone.get(fed_by.get(name), 0) + (before.bias is not None)
        surplus -= after.out_features - gone.get(feeds[name], 0)
        gone[name] += 1
    for name, after in feeds.items():
        _merge_(layers[name], layers[after], gone[name])
    return chain


@dataclass(frozen=True)
class Rival:
    """A network of Table 6; one without an accuracy is quoted from the paper."""

    method: str
    error: float  # top 1, on test
    parameters: int  # with biases, without zero weights
    compression: float  # all parameters of the dense network over these
    accuracy: Accuracy | None = None
    drop: Drop | None = None  # from the control, on the same images
    to_pruned: Drop | None = None  # from this network to the pruned one, on the same images
    note: str = ""


class Table6(Rows[Rival]):
    """The rows measured here, then the paper's; `caption` says of which network and images."""

    caption: str = ""
    columns: ClassVar = {
        "method": lambda row: row.method,
        "error": lambda row: f"{row.error:.2%}",
        "95 %": lambda row: f"{1 - a.high:.2%} to {1 - a.low:.2%}" if (a := row.accuracy) else "",
        "against the control": lambda row: row.drop or "",
        "parameters": lambda row: f"{row.parameters:,}",
        "compression": lambda row: f"{row.compression:.1f}×",
        "note": lambda row: row.note,
    }


def table_6(
    splits: Splits,
    recipe: Recipe | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    workspace: Workspace = Workspace(),
) -> Table6:
    """Every rival at the parameters that pruning leaves, or as close as it gets, on test.

    SVD and merging start from the dense network that is pruned and are retrained as the control is;
    the naive cut is trained from the start for all epochs together. They keep the dropout that
    retraining lowers for the pruned network. By default LeNet-300-100 on grey images, else the
    reduced AlexNet, for `data.load("imagenette", size=64)`.
    """
    if recipe is None and splits.train.shape[0] == 1:
        recipe = paper_recipe("lenet-300-100", splits.name)
    elif recipe is None:
        own = {"size": splits.train.shape[-1], "classes": 1 + int(splits.train.labels.max())}
        recipe = paper_recipe("alexnet", splits.name, REDUCED["alexnet"] | own)
    about, each = {"table": 6, "recipe": recipe, "train": splits.train.fingerprint()}, []
    for seed in seeds:
        what = {**about, "seed": seed}
        measure = partial(_measured, recipe, splits, workspace, what)
        each.append(workspace.measured(what, list[Rival], measure))
    rows = [_together(rows) for rows in zip(*each, strict=True)]
    rows += [
        Rival(row.method, row.top1_error, round(row.parameters), row.compression, note="quoted")
        for row in paper.TABLE_6
    ]
    ours = f"{models.describe(recipe.about)}, {splits.name}, seeds {', '.join(map(str, seeds))}"
    return Table6(rows, caption=f"{ours}; quoted: AlexNet, ImageNet (the paper's Table 6)")


def _measured(recipe: Recipe, splits: Splits, workspace: Workspace, what: dict) -> list[Rival]:
    """The rows of one seed; `what` names the measurement."""
    seed, device = what["seed"], splits.train.device
    run, own = workspace.run(recipe, splits, seed=seed), recipe.seeded(seed)
    dense, control, pruned = (model.to(device) for model in (run.dense, run.control, run.model))
    budget = counts.parameters(pruned).kept
    shape = naive_cut(recipe.network, budget, recipe.shape)
    with seeded(seed, device):
        narrow = models.build({"network": recipe.network, **shape}).to(device)
    merged = merge_neurons(dense, parameters=budget)

    def trained(method: str, model: nn.Module, *configs: TrainConfig) -> nn.Module:
        def training(checkpoints: Path | None) -> Iterator[retraining.Stage]:
            how = {"on_epoch": lambda epoch: workspace.notify(Note(method, epoch=epoch))}
            how |= {"rounds": [{"density": 1.0}] * len(configs), "checkpoints": checkpoints}
            return retraining.iterative(model, splits.train, configs, **how)

        return workspace.network({**what, "method": method}, model, training)

    networks = {
        "Baseline": dense,
        "Control": control,  # dense, trained on for as long
        "Naive cut": trained(
            "naive cut", narrow, replace(own.dense, epochs=own.total_epochs(control=False))
        ),
        "SVD": trained("SVD", svd(dense, parameters=budget), *own.retrain),
        "Data-free pruning": merged,
        "Data-free, retrained": trained("data-free", copy.deepcopy(merged), *own.retrain),
        "Network pruning": pruned,
    }
    found, rows = {name: evaluate(model, splits.test) for name, model in networks.items()}, []
    before, best = found["Control"], found["Network pruning"]
    for method, model in networks.items():
        after, size = found[method], counts.parameters(model).kept
        over = size > budget and model not in (dense, control)
        note = f"width {shape['width']:g}" if model is narrow else "as small as it gets" * over
        lost = None if model is control else drop(before, after)
        ours = None if model is pruned else drop(after, best)
        rows.append(Rival(method, after.error, size, _size(dense) / size, after, lost, ours, note))
    return rows


def _together(rows: Sequence[Rival]) -> Rival:
    """The row of all seeds: each network's answer to an image counts as one."""
    accuracy = together([row.accuracy for row in rows])
    return replace(
        rows[0],
        error=accuracy.error,
        parameters=round(sum(row.parameters for row in rows) / len(rows)),
        compression=sum(row.compression for row in rows) / len(rows),
        accuracy=accuracy,
        drop=rows[0].drop and pooled([row.drop for row in rows]),
        to_pruned=rows[0].to_pruned and pooled([row.to_pruned for row in rows]),
    )


def _linear(model: nn.Sequential) -> dict[str, nn.Linear]:
    """The fully connected layers of a chain by name."""
    if not isinstance(model, nn.Sequential):
        got = type(model).__name__
        raise ValueError(f"this needs a chain, nn.Sequential, got {got}; write its layers as one")
    return {name: layer for name, layer in model.named_children() if isinstance(layer, nn.Linear)}


def _feeds(model: nn.Sequential) -> dict[str, str]:
    """The fully connected layer that each one feeds through ReLU and dropout alone."""
    others = (pair for pair in model.named_children() if not isinstance(pair[1], _ALONE))
    return {
        name: after
        for (name, layer), (after, following) in pairwise(others)
        if isinstance(layer, nn.Linear) and isinstance(following, nn.Linear)
    }


def _merge_(before: nn.Linear, after: nn.Linear, count: int) -> None:
    """Merge `count` neurons of `before`, which feeds `after`."""
    incoming, outgoing = before.weight.detach().cpu().double(), after.weight.detach().cpu().double()
    if before.bias is not None:
        incoming = torch.cat([incoming, before.bias.detach().cpu().double()[:, None]], dim=1)
    apart = torch.cdist(incoming, incoming).square()
    saliency = apart.fill_diagonal_(math.inf) * outgoing.square().mean(0).clamp(min=_LEAST)
    kept = torch.ones(len(apart), dtype=torch.bool)
    for _ in range(count):
        i, j = divmod(int(saliency.argmin()), len(apart))
        outgoing[:, i] += outgoing[:, j]
        kept[j], apart[j], apart[:, j], saliency[:, j], saliency[j] = False, *4 * [math.inf]
        saliency[:, i] = apart[:, i] * outgoing[:, i].square().mean().clamp(min=_LEAST)
    _filled(before, before.weight[kept], None if before.bias is None else before.bias[kept])
    _filled(after, outgoing[:, kept], after.bias)


def _filled(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The layer itself, with a weight (out, in) of another shape and a bias."""
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach().to(layer.weight).contiguous())
    layer.bias = bias if bias is None else nn.Parameter(bias.detach())
    return layer


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
