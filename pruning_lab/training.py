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
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pruning_lab import data, processes
from pruning_lab.checkpoints import (
    CheckpointWriter,
    Epoch,
    TrainingState,
    fingerprint,
    images_fingerprint,
    own_random,
    size,
)
from pruning_lab.data import Images
from pruning_lab.evaluation import check_labels, check_logits, right
from pruning_lab.layers import check_dtype, device_of, mode
from pruning_lab.masks import Mask

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, classes), labels (N,) -> mean over the batch


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and on what `train` trains; by default SGD, with a warm-up and a cosine schedule.

    `lr`, `momentum`, `nesterov` and `weight_decay` are those of SGD: a training with another
    optimizer has that one's own.
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
    shift: int = 0  # pixels by which images of a Split move, at random, both ways
    flip: bool = False  # mirror images of a Split, every other one at random
    crop: float = 1.0  # smallest fraction of its area that a crop of an image shows; 1: no crop
    colour: float = 0.0  # sigma of the jitter along the axes of RGB, 0.1 in Krizhevsky et al. 2012
    bf16: bool = False  # autocast the forward pass
    compile: bool = False  # the forward pass, with torch.compile
    seed: int = 0

    def __post_init__(self):
        if self.epochs < 0 or self.batch_size < 1 or self.accumulate < 1:
            raise ValueError(
                f"epochs must be >= 0, batch_size and accumulate >= 1, got {self.epochs}, "
                f"{self.batch_size} and {self.accumulate}"
            )
        if not (self.lr > 0 and 0 <= self.momentum < 1 and self.weight_decay >= 0 <= self.l1):
            raise ValueError(
                f"lr must be > 0, momentum in [0, 1), weight_decay and l1 >= 0, got {self.lr}, "
                f"{self.momentum}, {self.weight_decay} and {self.l1}"
            )
        if not (self.shift >= 0 and 0 < self.crop <= 1 and self.colour >= 0):
            raise ValueError(
                f"shift must be >= 0 (pixels), crop in (0, 1] (fraction of the area), colour >= 0, "
                f"got {self.shift}, {self.crop} and {self.colour}"
            )

    def learning_rate(self, progress: float) -> float:
        """The learning rate after a fraction `progress` in [0, 1] of all steps (Smith 2018)."""
        if progress < self.warmup:
            return self.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * progress / self.warmup)) / 2)
        left = (1 - progress) / (1 - self.warmup) if self.warmup < 1 else 0.0
        return self.lr * (1 - math.cos(math.pi * left)) / 2


def train(
    model: nn.Module,
    images: Images,
    config: TrainConfig = TrainConfig(),
    *,
    mask: Mask | None = None,
    loss: Loss = F.cross_entropy,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: Callable[[float], float] | None = None,
    before_step: Callable[[float], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
) -> Iterator[Epoch]:
    """Train in place; each step of the iterator is one epoch, each epoch one row.

        for epoch in train(model, splits.train, TrainConfig(epochs=3)): print(epoch.loss)
        train(model, loader, config, optimizer=partial(torch.optim.AdamW, lr=1e-3))

    Only parameters that require a gradient are trained. `mask` holds for this training: from the
    first epoch on, pruned weights are zero. `loss(logits, y)` is a mean over the batch. `optimizer`
    is a function of the list of trained parameters; `schedule` turns the progress in [0, 1] into a
    factor of each group's own learning rate (default: the shape of `config.learning_rate`);
    `before_step(progress)` is called before each step. In the first epoch of images without a
    length, the progress is that of the epoch's middle; from the second on, the steps are counted.

    With `checkpoint`, the state is written there after every epoch (of a large network, whose file
    takes long, when that is worth it), and within one every `checkpoint_minutes`, always in place
    of the one before; where that file exists, its epochs are given again without computing and
    training resumes, to the same end.

    Of processes that are joined, each takes its part of every batch of a Split, `batch_size` images
    of `batch_size` times their number; anything else that gives images has to give each process its
    own part, in equally many batches. Batch norm averages over a process's own part.

    Raises FloatingPointError when the loss is no longer finite, ValueError where the checkpoint is
    of another training: other images, another loss, optimizer, mask, ...
    """
    processes.check(device_of(model))
    _check_images(images, config.shift)
    check_dtype(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("no parameter requires a gradient, so there is nothing to train")
    if mask is not None:
        mask._placed(model)  # raises where it does not fit
    made = _made(optimizer or partial(_sgd, config), list(trained.values()))
    settings = {
        **asdict(config),
        "mask": mask.fingerprint() if mask is not None else None,
        "loss": fingerprint(loss),
        "optimizer": optimizer and fingerprint((type(made), made.state_dict()["param_groups"])),
        "schedule": fingerprint(schedule),
        "before_step": getattr(before_step, "fingerprint", lambda: None)(),
        "trained": list(trained),
        "processes": processes.world(),
    }
    saves = checkpoint is not None
    seen = images_fingerprint(images) if saves else ""
    whole = hasattr(images, "shuffled")  # in every process; other images are each process's own
    if not processes.agree(json.dumps([settings, saves, seen if whole else None])):
        raise ValueError(
            "the processes would train differently; give all the same config, mask and images, and "
            "the same layers to train"
        )
    state, writer = TrainingState(model, made, config.seed), None
    if saves:
        everyone = processes.gathered(torch.frombuffer(bytearray(seen, "ascii"), dtype=torch.uint8))
        settings["images"] = fingerprint(everyone)
        writer = CheckpointWriter(Path(checkpoint), settings, 60 * checkpoint_minutes)
    schedule = schedule or replace(config, lr=1.0).learning_rate
    return _Loop(images, config, mask, loss, schedule, before_step, state, writer).run()


def _check_images(images: Images, shift: int = 0) -> None:
    if isinstance(images, Iterator):
        raise ValueError(_ONCE)
    data.for_choosing(images, "training", give="splits.train")
    if size(images) == 0:
        raise ValueError(_NONE)
    if shift and shift >= (side := min(getattr(images, "shape", (shift + 1,))[-2:])):
        raise ValueError(f"shift must be below {side}, the images' side in pixels, got {shift}")


_NONE = "no images to train on"
_ONCE = "an iterator serves one pass only; give a list of batches or a DataLoader"


def _sgd(config: TrainConfig, parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters),
    )


def _made(optimizer: Callable, parameters: list[nn.Parameter]) -> Optimizer:
    made = optimizer(parameters) if callable(optimizer) else optimizer
    if not callable(optimizer) or not isinstance(made, Optimizer):
        raise ValueError(
            f"optimizer must be a function of the list of parameters, such as "
            f"partial(torch.optim.AdamW, lr=1e-3), that returns an optimizer; got "
            f"{type(made).__name__}"
        )
    known = set(parameters)
    if not all(p in known for group in made.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer has parameters that are frozen or of another model; make it from the "
            "list of parameters that it is given"
        )
    return made


@dataclass
class _Loop:
    """The epochs of one training, and their steps."""

    images: Images
    config: TrainConfig
    mask: Mask | None
    loss: Loss
    schedule: Callable[[float], float]
    before_step: Callable[[float], None] | None
    state: TrainingState
    writer: CheckpointWriter | None

    def __post_init__(self):
        self.lrs = [float(group["lr"]) for group in self.state.optimizer.param_groups]
        self.parameters = [p for p in self.state.model.parameters() if p.requires_grad]
        closure = inspect.signature(self.state.optimizer.step).parameters.get("closure")
        self.needs_closure = closure is not None and closure.default is inspect.Parameter.empty

    def run(self) -> Iterator[Epoch]:
        state, writer, model = self.state, self.writer, self.state.model
        if writer:
            writer.restore_(state)
        with nullcontext() if self.mask is None else self.mask.hold(model):
            yield from state.rows
            forward = _forward(model, self.config)
            while len(state.rows) < self.config.epochs:
                state.mark()
                with own_random(state.device), mode(model, training=True):
                    row = self._epoch(forward)
                processes.copy_first_(model.buffers())  # batch norm's, which DDP lets differ
                state.finish(row)
                if writer and (row.epoch == self.config.epochs or writer.worth_it()):
                    writer.save(state)
                yield row

    def _epoch(self, forward: nn.Module) -> Epoch:
        state, number = self.state, len(self.state.rows) + 1
        began = time.perf_counter() - state.seconds
        groups, steps = self._groups(number)
        state.skip_(groups)
        for group in groups:
            within = min(1, state.step / steps) if steps else 0.5
            self._set_progress((number - 1 + within) / self.config.epochs)
            count = self._count(group)
            self._step(forward, group, count)
            state.step, state.seen = state.step + 1, state.seen + count
            state.seconds = time.perf_counter() - began
            if self.writer and self.writer.due() and state.step != steps:
                self.writer.save(state)
        loss, correct, top5, ranked = processes.summed(state.sums).tolist()
        if not state.seen:
            raise ValueError(_NONE if number == 1 else _ONCE)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {number}; try a lower lr than {self.lrs[0]:g}"
            )
        return Epoch(
            number,
            self.config.epochs,
            loss / state.seen,
            correct / state.seen,
            float(state.optimizer.param_groups[0]["lr"]),
            time.perf_counter() - began,
            state.seen,
            _peak_bytes(state.device),
            top5 / ranked if ranked else None,
        )

    def _groups(self, number: int) -> tuple[Iterator[list], int | None]:
        """Epoch `number` as groups of (x, y), one for each step, and how many, where known."""
        images, accumulate = self.images, self.config.accumulate
        if hasattr(images, "shuffled"):
            count, batches = _shuffled(images, self.config, self.state.generator)
        else:
            if hasattr(sampler := getattr(images, "sampler", None), "set_epoch"):
                sampler.set_epoch(number)  # else a DistributedSampler gives every epoch one order
            count, batches = size(images), iter(images)
        if not processes.agree(str(count)):
            raise ValueError(
                f"the processes have different numbers of batches, this one {count}; give all the "
                f"same number, as torch's DistributedSampler does"
            )
        if count is None and processes.world() > 1:
            raise ValueError(
                "the processes must know their number of batches; give a list or a DataLoader "
                "with a len()"
            )
        groups = iter(lambda: list(islice(batches, accumulate)), [])
        return groups, self.state.steps if count is None else math.ceil(count / accumulate)

    def _set_progress(self, progress: float) -> None:
        factor = self.schedule(progress)
        for group, lr in zip(self.state.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor
        if self.before_step:
            self.before_step(progress)

    def _count(self, group: list) -> int:
        """Images of a step in all processes; communicates only where it cannot be computed."""
        world, mine = processes.world(), sum(len(y) for _, y in group)
        if world == 1:
            return mine
        if isinstance(self.images, data.Split):
            whole = self.config.batch_size * self.config.accumulate * world
            return min(whole, self.images.n - self.state.step * whole)
        return int(processes.summed(torch.tensor(mine)))

    def _step(self, forward: nn.Module, group: list, count: int) -> None:
        """One step on the batches of a group, of `count` images in all processes together."""
        optimizer, sums = self.state.optimizer, self.state.sums
        if not self.needs_closure:
            self._gradients(forward, group, count, sums)
            optimizer.step()
            return
        evaluated = [sums]  # LBFGS evaluates as often as it likes; the first time counts

        @torch.enable_grad()
        def evaluate() -> float:
            tally = evaluated.pop() if evaluated else torch.zeros_like(sums)
            loss = self._gradients(forward, group, count, tally)
            loss = processes.summed(loss).item() / processes.world()
            if self.config.l1:  # a line search needs the loss that its gradients belong to
                loss += self.config.l1 * sum(p.detach().abs().sum() for p in self.parameters).item()
            return loss

        optimizer.step(evaluate)

    def _gradients(self, forward: nn.Module, group: list, count: int, sums: Tensor) -> Tensor:
        """Their mean loss, of this process; adds to `sums`, fills every trained `.grad`."""
        device, config, total = self.state.device, self.config, 0
        bf16 = partial(torch.autocast, device.type, torch.bfloat16)
        autocast = bf16 if config.bf16 else nullcontext
        for parameter in self.parameters:
            parameter.grad = None
        for index, (x, y) in enumerate(group):
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with nullcontext() if index == len(group) - 1 else _unsent(forward):
                with autocast():
                    logits = forward(x)
                    if not isinstance(logits, Tensor):
                        check_labels(y, *check_logits(logits))  # which raises
                    if len(y):
                        _count_right(sums, logits.detach(), y)
                    loss = self.loss(logits, y) if len(y) else logits.sum()  # of nothing
                # A mean over all images of the step: DDP takes the mean over the processes.
                part = len(y) * processes.world() / max(count, 1)
                (loss if part == 1 else loss * part).backward()
            sums[0].add_(loss.detach(), alpha=len(y))
            total += loss.detach() * part
        for parameter in self.parameters if config.l1 else ():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=config.l1)
        return total


def _count_right(sums: Tensor, logits: Tensor, y: Tensor) -> None:
    sums[1].add_(right(logits, y).sum())
    if logits.shape[1] > 10:
        sums[2].add_((logits.topk(5, 1).indices == y[:, None]).sum())
        sums[3].add_(len(y))


def _forward(model: nn.Module, config: TrainConfig) -> nn.Module:
    """What to call in place of the model, which keeps its names and hooks."""
    forward = torch.compile(model) if config.compile else model
    return DistributedDataParallel(forward) if processes.world() > 1 else forward


def _unsent(forward: nn.Module):
    """Gradients add up in this process; those of a group's last batch are sent with all others."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def _shuffled(images, config: TrainConfig, generator: torch.Generator) -> tuple[int, Iterator]:
    """How many batches an epoch has, and what this process gets of each."""
    size = config.batch_size * processes.world()
    asked = {name: getattr(config, name) for name in ("shift", "flip", "crop", "colour")}
    asked = {name: value for name, value in asked.items() if value != getattr(TrainConfig, name)}
    if processes.world() > 1:
        asked["share"] = (processes.rank(), processes.world())
    return math.ceil(images.n / size), images.shuffled(size, generator, **asked)


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
