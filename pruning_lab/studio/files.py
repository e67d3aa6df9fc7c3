"""The studio's files: its attempts in JSON, the weights beside it, and plans to take away."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TypedDict

import msgspec
from torch import Tensor, nn

from pruning_lab import criteria, data, files, models
from pruning_lab.data import Images
from pruning_lab.layers import prunable
from pruning_lab.models.stored import check_fit
from pruning_lab.rows import decode
from pruning_lab.sensitivity import Plan, PlanRow
from pruning_lab.studio.history import Attempt, History
from pruning_lab.studio.layers import Version

_FORMAT = "pruning_lab studio 4"


class About(TypedDict):
    """What a studio's file holds."""

    id: str  # of this studio: the files of another one are not overwritten
    about: dict | None
    images: str | None  # fingerprint of val
    recalibrated: bool
    tests: int
    weights: list[str]  # fingerprint of each version, whose weights lie in files of their own
    history: History


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and what to type to get the same mask."""

    plan: Path
    network: Path
    command: str

    def __str__(self) -> str:
        return self.command


def save(path: Path, about: About, versions: Sequence[Version]) -> Path:
    """Write the weights that are not there yet, then the JSON, which is whole at any moment."""
    for number, version in enumerate(versions):
        save_weights(path, number, version, about["id"])
    history = {f.name: getattr(about["history"], f.name) for f in fields(History) if f.repr}
    attempts = b",\n".join(attempt.json for attempt in about["history"].attempts)
    history["attempts"] = msgspec.Raw(b"[\n" + attempts + b"\n]")  # one a line
    return files.write(path, msgspec.json.encode({"format": _FORMAT, **about, "history": history}))


def save_weights(path: Path, number: int, version: Version, owner: str) -> None:
    """Write a version's weights beside the studio's file, unless they are there."""
    file = _weights(path, number)
    about = {"format": _FORMAT, "id": owner, "sha256": version.fingerprint}
    if _read(file) != about:
        files.save_tensors(file, version.weights, about=about)


def check_free(path: str | Path, owner: str, overwrite: bool) -> Path:
    """The path; raises ValueError or FileExistsError where this studio should not be saved."""
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"a studio is saved as JSON; name it {path.with_suffix('.json')}")
    others = [file for file in files_of(path) if _read(file).get("id") != owner]
    _check_overwrite(others, overwrite, "open it with Studio.load, ")
    return path


def files_of(path: Path) -> list[Path]:
    """What is there of the files of a studio that is saved in `path`, the JSON first."""
    own = re.compile(re.escape(path.stem) + r"(\.json|-\d+\.safetensors)")
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    found = (file for file in there if own.fullmatch(file.name))
    return sorted(found, key=lambda file: (file.name != path.name, file.name))


def free_path(path: Path) -> Path:
    """The path where nothing of a studio is there, else the first free of studio-2.json, ..."""
    others = (path.with_stem(f"{path.stem}-{number}") for number in range(2, 10**6))
    return next(place for place in chain([path], others) if not files_of(place))


def stamp(path: Path) -> tuple | None:
    """What tells that a file was written again; None where there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _check_overwrite(there: Sequence[Path], overwrite: bool, advice: str = "") -> None:
    if there and not overwrite:
        names = " and ".join(map(str, there))
        what = f"would be overwritten; {advice}give another name, or overwrite=True"
        raise FileExistsError(f"{names} {what}")


def read(path: str | Path) -> About:
    """What `save` wrote, without the weights. Raises ValueError for anything else."""
    return decode(About, files.load_json(path), path, _FORMAT)


def load(
    path: str | Path, model: nn.Module, splits, *, recalibrate: Images | None = None, **options
) -> tuple[About, nn.Module, list[dict[str, Tensor]]]:
    """What `save` wrote, the network as it came, and the weights of all versions.

    Raises ValueError for a broken file, and where it is of another network or of other images.
    """
    path, about = Path(path), read(path)
    if about["images"] not in (None, data.fingerprint_of(getattr(splits, "val", splits))):
        raise ValueError(f"{path} was measured on other images; open it with the same data")
    if about["recalibrated"] != (recalibrate is not None):
        how = "with" if about["recalibrated"] else "without"
        raise ValueError(f"{path} was measured {how} recalibrate=; open it alike")
    history = about["history"]
    if len(about["weights"]) != (many := len({a.version for a in history.attempts})):
        raise ValueError(f"{path} is broken: its attempts are of {many} versions of the weights")
    model, versions = copy.deepcopy(model), []
    for number, fingerprint in enumerate(about["weights"]):
        file = _weights(path, number)
        check_fit(model, files.load_shapes(file), file)  # before gigabytes are read
        found = files.load_tensors(file)[0]
        versions.append({name: found[name] for name in model.state_dict()})
        if models.fingerprint(versions[-1]) != fingerprint:
            what = f"holds other weights than {path} was saved with; put back the file of that name"
            raise files.wrong(file, what)
    for number, weights in reversed([*enumerate(versions)]):  # last the network as it came
        models.fill_(model, weights, _weights(path, number))
    if history.layers != tuple(prunable(model)):
        raise ValueError(f"{path} is broken: its layers are {', '.join(history.layers)}")
    return about, model, versions


def export(
    path: str | Path,
    version: Version,
    attempt: Attempt,
    about: Mapping | None,
    recalibrated: bool,
    overwrite: bool,
) -> Exported:
    """Write the plan of an attempt, and beside it the network before pruning."""
    path, network = Path(path), version.network()
    if path.suffix != ".json":
        raise ValueError(f"a plan is JSON; name it {path.with_suffix('.json')}")
    weights = path.with_suffix(".safetensors")
    for file in (path, weights):
        if str(_read(file).get("format")).startswith("pruning_lab studio"):  # of any version
            raise ValueError(f"{file} is of a saved studio; give the plan another name")
    _check_overwrite([file for file in (path, weights) if file.exists()], overwrite)
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
        recalibrated=recalibrated,
    )
    models.save(weights, network, about=about)
    plan.save(path)
    network = about["network"] if about else "NETWORK"
    words = f" --model {network}" if not about or ":" in network else ""
    command = f"pruning-lab prune {quote(str(weights))}{words} --plan {quote(str(path))}"
    return Exported(path, weights, command)


def _weights(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}.safetensors")


def _read(file: Path) -> dict:
    """What a file says about itself; empty where there is none, or another one's."""
    with suppress(ValueError, OSError):
        about = files.load_json(file) if file.suffix == ".json" else files.load_about(file)
        return about if isinstance(about, dict) else {}
    return {}
