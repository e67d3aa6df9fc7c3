"""Checkpoints: the state of a training after an epoch, from which it resumes to the same end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from pruning_lab import files, processes
from pruning_lab.evaluation import Accuracy
from pruning_lab.rows import decode


@dataclass(frozen=True)
class Epoch:
    """The result of one pass over the training images, in all processes; prints as one line."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean over the images while training
    accuracy: float  # top-1 while training, on the images as augmented
    lr: float  # of the last step, in the optimizer's first group
    seconds: float  # measuring `val` included
    images: int
    peak_bytes: int | None = field(compare=False)  # of this process, on its device
    val: Accuracy | None = None  # after the epoch, where `train` was given `val=`

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def seconds_left(self) -> float:
        """If the remaining epochs take as long as this one."""
        return (self.epochs - self.epoch) * self.seconds

    def __str__(self) -> str:
        number = f"{self.epoch:{len(str(self.epochs))}}/{self.epochs}"
        val = f"  val {self.val.value:.2%}" if self.val else ""
        left = f", {duration(self.seconds_left)} left" if self.epoch < self.epochs else ""
        results = f"loss {self.loss:.3f}  train {self.accuracy:.2%}{val}"
        return f"epoch {number}  {results}  {duration(self.seconds)}/epoch{left}"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> [duration(seconds) for seconds in (0.043, 4.13, 59, 100, 7500)]
    ['0.043 s', '4.1 s', '59 s', '1 min 40 s', '2 h 5 min']
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Position(TypedDict):
    """Where a training is, between two epochs. It needs no random states: `train` seeds them."""

    settings: dict
    rows: list[Epoch]  # of the epochs done
    steps: int  # that the last epoch had
    optimizer: NotRequired[dict]


@dataclass
class Checkpoint:
    """One file, always written in place of the one before: it holds the latest state only."""

    path: Path
    settings: dict

    def write(self, tensors: Mapping[str, Tensor], position: dict) -> None:
        """Write tensors, named PART.NAME, and the position; the first process does."""
        if processes.rank() == 0:
            about = {"format": _FORMAT, "settings": self.settings, **position}
            files.save_tensors(self.path, tensors, about=about)

    def restore(self, unpack: Callable[[dict[str, dict[str, Tensor]], Position], None]) -> None:
        """Where the file exists, call `unpack` with its tensors (part -> name) and its position.

        Raises ValueError for a file that is not of this training.
        """
        if not self.path.exists():
            return
        position = decode(Position, files.load_about(self.path), self.path, _FORMAT)
        saved, rows = position["settings"], position["rows"]
        if differing := [n for n, value in self.settings.items() if saved.get(n, ...) != value]:
            raise ValueError(
                f"{self.path} is a checkpoint of another training, with another "
                f"{', '.join(differing)}; delete it, name another, or train as it did"
            )
        epochs = self.settings["epochs"]
        numbers = [(number, epochs) for number in range(1, epochs + 1)]
        in_order = [(row.epoch, row.epochs) for row in rows] == numbers[: len(rows)]
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "epoch": {}, "optimizer": {}}
        try:
            if not (rows and in_order):
                raise ValueError(f"its rows ({len(rows)}) do not fit {epochs=}")
            for name, tensor in files.load_tensors(self.path)[0].items():
                part, _, name_in_part = name.partition(".")
                parts[part][name_in_part] = tensor
            unpack(parts, position)
        except (LookupError, TypeError, RuntimeError, ValueError, AttributeError) as error:
            if str(self.path) in str(error):
                raise
            raise ValueError(f"{self.path} is a broken checkpoint, delete it: {error!r}") from None


_FORMAT = "pruning_lab checkpoint 7"


# ------------------------------------------------------------------------------- optimizer states


def pack(optimizer: Optimizer, tensors: dict[str, Tensor]) -> dict:
    """The optimizer's state for JSON; its tensors go into `tensors`, and their names here."""
    device = optimizer.param_groups[0]["params"][0].device

    def place_of(value: object) -> dict:
        if not isinstance(value, Tensor):
            raise TypeError(f"{type(value).__name__} is neither a tensor nor a plain value")
        name = str(len(tensors))
        tensors[f"optimizer.{name}"] = value
        return {"tensor": name, "strides": value.stride(), "on_device": value.device == device}

    state = optimizer.state_dict()
    groups = [{n: v for n, v in g.items() if not callable(v)} for g in state["param_groups"]]
    packed = {"state": state["state"], "param_groups": groups}
    try:
        return json.loads(json.dumps(packed, default=place_of))
    except TypeError as error:
        why = f"a checkpoint cannot hold the optimizer's state: {error}; train without checkpoint="
        raise ValueError(why) from None


def unpack_(optimizer: Optimizer, packed: dict, tensors: Mapping[str, Tensor]) -> None:
    """Bring the state back, in the dtypes and strides it had: load_state_dict keeps neither."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def tensor_of(entry: dict) -> object:
        if "tensor" not in entry:
            return entry
        saved, device = tensors[entry["tensor"]], parameters[0].device
        device = device if entry["on_device"] else "cpu"
        made = torch.empty_strided(saved.shape, entry["strides"], dtype=saved.dtype, device=device)
        return made.copy_(saved)

    saved = json.loads(json.dumps(packed), object_hook=tensor_of)
    for own, group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        del group["params"]
        for name, value in group.items():  # JSON makes a list of a tuple
            own[name] = tuple(value) if isinstance(own.get(name), tuple) else value
    for key, entry in saved["state"].items():
        optimizer.state[parameters[int(key)] if key.isdecimal() else key] = entry


# ----------------------------------------------------------------------------------- fingerprints


def fingerprint(value: object) -> str:
    """SHA-256 of a setting: two with the same one train alike.

    Tensors count by content, functions by name and (outside of torch) code, partials by their
    arguments, other objects by their `fingerprint()` or by their type and plain attributes.
    """
    return files.sha256(json.dumps(_described(value, ())).encode())


def images_fingerprint(images: object) -> str:
    """SHA-256 of the content where it is in memory, else of type and length; reads no image."""
    if isinstance(images, DataLoader):
        how = images.batch_size, images.drop_last, type(images.sampler)
        return fingerprint((images_fingerprint(images.dataset), how))
    if isinstance(images, TensorDataset):
        return fingerprint(images.tensors)
    in_memory = isinstance(images, list | tuple) or hasattr(images, "fingerprint")
    return fingerprint(images if in_memory else (type(images), size(images)))


def size(images: object) -> int | None:
    """Its length, None where it has none: a DataLoader has one only if its data set does."""
    try:
        return len(images)
    except (TypeError, NotImplementedError):
        return None


def _described(value: object, outer: tuple[int, ...]) -> object:
    """A value for JSON; a function that calls itself is described once."""
    if isinstance(value, _PLAIN):
        return value
    inside = (*outer, id(value))
    return "itself" if id(value) in outer else [_described(p, inside) for p in _parts(value)]


def _parts(value: object) -> Sequence:
    """What makes a value the one it is."""
    by_name = isinstance(value, FunctionType) and value.__module__.startswith(_BY_NAME)
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), files.sha256(flat.numpy())
    if isinstance(value, Mapping):
        return tuple(value.items())
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, bytes):
        return [value.hex()]
    if type(value) in _PARTS and not by_name:
        return [getattr(value, name) for name in _PARTS[type(value)]]
    if hasattr(value, "__qualname__"):
        return value.__module__, value.__qualname__
    if hasattr(value, "fingerprint"):
        return [value.fingerprint()]
    plain = {n: v for n, v in getattr(value, "__dict__", {}).items() if isinstance(v, _PLAIN)}
    loss = isinstance(value, nn.Module) and not list(value.parameters())
    return type(value), plain, dict(value.named_buffers()) if loss else None


_PLAIN = (type(None), bool, int, float, str)
_BY_NAME = ("torch.", "pruning_lab.")  # their code may change between versions
_PARTS = {
    FunctionType: ("__qualname__", "__code__", "__defaults__", "__kwdefaults__", "__closure__"),
    CodeType: ("co_code", "co_names", "co_consts"),
    CellType: ("cell_contents",),  # of a closure
    MethodType: ("__func__", "__self__"),
    partial: ("func", "args", "keywords"),
}
