"""A recipe carried out: train, scan, prune and retrain in rounds, test once."""

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from pruning_lab import (
    counts,
    files,
    models,
    neurons,
    processes,
    provenance,
    retraining,
    sensitivity,
)
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, drop, evaluate
from pruning_lab.experiments.recipes import Recipe, down_to
from pruning_lab.experiments.records import (
    CONFIG,
    RUN,
    Config,
    Run,
    load_config,
    settings_of,
    shelf,
)
from pruning_lab.layers import seeded
from pruning_lab.rows import plain
from pruning_lab.training import Epoch, train


@dataclass(frozen=True)
class Note:
    """Progress: a phase, one line about it, or an epoch of it."""

    phase: str  # "train", "scan", "round 1", "test"
    text: str = ""
    epoch: Epoch | None = None
    evaluations: tuple[int, int] | None = None  # of a search: done, and at most


def run(
    recipe: Recipe,
    splits: Splits,
    *,
    seed: int = 0,
    control: bool = True,
    folder: str | Path | None = None,
    trained: Path | None = None,
    notify: Callable[[Note], None] = lambda note: None,
    command: str | None = None,
    build: Callable[[dict], nn.Module] = models.build,
) -> Run:
    """Do the whole recipe; thresholds and progress look at val, and test is used once, at the end.

    The control, the dense network trained on for exactly as long (`Recipe.control`), says what
    pruning itself cost; `control=False` saves its time.

    With `folder`, every epoch leaves a checkpoint there, and a call that finds checkpoints resumes
    from them to the same end. At the end the folder holds dense.safetensors, model.safetensors,
    control.safetensors, mask.safetensors, scan.csv with scan.json, plan.json where one was chosen,
    and, last, run.json. In the folder `trained`, which runs can share, the checkpoints of the dense
    network and of the control stay, so that another run with the same ones reads them.
    `command` is what the user typed, for the record; that of the call that began the run stays.
    `build` makes a network of one's own from `recipe.about`. The caller's random states stay.
    """
    folder = folder and Path(folder)
    checkpoints = folder and folder / "checkpoints"
    if folder:
        command = _claim(folder, settings_of(recipe, splits, seed, control), command)
    recipe, device = recipe.seeded(seed), splits.train.device
    at = _checkpoints(recipe, splits, seed, checkpoints, trained)
    epochs, stages = [], []

    def watch(phase: str, epoch: Epoch) -> None:
        epochs.append({"phase": phase, **plain(epoch)})
        notify(Note(phase, epoch=epoch))

    def watch_round(epoch: Epoch) -> None:
        watch(f"round {len(stages) // 2 + 1}", epoch)

    with seeded(seed, device):
        dense = build(recipe.about).to(device)
        for epoch in train(dense, splits.train, recipe.dense, checkpoint=at["dense"]):
            watch("train", epoch)
        dense_val = evaluate(dense, splits.val)
        notify(Note("train", f"dense, val error {dense_val.error:.2%}"))
        began = time.perf_counter()
        scan, plan = _scanned(dense, splits, recipe, folder, notify)
        scan_seconds = time.perf_counter() - began
        rounds = down_to(plan.densities, len(recipe.retrain)) if plan else recipe.rounds
        model, longer = copy.deepcopy(dense), copy.deepcopy(dense) if control else None
        for stage in _retrained(model, splits, recipe, rounds, watch_round, at["pruned"]):
            stages.append(_row(stage, dense_val, evaluate(model, splits.val)))
            if stage.kind == "retrained":
                notify(_note(stage, *stages[-2:]))
        if control:
            same, rounds = partial(watch, "control"), recipe.control.rounds
            for _ in _retrained(longer, splits, recipe, rounds, same, at["control"]):
                pass
            error = evaluate(longer, splits.val).error
            notify(Note("control", f"dense, trained on for as long: val error {error:.2%}"))

    record = {"format": RUN, "seed": seed, "command": command, "recipe": recipe}
    record |= compare(dense, model, splits, longer)
    record |= {"dense_val": dense_val, "scan": scan, "plan": plan, "stages": stages}
    record |= {"epochs": epochs, "seconds": _seconds(epochs) | {"scan": scan_seconds}}
    notify(Note("test", "used once, for the tables"))
    result = Run(plain(record), dense, model, stage.mask, longer)
    if folder and processes.rank() == 0:
        result.save(folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    processes.wait()
    return result


def _retrained(
    model: nn.Module,
    splits: Splits,
    recipe: Recipe,
    rounds: Sequence[dict],
    on_epoch: Callable[[Epoch], None],
    checkpoints: Path | None,
) -> Iterator[retraining.Stage]:
    """The recipe's retraining with these rounds: its own, or those of its control."""
    freeze = recipe.freeze or [()] * len(rounds)
    options = {"freeze": freeze, "on_epoch": on_epoch, "checkpoints": checkpoints}
    return retraining.iterative(model, splits.train, recipe.retrain, rounds, **options)


def _checkpoints(
    recipe: Recipe, splits: Splits, seed: int, folder: Path | None, trained: Path | None
) -> dict[str, Path | None]:
    """Where the checkpoints of the three networks are; those of pruned ones are never shared."""
    names = {"dense": "dense.safetensors", "pruned": "", "control": "control"}
    at = {name: folder and folder / place for name, place in names.items()}
    if trained:
        what = dense_settings(recipe, splits, seed)
        at["dense"] = shelf(trained, what)
        at["control"] = shelf(trained, what | {"on": recipe.retrain, "freeze": recipe.freeze})
    return at


def dense_settings(recipe: Recipe, splits: Splits, seed: int) -> dict:
    """What the checkpoint of a dense network is named by, in runs and experiments that share it."""
    what = {"network": recipe.about, "seed": seed, "dense": recipe.dense}
    return what | {"train": splits.train.fingerprint(), "processes": processes.world()}


def compare(
    dense: nn.Module, model: nn.Module, splits: Splits, control: nn.Module | None = None
) -> dict:
    """The part of a record that the paper's tables need: each network on the test split, once."""
    before, after = evaluate(dense, splits.test), evaluate(model, splits.test)
    longer = control and evaluate(control, splits.test)
    test = {"dense": before, "pruned": after, "control": longer}
    test |= {"drop": drop(before, after), "control_drop": longer and drop(longer, after)}
    tables = {"dense": counts.layers(dense, splits.val), "pruned": counts.layers(model, splits.val)}
    parameters = {"dense": counts.parameters(dense).total, "pruned": counts.parameters(model).kept}
    parameters["alive"] = _alive(model)  # without dead neurons
    return {
        "data": {
            "name": splits.name,
            "images": {part: getattr(splits, part).n for part in ("train", "val", "test")},
            "train_sha256": splits.train.fingerprint(),
        },
        "versions": provenance.versions(),
        "machine": provenance.machine(splits.test.device),
        "test": plain(test),
        "parameters": parameters,
        "layers": {which: plain((*table, table.total)) for which, table in tables.items()},
    }


def _alive(model: nn.Module) -> int | None:
    """Parameters left when dead neurons go, biases included; None where there is no chain."""
    try:
        return neurons.parameters(model).kept
    except (TypeError, ValueError):
        return None


def _seconds(epochs: Sequence[dict]) -> dict[str, float]:
    """What each kind of training took."""
    seconds = {"train": 0.0, "retrain": 0.0, "control": 0.0}
    for row in epochs:
        seconds[row["phase"] if row["phase"] in seconds else "retrain"] += row["seconds"]
    return seconds


def _note(stage: retraining.Stage, cut: dict, retrained: dict) -> Note:
    before, after = (1 - row["val"]["value"] for row in (cut, retrained))
    text = f"{stage.mask.density:.1%} of the weights kept, val error {before:.2%}"
    return Note(f"round {stage.round}", f"{text} -> retrained {after:.2%}")


def _row(stage: retraining.Stage, dense_val: Accuracy, accuracy: Accuracy) -> dict:
    """A stage of the retraining in the record."""
    row = {"kind": stage.kind, "round": stage.round}
    row |= {"kept": stage.mask.kept, "weights": stage.mask.weights}
    row |= {"val": accuracy, "val_drop": drop(dense_val, accuracy), "receipt": stage.mask.receipt}
    return plain(row)


def _scanned(
    model: nn.Module, splits: Splits, recipe: Recipe, folder: Path | None, notify: Callable
) -> tuple[sensitivity.Scan, sensitivity.Plan | None]:
    """The scan, and the plan where the recipe chooses; those that the folder holds are read."""
    out, saved = (folder and folder / name for name in ("scan.csv", "plan.json"))
    if out and out.exists():
        scan = sensitivity.Scan.load(out)
    else:
        scan = sensitivity.scan(model, splits.val, recipe.scan, out=out, resume=out is not None)
    sparsest = [point for point in scan if point.density <= 1.5 * min(p.density for p in scan)]
    worst = max(sparsest, key=lambda point: point.drop.value)
    text = f"{worst.layer} is the most sensitive layer: {worst.drop} at {worst.density:.0%} kept"
    notify(Note("scan", text))
    if recipe.choose is None:
        return scan, None
    there = saved and saved.exists()
    processes.wait()  # until all have looked whether there is one
    if there:
        plan = sensitivity.Plan.load(saved)
    else:
        plan = sensitivity.choose(
            scan,
            model=model,
            images=splits.val,
            notify=lambda *done: notify(Note("choose", evaluations=done)),
            **recipe.choose,
        )
        if saved and processes.rank() == 0:
            plan.save(saved)
    layers = ", ".join(f"{layer} {density:.1%}" for layer, density in plan.densities.items())
    notify(Note("choose", f"{plan.density:.1%} of the weights: {layers}"))
    return scan, plan


def _claim(folder: Path, settings: Config, command: str | None) -> str | None:
    """Write down what this folder's run is, or make sure that it is this one; its command."""
    if (folder / "run.json").exists():
        raise FileExistsError(f"{folder} holds a finished run; name another folder")
    if not (folder / "config.json").exists() and processes.rank() == 0:
        if there := [name for name in _WRITTEN if (folder / name).exists()]:
            raise FileExistsError(
                f"{folder} holds {', '.join(there)}, which the run would write; name another folder"
            )
        about = {"format": CONFIG, "command": command, **plain(settings)}
        files.save_json(folder / "config.json", about)
    processes.wait()
    found = load_config(folder)
    began_by = found.pop("command", None)
    if found != settings:
        raise ValueError(f"{folder} holds a run with other settings or data; name another folder")
    return began_by


_WRITTEN = (
    *("dense.safetensors", "model.safetensors", "control.safetensors", "mask.safetensors"),
    *("scan.csv", "scan.json", "plan.json", "report.html", "checkpoints"),
)
