"""What a run leaves in its folder: a record, both networks and the mask."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from torch import nn

from pruning_lab import files, models
from pruning_lab.data import Splits
from pruning_lab.experiments.recipes import Recipe
from pruning_lab.masks import Mask
from pruning_lab.rows import decode, plain

RUN, CONFIG = "pruning_lab run 4", "pruning_lab config 2"  # the formats of the two JSON files


@dataclass(frozen=True)
class Run:
    """What a run leaves: the record (as in run.json), its networks and the mask.

    The record has the seed, command, recipe, data, versions and machine; what was measured on test
    and val; the parameters; the rows of layers, scan, stages and epochs; the plan, and seconds.
    The control is the dense network trained on for exactly as long as the pruned one.
    """

    record: dict
    dense: nn.Module
    model: nn.Module
    mask: Mask
    control: nn.Module | None = None  # of a run without one

    def save(self, folder: Path) -> None:
        """Write the files, run.json last: a folder that has it is finished."""
        record, recipe = self.record, self.record["recipe"]
        about = {"network": recipe["network"], **recipe["shape"]}
        about |= {"data": record["data"]["name"], "seed": record["seed"]}
        models.save(folder / "dense.safetensors", self.dense, about=about)
        models.save(folder / "model.safetensors", self.model, about=about)
        if self.control is not None:
            models.save(folder / "control.safetensors", self.control, about=about)
        self.mask.save(folder / "mask.safetensors")
        record["sha256"] = _digest(folder, record)
        files.save_json(folder / "run.json", record)

    @classmethod
    def load(cls, folder: str | Path, network: Callable[[Path], tuple] = models.load) -> "Run":
        """Read a finished run's folder. Raises ValueError where a file changed after the run.

        `network` reads the file of one's own network: (path) -> (model, anything).
        """
        folder = Path(folder)
        path = folder / "run.json"
        if not folder.exists():
            raise FileNotFoundError(f"no folder {folder}; check the path")
        if not path.exists():
            todo = f"finish it with: pruning-lab run --resume --out {shlex.quote(str(folder))}"
            known = (folder / "config.json").exists() and load_config(folder)["recipe"].network
            todo += f" --model {known}" if known and ":" in known else ""
            raise FileNotFoundError(f"no finished run in {folder}; {todo}")
        record = files.load_json(path)
        if decode(dict, record, path, RUN).get("sha256") != _digest(folder, record):
            raise ValueError(
                f"{path}, or a network or mask beside it, has changed since the run; restore the "
                f"files, or run again"
            )
        dense, _ = network(folder / "dense.safetensors")
        model, _ = network(folder / "model.safetensors")
        control = None
        if record["test"]["control"]:
            control, _ = network(folder / "control.safetensors")
        return cls(record, dense, model, Mask.load(folder / "mask.safetensors"), control)


def _digest(folder: Path, record: dict) -> str:
    """SHA-256 of a record and of the files that belong to it."""
    content = {name: entry for name, entry in record.items() if name != "sha256"}
    parts = [json.dumps(content, sort_keys=True).encode()]
    control = ("control",) if record.get("test", {}).get("control") else ()
    for name in ("dense", "model", "mask", *control):
        with files.open_file(folder / f"{name}.safetensors") as file:
            parts.append(hashlib.file_digest(file, "sha256").digest())
    return files.sha256(*parts)


class Config(TypedDict):
    """What a run was started with, as config.json holds it."""

    recipe: Recipe
    data: str
    train_sha256: str
    seed: int
    control: bool
    command: NotRequired[str | None]  # that the user typed


def settings_of(recipe: Recipe, splits: Splits, seed: int, control: bool) -> Config:
    """The settings of a run, by which it is found again."""
    sha256 = splits.train.fingerprint()
    settings = {"recipe": recipe, "data": splits.name, "train_sha256": sha256}
    return {**settings, "seed": seed, "control": control}


def digest(what: Mapping) -> str:
    """Twelve letters for a file's name: those of the same settings are the same."""
    return files.sha256(json.dumps(plain(what), sort_keys=True).encode())[:12]


def shelf(folder: Path, what: Mapping) -> Path:
    """Where the checkpoint of a training stands that `what` says all of."""
    return folder / digest(what)


def load_config(folder: str | Path) -> Config:
    """Read what the run in a folder was started with."""
    path = Path(folder) / "config.json"
    return decode(Config, files.load_json(path), path, CONFIG, whole=False)
