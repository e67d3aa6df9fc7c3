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

from pruning_lab import criteria, data, files, models
from pruning_lab.data import Images
from pruning_lab.layers import prunable
from pruning_lab.rows import decode, plain
from pruning_lab.sensitivity import Plan, PlanRow
from pruning_lab.studio.history import Attempt, History
from pruning_lab.studio.layers import Version

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
    numbered = enumerate(versions)
    tensors = {f"{n}.{name}": tensor for n, own in numbered for name, tensor in own.items()}
    return files.save_tensors(path, tensors, about={"format": _FORMAT, **plain(about)})


def load(
    path: str | Path, model: nn.Module, splits, *, recalibrate: Images | None = None, **options
) -> tuple[About, nn.Module, list[dict[str, Tensor]]]:
    """What `save` wrote, the network as it came, and the weights of all versions.

    Raises ValueError for a broken file, and where it is of another network or of other images.
    """
    about = decode(About, files.load_about(path), path, _FORMAT)
    if about["images"] not in (None, data.fingerprint_of(getattr(splits, "val", splits))):
        raise ValueError(f"{path} was measured on other images; open it with the same data")
    if about["recalibrated"] != (recalibrate is not None):
        how = "with" if about["recalibrated"] else "without"
        raise ValueError(f"{path} was measured {how} recalibrate=; open it alike")
    last = max(attempt.version for attempt in about["history"].attempts)
    versions: list[dict[str, Tensor]] = [{} for _ in range(last + 1)]
    for key, tensor in files.load_tensors(path)[0].items():
        number, _, name = key.partition(".")
        if number not in map(str, range(last + 1)):
            raise ValueError(f"{path} is broken: no attempt has the weights {key!r}")
        versions[int(number)][name] = tensor
    model = copy.deepcopy(model)
    for weights in reversed(versions):  # the first one last: the network as it came
        models.fill_(model, weights, path)
    if about["history"].layers != tuple(prunable(model)):
        raise ValueError(f"{path} is broken: its layers are {', '.join(about['history'].layers)}")
    return about, model, versions


def export(
    path: str | Path, version: Version, attempt: Attempt, about: Mapping | None, overwrite: bool
) -> Exported:
    """Write the plan of an attempt, and beside it the network before pruning."""
    path, network = Path(path), version.network()
    if path.suffix != ".json":
        raise ValueError(f"a plan is JSON; name it {path.with_suffix('.json')}")
    weights = path.with_suffix(".safetensors")
    if _is_studio(weights):
        raise ValueError(f"{weights} is a saved studio; give the plan another name than it")
    if not overwrite and (there := [str(file) for file in (path, weights) if file.exists()]):
        raise FileExistsError(
            f"{' and '.join(there)} would be overwritten; give another name, or overwrite=True"
        )
    rows = tuple(
        PlanRow(
            layer=row.layer,
            weights=row.weights,
            density=row.density,
            quality=row.quality if math.isfinite(row.quality) else None,
            drop=None,
            why=f"set to {row.asked}" if row.layer in attempt.settings else "left as it is",
        )
        for row in version.rows(attempt.settings)
    )
    plan = Plan(
        rows=rows,
        asked=f"attempt {attempt.number}{f' ({attempt.name})' if attempt.name else ''}",
        method="studio",
        saliency=criteria.name_of(criteria.magnitude),
        together=attempt.drop,
        model_sha256=models.fingerprint(network),
    )
    models.save(weights, network, about=about)
    plan.save(path)
    network = about["network"] if about else "NETWORK"
    words = f" --model {network}" if not about or ":" in network else ""
    command = f"pruning-lab prune {quote(str(weights))}{words} --plan {quote(str(path))}"
    return Exported(path, weights, command)


def _is_studio(path: Path) -> bool:
    with contextlib.suppress(ValueError, OSError):  # no safetensors file, or none there
        form = (files.load_about(path) or {}).get("format")
        return str(form).startswith("pruning_lab studio")  # of another version too
    return False
