"""`pruning-lab figure`: one of the paper's figures, of our networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common, outputs
from pruning_lab.cli.run import watching
from pruning_lab.cli.table import RUNS, Seeds, recipe_of
from pruning_lab.cli.train import Model, Shape

NETWORKS = {4: "lenet-300-100", 5: "lenet-300-100", 6: "alexnet", 7: "alexnet"}


def figure(
    number: Annotated[int, common.number(1, 7)],
    *,
    model: Model | None = None,
    shape: Shape = Shape(),
    images: common.Images = common.Images(),
    seeds: Seeds = 1,
    out: Annotated[str | None, common.File("picture"), common.FILE] = None,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Draw one of the paper's figures, and say what it shows.

    Runs are kept in runs/: what is there already is not done again, and what was interrupted
    continues.

    example:
      pruning-lab figure 5 --seeds 3
      pruning-lab figure 7 --model lenet-300-100 --out weights.png

    Args:
        number: 1 (energy), 4 (kept pixels), 5 (L1 and L2), 6 (sensitivity) or 7 (weights).
        model: A network, or your own function: package.module:function.
        out: File for the picture (default: figure-NUMBER.png).
    """
    if number in (2, 3):
        raise ValueError(f"figure {number} is a drawing of the method; there are 1, 4, 5, 6 and 7")
    if seeds > 1 and number != 5:
        raise ValueError(f"figure {number} is of one network; leave --seeds out")
    path = Path(out or f"figure-{number}.png")
    if path.suffix != ".png":
        raise ValueError(f"--out {path}: the picture is a PNG; name a file that ends in .png")
    outputs.check_file("--out", path, "picture", replace=output.force)
    name = model or NETWORKS.get(number)
    rows, run = _measured(number, name, shape, images, range(seeds), output)
    lab.files.write(path, lab.plots.png(_drawn(number, rows, run)))
    record = {"figure": number, "out": str(path), "rows": lab.rows.plain(rows)}
    record |= {"caption": rows.caption, "sentences": rows.sentences}
    if number == 5:
        record["comparisons"] = lab.rows.plain(rows.comparisons)
    output.show(record, "\n".join(("", rows.caption, *rows.sentences, f"wrote {path}")))


def _measured(number: int, name: str, shape: Shape, images, seeds: range, output) -> tuple:
    """The rows of a figure, and the run that they are of, if it is one."""
    experiments = lab.experiments
    if number == 1:
        return experiments.figure_1(), None
    recipe, splits = recipe_of(name, shape, images, output)
    if number == 4:  # now, not after the training
        masks = lab.Mask.of(common.build(recipe.about)).values()
        experiments.figures.check_takes_pixels(next(iter(masks)))
    epochs = {5: len(seeds) * experiments.penalties.epochs_of(recipe), 6: recipe.dense.epochs}
    with watching(epochs.get(number, recipe.total_epochs()), output) as notify:
        options = {"workspace": experiments.Workspace(RUNS, notify), "build": common.build}
        if number == 5:
            return experiments.figure_5(splits, recipe, seeds=seeds, **options), None
        if number == 6:
            return experiments.figure_6(splits, recipe, **options), None
        load = common.Network(model=name).load
        run = options["workspace"].run(recipe, splits, build=common.build, load=load)
        return (experiments.figure_4 if number == 4 else experiments.figure_7)(run), run


def _drawn(number: int, rows: lab.rows.Rows, run: lab.experiments.Run | None):
    from matplotlib.figure import Figure

    plots, inches = lab.plots, {1: (8, 2.8), 4: (10, 3.2), 5: (8, 5), 6: (9, 5), 7: (10, 3)}
    with plots.style():
        figure = Figure(figsize=inches[number])
        match number:
            case 1:
                joules = {row.operation: row.picojoules for row in rows}
                plots.energy(joules, ax=figure.subplots())
            case 4:
                plots.pixels(run.mask[rows.layer], figure=figure)
            case 5:
                plots.penalties(rows, ax=figure.subplots())
            case 6 if len(rows.layers) > 8:
                figure.set_size_inches(10, 1 + 1.9 * -(-len(rows.layers) // 4))
                plots.sensitivity_grid(rows, figure=figure)
            case 6:
                plots.sensitivity(rows, ax=figure.subplots())
            case 7:
                plots.before_and_after(run, rows.layer, figure=figure)
    return figure
