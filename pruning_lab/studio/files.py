"""The studio's files: everything in one safetensors file, and the plan that makes a mask again."""

import contextlib
import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TypedDict

from torch import Tensor, nn

from pruning_lab import criteria, files, models
from pruning_lab.layers import prunable
from pruning_lab.masks import Mask
from pruning_lab.rows import decode, plain
from pruning_lab.sensitivity import Plan, PlanRow
from pruning_lab.studio.history import Attempt, History
from pruning_lab.studio.metrics import Layers

_FORMAT = "pruning_lab studio 3"


class About(TypedDict):
    """What a studio's file holds besides weights."""

    about: dict | None
    images: str | None  # fingerprint of val
    recalibrated: bool
    tests: int
    history: History


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and what to type to get the same mask."""

    plan: Path
    network: Path
    command: str

    def __str__(self) -> str:
        return self.command


def save(path: str | Path, about: About, versions: list[Mapping[str, Tensor]]) -> Path:
    """Write the history, and the weights of every version."""
    tensors = {
        f"{number}.{name}": tensor
        for number, weights in enumerate(versions)
        for name, tensor in weights.items()
    }
    return files.save_tensors(path, tensors, about={"format": _FORMAT, **plain(about)})


def load(path: str | Path, model: nn.Module) -> tuple[About, nn.Module, list[dict[str, Tensor]]]:
    """What `save` wrote: also the network as it came, and the weights of all versions.

    Raises ValueError for a broken file, and for one of another network than `model`.
    """
    about = decode(About, files.load_about(path), path, _FORMAT)
    history = about["history"]
    try:
        history.check()
        if history.layers != tuple(prunable(model)):
            raise ValueError(
                f"its layers are {', '.join(history.layers)}; is it of another network?"
            )
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is broken: {error.args[0]}") from None
    versions: dict[str, dict] = {str(attempt.version): {} for attempt in history.attempts}
    for name, tensor in files.load_tensors(path)[0].items():
        number, _, rest = name.partition(".")
        if number not in versions:
            raise ValueError(f"{path} is broken: no attempt has the weights {name!r}")
        versions[number][rest] = tensor
    weights = [versions[str(number)] for number in range(len(versions))]
    model = copy.deepcopy(model)
    for tensors in reversed(weights):  # the first one last: the network as it came
        models.fill_(model, tensors, path)
    return about, model, weights


def export(
    path: str | Path,
    network: nn.Module,
    attempt: Attempt,
    rows: Layers,
    mask: Mask,
    about: Mapping | None,
    overwrite: bool,
) -> Exported:
    """Write the plan of an attempt, and beside it the network before pruning."""
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"a plan is JSON; name it {path.with_suffix('.json')}")
    weights = path.with_suffix(".safetensors")
    if weights.exists() and _is_studio(weights):
        raise ValueError(f"{weights} is a saved studio; give the plan another name than it")
    if not overwrite and (there := [str(file) for file in (path, weights) if file.exists()]):
        raise FileExistsError(
            f"{' and '.join(there)} would be overwritten; give another name, or overwrite=True"
        )
    plan = _plan(network, attempt, rows)
    if plan.mask(network).fingerprint() != mask.fingerprint():
        raise RuntimeError("ties among the weights cannot be told by densities; move one")
    models.save(weights, network, about=about)
    plan.save(path)
    words = "" if about else " --model NETWORK"
    command = f"pruning-lab prune {quote(str(weights))}{words} --plan {quote(str(path))}"
    return Exported(path, weights, command)


def _plan(network: nn.Module, attempt: Attempt, rows: Layers) -> Plan:
    return Plan(
        rows=tuple(
            PlanRow(
                layer=row.layer,
                weights=row.weights,
                density=row.density,
                quality=row.quality if math.isfinite(row.quality) else None,
                drop=None,
                why=f"set to {row.asked}" if row.layer in attempt.settings else "left as it is",
            )
            for row in rows
        ),
        asked=f"attempt {attempt.number}{f' ({attempt.name})' if attempt.name else ''}",
        method="studio",
        saliency=criteria.name_of(criteria.magnitude),
        together=attempt.drop,
        model_sha256=models.fingerprint(network),
    )


def _is_studio(path: Path) -> bool:
    with contextlib.suppress(ValueError):  # no safetensors file
        about = files.load_about(path)
        return isinstance(about, dict) and about.get("format") == _FORMAT
    return False
