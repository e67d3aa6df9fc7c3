"""Training as an iterator of epochs: any loss, optimizer and schedule, one process or many.

Started by torch's launcher and joined, processes train as torch's DDP does.
"""

import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pruning_lab import data, files, processes
from pruning_lab.checkpoints import (
    Checkpoint,
    Epoch,
    Position,
    fingerprint,
    images_fingerprint,
    pack,
    size,
    unpack_,
)
from pruning_lab.data import Images
from pruning_lab.evaluation import evaluate, right
from pruning_lab.layers import check_dtype, device_of, generators, in_main_thread, mode
from pruning_lab.masks import Mask
from pruning_lab.models.stored import check_fit
from pruning_lab.rows import plain

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, classes), labels (N,) -> mean over the batch


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and on what `train` trains; by default SGD, with a warm-up and a cosine schedule.

    `lr`, `momentum`, `nesterov` and `weight_decay` are those of SGD: a training with another
    optimizer has that one's own. `seed` decides all that is random: order, augmentation, dropout.
    """

    epochs: int = 5
    lr: float = 0.1
    batch_size: int = 128  # of a Split, for each process; a DataLoader brings its own
    accumulate: int = 1  # batches whose gradients make one step together
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4  # L2, on every parameter
    l1: float = 0.0  # factor of the L1 penalty, on every parameter, for any optimizer
    warmup: float = 0.2  # fraction of the steps in which the learning rate climbs
    shift: int = 0  # pixels by which images of a Split move at random, in both directions
    flip: bool = False  # mirror images of a Split, every other one at random
    crop: float = 1.0  # smallest fraction of its area that a crop of an image shows; 1: no crop
    colour: float = 0.0  # sigma of the jitter along the axes of RGB, 0.1 in Krizhevsky et al. 2012
    bf16: bool = False  # autocast the forward pass
    compile: bool = False  # the forward pass, with torch.compile
    seed: int = 0

    def __post_init__(self):
        for name, (words, fits) in _LIMITS.items():
            if not fits(value := getattr(self, name)):
                raise ValueError(f"{name} must be {words}, got {value}")

    def learning_rate(self, progress: float) -> float:
        """The learning rate after a fraction `progress` in [0, 1] of all steps (Smith 2018)."""
        if progress < self.warmup:
            return self.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * progress / self.warmup)) / 2)
        left = (1 - progress) / (1 - self.warmup) if self.warmup < 1 else 0.0
        return self.lr * (1 - math.cos(math.pi * left)) / 2


_LIMITS = {  # of TrainConfig: in words, and whether a value keeps them
    **dict.fromkeys(["batch_size", "accumulate"], (">= 1", lambda value: value >= 1)),
    **dict.fromkeys(["epochs", "weight_decay", "l1"], (">= 0", lambda value: value >= 0)),
    **dict.fromkeys(["shift", "colour"], (">= 0", lambda value: value >= 0)),
    "lr": ("> 0", lambda value: value > 0),
    "momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "warmup": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "crop": ("in (0, 1], a fraction of the area", lambda value: 0 < value <= 1),
}


def train(
    model: nn.Module,
    images: Images,
    config: TrainConfig = TrainConfig(),
    *,
    mask: Mask | None = None,
    val: Images | None = None,
    loss: Loss = F.cross_entropy,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: Callable[[float], float] | None = None,
    before_step: Callable[[float], None] | None = None,
    checkpoint: str | Path | None = None,
) -> Iterator[Epoch]:
    """Train in place; each step of the iterator is one epoch, each epoch one row.

        for epoch in train(model, splits.train, TrainConfig(epochs=3)): print(epoch)
        train(model, loader, config, optimizer=partial(torch.optim.AdamW, lr=1e-3))

    Only parameters that require a gradient are trained. With `mask`, pruned weights are zero from
    the first epoch to the end of the training. `val` is measured after each epoch.
    `loss(logits, y)` is a mean over the batch, `optimizer` a function of the list of trained
    parameters. `schedule` turns the progress in [0, 1] into a factor of each group's own learning
    rate (default: the shape of `config.learning_rate`); `before_step(progress)` is called before
    each step. Of images without a length, steps are counted in the first epoch, whose progress is
    that of its middle. The global random state stays as it is; outside the main thread, which alone
    may set it, dropout and loaders draw from it.

    With `checkpoint`, the state is written there after every epoch. Where that file exists, its
    epochs are given again and training resumes, to the same end.

    Of processes that are joined, each takes its part of every batch of a Split, `batch_size` images
    of `batch_size` times their number. Other images must give each process its own part, in equally
    many batches. Batch norm averages over a process's own part.

    Raises FloatingPointError when the loss is no longer finite, ValueError where the checkpoint is
    of another training: other images, another loss, optimizer, mask, ...
    """
    processes.check(device_of(model))
    length = batches(images, config)
    data.for_choosing(val, "training")
    check_dtype(model)
    if mask is not None:
        mask._placed(model)  # raises where it does not fit
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    made = _make_optimizer(optimizer, config, list(trained.values()))
    settings = asdict(config) | {
        "mask": mask and mask.fingerprint(),
        "loss": fingerprint(loss),
        "optimizer": optimizer and fingerprint((type(made), made.state_dict()["param_groups"])),
        "schedule": fingerprint(schedule),
        "before_step": getattr(before_step, "fingerprint", lambda: None)(),
        "trained": list(trained),
        "processes": processes.world(),
    }
    content = int(images_fingerprint(images)[:15], 16) if checkpoint is not None else None
    shared = content if hasattr(images, "shuffled") else None  # else each process has its own
    alike = [settings, length, val is None, checkpoint is None, shared]
    if not processes.agree(json.dumps(alike)):
        raise ValueError(
            f"the processes would train differently; give all the same config, mask, images and "
            f"layers to train, and equally many batches (this one has {length})"
        )
    file = None
    if checkpoint is not None:
        settings["images"] = processes.gathered(torch.tensor(content)).tolist()
        file = Checkpoint(Path(checkpoint), settings)
    schedule = schedule or replace(config, lr=1.0).learning_rate
    functions = loss, schedule, before_step or (lambda progress: None)
    return _Training(model, made, images, length, config, mask, val, *functions, file).run()


_NONE = "no images to train on"
_ONCE = "an iterator serves one pass only; give a list of batches or a DataLoader"


def batches(images: Images, config: TrainConfig) -> int | None:
    """Of an epoch, of this process: how many; None where only reading them would tell."""
    if isinstance(images, Iterator):
        raise ValueError(_ONCE)
    data.for_choosing(images, "training", give="splits.train")
    side = min(getattr(images, "shape", (math.inf,))[-2:])
    if config.shift >= side:
        raise ValueError(f"shift must be below {side}, the images' side, got {config.shift} pixels")
    length = size(images)
    if hasattr(images, "shuffled"):
        length = math.ceil(images.n / (config.batch_size * processes.world()))
    if length == 0:
        raise ValueError(_NONE)
    if length is None and processes.world() > 1:
        todo = "give a list or a DataLoader with a len()"
        raise ValueError(f"the processes must know their number of batches; {todo}")
    return length


def _make_optimizer(make: Callable | None, config: TrainConfig, parameters: list) -> Optimizer:
    if not parameters:
        raise ValueError("no parameter requires a gradient, so there is nothing to train")
    if make is None:
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        nesterov = config.nesterov and config.momentum > 0
        options = {name: getattr(config, name) for name in ("lr", "momentum", "weight_decay")}
        return torch.optim.SGD(parameters, nesterov=nesterov, fused=fused, **options)
    made = make(parameters) if callable(make) else make
    got = type(made).__name__
    if callable(make) and isinstance(made, Optimizer):
        if {p for group in made.param_groups for p in group["params"]} <= set(parameters):
            return made
        got += " with parameters that are frozen or of another model"
    raise ValueError(
        f"optimizer must be a function that makes one of the list of parameters that it is given, "
        f"such as partial(torch.optim.AdamW, lr=1e-3); got {got}"
    )


@dataclass
class _Training:
    """The epochs of one training, and their steps."""

    model: nn.Module
    optimizer: Optimizer
    images: Images
    length: int | None  # in batches
    config: TrainConfig
    mask: Mask | None
    val: Images | None
    loss: Loss
    schedule: Callable[[float], float]
    before_step: Callable[[float], None]
    checkpoint: Checkpoint | None
    rows: list[Epoch] = field(default_factory=list)  # of the epochs done
    steps: int | None = None  # that the last epoch had

    def __post_init__(self):
        self.device = device_of(self.model)
        self.lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        self.needs_closure = closure is not None and closure.default is closure.empty
        self.generator = torch.Generator().manual_seed(self.config.seed)  # of the images' order

    def run(self) -> Iterator[Epoch]:
        model, checkpoint = self.model, self.checkpoint
        if checkpoint:
            checkpoint.restore(self._unpack)
        if not processes.agree(f"{len(self.rows)} epochs"):
            todo = f"put {checkpoint.path} on a disk that all of them see"
            raise ValueError(f"the processes do not find the same checkpoint; {todo}")
        with nullcontext() if self.mask is None else self.mask.hold(model):
            yield from self.rows
            self.forward = torch.compile(model) if self.config.compile else model
            if processes.world() > 1:
                self.forward = DistributedDataParallel(self.forward)
            while len(self.rows) < self.config.epochs:
                self.began = time.perf_counter()
                forked = torch.random.fork_rng(generators(self.device), enabled=in_main_thread())
                with forked, mode(model, training=True):
                    self._epoch()
                processes.copy_first_(model.buffers())  # batch norm's, which DDP lets differ
                self.rows.append(row := self._row())
                self.steps = self.step
                if checkpoint:
                    checkpoint.write(*self._pack())
                yield row

    def _pack(self) -> tuple[dict[str, Tensor], dict]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors["epoch.order"] = self.generator.get_state()
        position = {"rows": plain(self.rows), "steps": self.steps}
        if len(self.rows) < self.config.epochs:  # else nothing resumes
            position["optimizer"] = pack(self.optimizer, tensors)
        return tensors, position

    def _unpack(self, parts: dict[str, dict[str, Tensor]], position: Position) -> None:
        check_fit(self.model, parts["model"], self.checkpoint.path)
        self.rows, self.steps = position["rows"], position["steps"]
        if "optimizer" in position:
            unpack_(self.optimizer, position["optimizer"], parts["optimizer"])
        self.generator.set_state(parts["epoch"]["order"])
        self.model.load_state_dict(parts["model"])  # last: after an error it is as it was

    def _epoch(self) -> None:
        number = len(self.rows)
        self.step = self.seen = 0  # in this epoch: steps, and images of all processes
        self.sums = torch.zeros(2, device=self.device)  # of this process: loss, right
        steps = math.ceil(self.length / self.config.accumulate) if self.length else self.steps
        for group in self._groups(number):
            within = min(1, self.step / steps) if steps else 0.5
            progress = (number + within) / self.config.epochs
            factor = self.schedule(progress)
            for parameters, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
                parameters["lr"] = lr * factor
            self.before_step(progress)
            images = self._count(group)
            self._step(group, images)
            self.step, self.seen = self.step + 1, self.seen + images

    def _row(self) -> Epoch:
        number = len(self.rows) + 1
        loss, correct = processes.summed(self.sums).tolist()
        if not self.seen:
            raise ValueError(_NONE if number == 1 else _ONCE)
        if not math.isfinite(loss):
            todo = f"try a lower lr than {self.lrs[0]:g}"
            raise FloatingPointError(f"the loss became {loss} in epoch {number}; {todo}")
        return Epoch(
            epoch=number,
            epochs=self.config.epochs,
            loss=loss / self.seen,
            accuracy=correct / self.seen,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            val=None if self.val is None else evaluate(self.model, self.val),
            seconds=time.perf_counter() - self.began,
            images=self.seen,
            peak_bytes=_peak_bytes(self.device),
        )

    def _groups(self, number: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """The batches of each step of epoch `number`, from 0, which draws from its own seed."""
        self._seed(number, 0)
        batches = data.checked(self._images(number))
        for step in count():
            self._seed(number, step)
            if not (group := list(islice(batches, self.config.accumulate))):
                return
            yield group

    def _seed(self, *place: int) -> None:
        if not in_main_thread():
            return
        text = f"{self.config.seed} {place} {processes.rank()}"
        on_cpu = self.device.type == "cpu"  # where seeding GPUs too would cost 0.1 ms a step
        generator = torch.default_generator if on_cpu else torch
        generator.manual_seed(int(files.sha256(text.encode())[:16], 16))

    def _images(self, number: int) -> Images:
        """What this process gets of epoch `number`."""
        images, config, world = self.images, self.config, processes.world()
        if hasattr(images, "shuffled"):
            names = ("shift", "flip", "crop", "colour")
            options = {n: v for n in names if (v := getattr(config, n)) != getattr(TrainConfig, n)}
            if world > 1:
                options["share"] = (processes.rank(), world)
            return images.shuffled(config.batch_size * world, self.generator, **options)
        if hasattr(sampler := getattr(images, "sampler", None), "set_epoch"):
            sampler.set_epoch(number + 1)  # else a DistributedSampler gives all epochs one order
        return images

    def _count(self, group: list) -> int:
        """Images of a step in all processes; communicates only where it cannot be computed."""
        world, own = processes.world(), sum(len(y) for _, y in group)
        if world == 1:
            return own
        if isinstance(self.images, data.Split):
            whole = self.config.batch_size * self.config.accumulate * world
            return min(whole, self.images.n - self.step * whole)
        return int(processes.summed(torch.tensor(own)))

    def _step(self, group: list, images: int) -> None:
        """One step on the batches of a group, of so many images in all processes together."""
        if not self.needs_closure:
            self._gradients(group, images, self.sums)
            self.optimizer.step()
            return
        first = iter([self.sums])  # LBFGS evaluates as often as it likes; the first time counts

        @torch.enable_grad()
        def evaluate() -> float:
            loss = self._gradients(group, images, next(first, torch.zeros_like(self.sums)))
            loss = processes.summed(loss).item() / processes.world()
            size = sum(p.detach().abs().sum() for p in self.parameters).item()
            return loss + self.config.l1 * size  # a line search needs what its gradients belong to

        self.optimizer.step(evaluate)

    def _gradients(self, group: list, images: int, sums: Tensor) -> Tensor:
        """Their mean loss, of this process; adds to `sums`, fills every trained `.grad`."""
        device, config, forward, total = self.device, self.config, self.forward, 0
        for parameter in self.parameters:
            parameter.grad = None
        for left, (x, y) in zip(reversed(range(len(group))), group, strict=True):
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            # DDP sends the gradients of a group's last batch, with all others added up.
            unsent = left and isinstance(forward, DistributedDataParallel)
            with forward.no_sync() if unsent else nullcontext():
                with torch.autocast(device.type, torch.bfloat16) if config.bf16 else nullcontext():
                    logits = forward(x)
                    if len(y):
                        sums[1].add_(right(logits, y).sum())
                    loss = self.loss(logits, y) if len(y) else logits.sum()  # of nothing
                # A mean over all images of the step: DDP takes the mean over the processes.
                part = len(y) * processes.world() / max(images, 1)
                (loss if part == 1 else loss * part).backward()
            sums[0].add_(loss.detach(), alpha=len(y))
            total += loss.detach() * part
        for parameter in self.parameters if config.l1 else ():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=config.l1)
        return total


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
