"""Training as an iterator of epochs, with checkpoints from which it goes on as if never stopped."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab import files
from pruning_lab.data import Split
from pruning_lab.evaluation import Images, device_of, mode
from pruning_lab.masks import Mask
from pruning_lab.models import fill_


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """SGD with momentum; the learning rate climbs to `lr` and falls to nothing along a cosine."""

    epochs: int = 5
    lr: float = 0.1
    batch_size: int = 128  # of a Split; a DataLoader brings its own
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4  # L2, on every parameter
    warmup: float = 0.2  # share of the steps in which the learning rate climbs
    shift: int = 0  # pixels by which images of a Split move, at random, both ways
    bf16: bool = False  # autocast the forward pass
    seed: int = 0

    def __post_init__(self):
        if self.epochs < 0 or self.batch_size < 1:
            raise ValueError(
                f"epochs must be >= 0 and batch_size >= 1, got {self.epochs} and {self.batch_size}"
            )
        if not (self.lr > 0 and 0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise ValueError(
                f"lr must be > 0, momentum in [0, 1), weight_decay >= 0, got {self.lr}, "
                f"{self.momentum} and {self.weight_decay}"
            )

    def learning_rate(self, progress: float) -> float:
        """The learning rate after a share `progress` in [0, 1] of all steps (Smith 2018)."""
        if progress < self.warmup:
            return self.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * progress / self.warmup)) / 2)
        left = (1 - progress) / (1 - self.warmup) if self.warmup < 1 else 0.0
        return self.lr * (1 - math.cos(math.pi * left)) / 2


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean cross-entropy while learning
    accuracy: float  # while learning, on the images as augmented
    lr: float  # of the last step
    seconds: float


def train(
    model: nn.Module,
    images: Images,
    config: TrainConfig = TrainConfig(),
    *,
    mask: Mask | None = None,
    checkpoint: str | Path | None = None,
) -> Iterator[Epoch]:
    """Train in place; each step of the iterator is one epoch, each epoch one row.

    With `mask`, pruned weights stay zero. Only parameters that require a gradient are trained. With
    `checkpoint`, the state is written there after every epoch; where that file exists already, its
    epochs are given again without computing and training goes on behind them, to the same end.
    Raises FloatingPointError when the loss is no longer finite, ValueError where the checkpoint is
    of another training: other settings, images or layers trained, or another mask.
    """
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
    }
    if checkpoint is not None and isinstance(images, Split):
        settings["images"] = images.fingerprint()
    return _train(model, images, config, optimizer, parameters, checkpoint, settings)


_FUSED = ("cpu", "cuda")


def _train(model, images, config, optimizer, parameters, checkpoint, settings) -> Iterator[Epoch]:
    device = device_of(model)
    generator = torch.Generator().manual_seed(config.seed)
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if config.bf16 else nullcontext
    rows = _restore(checkpoint, settings, model, optimizer, parameters, generator)
    yield from rows
    for number in range(len(rows) + 1, config.epochs + 1):
        began = time.perf_counter()
        batches, steps = _batches(images, config, generator)
        loss_sum, right = torch.zeros((), device=device), torch.zeros((), device=device)
        seen = 0
        with mode(model, training=True):
            for step, (x, y) in enumerate(batches):
                x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
                lr = config.learning_rate((number - 1 + step / steps) / config.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                with autocast():
                    logits = model(x)
                    loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss_sum.add_(loss.detach(), alpha=len(y))
                right.add_((logits.detach().argmax(1) == y).sum())
                seen += len(y)
        loss = loss_sum.item() / seen
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {number}; try a lower lr than {config.lr:g}"
            )
        seconds = time.perf_counter() - began
        rows.append(Epoch(number, config.epochs, loss, right.item() / seen, lr, seconds))
        if checkpoint is not None:
            _save(checkpoint, settings, model, optimizer, parameters, generator, rows)
        yield rows[-1]


def _batches(images: Images, config: TrainConfig, generator: torch.Generator):
    """One epoch of (x, y), and how many batches it has."""
    if isinstance(images, Split):
        if images.name == "test":
            raise ValueError("the test split is not for training; give splits.train")
        steps = math.ceil(len(images) / config.batch_size)
        batches = images.shuffled(config.batch_size, generator, shift=config.shift)
    elif isinstance(images, Iterator):
        raise ValueError("an iterator serves one pass only; give a list of batches or a DataLoader")
    else:
        steps = len(images) if hasattr(images, "__len__") else sum(1 for _ in images)
        batches = iter(images)
    if not steps:
        raise ValueError("no images to train on")
    return batches, steps


def _save(path, settings, model, optimizer, parameters, generator, rows) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
    tensors["random.order"] = generator.get_state()
    tensors["random.cpu"] = torch.get_rng_state()  # dropout draws from it
    if (device := device_of(model)).type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    about = {"format": _FORMAT, "settings": settings, "rows": [asdict(row) for row in rows]}
    files.save_tensors(path, tensors, about=about)


def _restore(path, settings, model, optimizer, parameters, generator) -> list[Epoch]:
    """Put everything back as `_save` found it; gives the epochs that are done."""
    if path is None or not Path(path).exists():
        return []
    tensors, about = files.load_tensors(path)
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a training checkpoint; delete it or name another")
    try:
        theirs, rows = about["settings"], [Epoch(**row) for row in about["rows"]]
        differing = [name for name, value in settings.items() if theirs[name] != value]
        if differing:
            raise ValueError(
                f"{path} is a checkpoint of another training, with another "
                f"{', '.join(differing)}; delete it, name another, or train as it did"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        generator.set_state(parts["random"]["order"])
        fill_(model, parts["model"], path)
        for name, tensor in parts["optimizer"].items():
            name, _, key = name.rpartition(".")
            parameter = parameters[name]
            optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(tensor)
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"] and (device := device_of(model)).type == "cuda":
            torch.cuda.set_rng_state(parts["random"]["cuda"], device)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is a broken checkpoint, delete it: {error!r}") from None
    return rows


_FORMAT = "pruning_lab checkpoint 2"
