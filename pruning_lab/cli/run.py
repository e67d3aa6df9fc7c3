"""`pruning-lab run`: the whole experiment, from a new network to the paper's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

import pruning_lab as lab
from pruning_lab.cli import common, outputs
from pruning_lab.cli.train import Shape, dense_config, prepare


@Parameter(name="*", group=Group("Recipe", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class Goal:
    """What to keep, and how to train."""

    compression: Annotated[float | None, common.number(1.0, 1e6)] = None
    """Parameters, before / after (default: the paper's); of the paper's networks alone."""
    density: Annotated[float | None, common.FRACTION] = None
    """Fraction of all weights to keep, by the network's own scan."""
    max_drop: Annotated[float | None, common.POINTS] = None
    """Percentage points that may be lost before retraining, by its own scan (your own: 0.5)."""
    method: Annotated[common.Method, Parameter(help="How --density chooses (default: joint).")] = (
        None
    )
    evaluations: common.Evaluations = None
    epochs: Annotated[int | None, common.COUNT] = None
    """Of a network of your own: passes over the training images (default: 5)."""
    lr: Annotated[float | None, common.number(0.0, 1e6, above=True)] = None
    """Of a network of your own: highest learning rate (default: 0.1)."""

    @property
    def typed(self) -> dict:
        return {name: value for name, value in vars(self).items() if value is not None}

    def recipe(self, about: dict, data: str) -> lab.experiments.Recipe:
        """The recipe that was asked for."""
        network, typed = about["network"], self.typed
        shape = {k: v for k, v in about.items() if k not in ("network", "data")}
        training = {name: typed.pop(name) for name in ("epochs", "lr") if name in typed}
        kinds = typed.keys() & {"compression", "density", "max_drop"}
        if len(kinds) > 1:
            raise ValueError("give one of --compression, --density and --max-drop")
        if is_own := network not in common.RECIPES:
            typed = typed if kinds else {"max_drop": 0.5, **typed}
        chosen = typed.keys() & {"density", "max_drop"}
        if "method" in typed and not chosen:
            raise ValueError("--method goes with --density or --max-drop")
        if "evaluations" in typed and not (chosen and typed.get("method") != "single"):
            raise ValueError("--evaluations goes with --density or --max-drop, by the joint method")
        if training and not is_own:
            raise ValueError(
                f"--{min(training)} goes with your own network: {network} has a recipe"
            )
        if "compression" in kinds and is_own:
            raise ValueError(f"--compression has no recipe for {network}; give --density")
        if "compression" in kinds:
            return lab.experiments.compressed_recipe(network, self.compression, data, shape)
        if not chosen:
            return lab.experiments.paper_recipe(network, data, shape)
        dense = replace(dense_config(about, data), **training) if is_own else None
        choice = {"method": "joint", **typed}
        return lab.experiments.chosen_recipe(network, choice, data, shape, dense)


def run(
    *,
    model: Annotated[str | None, Parameter(group=common.NETWORK)] = None,
    shape: Shape = Shape(),
    bf16: bool = False,
    goal: Goal = Goal(),
    out: str | None = None,
    no_control: bool = False,
    resume: bool = False,
    images: common.Images = common.Images(),
    seed: Annotated[int | None, common.SEED] = None,
    output: common.Output = common.Output(),
) -> None:
    """Train, scan, prune and retrain a network, and report what came of it.

    The paper's networks go down to the paper's densities, and the report shows both.

    Any other is trained for --epochs and scanned on val; the scan chooses densities, by
    --max-drop or --density; three equal steps of pruning lead there. Each is retrained: the
    first two for a quarter of the epochs, the last for all of them.

    example:
      pruning-lab run --model lenet-5 --data mnist --out runs/first
      pruning-lab run --model nets:make --data folder:photos --max-drop 1

    Args:
        model: lenet-300-100 (default), lenet-5, alexnet, vgg-16, alexnet-torchvision, or
            your own function that returns a network, as package.module:function.
        bf16: Autocast to bfloat16 (always for photos on a GPU).
        out: Folder for the files (default: runs/MODEL).
        no_control: Do not train the dense network on for as long as the pruned one; the run is
            shorter, and what pruning itself cost is not known.
        resume: Continue the unfinished run in --out (default: the latest in runs/).
        seed: Random seed (default: 0).
    """
    if lab.processes.world() > 1 and not out:
        raise ValueError("several processes write into one folder; name it with --out")
    folder = Path(out) if out else _folder(model or common.RECIPES[0], resume)
    outputs.check_place("--out", folder / "run.json")
    config = lab.experiments.load_config(folder) if (folder / "config.json").exists() else None
    if config and not resume:
        raise FileExistsError(
            f"{folder} holds a run already; resume it with --resume, or name another --out"
        )
    control = not no_control
    if config:
        typed = {"size": images.size, "model": model, "data": images.data, "seed": seed}
        typed |= {"bf16": bf16 or None, "no_control": no_control or None}
        _check_same(folder, config, {**vars(shape), **typed}, goal)
    lab.processes.wait()  # until all have looked into the folder
    if resume and not config:
        output.say(f"nothing to resume in {folder}, so it starts from the beginning")
    if (folder / "run.json").exists():
        output.say(f"{folder} is finished already")
        result = lab.experiments.Run.load(folder, common.Network(model=model).load)
    else:
        if config:
            recipe, seed, control = config["recipe"], config["seed"], config["control"]
            about = {**recipe.about, "data": config["data"]}
        else:
            about, seed = shape.about(model or common.RECIPES[0], images), seed or 0
        _, about, splits = prepare(about, seed, images, output)
        if not config:
            recipe = recipe_for(goal, about, splits, bf16=bf16)
        output.say(f"{recipe.network}, seed {seed}, {_cost(recipe, control)}; files go to {folder}")
        result = _done(recipe, splits, seed, control, folder, output)
    page = folder / "report.html"
    if lab.processes.rank() == 0:
        lab.files.write(page, lab.reports.html(result))
    output.show(result.record, f"\n{lab.reports.text(result.record)}\n\nThe plots are in {page}")


def _done(
    recipe, splits, seed: int, control: bool, folder: Path, output: common.Output
) -> lab.experiments.Run:
    """The recipe carried out, with a bar of its epochs."""
    with watching(recipe.total_epochs(control), output) as notify:
        options = {"seed": seed, "control": control, "notify": notify, "command": output.command}
        options |= {"folder": folder, "build": common.build}
        return lab.experiments.run(recipe, splits, **options)


def recipe_for(
    goal: Goal, about: dict, splits: lab.data.Splits, bf16: bool = False
) -> lab.experiments.Recipe:
    """What was asked for, in bfloat16 for photos on a GPU and where that was typed."""
    recipe = goal.recipe(about, splits.name)
    if bf16 or (splits.val.device.type == "cuda" and "size" in about):
        recipe = recipe.trained_with(bf16=True)
    return recipe


@contextmanager
def watching(epochs: int, output: common.Output) -> Iterator[Callable]:
    """A bar of so many epochs, and the function that takes the notes of what trains them."""
    with output.bar(epochs, "epochs") as bar:

        def notify(note: lab.experiments.Note) -> None:
            if note.epoch:
                bar.set_description(f"{note.phase}, loss {note.epoch.loss:.3f}", refresh=False)
                bar.update()
            if note.text:
                output.say(f"  {note.phase:8} {note.text}")

        yield notify


def _cost(recipe: lab.experiments.Recipe, control: bool) -> str:
    alone = recipe.total_epochs(control=False)
    epochs = f"{lab.rows.counted(recipe.total_epochs(control), 'epoch')} in all"
    epochs += f", {recipe.total_epochs() - alone} of them for the control," if control else ""
    if not recipe.choose or recipe.choose.get("method") == "single":
        return epochs.rstrip(",")
    return (
        f"{epochs} and a search of at most {recipe.choose.get('evaluations', 1000):,} evaluations"
    )


def _check_same(folder: Path, config: dict, typed: dict, goal: Goal) -> None:
    """Raise ValueError where something else is typed than the run was started with."""
    recipe, choice = config["recipe"], goal.typed
    if (is_own := ":" in recipe.network) and not typed["model"]:
        raise ValueError(
            f"{folder} is of code that is not run unasked; if you trust it, add --model "
            f"{recipe.network}"
        )
    before = recipe.about if is_own else lab.models.settings(recipe.about)
    before = {**before, "model": recipe.network, "seed": config["seed"], "data": config["data"]}
    before |= {"bf16": recipe.dense.bf16, "no_control": not config["control"]}
    asked = goal.recipe(recipe.about, config["data"]) if choice else recipe
    same = recipe.rounds, recipe.choose, recipe.dense.epochs, recipe.dense.lr
    if (asked.rounds, asked.choose, asked.dense.epochs, asked.dense.lr) != same:
        typed = {**typed, **choice}
        before |= {"epochs": recipe.dense.epochs, "lr": recipe.dense.lr, **(recipe.choose or {})}
    for name, value in typed.items():
        if value not in (None, "auto", before.get(name)):
            was, now = _option(name, before.get(name)), value
            if name in choice and name not in before:
                rounds = lab.rows.counted(len(recipe.rounds), "fixed round")
                was = " ".join(_option(*pair) for pair in (recipe.choose or {}).items()) or rounds
                now = _option(name, value)
            raise ValueError(
                f"{folder} was started with {was}, not {now}; resume with the same options, or "
                f"with none"
            )


def _option(name: str, value: object) -> str:
    return f"--{name.replace('_', '-')} {value}"


def _folder(network: str, resume: bool) -> Path:
    """The latest unfinished run to resume, else runs/NETWORK, or runs/NETWORK-2, ... if taken."""
    started = [path.parent for path in Path("runs").glob("*/config.json")]
    unfinished = [path for path in started if not (path / "run.json").exists()]
    if resume and unfinished:
        return max(unfinished, key=lambda path: (path / "config.json").stat().st_mtime)
    name = network.replace(":", "-")  # which no folder is named on Windows
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
