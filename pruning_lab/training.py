"""Training as an iterator of epochs, with checkpoints from which it goes on as if never stopped.

One process or many: started by torch's launcher and joined, processes train as torch's DDP does.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pruning_lab import files, processes
from pruning_lab.evaluation import Images, device_of, mode
from pruning_lab.masks import Mask
from pruning_lab.models import fill_


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """SGD with momentum; the learning rate climbs to `lr` and falls to nothing along a cosine."""

    epochs: int = 5
    lr: float = 0.1
    batch_size: int = 128  # of a Split, for each process; a DataLoader brings its own
    accumulate: int = 1  # batches whose gradients make one step together
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4  # L2, on every parameter
    warmup: float = 0.2  # share of the steps in which the learning rate climbs
    shift: int = 0  # pixels by which images of a Split move, at random, both ways
    flip: bool = False  # mirror images of a Split, every other one at random
    crop: float = 1.0  # smallest share of its area that a crop of an image shows; 1 crops nothing
    colour: float = 0.0  # sigma of the jitter along the axes of RGB, 0.1 in Krizhevsky et al. 2012
    bf16: bool = False  # autocast the forward pass
    compile: bool = False  # let torch.compile write the forward pass anew
    seed: int = 0

    def __post_init__(self):
        if self.epochs < 0 or self.batch_size < 1 or self.accumulate < 1:
            raise ValueError(
                f"epochs must be >= 0, batch_size and accumulate >= 1, got {self.epochs}, "
                f"{self.batch_size} and {self.accumulate}"
            )
        if not (self.lr > 0 and 0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise ValueError(
                f"lr must be > 0, momentum in [0, 1), weight_decay >= 0, got {self.lr}, "
                f"{self.momentum} and {self.weight_decay}"
            )
        if not (self.shift >= 0 and 0 < self.crop <= 1 and self.colour >= 0):
            raise ValueError(
                f"shift must be >= 0 (pixels), crop in (0, 1] (a share of the area), colour >= 0, "
                f"got {self.shift}, {self.crop} and {self.colour}"
            )

    def learning_rate(self, progress: float) -> float:
        """The learning rate after a share `progress` in [0, 1] of all steps (Smith 2018)."""
        if progress < self.warmup:
            return self.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * progress / self.warmup)) / 2)
        left = (1 - progress) / (1 - self.warmup) if self.warmup < 1 else 0.0
        return self.lr * (1 - math.cos(math.pi * left)) / 2


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave, in all processes together."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean cross-entropy while learning
    accuracy: float  # while learning, on the images as augmented
    lr: float  # of the last step
    seconds: float
    images: int | None = None  # None in rows of older versions, as the next
    peak_bytes: int | None = field(default=None, compare=False)  # of this process, on its device

    @property
    def images_per_second(self) -> float | None:
        return None if self.images is None else self.images / self.seconds

    @property
    def seconds_left(self) -> float:
        """If the epochs to come take as long as this one took."""
        return (self.epochs - self.epoch) * self.seconds


def train(
    model: nn.Module,
    images: Images,
    config: TrainConfig = TrainConfig(),
    *,
    mask: Mask | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
) -> Iterator[Epoch]:
    """Train in place; each step of the iterator is one epoch, each epoch one row.

    With `mask`, pruned weights stay zero. Only parameters that require a gradient are trained. With
    `checkpoint`, the state is written there after every epoch (of a large network, whose file takes
    long, when that is worth it), and within one whenever `checkpoint_minutes` have gone by, always
    in place of the one before; where that file exists
    already, its epochs are given again without computing and training goes on, to the same end.

    Of processes that are joined, each takes its share of every batch of a Split, `batch_size`
    images of `batch_size` times their number; anything else that gives images has to give each
    process its own share, in equally many batches. Batch norm averages over a process's own share.

    Raises FloatingPointError when the loss is no longer finite, ValueError where the checkpoint is
    of another training: other settings, images or layers trained, or another mask.
    """
    processes.check(device_of(model))
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter requires a gradient, so there is nothing to train")
    optimizer = torch.optim.SGD(
        parameters.values(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=all(p.is_floating_point() and p.device.type in _FUSED for p in parameters.values()),
    )
    if mask is not None:
        mask.attach(optimizer, model)
    settings = {
        **asdict(config),
        "mask": mask.fingerprint() if mask is not None else None,
        "trained": list(parameters),
        "processes": processes.world(),
    }
    if checkpoint is not None and hasattr(images, "fingerprint"):
        settings["images"] = images.fingerprint()
    if not processes.agree(json.dumps(settings)):
        raise ValueError(
            "the processes would train differently; give all the same config, mask and images, and "
            "the same layers to train"
        )
    state = _State(model, optimizer, parameters, config.seed)
    keeper = None
    if checkpoint is not None:
        keeper = _Keeper(Path(checkpoint), settings, 60 * checkpoint_minutes)
    return _train(images, config, state, keeper)


_FUSED = ("cpu", "cuda")


def _train(images, config, state: "_State", keeper: "_Keeper | None") -> Iterator[Epoch]:
    if keeper:
        keeper.restore_(state)
    yield from state.rows
    forward = _forward(state.model, config)
    while len(state.rows) < config.epochs:
        state.mark()
        with _own_random(state.device), mode(state.model, training=True):
            row = _epoch(forward, images, config, state, keeper)
        processes.copy_first_(state.model.buffers())  # batch norm's, which DDP lets differ
        state.finish(row)
        if keeper and (row.epoch == config.epochs or _all_told(keeper.worth_it())):
            keeper.save(state)
        yield row


def _all_told(mine: bool) -> bool:
    """What the first process says: its clock holds for all of them."""
    return bool(processes.summed(torch.tensor(int(mine and processes.rank() == 0))))


def _forward(model: nn.Module, config: TrainConfig) -> nn.Module:
    """What to call in place of the model, which keeps its names and hooks."""
    forward = torch.compile(model) if config.compile else model
    return DistributedDataParallel(forward) if processes.world() > 1 else forward


def _epoch(forward, images, config, state: "_State", keeper: "_Keeper | None") -> Epoch:
    began = time.perf_counter() - state.seconds
    number = len(state.rows) + 1
    groups, steps = _groups(images, config, number, state.generator)
    state.skip_(groups)
    for step, group in enumerate(groups, start=state.step):
        lr = config.learning_rate((number - 1 + step / steps) / config.epochs)
        mine, due = sum(len(y) for _, y in group), keeper is not None and keeper.due()
        count, due = processes.summed(torch.tensor([mine, due])).tolist()
        _step(forward, group, count, lr, config, state)
        state.step, state.seen = step + 1, state.seen + count
        state.seconds = time.perf_counter() - began
        if due and state.step < steps:
            keeper.save(state)
    loss, right = processes.summed(state.sums).tolist()
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} in epoch {number}; try a lower lr than {config.lr:g}"
        )
    return Epoch(
        number,
        config.epochs,
        loss / state.seen,
        right / state.seen,
        lr,
        time.perf_counter() - began,
        state.seen,
        _peak_bytes(state.device),
    )


def _step(forward, group: list, count: int, lr: float, config, state: "_State") -> None:
    """One step on the batches of a group, of `count` images in all processes together."""
    device, optimizer = state.device, state.optimizer
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if config.bf16 else nullcontext
    for options in optimizer.param_groups:
        options["lr"] = lr
    optimizer.zero_grad()
    for index, (x, y) in enumerate(group):
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with nullcontext() if index == len(group) - 1 else _unsent(forward):
            with autocast():
                logits = forward(x)
                loss = F.cross_entropy(logits, y) if len(y) else logits.sum()  # of nothing
            # A mean over all images of the step: DDP takes the mean over the processes.
            share = len(y) * processes.world() / count
            (loss if share == 1 else loss * share).backward()
        state.loss.add_(loss.detach(), alpha=len(y))
        state.right.add_((logits.detach().argmax(1) == y).sum())
    optimizer.step()


def _unsent(forward: nn.Module):
    """Gradients add up in this process; those of a group's last batch take all along."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def _groups(images: Images, config: TrainConfig, number: int, generator: torch.Generator):
    """Epoch `number` as groups of (x, y), one for each step, and how many these are."""
    if hasattr(images, "shuffled"):
        count, batches = _shuffled(images, config, generator)
    elif isinstance(images, Iterator):
        raise ValueError("an iterator serves one pass only; give a list of batches or a DataLoader")
    else:
        if hasattr(sampler := getattr(images, "sampler", None), "set_epoch"):
            sampler.set_epoch(number)  # else a DistributedSampler gives every epoch one order
        count = len(images) if hasattr(images, "__len__") else sum(1 for _ in images)
        batches = iter(images)
    if not count:
        raise ValueError("no images to train on")
    if not processes.agree(str(count)):
        raise ValueError(
            f"the processes have different numbers of batches, this one {count}; give all the "
            f"same number, as torch's DistributedSampler does"
        )
    groups = iter(lambda: list(islice(batches, config.accumulate)), [])
    return groups, math.ceil(count / config.accumulate)


def _shuffled(images, config: TrainConfig, generator: torch.Generator) -> tuple[int, Iterator]:
    """How many batches an epoch has, and what this process gets of each."""
    if images.name == "test":
        raise ValueError("the test split is not for training; give splits.train")
    size = config.batch_size * processes.world()
    asked = {name: getattr(config, name) for name in ("shift", "flip", "crop", "colour")}
    asked = {name: value for name, value in asked.items() if value != getattr(TrainConfig, name)}
    if processes.world() > 1:
        asked["share"] = (processes.rank(), processes.world())
    return math.ceil(len(images) / size), images.shuffled(size, generator, **asked)


def _peak_bytes(device: torch.device) -> int | None:
    """The most memory in use so far: of tensors on a GPU, else of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # Windows has none
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -------------------------------------------------------------------------------- random numbers


def _random(device: torch.device) -> dict[str, Tensor]:
    """The states that dropout and a DataLoader draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def _own_random(device: torch.device) -> Iterator[None]:
    """Each of many processes draws numbers of its own inside, and all go on alike behind it."""
    if processes.world() == 1:
        yield
        return
    seed = torch.randint(2**40, ())
    processes.copy_first_([seed])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed) + processes.rank())
        yield


# ----------------------------------------------------------------------------------- checkpoints


class _State:
    """All that a training goes on from: what is learned, drawn and counted."""

    _PARTS = ("model", "optimizer", "random", "now")  # of a checkpoint, before the first dot

    def __init__(self, model: nn.Module, optimizer, parameters: dict[str, nn.Parameter], seed: int):
        self.model, self.optimizer, self.parameters = model, optimizer, parameters
        self.device = device_of(model)
        self.generator = torch.Generator().manual_seed(seed)  # decides about the images
        self.rows: list[Epoch] = []  # of the epochs done
        self.sums = torch.zeros(2, device=self.device)  # of this process, in the epoch under way
        self.loss, self.right = self.sums.unbind()
        self._clear()

    def _clear(self) -> None:
        self.step = self.seen = 0  # of the epoch under way: steps, and images of all processes
        self.seconds = 0.0
        self.sums.zero_()
        self.mark()

    def finish(self, row: Epoch) -> None:
        self.rows.append(row)
        self._clear()

    def mark(self) -> None:
        """Keep what the epoch draws from; where it was interrupted, draw from that again."""
        if self.step:
            self.generator.set_state(self.order)
            _set_random(self.begin, self.device)
        else:
            self.order, self.begin = self.generator.get_state(), _random(self.device)

    def skip_(self, groups: Iterator[list]) -> None:
        """Where the epoch was interrupted, pass by the batches that are done."""
        if self.step:
            for _ in islice(groups, self.step):
                pass
            _set_random(self.now, self.device)

    def tensors(self) -> dict[str, Tensor]:
        """To be written; every process has to ask, and the first one has it all."""
        parts = {"model": self.model.state_dict(), "random": {"order": self.order, **self.begin}}
        if self.step:
            now = {"sums": self.sums, **_random(self.device)}
            parts["now"] = {name: processes.gathered(tensor) for name, tensor in now.items()}
        if self.step or self.rows[-1].epoch < self.rows[-1].epochs:  # else momentum has had its use
            parts["optimizer"] = {
                f"{name}.{key}": value
                for name, parameter in self.parameters.items()
                for key, value in self.optimizer.state[parameter].items()
                if isinstance(value, Tensor)
            }
        return {f"{part}.{name}": t for part, those in parts.items() for name, t in those.items()}

    def numbers(self) -> dict:
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "step": self.step, "seen": self.seen, "seconds": self.seconds}

    def fill_(self, tensors: dict[str, Tensor], numbers: dict, path: str | Path) -> None:
        """Take up what `tensors` and `numbers` gave."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in self._PARTS}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        fill_(self.model, parts["model"], path)
        for name, tensor in parts["optimizer"].items():
            name, _, key = name.rpartition(".")
            parameter = self.parameters[name]
            self.optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(tensor)
        self.rows = [Epoch(**row) for row in numbers["rows"]]
        self.step, self.seen, self.seconds = (numbers[n] for n in ("step", "seen", "seconds"))
        if self.step:
            now = {name: every[processes.rank()].clone() for name, every in parts["now"].items()}
            self.sums.copy_(now.pop("sums"))
            self.now = now
            _set_random(now, self.device)  # which raises where these are none
        # Cloned, for torch crashes on states that lie askew, as they may in the bytes of a file.
        self.begin = {name: state.clone() for name, state in parts["random"].items()}
        self.order = self.begin.pop("order")
        self.generator.set_state(self.order)
        _set_random(self.begin, self.device)


@dataclass
class _Keeper:
    """One file, written over and over: there is never more than the last whole state."""

    path: Path
    settings: dict
    seconds: float  # between two checkpoints within an epoch
    last: float = field(default_factory=time.monotonic)
    cost: float = 0.0  # seconds that the last one took

    def due(self) -> bool:
        """The first process looks at the clock for all of them."""
        return processes.rank() == 0 and time.monotonic() - self.last >= self.seconds

    def worth_it(self) -> bool:
        """Behind an epoch: unless writing took long, and the work since then did not."""
        return self.cost < _CHEAP or time.monotonic() - self.last >= _SHARE * self.cost

    def save(self, state: _State) -> None:
        began = time.monotonic()
        tensors = state.tensors()
        if processes.rank() == 0:
            about = {"format": _FORMAT, "settings": self.settings, **state.numbers()}
            files.save_tensors(self.path, tensors, about=about)
        self.last = time.monotonic()
        self.cost = self.last - began

    def restore_(self, state: _State) -> None:
        """Put everything back as `save` found it, in every process."""
        if self.path.exists():
            tensors, about = files.load_tensors(self.path)
            self._check(about)
            try:
                state.fill_(tensors, about, self.path)
            except (KeyError, TypeError, RuntimeError, IndexError) as error:
                raise ValueError(
                    f"{self.path} is a broken checkpoint, delete it: {error!r}"
                ) from None
        if not processes.agree(f"{len(state.rows)} epochs and {state.step} steps"):
            raise ValueError(
                f"the processes do not find the same checkpoint {self.path}; put it on a disk that "
                f"all of them see"
            )

    def _check(self, about: dict | None) -> None:
        """That the checkpoint is one, and of this training."""
        kind = str(about.get("format")) if isinstance(about, dict) else ""
        if not kind.startswith(_FORMAT.rstrip("0123456789")):
            raise ValueError(f"{self.path} is not a training checkpoint; delete it or name another")
        if kind != _FORMAT:
            raise ValueError(
                f"{self.path} is a checkpoint of another version of pruning_lab ({kind!r}, not "
                f"{_FORMAT!r}); go on with that version, or delete it and train anew"
            )
        theirs = about.get("settings")
        if not isinstance(theirs, dict) or theirs.keys() < self.settings.keys():
            raise ValueError(f"{self.path} is a broken checkpoint, delete it: it lacks settings")
        differing = [name for name, value in self.settings.items() if theirs[name] != value]
        if differing:
            raise ValueError(
                f"{self.path} is a checkpoint of another training, with another "
                f"{', '.join(differing)}; delete it, name another, or train as it did"
            )


_FORMAT = "pruning_lab checkpoint 3"
_CHEAP = 0.25  # seconds: a checkpoint that takes no longer is written behind every epoch
_SHARE = 20  # any other when at least so many times as much has been worked
