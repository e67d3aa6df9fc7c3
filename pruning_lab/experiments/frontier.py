"""The frontier: what pruning costs against the control, over the compression."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from pruning_lab.data import Splits
from pruning_lab.evaluation import Drop, pooled
from pruning_lab.experiments.recipes import Recipe
from pruning_lab.experiments.workspace import Workspace
from pruning_lab.rows import Rows


@dataclass(frozen=True)
class FrontierRow:
    """One recipe with several seeds, on test images that every run used once."""

    network: str
    data: str
    augmented: bool  # whether the training images were shifted, mirrored or cropped
    seeds: int
    kept: float  # weights, mean over the seeds
    compression: float  # weights before / after
    parameter_compression: float  # with the biases, which are never pruned
    alive_compression: float | None  # where dead neurons, with their biases, count as gone
    dense_error: float  # means over the seeds
    control_error: float
    error: float
    drop: Drop  # from the dense network, pooled over the seeds
    cost: Drop  # from the control, pooled over the seeds
    costs: tuple[float, ...]  # of each seed

    @property
    def is_free(self) -> bool:
        """Whether the interval of the cost includes zero, or lies on the better side."""
        return self.cost.low <= 0


class Frontier(Rows[FrontierRow]):
    """A row per recipe; costs are changes of accuracy in points, so that a loss is negative."""

    columns: ClassVar = {
        "network": lambda row: row.network,
        "images": lambda row: f"{row.data}, {'augmented' if row.augmented else 'as they are'}",
        "seeds": lambda row: str(row.seeds),
        "compression,\nweights": lambda row: f"{row.compression:.1f}x",
        "all\nparameters": lambda row: f"{row.parameter_compression:.1f}x",
        "without dead\nneurons": lambda row: f"{c:.1f}x" if (c := row.alive_compression) else "",
        "weights\nleft": lambda row: f"{row.kept:,.0f}",
        "error,\ndense": lambda row: f"{row.dense_error:.2%}",
        "control": lambda row: f"{row.control_error:.2%}",
        "pruned": lambda row: f"{row.error:.2%}",
        "change from\nthe dense": lambda row: row.drop.brief,
        "change from\nthe control": lambda row: row.cost.brief,
    }

    def free(self, network: str, *, augmented: bool = True) -> FrontierRow | None:
        """The row of a network with the largest compression that costs no accuracy, or None.

        No loss is said against the control: the interval of the cost includes zero, or lies on the
        better side. Recipes differ in how long they train, so a smaller compression may cost more.
        """
        found = [row for row in self if (row.network, row.augmented) == (network, augmented)]
        free = (row for row in found if row.is_free)
        return max(free, key=lambda row: row.compression, default=None)


def frontier(
    recipes: Iterable[Recipe],
    splits: Splits,
    *,
    seeds: Sequence[int] = range(5),
    workspace: Workspace = Workspace(),
) -> Frontier:
    """Carry out each recipe with each seed, control included: a row per recipe.

    Recipes with the same dense network and the same retraining have one control for each seed.
    """
    rows = []
    for recipe in recipes:
        runs = (workspace.run(recipe, splits, seed=seed) for seed in seeds)
        rows.append(row_of([run.record for run in runs]))
    return Frontier(rows)


def row_of(records: Sequence[Mapping]) -> FrontierRow:
    """The row of a recipe's records, one for each seed."""
    tests = [record["test"] for record in records]
    totals = [record["layers"]["pruned"][-1] for record in records]
    kept = fmean(total["kept"] for total in totals)
    recipe, parameters = records[0]["recipe"], [record["parameters"] for record in records]
    before = parameters[0]["dense"]
    alive = [counted["alive"] for counted in parameters]
    costs = [Drop(**test["control_drop"]) for test in tests]
    return FrontierRow(
        network=recipe["network"],
        data=records[0]["data"]["name"],
        augmented=is_augmented(recipe["dense"]),
        seeds=len(records),
        kept=kept,
        compression=totals[0]["weights"] / kept,
        parameter_compression=before / fmean(counted["pruned"] for counted in parameters),
        alive_compression=None if None in alive else before / fmean(alive),
        dense_error=fmean(1 - test["dense"]["value"] for test in tests),
        control_error=fmean(1 - test["control"]["value"] for test in tests),
        error=fmean(1 - test["pruned"]["value"] for test in tests),
        drop=pooled([Drop(**test["drop"]) for test in tests]),
        cost=pooled(costs),
        costs=tuple(cost.value for cost in costs),
    )


def is_augmented(dense: Mapping) -> bool:
    """Whether a training, as a record has it, changed its images at random."""
    return bool(dense["shift"] or dense["flip"] or dense["crop"] < 1 or dense["colour"])
