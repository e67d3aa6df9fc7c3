"""Accuracy with its error bar, measured without leaving a trace."""

import math
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from pruning_lab.data import Images
from pruning_lab.layers import check_logits, device_of, generators, mode

Z = 1.959964  # two-sided 95 % of a normal distribution


@dataclass(frozen=True)
class Accuracy:
    """Share of `n` images answered rightly, with its 95 % interval (Wilson's)."""

    value: float
    low: float
    high: float
    n: int
    # bool (n,): which images were right; None where the accuracy was read from a file
    hits: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, hits: Tensor) -> "Accuracy":
        return replace(cls.counted(int(hits.sum()), hits.numel()), hits=hits)

    @classmethod
    def counted(cls, right: int, n: int) -> "Accuracy":
        if n == 0:
            raise ValueError("no images to measure an accuracy on")
        low, high = wilson(right, n)
        return cls(right / n, low, high, n)

    @property
    def error(self) -> float:
        return 1 - self.value

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%}, {self.n:,} images)"


@dataclass(frozen=True)
class Drop:
    """Accuracy lost from one network to another on the same images, with its paired interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def counted(cls, lost: int, won: int, n: int) -> "Drop":
        """From the images that only the network before answered rightly, and only the one after.

        Only images whose answer changed count, which is what makes the paired interval narrow
        (Agresti and Min 2005: half an image added to each of the four cells).
        """
        lost_, won_, n_ = lost + 0.5, won + 0.5, n + 2
        middle = (lost_ - won_) / n_
        half = Z * math.sqrt((lost_ + won_) - (lost_ - won_) ** 2 / n_) / n_
        return cls((lost - won) / n, max(-1.0, middle - half), min(1.0, middle + half), n)

    def __str__(self) -> str:
        points = (100 * x for x in (self.value, self.low, self.high))
        return "{:+.2f} points ({:+.2f} to {:+.2f})".format(*points)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: honest near 0 and 1, where networks live."""
    share, z2 = right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Of 0 or all right, rounding would put the share a hair outside of its own interval.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def drop(before: Accuracy, after: Accuracy) -> Drop:
    """How much accuracy went from `before` to `after`, measured on the same images in order."""
    if before.n != after.n:
        raise ValueError(
            f"a paired drop needs the same images, got {before.n} before and {after.n} after"
        )
    if before.hits is None or after.hits is None:
        raise ValueError("a paired drop needs the hits; measure both accuracies with evaluate")
    lost = int((before.hits & ~after.hits).sum())
    won = int((~before.hits & after.hits).sum())
    return Drop.counted(lost, won, before.n)


def evaluate(model: nn.Module, images: Images) -> Accuracy:
    """Top-1 accuracy of `model` on `images`; the model, its mode and the random state stay."""
    device = device_of(model)
    with measuring(model):
        hits = [right(model(x.to(device)), y).cpu() for x, y in images]
    return Accuracy.of(torch.cat([*hits, torch.zeros(0, dtype=torch.bool)]))


def right(logits: Tensor, y: Tensor) -> Tensor:
    """bool (N,): where the largest of the logits (N, classes) is the label's, int (N,).

    Raises ValueError as `check_labels` does. A label that is no class counts as wrong.
    """
    check_labels(y, *check_logits(logits))
    return logits.argmax(1) == y.to(logits.device)


def check_labels(y: Tensor, n: int, classes: int) -> None:
    """Raise ValueError unless the labels of n images are integers of shape (n,)."""
    if not isinstance(y, Tensor):
        raise ValueError(
            f"labels must be a tensor of integers of shape ({n},), got {_described(y)}; "
            f"type torch.as_tensor(y)"
        )
    integers = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    shape, as_integers = tuple(y.shape), "" if integers else ".long()"
    if shape == (n,):
        if integers:
            return
        advice = "type y.long()"
    elif shape == (n, 1):
        advice = f"type y.squeeze(1){as_integers}"
    elif shape == (n, classes):
        # Of soft labels the class with the largest; torch has no argmax of bools.
        advice = f"type y{'.long()' if y.dtype == torch.bool else ''}.argmax(1)"
    else:
        advice = "give one label for each image"
    raise ValueError(
        f"labels must be integers of shape ({n},), one for each image, got {_described(y)}; "
        f"{advice}"
    )


def _described(value) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients inside; afterwards mode, buffers, random states as before.

    A DataLoader draws from torch's generator even when it does not shuffle, hence the states. In
    any thread but the main one they are left alone: putting them back would undo what the main
    thread drew in the meantime.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(torch.random.fork_rng(generators(device_of(model))))
            stack.callback(random.setstate, random.getstate())
            stack.callback(np.random.set_state, np.random.get_state())
        stack.enter_context(torch.no_grad())  # not inference_mode: a network may cache tensors
        stack.enter_context(_buffers_kept(model))
        stack.enter_context(mode(model, training=False))
        yield


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers that a forward pass writes or replaces are as before, afterwards."""
    before = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    copies = {id(b): (b, b.clone()) for _, own in before for b in own.values() if b is not None}
    try:
        yield
    finally:
        for buffers, own in before:
            buffers.update(own)
        for buffer, copy in copies.values():
            if not torch.equal(buffer, copy):
                buffer.copy_(copy)
