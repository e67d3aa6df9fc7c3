"""Checkpoints: the whole state of a training in one file, from which it resumes to the same end."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from pruning_lab import data, files, processes
from pruning_lab.layers import device_of, seeded
from pruning_lab.models.stored import check_fit
from pruning_lab.rows import decode, plain


@dataclass(frozen=True)
class Epoch:
    """The result of one pass over the training images, in all processes together."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean over the images while training
    accuracy: float  # top-1 while training, on the images as augmented
    lr: float  # of the last step, in the optimizer's first group
    seconds: float
    images: int
    peak_bytes: int | None = field(compare=False)  # of this process, on its device
    top5: float | None = None  # as `accuracy`, where there are more than 10 classes

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def seconds_left(self) -> float:
        """If the remaining epochs take as long as this one."""
        return (self.epochs - self.epoch) * self.seconds


class TrainingState:
    """What a training resumes from: weights, optimizer, random states, rows and sums."""

    _PARTS = ("model", "optimizer", "random", "now")  # of a checkpoint, before the first dot
    _NUMBERS = ("steps", "step", "seen", "seconds")

    def __init__(self, model: nn.Module, optimizer: Optimizer, seed: int):
        self.model, self.optimizer = model, optimizer
        self.device = device_of(model)
        self.generator = torch.Generator().manual_seed(seed)  # decides about the images
        self.rows: list[Epoch] = []  # of the epochs done
        self.steps: int | None = None  # that the last epoch had
        # Of this process, in the current epoch: loss, right in top 1, right in top 5 of how many.
        self.sums = torch.zeros(4, device=self.device)
        self._clear()

    def _clear(self) -> None:
        self.step = self.seen = 0  # in the current epoch: steps, and images of all processes
        self.seconds = 0.0
        self.sums.zero_()
        self.mark()

    def finish(self, row: Epoch) -> None:
        """The current epoch is done."""
        self.rows.append(row)
        self.steps = self.step
        self._clear()

    def mark(self) -> None:
        """Keep the random states that an epoch begins with; in an interrupted one, restore them."""
        if self.step:
            self.generator.set_state(self.order)
            _set_random(self.begin, self.device)
        else:
            self.order, self.begin = self.generator.get_state(), _random(self.device)

    def skip_(self, groups: Iterator[list]) -> None:
        """In an interrupted epoch, pass by the steps that are done."""
        if self.step:
            for _ in islice(groups, self.step):
                pass
            _set_random(self.now, self.device)

    def pack(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors, and the remainder as JSON; every process has to ask, the first has it all."""
        parts = {"model": self.model.state_dict(), "random": {"order": self.order, **self.begin}}
        about = {name: getattr(self, name) for name in self._NUMBERS}
        about["rows"] = plain(self.rows)
        if self.step:
            now = {"sums": self.sums, **_random(self.device)}
            parts["now"] = {name: processes.gathered(tensor) for name, tensor in now.items()}
        if self.step or self.rows[-1].epoch < self.rows[-1].epochs:  # else it has had its use
            parts["optimizer"], state = {}, self.optimizer.state_dict()
            state["param_groups"] = [
                {n: v for n, v in group.items() if isinstance(v, (*_PLAIN, Tensor, list, tuple))}
                for group in state["param_groups"]
            ]
            about["optimizer"] = _pack(state, parts["optimizer"])
        return {f"{part}.{n}": t for part, named in parts.items() for n, t in named.items()}, about

    def unpack_(self, tensors: Mapping[str, Tensor], about: dict, path: Path) -> None:
        """Restore what `pack` returned."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in self._PARTS}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        check_fit(self.model, parts["model"], path)  # before anything has changed
        self.rows = about["rows"]
        for name in self._NUMBERS:
            setattr(self, name, about[name])
        if "optimizer" in about:
            _load_optimizer_(self.optimizer, _unpack(about["optimizer"], parts["optimizer"]))
        if self.step:
            now = {name: every[processes.rank()].clone() for name, every in parts["now"].items()}
            self.sums.copy_(now.pop("sums"))
            self.now = now
            _set_random(now, self.device)  # which raises where these are none
        # Cloned, for torch crashes on states that are not aligned, as in the bytes of a file.
        self.begin = {name: state.clone() for name, state in parts["random"].items()}
        self.order = self.begin.pop("order")
        self.generator.set_state(self.order)
        _set_random(self.begin, self.device)
        self.model.load_state_dict(parts["model"])


@dataclass
class CheckpointWriter:
    """Writes one file, always in place of the one before: there is the latest state only."""

    path: Path
    settings: dict
    seconds: float  # between two checkpoints within an epoch
    last: float = field(default_factory=time.monotonic)
    cost: float = 0.0  # seconds that the last one took
    asked: float = field(default_factory=time.monotonic)  # when the clock was last read
    steps: int = 0  # since then
    wait: int = 1  # steps between then and the next time

    def due(self) -> bool:
        """Whether to write after this step; every process has to ask.

        The first process's clock decides, and says in how many steps to ask it again: after half of
        the time that is left, as fast as steps went, and after 100 steps at the latest.
        """
        self.steps += 1
        if self.steps < self.wait:
            return False
        now = time.monotonic()
        left, pace = self.last + self.seconds - now, (now - self.asked) / self.steps
        wait = max(1, int(min(100, left / max(pace, 1e-9) / 2))) if left > 0 else 0
        wait = _of_first(wait)
        self.asked, self.steps, self.wait = now, 0, max(wait, 1)
        return wait == 0

    def worth_it(self) -> bool:
        """After an epoch: unless writing took long, and the work since then did not."""
        worth = self.cost < _CHEAP or time.monotonic() - self.last >= _RATIO * self.cost
        return bool(_of_first(worth))

    def save(self, state: TrainingState) -> None:
        began = time.monotonic()
        tensors, about = state.pack()
        if processes.rank() == 0:
            about = {"format": _FORMAT, "settings": self.settings, **about}
            files.save_tensors(self.path, tensors, about=about)
        self.last = time.monotonic()
        self.cost = self.last - began

    def restore_(self, state: TrainingState) -> None:
        """Bring the state back as `save` found it, in every process.

        Raises ValueError, with the model as it was, for a file that is not of this training.
        """
        if self.path.exists():
            about = self._checked(files.load_about(self.path))
            tensors, _ = files.load_tensors(self.path)
            try:
                state.unpack_(tensors, about, self.path)
            except (LookupError, TypeError, RuntimeError, ValueError) as error:
                if isinstance(error, ValueError) and str(self.path) in str(error):
                    raise
                raise ValueError(
                    f"{self.path} is a broken checkpoint, delete it: {error!r}"
                ) from None
        if not processes.agree(f"{len(state.rows)} epochs and {state.step} steps"):
            raise ValueError(
                f"the processes do not find the same checkpoint {self.path}; put it on a disk that "
                f"all of them see"
            )

    def _checked(self, about: dict | None) -> "CheckpointAbout":
        """What the file says, once it is a checkpoint, whole, and of this training."""
        checked = decode(CheckpointAbout, about, self.path, _FORMAT)
        theirs, rows = checked["settings"], checked["rows"]
        if theirs.keys() < self.settings.keys():
            raise ValueError(f"{self.path} is a broken checkpoint, delete it: it lacks settings")
        differing = [name for name, value in self.settings.items() if theirs[name] != value]
        if differing:
            raise ValueError(
                f"{self.path} is a checkpoint of another training, with another "
                f"{', '.join(differing)}; delete it, name another, or train as it did"
            )
        epochs, step = self.settings["epochs"], checked["step"]
        numbers = [(row.epoch, row.epochs) for row in rows]
        counted = numbers == [(n + 1, epochs) for n in range(min(len(rows), epochs))]
        if not counted or min(step, checked["seen"], checked["seconds"]) < 0 or not (rows or step):
            raise ValueError(
                f"{self.path} is a broken checkpoint, delete it: its {len(rows)} rows and step "
                f"{step} are not those of {epochs} epochs"
            )
        return checked


class CheckpointAbout(TypedDict):
    """What a checkpoint holds besides tensors."""

    settings: dict
    rows: list[Epoch]
    steps: int | None
    step: int
    seen: int
    seconds: float
    optimizer: NotRequired[object]


def _of_first(number: int) -> int:
    """The number that the first process has."""
    return int(processes.summed(torch.tensor(int(number) if processes.rank() == 0 else 0)))


_FORMAT = "pruning_lab checkpoint 4"
_CHEAP = 0.25  # seconds: a checkpoint that takes no longer is written after every epoch
_RATIO = 20  # any other after so many times as much work


# ------------------------------------------------------------------------------- optimizer states

_PLAIN = (type(None), bool, int, float, str)


def _pack(value: object, tensors: dict[str, Tensor]) -> object:
    """`value` for JSON; its tensors go into `tensors`, and their names stand in their place."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _pack(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(entry, tensors) for entry in value]}
    raise ValueError(
        f"a checkpoint cannot hold the {type(value).__name__} in the optimizer's state; "
        f"train without checkpoint="
    )


def _unpack(value: object, tensors: Mapping[str, Tensor]) -> object:
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(entry, tensors) for key, entry in content}
    return {"list": list, "tuple": tuple}[kind](_unpack(entry, tensors) for entry in content)


def _load_optimizer_(optimizer: Optimizer, saved: dict) -> None:
    mine = optimizer.state_dict()["param_groups"]
    groups = [{**own, **group} for own, group in zip(mine, saved["param_groups"], strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        for parameter, index in zip(own["params"], group["params"], strict=True):
            if index in saved["state"]:
                loaded = optimizer.state[parameter]
                optimizer.state[parameter] = _exact(loaded, saved["state"][index], parameter)


def _exact(loaded: object, saved: object, parameter: Tensor) -> object:
    """On the devices of `loaded`, with the dtypes of `saved` and the strides of the parameter.

    load_state_dict casts floats to the parameter's dtype, a file keeps no strides, and torch's
    fused optimizers take both as given.
    """
    if isinstance(saved, Tensor):
        like = parameter if saved.shape == parameter.shape else saved
        return torch.empty_like(like, dtype=saved.dtype, device=loaded.device).copy_(saved)
    if isinstance(saved, dict):
        return {key: _exact(loaded[key], value, parameter) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        pairs = zip(loaded, saved, strict=True)
        return type(saved)(_exact(*pair, parameter) for pair in pairs)
    return saved


# ---------------------------------------------------------------------------------- random states


def _random(device: torch.device) -> dict[str, Tensor]:
    """The states that dropout and a DataLoader draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def own_random(device: torch.device) -> Iterator[None]:
    """Each of many processes draws its own numbers inside, and all the same ones afterwards."""
    if processes.world() == 1:
        yield
        return
    seed = torch.randint(2**40, ())
    processes.copy_first_([seed])
    with seeded(int(seed) + processes.rank(), device):
        yield


# ----------------------------------------------------------------------------------- fingerprints


def fingerprint(value: object) -> str:
    """SHA-256 of a setting: two with the same one train alike.

    Tensors count by content, functions by name and (outside of torch) code, partials by their
    arguments, other objects by their `fingerprint()` or by their type and plain attributes.
    """
    return files.sha256(json.dumps(_described(value, ())).encode())


def images_fingerprint(images: object) -> str:
    """SHA-256 of the content where it is in memory, else of type and length; reads no image."""
    if known := data.fingerprint_of(images):
        return fingerprint(known)
    if isinstance(images, DataLoader):
        how = images.batch_size, images.drop_last, type(images.sampler)
        return fingerprint((images_fingerprint(images.dataset), how))
    if isinstance(images, TensorDataset):
        return fingerprint(images.tensors)
    return fingerprint(images if isinstance(images, list | tuple) else (type(images), size(images)))


def size(images: object) -> int | None:
    """Its length, None where it has none: a DataLoader has one only if its data set does."""
    try:
        return len(images)
    except (TypeError, NotImplementedError):
        return None


def _described(value: object, outer: tuple[int, ...]) -> object:
    """A value of JSON."""
    if isinstance(value, _PLAIN):
        return value
    if id(value) in outer:  # a function that calls itself
        return "itself"
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        parts = [str(value.dtype), list(value.shape), files.sha256(flat.numpy())]
    elif isinstance(value, Mapping):
        parts = [entry for item in value.items() for entry in item]
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, CodeType):
        parts = [value.co_code.hex(), value.co_names, value.co_consts]
    elif isinstance(value, FunctionType) and not value.__module__.startswith(_BY_NAME):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = value.__defaults__, value.__kwdefaults__
        parts = [value.__qualname__, value.__code__, defaults, cells]
    elif hasattr(value, "__qualname__"):
        parts = [value.__module__, value.__qualname__]
    elif hasattr(value, "fingerprint"):
        parts = [value.fingerprint()]
    else:
        plain = {n: v for n, v in getattr(value, "__dict__", {}).items() if isinstance(v, _PLAIN)}
        loss = isinstance(value, nn.Module) and not any(True for _ in value.parameters())
        parts = [type(value), plain, dict(value.named_buffers()) if loss else None]
    return [_described(part, (*outer, id(value))) for part in parts]


_BY_NAME = ("torch.", "pruning_lab.")  # their code may change between versions
