"""Accuracy and paired drops with 95 % intervals; measuring leaves no trace on a model."""

import math
import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from pruning_lab import data
from pruning_lab.data import Images
from pruning_lab.layers import (
    check_dtype,
    check_logits,
    device_of,
    generators,
    in_main_thread,
    mode,
)

Z = 1.959964  # two-sided 95 % of a normal distribution
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Accuracy:
    """Fraction of `n` images answered correctly, with its 95 % interval (Wilson's)."""

    value: float
    low: float
    high: float
    n: int
    # bool (n,): which images were correct; None where the accuracy was read from a file
    hits: Tensor | None = field(default=None, repr=False, compare=False)
    # checksum of the images' labels, in order; None where they are not known
    order: int | None = field(default=None, repr=False, compare=False)

    def __post_init__(self):  # a file may say anything
        if not (self.n > 0 and 0 <= self.low <= self.value <= self.high <= 1):
            interval = f"{self.value:g} ({self.low:g} to {self.high:g})"
            raise ValueError(f"no accuracy can be {interval} of {self.n} images")

    @classmethod
    def of(cls, hits: Tensor, labels: Tensor | None = None) -> "Accuracy":
        """Of bool (n,): which images were correct. With labels, `drop` can compare the order."""
        order = None if labels is None else zlib.crc32(labels.cpu().long().contiguous().numpy())
        return replace(cls.counted(int(hits.sum()), hits.numel()), hits=hits, order=order)

    @classmethod
    def counted(cls, right: int, n: int) -> "Accuracy":
        if n == 0:
            raise ValueError("no images to measure an accuracy on")
        return cls(right / n, *wilson(right, n), n)

    @property
    def error(self) -> float:
        return 1 - self.value

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%}, {self.n:,} images)"


@dataclass(frozen=True)
class Drop:
    """Accuracy lost from one network to another on the same images, with its paired interval.

    A positive value is a loss; printed is the change of accuracy, where a loss has a minus.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self):
        if not (self.n > 0 and -1 <= self.low <= self.value <= self.high <= 1):
            interval = f"{self.value:g} ({self.low:g} to {self.high:g})"
            raise ValueError(f"no drop can be {interval} of {self.n} images")

    @classmethod
    def counted(cls, lost: int, won: int, n: int) -> "Drop":
        """From the images that only the first network answers correctly, and only the second.

        Only images whose answer changed count, which is what makes the paired interval narrow
        (Agresti and Min 2005: half an image added to each of the four cells).
        """
        lost_, won_, n_ = lost + 0.5, won + 0.5, n + 2
        middle = (lost_ - won_) / n_
        half = Z * math.sqrt((lost_ + won_) - (lost_ - won_) ** 2 / n_) / n_
        return cls((lost - won) / n, max(-1.0, middle - half), min(1.0, middle + half), n)

    @property
    def changed(self) -> int:
        """Images whose answer changed, read off the interval's width: lost and won together."""
        n = self.n + 2
        if self.low > -1 and self.high < 1:
            half = (self.high - self.low) / 2
        else:  # one end was cut off
            middle = self.value * self.n / n
            half = max(middle - self.low, self.high - middle)
        return round((half * n / Z) ** 2 + (self.value * self.n) ** 2 / n - 1)

    @property
    def conclusion(self) -> str:
        """What the interval says of the second network: "worse", "better", or that it is open."""
        if self.low <= 0 <= self.high:
            return f"these {self.n:,} images cannot tell the two apart"
        return "worse" if self.value > 0 else "better"

    @property
    def brief(self) -> str:
        """As printed, for a table that says that it is in points: "-0.69 (-0.88 to -0.50)"."""
        return str(self).replace(" points", "")

    def __str__(self) -> str:
        return f"{change(self.value)} points ({change(self.high)} to {change(self.low)})"


def pooled(drops: Sequence[Drop]) -> Drop:
    """The drop over all images of several: of one recipe with several seeds, say.

    Each network's answer to an image counts as one; how far seeds differ is not in the interval.
    """
    if not drops:
        raise ValueError("no drops to pool; give one for each seed")
    net = sum(round(drop.value * drop.n) for drop in drops)
    changed, n = sum(drop.changed for drop in drops), sum(drop.n for drop in drops)
    return Drop.counted((changed + net) // 2, (changed - net) // 2, n)


def change(lost: float) -> str:
    """Accuracy lost, a fraction, as the change in percentage points that is shown: "-0.69"."""
    return f"{round(-100 * lost, 2) + 0.0:+.2f}"  # + 0.0, else no change might be -0.00


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a fraction: reliable near 0 and 1, where networks are."""
    value, z2 = right / n, Z * Z
    middle = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(value * (1 - value) / n + z2 / (4 * n * n))
    # With none or all correct, rounding would put the value just outside of its own interval.
    return max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


def drop(before: Accuracy, after: Accuracy) -> Drop:
    """How much accuracy is lost from `before` to `after`, measured on the same images in order."""
    if before.n != after.n or before.hits is None or after.hits is None:
        raise ValueError(
            f"a paired drop needs the same images, got {before.n} before and {after.n} after, and "
            f"their hits; measure both accuracies with evaluate"
        )
    if None not in (before.order, after.order) and before.order != after.order:
        raise ValueError(
            "the images come in another order each time, as their labels show; give them in one "
            "order: shuffle=False"
        )
    lost, won = before.hits & ~after.hits, after.hits & ~before.hits
    return Drop.counted(int(lost.sum()), int(won.sum()), before.n)


def evaluate(model: nn.Module, images: Images) -> Accuracy:
    """Top-1 accuracy of `model` on `images`; the model, its mode and the random state stay."""
    device, hits, labels = device_of(model), [], []
    with measuring(model):
        for x, y in data.checked(images):
            hits.append(right(model(x.to(device)), y).cpu())
            labels.append(y.cpu())
    if not hits:
        raise ValueError("no images to measure an accuracy on")
    return Accuracy.of(torch.cat(hits), torch.cat(labels))


def right(logits: Tensor, y: Tensor) -> Tensor:
    """bool (N,): where the largest of the logits (N, classes) is the label's, int (N,).

    Raises ValueError as `check_labels` does. A label that is no class counts as wrong.
    """
    check_labels(y, *check_logits(logits))
    return logits.argmax(1) == y.to(logits.device)


def check_labels(y: Tensor, n: int, classes: int) -> None:
    """Raise ValueError unless the labels of n images are integers of shape (n,)."""
    if isinstance(y, Tensor) and y.shape == (n,) and y.dtype in INTEGERS:
        return
    raise ValueError(
        f"labels must be integers of shape ({n},), one for each image and below {classes}, got "
        f"{_described(y)}; type y.argmax(1) for one-hot labels, y.squeeze(1) for a column, "
        f"y.long() for numbers of another type, torch.as_tensor(y) for a list"
    )


def _described(value) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients inside; afterwards mode, buffers, random states as before.

    A DataLoader draws though it does not shuffle, hence the states. Only the main thread restores
    them: any other would repeat what the main thread drew in the meantime.
    """
    owners = [module._buffers for module in model.modules()]
    buffers = [(o, n, b, b if b is None else b.clone()) for o in owners for n, b in o.items()]
    is_main = in_main_thread()
    states = random.getstate(), np.random.get_state()
    forked = torch.random.fork_rng(generators(device_of(model)), enabled=is_main)
    with forked, torch.no_grad(), mode(model, training=False):  # inference tensors would stay
        try:
            yield
        except RuntimeError as error:
            if "type" in str(error):  # torch's: some layer takes no float32
                check_dtype(model)
            raise
        finally:
            if is_main:
                random.setstate(states[0])
                np.random.set_state(states[1])
            for owner, name, buffer, old in buffers:
                owner[name] = buffer
                if buffer is not None and not torch.equal(buffer, old):
                    buffer.copy_(old)
