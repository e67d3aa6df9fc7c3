"""A recipe carried out, with everything that came of it."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypedDict, TypeVar

import torch
from torch import nn

from pruning_lab import (
    counts,
    files,
    models,
    paper,
    processes,
    provenance,
    retraining,
    sensitivity,
)
from pruning_lab.data import Splits
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate
from pruning_lab.experiments.recipes import Recipe, down_to
from pruning_lab.layers import generators, prunable
from pruning_lab.masks import Mask, ReceiptRow
from pruning_lab.rows import decode, plain
from pruning_lab.training import Epoch, train

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What a run leaves: the record (as in run.json), both networks and the mask."""

    record: dict
    dense: nn.Module
    model: nn.Module
    mask: Mask

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a finished run's folder."""
        folder = Path(folder)
        if not (folder / "run.json").exists():
            raise FileNotFoundError(
                f"no finished run in {folder}; finish it with: "
                f"pruning-lab run --resume --out {folder}"
            )
        path = folder / "run.json"
        record = files.load_json(path)
        checked = decode(Record, record, path, _FORMAT)
        about = checked["recipe"].about
        if about["network"] not in paper.LAYER_TABLES:
            raise ValueError(f"{path}: no table of the paper has the network {about['network']!r}")
        dense, model = models.build(about), models.build(about)
        models.load_(dense, folder / "dense.safetensors")
        models.load_(model, folder / "model.safetensors")
        run = cls(record, dense, model, Mask.load(folder / "mask.safetensors"))
        for wrong in filter(None, _wrong(checked, run)):
            raise ValueError(f"{path} does not fit the files beside it: {wrong}")
        return run


class _Data(TypedDict):
    name: str
    images: dict[str, int]
    train_sha256: str


class _Test(TypedDict):
    dense: Accuracy
    pruned: Accuracy
    drop: Drop


class _LayerRow(TypedDict):
    """A `LayerCount` with what it computes."""

    layer: str
    weights: int
    kept: int
    flops: int
    neurons: int
    input_density: float | None
    activation_density: float
    flops_kept: float
    density: float
    flop_density: float


class _Both(TypedDict, Generic[T]):
    dense: T
    pruned: T


class _Stage(TypedDict):
    kind: Literal["cut", "retrained"]
    round: int
    kept: int
    weights: int
    val: Accuracy
    val_drop: Drop
    receipt: list[ReceiptRow]


@dataclass(frozen=True)
class _PhaseEpoch(Epoch):
    phase: str = ""


class Record(TypedDict):
    """What run.json holds."""

    seed: int
    recipe: Recipe
    data: _Data
    versions: dict[str, str]
    machine: dict[str, str | int]
    test: _Test
    parameters: _Both[int]
    layers: _Both[list[_LayerRow]]
    dense_val: Accuracy
    scan: list[sensitivity.ScanPoint]
    plan: sensitivity.Plan | None
    stages: list[_Stage]
    epochs: list[_PhaseEpoch]
    seconds: dict[str, float]


class Config(TypedDict):
    """What a run was started with, as config.json holds it."""

    recipe: Recipe
    data: str
    train_sha256: str
    seed: int


_FORMAT = "pruning_lab run 2"
_CONFIG = "pruning_lab config 1"


def load_config(folder: str | Path) -> Config:
    """Read what the run in a folder was started with."""
    path = Path(folder) / "config.json"
    return decode(Config, files.load_json(path), path, _CONFIG, whole=False)


def _wrong(record: Record, run: "Run") -> Iterator[str | None]:
    """What in a record cannot be: numbers that were not counted, or of other networks."""
    network, both = record["recipe"].network, {"dense": run.dense, "pruned": run.model}
    test, rounds = record["test"], range(1, len(record["recipe"].retrain) + 1)
    yield sensitivity.wrong_measurement(record["dense_val"])
    yield sensitivity.wrong_measurement(test["dense"])
    yield sensitivity.wrong_measurement(test["pruned"], test["drop"])
    for row in record["scan"]:
        yield sensitivity.wrong_measurement(row.accuracy, row.drop)
    for stage in record["stages"]:
        yield sensitivity.wrong_measurement(stage["val"], stage["val_drop"])
        if not 0 <= stage["kept"] <= stage["weights"] > 0:
            yield f"{stage['kept']} of {stage['weights']} weights in round {stage['round']}"
    kinds = [(stage["kind"], stage["round"]) for stage in record["stages"]]
    if kinds != [(kind, number) for number in rounds for kind in ("cut", "retrained")]:
        yield f"its stages are not those of {len(rounds)} rounds"
    for which, model in both.items():
        counted = counts.parameters(model)
        if record["parameters"][which] != (counted.total if which == "dense" else counted.kept):
            yield f"it says {record['parameters'][which]:,} parameters of the {which} network"
        rows = record["layers"][which]
        shape = models.input_shape(network, record["recipe"].shape.get("size"))
        table = counts.layers(model, shape)
        columns = ("layer", "weights", "kept", "flops", "neurons")
        for row, count in zip(rows, (*table, table.total), strict=False):
            if any(row[name] != getattr(count, name) for name in columns):
                yield f"its row of layer {row['layer']!r} is not of the {which} network"
            densities = row["density"], row["flop_density"], row["activation_density"]
            parts = row["kept"] / (row["weights"] or 1), row["flops_kept"] / (row["flops"] or 1)
            if not all(0 <= density <= 1 for density in densities) or densities[:2] != parts:
                yield f"the densities of layer {row['layer']!r} in the {which} network"
        if [row["layer"] for row in rows] != [r.layer for r in paper.LAYER_TABLES[network]]:
            yield "its layers are not those of the paper's table"
    if set(run.mask) != set(prunable(run.model)) or any(
        layer.weight[~kept].any() for layer, kept in run.mask._placed(run.model)
    ):
        yield "the network has weights that the mask does not keep"


@dataclass(frozen=True)
class Note:
    """Progress for whoever watches: a phase, one line about it, or an epoch of it."""

    phase: str  # "train", "scan", "round 1", "test"
    text: str = ""
    epoch: Epoch | None = None
    evaluations: tuple[int, int] | None = None  # of a search: done, and at most


def run(
    recipe: Recipe,
    splits: Splits,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    notify: Callable[[Note], None] = lambda note: None,
) -> Run:
    """Do the whole recipe; thresholds and progress look at val, and test is used once, at the end.

    With `folder`, every epoch leaves a checkpoint there, and a call that finds checkpoints goes on
    behind them to the same end. At the end the folder holds dense.safetensors, model.safetensors,
    mask.safetensors, scan.csv with scan.json, plan.json where one was chosen, and, last, run.json.
    """
    checkpoints = None
    if folder is not None:
        folder = Path(folder)
        checkpoints = folder / "checkpoints"
        _claim(folder, recipe, splits, seed)
    recipe = recipe.seeded(seed)
    epochs: list[dict] = []
    device = splits.train.device

    def watch(phase: str, epoch: Epoch) -> None:
        epochs.append(plain(_PhaseEpoch(**vars(epoch), phase=phase)))
        notify(Note(phase, epoch=epoch))

    with torch.random.fork_rng(generators(device)):  # the caller's random states stay
        torch.manual_seed(seed)
        model = models.build(recipe.about).to(device)
        saved = None if checkpoints is None else checkpoints / "dense.safetensors"
        for epoch in train(model, splits.train, recipe.dense, checkpoint=saved):
            watch("train", epoch)
        dense_val = evaluate(model, splits.val)
        notify(Note("train", f"{recipe.dense.epochs} epochs, val error {percent(dense_val)}"))

        began = time.perf_counter()
        scan, plan = _scanned(model, splits, recipe, folder, notify)
        scan_seconds = time.perf_counter() - began
        rounds = recipe.rounds
        if plan is not None:
            rounds = down_to(plan.densities, len(recipe.retrain))
            notify(Note("choose", f"{plan.density:.1%} of the weights: {_shares(plan)}"))

        dense = models.build(recipe.about).to(device)
        dense.load_state_dict(model.state_dict())
        stages = []
        cut = dense_val
        for stage in retraining.iterative(
            model,
            splits.train,
            recipe.retrain,
            rounds,
            freeze=recipe.freeze or [()] * len(rounds),
            on_epoch=lambda epoch: watch(f"round {len(stages) // 2 + 1}", epoch),
            checkpoints=checkpoints,
        ):
            accuracy = evaluate(model, splits.val)
            stages.append(
                {
                    "kind": stage.kind,
                    "round": stage.round,
                    "kept": stage.mask.kept,
                    "weights": stage.mask.weights,
                    "val": plain(accuracy),
                    "val_drop": plain(drop(dense_val, accuracy)),
                    "receipt": plain(stage.mask.receipt),
                }
            )
            if stage.kind == "cut":
                cut = accuracy
            else:
                text = f"{stage.mask.density:.1%} of the weights kept, val error {percent(cut)}"
                notify(Note(f"round {stage.round}", f"{text} -> retrained {percent(accuracy)}"))
        mask = stage.mask

    record = {
        "format": _FORMAT,
        "seed": seed,
        "recipe": plain(recipe),
        **compare(dense, model, splits),
        "dense_val": plain(dense_val),
        "scan": plain(scan),
        "plan": plain(plan),
        "stages": stages,
        "epochs": epochs,
        "seconds": {
            "train": sum(row["seconds"] for row in epochs if row["phase"] == "train"),
            "scan": scan_seconds,
            "retrain": sum(row["seconds"] for row in epochs if row["phase"] != "train"),
        },
    }
    notify(Note("test", "used once, for the tables"))
    if folder is not None and processes.rank() == 0:
        about = {**recipe.about, "data": splits.name, "seed": seed}
        models.save(folder / "dense.safetensors", dense, about=about)
        models.save(folder / "model.safetensors", model, about=about)
        mask.save(folder / "mask.safetensors")
        files.save_json(folder / "run.json", record)  # last: a folder that has it is finished
        shutil.rmtree(checkpoints, ignore_errors=True)
    processes.wait()
    return Run(record, dense, model, mask)


def _scanned(
    model: nn.Module, splits: Splits, recipe: Recipe, folder: Path | None, notify: Callable
) -> tuple[sensitivity.Scan, sensitivity.Plan | None]:
    """The scan, and the plan where the recipe chooses; what the folder holds is not made again."""
    if folder is not None and (folder / "scan.csv").exists():
        scan = sensitivity.Scan.load(folder / "scan.csv")
    else:
        out = None if folder is None else folder / "scan.csv"
        scan = sensitivity.scan(model, splits.val, recipe.scan, out=out, resume=out is not None)
    notify(Note("scan", _most_sensitive(scan)))
    if recipe.choose is None:
        return scan, None
    if folder is not None and (folder / "plan.json").exists():
        return scan, sensitivity.Plan.load(folder / "plan.json")
    processes.wait()  # until all have looked whether there is one
    plan = sensitivity.choose(
        scan,
        model=model,
        images=splits.val,
        notify=lambda *done: notify(Note("choose", evaluations=done)),
        **recipe.choose,
    )
    if folder is not None and processes.rank() == 0:
        plan.save(folder / "plan.json")
    return scan, plan


def compare(dense: nn.Module, model: nn.Module, splits: Splits) -> dict:
    """The part of a record that the paper's tables need: both networks on the test split, once."""
    before, after = evaluate(dense, splits.test), evaluate(model, splits.test)
    return {
        "data": {
            "name": splits.name,
            "images": {part: getattr(splits, part).n for part in ("train", "val", "test")},
            "train_sha256": splits.train.fingerprint(),
        },
        "versions": provenance.versions(),
        "machine": provenance.machine(splits.test.device),
        "test": {
            "dense": plain(before),
            "pruned": plain(after),
            "drop": plain(drop(before, after)),
        },
        "parameters": {
            "dense": counts.parameters(dense).total,
            "pruned": counts.parameters(model).kept,
        },
        "layers": {
            "dense": _layers(counts.layers(dense, splits.val)),
            "pruned": _layers(counts.layers(model, splits.val)),
        },
    }


def _claim(folder: Path, recipe: Recipe, splits: Splits, seed: int) -> None:
    """Write down what this folder's run is, or make sure that it is this one."""
    settings = {
        "recipe": recipe,
        "data": splits.name,
        "train_sha256": splits.train.fingerprint(),
        "seed": seed,
    }
    if (folder / "run.json").exists():
        raise FileExistsError(f"{folder} holds a finished run; name another folder")
    if not (folder / "config.json").exists() and processes.rank() == 0:
        if there := [name for name in _WRITTEN if (folder / name).exists()]:
            raise FileExistsError(
                f"{folder} holds {', '.join(there)}, which the run would write; name another folder"
            )
        files.save_json(folder / "config.json", {"format": _CONFIG, **plain(settings)})
    processes.wait()
    if load_config(folder) != settings:
        raise ValueError(f"{folder} holds a run with other settings or data; name another folder")


_WRITTEN = (
    *("dense.safetensors", "model.safetensors", "mask.safetensors", "scan.csv", "scan.json"),
    *("plan.json", "report.html", "checkpoints"),
)


def percent(accuracy: Accuracy) -> str:
    """An accuracy as the error it leaves, the way the paper prints it."""
    return f"{accuracy.error:.2%}"


def _layers(table: counts.Counts) -> list[dict]:
    return [
        {**plain(row), "density": row.density, "flop_density": row.flop_density}
        for row in (*table, table.total)
    ]


def _shares(plan: sensitivity.Plan) -> str:
    return ", ".join(f"{row.layer} {row.density:.1%}" for row in plan.rows)


def _most_sensitive(scan: sensitivity.Scan) -> str:
    """One line about the layer that loses most at the lowest density of the scan."""
    lowest = min(point.density for point in scan)
    sparsest = [point for point in scan if point.density <= 1.5 * lowest]
    worst = max(sparsest, key=lambda point: point.drop.value)
    points = len(scan)
    return f"{points} points; {worst.layer} minds most: {worst.drop} at {worst.density:.0%} kept"
