"""The paper's Tables 1 to 5 as rows: each of its numbers beside ours, over one or more seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import ClassVar

from tabulate import tabulate

from pruning_lab import models, paper
from pruning_lab.counts import LayerCount
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, change, pooled
from pruning_lab.experiments.recipes import REDUCED, Recipe, paper_recipe
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.rows import Rows, counted

Cells = list[tuple[str, ...]]  # a table in text; the first row is the header


@dataclass(frozen=True)
class NetworkRow:
    """A network of Table 1, on the test split; over all runs, which differ in their seeds."""

    network: str
    data: str
    runs: int
    accuracy: dict[str, Accuracy]  # of "dense", "pruned" and "control"
    drop: dict[str, Drop]  # from "dense" and from "control" to the pruned network
    parameters: dict[str, int | None]  # of "dense", "pruned" and, without dead neurons, "alive"
    total: LayerCount  # of the pruned network, biases not counted
    theirs: paper.Result | None

    @property
    def cells(self) -> Cells:
        """The line of Table 1 on its side: paper | ours | 95 % interval."""
        changes = {name: change_of(drop) for name, drop in self.drop.items()}
        paired = {n: (points, f"{interval}, paired") for n, (points, interval) in changes.items()}
        control = self.accuracy.get("control")
        before, left, total = self.parameters["dense"], self.parameters["pruned"], self.total
        alive = self.parameters["alive"]
        ours = [
            ("error, dense", *error_of(self.accuracy["dense"])),
            ("error, pruned", *error_of(self.accuracy["pruned"])),
            ("change of accuracy, points", *paired["dense"]),
            ("error, control", *(error_of(control) if control else ("", "none"))),
            ("change against the control", *paired.get("control", ("", ""))),
            ("parameters, dense", f"{before:,}", ""),
            ("parameters, pruned", f"{left:,}", ""),
            ("compression, all parameters", f"{before / left:.1f}x", ""),
            ("compression, weights only", f"{total.weights / max(total.kept, 1):.1f}x", ""),
            ("compression, no dead neurons", f"{before / alive:.1f}x" if alive else "", ""),
        ]
        run = "this run" if self.runs == 1 else f"{self.runs} runs"
        if (theirs := self.theirs) is None:
            return [("", run, "95 % interval"), *ours]
        # Numbers on other images are never shown as if they were on the same.
        source = images_of(self.network)
        names = ("", "") if self.data == source else (f", {source}", f", {self.data}")
        errors = f"{theirs.dense_error:.2%}", f"{theirs.error:.2%}"
        sizes = short(theirs.dense_parameters), short(theirs.parameters)
        lost, rate = change(theirs.error - theirs.dense_error), f"{theirs.compression}x"
        reported = (*errors, lost, "", "", *sizes, rate, "", "")
        lines = [(row[0], cell, *row[1:]) for row, cell in zip(ours, reported, strict=True)]
        return [("", f"paper{names[0]}", f"{run}{names[1]}", "95 % interval"), *lines]


class NetworkTable(Rows[NetworkRow]):
    """Table 1, a row for each network."""

    def __str__(self) -> str:
        return "\n\n".join(f"Table 1: {row.network}\n{aligned(row.cells)}" for row in self)


@dataclass(frozen=True)
class LayerRow:
    """A layer of Tables 2-5, or the total; biases are not counted."""

    layer: str
    ours: LayerCount  # over all runs
    theirs: paper.LayerRow | None


class LayerTable(Rows[LayerRow]):
    """One of Tables 2-5: each column of the paper, and ours beside it; `caption` says of what."""

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "weights\npaper": lambda row: _theirs(row, "weights"),
        "weights\nours": lambda row: f"{row.ours.weights:,}",
        "FLOP\npaper": lambda row: _theirs(row, "flops"),
        "FLOP\nours": lambda row: f"{row.ours.flops:,}",
        "act%\npaper": lambda row: _theirs(row, "activation_density"),
        "act%\nours": lambda row: f"{row.ours.activation_density or 0:.1%}",
        "weights%\npaper": lambda row: _theirs(row, "density"),
        "weights%\nours": lambda row: f"{row.ours.density:.1%}",
        "FLOP%\npaper": lambda row: _theirs(row, "flop_density"),
        "FLOP%\nours": lambda row: f"{row.ours.flop_density:.1%}",
    }
    caption: str = ""

    @property
    def cells(self) -> Cells:
        """The table in text, without columns that are empty."""
        lines = [tuple(cell(row) for cell in self.columns.values()) for row in self]
        columns = [column for column in zip(self.columns, *lines, strict=True) if any(column[1:])]
        return list(zip(*columns, strict=True))

    def __str__(self) -> str:
        return aligned(self.cells)


def network_row(records: Sequence[dict]) -> NetworkRow:
    """The row of Table 1 for the records of one recipe with several seeds."""
    first, tests = records[0], [record["test"] for record in records]
    there = [name for name in ("dense", "pruned", "control") if all(test[name] for test in tests)]
    found = {name: [Accuracy(**test[name]) for test in tests] for name in there}
    drops = {"dense": "drop", "control": "control_drop"}
    drops = {n: [Drop(**test[key]) for test in tests] for n, key in drops.items() if n in there}
    return NetworkRow(
        network=described(first["recipe"]["network"], first["recipe"].get("shape")),
        data=first["data"]["name"],
        runs=len(records),
        accuracy={name: together(each) for name, each in found.items()},
        drop={name: pooled(each) for name, each in drops.items()},
        parameters=_means([record["parameters"] for record in records]),
        total=LayerCount(**_means([record["layers"]["pruned"][-1] for record in records])),
        theirs=paper.TABLE_1.get(first["recipe"]["network"]),
    )


def layer_table(records: Sequence[dict]) -> LayerTable:
    """The rows of Tables 2-5 for the records of one recipe with several seeds."""
    recipe, data = records[0]["recipe"], records[0]["data"]["name"]
    network = recipe["network"]
    theirs = {row.layer: row for row in paper.LAYER_TABLES.get(network, ())}
    each = zip(*(record["layers"]["pruned"] for record in records), strict=True)
    counts = [LayerCount(**_means(rows)) for rows in each]
    number = f"Table {paper.TABLE_NUMBERS[network]}: " if theirs else ""
    what = f"{described(network, recipe.get('shape'))} on {data}"
    return LayerTable(
        (LayerRow(row.layer, row, theirs.get(row.layer)) for row in counts),
        caption=f"{number}{what}, {counted(len(records), 'run')}; biases not counted",
    )


def table_1(
    splits: Mapping[str, Splits],
    recipes: Mapping[str, Recipe] = {},
    *,
    seeds: Sequence[int] = (0, 1, 2),
    workspace: Workspace = Workspace(),
    **options,
) -> NetworkTable:
    """Table 1, a row for each network in `splits`; its recipe is in `recipes`, or `recipe_for`'s.

    `options` are those of `Workspace.run`.
    """
    return NetworkTable(
        network_row(_records(network, own, recipes.get(network), seeds, workspace, options))
        for network, own in splits.items()
    )


def layers(
    network: str,
    splits: Splits,
    recipe: Recipe | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    workspace: Workspace = Workspace(),
    **options,
) -> LayerTable:
    """Layer by layer: one of Tables 2-5, or that of another network by its recipe."""
    return layer_table(_records(network, splits, recipe, seeds, workspace, options))


table_2, table_3, table_4, table_5 = (partial(layers, network) for network in paper.TABLE_NUMBERS)


def recipe_for(network: str, splits: Splits) -> Recipe:
    """The recipe of one of the paper's networks; AlexNet and VGG-16 of reduced width."""
    if network not in REDUCED:
        return paper_recipe(network, splits.name)
    parts = (splits.train, splits.val, splits.test)
    classes = 1 + max(int(part.labels.max()) for part in parts)
    shape = {"size": splits.train.shape[-1], "classes": classes}
    return paper_recipe(network, splits.name, REDUCED[network] | shape)


def _records(network, splits, recipe, seeds, workspace, options) -> list[dict]:
    recipe = recipe or recipe_for(network, splits)
    return [workspace.run(recipe, splits, seed=seed, **options).record for seed in seeds]


def together(found: Sequence[Accuracy]) -> Accuracy:
    """The accuracy over all images of several, as `evaluation.pooled` is the drop."""
    return Accuracy.counted(sum(round(a.value * a.n) for a in found), sum(a.n for a in found))


def _means(each: Sequence[dict]) -> dict:
    """Field by field, of counts whole numbers; what is the same in all stays as it is."""
    columns = {name: [one[name] for one in each] for name in each[0]}
    means = {name: fmean(values) for name, values in columns.items() if len({*values}) > 1}
    return each[0] | {n: round(m) if isinstance(each[0][n], int) else m for n, m in means.items()}


def described(network: str, shape: Mapping | None = None) -> str:
    """A network as the paper calls it, unless it has another shape than the paper's."""
    if shape and network in models.BUILT_IN:
        return models.describe({"network": network, **shape})
    return paper.TABLE_1[network].network if network in paper.TABLE_1 else network


def images_of(network: str) -> str:
    """The data set on which the paper has a network."""
    return "mnist" if network.lower().startswith("lenet") else "imagenet"


def aligned(cells: Cells) -> str:
    """For a terminal: the first column to the left, numbers to the right."""
    align = ("left", *["right"] * (len(cells[0]) - 1))
    return tabulate(cells[1:], cells[0], colalign=align, disable_numparse=True)


def error_of(accuracy: Accuracy) -> tuple[str, str]:
    """An error and its interval: that of the accuracy, turned round."""
    return f"{accuracy.error:.2%}", f"{1 - accuracy.high:.2%} to {1 - accuracy.low:.2%}"


def change_of(drop: Drop) -> tuple[str, str]:
    """A change of accuracy and its interval, in points; a loss is negative."""
    return change(drop.value), f"{change(drop.high)} to {change(drop.low)}"


def _theirs(row: LayerRow, name: str) -> str:
    if row.theirs is None:
        return ""
    value = getattr(row.theirs, name)
    return f"{100 * value:.3g}%" if "density" in name else short(value)


def short(count: float) -> str:
    """A count as the paper prints it: 22K, 6.7M, 3.7B."""
    scale, letter = (1e9, "B") if count >= 1e9 else (1e6, "M") if count >= 1e6 else (1e3, "K")
    return f"{count / scale:g}{letter}"
