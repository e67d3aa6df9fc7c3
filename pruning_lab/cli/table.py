"""`pruning-lab table`: one of the paper's tables, its numbers beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import pruning_lab as lab
from pruning_lab.cli import common, outputs
from pruning_lab.cli.run import Goal, recipe_for, watching
from pruning_lab.cli.train import Shape, prepare

NETWORKS = {n: (name,) for n, name in enumerate(common.RECIPES, start=2)}  # of a table
NETWORKS |= {1: common.RECIPES, 6: ("alexnet",)}
RUNS = Path("runs")
_SEEDS = "Number of random seeds, from 0 on; each is a run of its own."
Seeds = Annotated[int, common.number(1, 1000), Parameter(help=_SEEDS)]
_MODEL = (
    "lenet-300-100, lenet-5, alexnet, vgg-16 (default: as in the paper), or package.module:name."
)


def table(
    number: Annotated[int, common.number(1, 6)],
    *,
    model: Annotated[
        list[str] | None, common.MANY, Parameter(group=common.NETWORK, help=_MODEL)
    ] = None,
    shape: Shape = Shape(),
    images: common.Images = common.Images(),
    seeds: Seeds = 1,
    out: Annotated[str | None, common.File("table"), common.FILE] = None,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Show one of the paper's tables, its numbers beside ours (uses the test images).

    Runs are kept in runs/: what is there already is not done again, and what was interrupted
    continues. AlexNet and VGG-16 are of reduced width unless a GPU is there.

    example:
      pruning-lab table 3
      pruning-lab table 1 --model lenet-300-100 lenet-5 --seeds 5 --out table-1.json

    Args:
        number: 1 (accuracy and compression), 2-5 (layer by layer) or 6 (other methods).
        model: A network, or several for table 1.
        out: File for the rows, as JSON (default: runs/paper/table-NUMBER.json, made again).
    """
    import torch

    path = Path(out or lab.experiments.results.FOLDER / f"table-{number}.json")
    outputs.check_file("--out", path, "table", replace=output.force or not out)
    names = model or NETWORKS[number]
    if number != 1 and len(names) > 1:
        raise ValueError(f"table {number} is of one network, got {' '.join(names)}")
    made, trained, threads = [], [], torch.get_num_threads()
    for name in names:
        torch.set_num_threads(threads)  # LeNet-300-100 has set it to one
        recipe, splits = recipe_of(name, shape, images, output)
        made.append(_rows(number, name, recipe, splits, range(seeds), output))
        trained.append(lab.experiments.Trained(recipe, splits.name))
    rows = type(made[0])((row for each in made for row in each), **vars(made[0]))
    result = lab.experiments.Result.of(
        f"table-{number}", rows, trained, range(seeds), images.where(), output.command
    )
    lab.files.save_json(path, result.record)
    text = f"\n{result.caption}\n{rows}" if result.caption else f"\n{rows}"
    output.show(result.record, f"{text}\n\nwrote {path}")


def _rows(number: int, name: str, recipe, splits, seeds: range, output) -> lab.rows.Rows:
    with watching(len(seeds) * recipe.total_epochs(), output) as notify:
        workspace = lab.experiments.Workspace(RUNS, notify)
        options = {"seeds": seeds, "workspace": workspace}
        if number == 6:
            return lab.experiments.table_6(splits, recipe, **options)
        options |= {"build": common.build, "load": common.Network(model=name).load}
        if number == 1:
            return lab.experiments.table_1({name: splits}, {name: recipe}, **options)
        return lab.experiments.tables.layers(name, splits, recipe, **options)


def recipe_of(name: str, shape: Shape, images: common.Images, output: common.Output) -> tuple:
    """A network's recipe, as `pruning-lab run` has it, and the images."""
    _, about, splits = prepare(shape.about(name, images), 0, images, output)
    return recipe_for(Goal(), about, splits), splits
