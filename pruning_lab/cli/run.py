"""`pruning-lab run`: the whole experiment, from a new network to the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pruning_lab as lab
from pruning_lab.cli import common, outputs
from pruning_lab.cli.train import Shape, prepare


def run(
    *,
    model: Literal["lenet-300-100", "lenet-5", "alexnet", "vgg-16"] | None = None,
    shape: Shape = Shape(),
    bf16: bool = False,
    compression: Annotated[float | None, common.number(1.0, 1e6)] = None,
    density: Annotated[float | None, common.FRACTION] = None,
    max_drop: Annotated[float | None, common.POINTS] = None,
    method: common.Method = None,
    evaluations: common.Evaluations = None,
    out: str | None = None,
    resume: bool = False,
    images: common.Images = common.Images(),
    seed: Annotated[int | None, common.SEED] = None,
    output: common.Output = common.Output(),
) -> None:
    """Train, scan, prune and retrain a network, and report beside the paper.

    example:
      pruning-lab run --model lenet-5 --data mnist --out runs/first

    Args:
        model: Which network (default: lenet-300-100).
        bf16: Autocast to bfloat16 (always for photos on a GPU).
        compression: Parameters, before / after (default: the paper's).
        density: Fraction of all weights to keep, by the network's own scan.
        max_drop: Percentage points that may be lost before retraining, by its own scan.
        method: How --density chooses (default: joint).
        out: Folder for the files (default: runs/MODEL).
        resume: Continue the unfinished run in --out (default: the latest in runs/).
        seed: Random seed (default: 0).
    """
    if lab.processes.world() > 1 and not out:
        raise ValueError("several processes write into one folder; name it with --out")
    folder = Path(out) if out else _folder(model or common.RECIPES[0], resume)
    outputs.check_place("--out", folder / "run.json")
    choice = {"compression": compression, "density": density, "max_drop": max_drop}
    choice |= {"method": method, "evaluations": evaluations}
    choice = {name: value for name, value in choice.items() if value is not None}
    config = lab.experiments.load_config(folder) if (folder / "config.json").exists() else None
    if config and not resume:
        raise FileExistsError(
            f"{folder} holds a run already; resume it with --resume, or name another --out"
        )
    if config:
        typed = {"size": images.size, "model": model, "data": images.data, "seed": seed}
        _check_same(folder, config, {**vars(shape), **typed, "bf16": bf16 or None}, choice)
    lab.processes.wait()  # until all have looked into the folder
    if resume and not config:
        output.say(f"nothing to resume in {folder}, so it starts from the beginning")
    if (folder / "run.json").exists():
        output.say(f"{folder} is finished already")
        result = lab.experiments.Run.load(folder)
    else:
        if config:
            recipe, seed = config["recipe"], config["seed"]
            about = {**recipe.about, "data": config["data"]}
        else:
            about, seed = shape.about(model or common.RECIPES[0], images), seed or 0
        _, about, splits = prepare(about, seed, images, output)
        if not config:
            recipe = _recipe(about, splits.name, choice)
            if bf16 or (splits.val.device.type == "cuda" and "size" in about):
                recipe = recipe.in_bf16()
        output.say(f"{recipe.network}, seed {seed}, {_cost(recipe)}; files go to {folder}")
        with output.bar(recipe.epochs, "epochs") as bar:

            def notify(note: lab.experiments.Note) -> None:
                if note.epoch:
                    bar.set_description(f"{note.phase}, loss {note.epoch.loss:.3f}", refresh=False)
                    bar.update()
                if note.text:
                    output.say(f"  {note.phase:8} {note.text}")

            options = {"seed": seed, "notify": notify, "command": output.command}
            result = lab.experiments.run(recipe, splits, folder=folder, **options)
    page = folder / "report.html"
    if lab.processes.rank() == 0:
        lab.files.write(page, lab.reports.html(result))
    output.show(result.record, f"\n{lab.reports.text(result.record)}\n\nThe plots are in {page}")


def _cost(recipe: lab.experiments.Recipe) -> str:
    epochs = f"{lab.rows.counted(recipe.epochs, 'epoch')} in all"
    if not recipe.choose or recipe.choose.get("method") == "single":
        return epochs
    return (
        f"{epochs} and a search of at most {recipe.choose.get('evaluations', 1000):,} evaluations"
    )


def _recipe(about: dict, data: str, choice: dict) -> lab.experiments.Recipe:
    """The recipe that was asked for."""
    network, shape = (
        about["network"],
        {k: v for k, v in about.items() if k not in ("network", "data")},
    )
    kinds = choice.keys() & {"compression", "density", "max_drop"}
    if len(kinds) > 1:
        raise ValueError("give one of --compression, --density and --max-drop")
    chosen = kinds & {"density", "max_drop"}
    if "method" in choice and not chosen:
        raise ValueError("--method goes with --density or --max-drop")
    if "evaluations" in choice and not (chosen and choice.get("method") != "single"):
        raise ValueError("--evaluations goes with --density or --max-drop, by the joint method")
    if "compression" in kinds:
        return lab.experiments.compressed_recipe(network, choice["compression"], data, shape)
    if chosen:
        return lab.experiments.chosen_recipe(network, {"method": "joint", **choice}, data, shape)
    return lab.experiments.paper_recipe(network, data, shape)


def _check_same(folder: Path, config: dict, typed: dict, choice: dict) -> None:
    """Raise ValueError where something else is typed than the run was started with."""
    recipe = config["recipe"]
    before = {**lab.models.settings(recipe.about), "model": recipe.network, "seed": config["seed"]}
    before |= {"data": config["data"], "bf16": recipe.dense.bf16}
    asked = _recipe(recipe.about, config["data"], choice) if choice else recipe
    if (asked.rounds, asked.choose) != (recipe.rounds, recipe.choose):
        typed = {**typed, **choice}
        before |= dict.fromkeys(choice, recipe.choose or f"{len(recipe.rounds)} fixed rounds")
    for name, value in typed.items():
        if value not in (None, "auto", before.get(name)):
            raise ValueError(
                f"{folder} was started with --{name.replace('_', '-')} {before.get(name)}, not "
                f"{value}; resume with the same options, or with none"
            )


def _folder(network: str, resume: bool) -> Path:
    """The latest unfinished run to resume, else runs/NETWORK, or runs/NETWORK-2, ... if taken."""
    started = [path.parent for path in Path("runs").glob("*/config.json")]
    unfinished = [path for path in started if not (path / "run.json").exists()]
    if resume and unfinished:
        return max(unfinished, key=lambda path: (path / "config.json").stat().st_mtime)
    folder, number = Path("runs") / network, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{network}-{number}"
    return folder
