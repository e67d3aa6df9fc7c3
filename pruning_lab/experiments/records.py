"""What a run leaves in its folder: the record, the networks, the mask; read and checked here."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Generic, Literal, TypedDict, TypeVar

from torch import nn

from pruning_lab import counts, files, models, paper, sensitivity
from pruning_lab.counts import LayerCount
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.experiments.recipes import Recipe
from pruning_lab.layers import prunable
from pruning_lab.masks import Mask, ReceiptRow
from pruning_lab.rows import decode
from pruning_lab.training import Epoch

T = TypeVar("T")
RUN, CONFIG = "pruning_lab run 3", "pruning_lab config 1"  # the formats of the two files


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
        path = folder / "run.json"
        if not folder.exists():
            raise FileNotFoundError(f"no folder {folder}; check the path")
        if not path.exists():
            raise FileNotFoundError(
                f"no finished run in {folder}; finish it with: "
                f"pruning-lab run --resume --out {folder}"
            )
        record = files.load_json(path)
        checked = decode(Record, record, path, RUN)
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


def load_config(folder: str | Path) -> "Config":
    """Read what the run in a folder was started with."""
    path = Path(folder) / "config.json"
    return decode(Config, files.load_json(path), path, CONFIG, whole=False)


class Config(TypedDict):
    """What a run was started with, as config.json holds it."""

    recipe: Recipe
    data: str
    train_sha256: str
    seed: int


class _Data(TypedDict):
    name: str
    images: dict[str, int]
    train_sha256: str


class _Test(TypedDict):
    dense: Accuracy
    pruned: Accuracy
    drop: Drop


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
class PhaseEpoch(Epoch):
    """An epoch, with the phase of the run that it belongs to."""

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
    layers: _Both[list[LayerCount]]  # the last row is the total
    dense_val: Accuracy
    scan: list[sensitivity.ScanPoint]
    plan: sensitivity.Plan | None
    stages: list[_Stage]
    epochs: list[PhaseEpoch]
    seconds: dict[str, float]


def _wrong(record: Record, run: Run) -> Iterator[str | None]:
    """What in a record cannot be: numbers that were not counted, or of other networks."""
    test, stages = record["test"], record["stages"]
    measured = [(record["dense_val"],), (test["dense"],), (test["pruned"], test["drop"])]
    measured += [(row.accuracy, row.drop) for row in record["scan"]]
    measured += [(stage["val"], stage["val_drop"]) for stage in stages]
    yield from starmap(sensitivity.wrong_measurement, measured)
    for stage in stages:
        if not 0 <= stage["kept"] <= stage["weights"] > 0:
            yield f"{stage['kept']} of {stage['weights']} weights in round {stage['round']}"
    rounds = range(1, len(record["recipe"].retrain) + 1)
    kinds = [(kind, number) for number in rounds for kind in ("cut", "retrained")]
    if [(stage["kind"], stage["round"]) for stage in stages] != kinds:
        yield f"its stages are not those of {len(rounds)} rounds"
    for which, model in {"dense": run.dense, "pruned": run.model}.items():
        yield from _wrong_counts(record, which, model)
    if set(run.mask) != set(prunable(run.model)) or any(
        layer.weight[~run.mask[name]].any() for name, layer in prunable(run.model).items()
    ):
        yield "the network has weights that the mask does not keep"


def _wrong_counts(record: Record, which: str, model: nn.Module) -> Iterator[str]:
    """What in the record's counts is not so in the network."""
    recipe, counted = record["recipe"], counts.parameters(model)
    if record["parameters"][which] != (counted.total if which == "dense" else counted.kept):
        yield f"it says {record['parameters'][which]:,} parameters of the {which} network"
    rows = record["layers"][which]
    if [row.layer for row in rows] != [r.layer for r in paper.LAYER_TABLES[recipe.network]]:
        yield "its layers are not those of the paper's table"
    table = counts.layers(model, models.input_shape(recipe.network, recipe.shape.get("size")))
    measured = ("input_density", "activation_density", "flops_kept")
    for row, count in zip(rows, (*table, table.total), strict=False):
        if row != replace(count, **{name: getattr(row, name) for name in measured}):
            yield f"its row of layer {row.layer!r} is not of the {which} network"
        densities = row.flop_density, row.activation_density or 0, row.input_density or 0
        if not all(0 <= density <= 1 for density in densities):
            yield f"the densities of layer {row.layer!r} in the {which} network"
