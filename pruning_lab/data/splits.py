"""Splits held in memory: batches in order, or one epoch shuffled and augmented on the device."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pruning_lab.data.augment import Epoch
from pruning_lab.data.images import Part
from pruning_lab.data.scale import Axes, Levels, Scale, scale_of


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth; two splits are two
class Split(Part):
    """A part held in memory, on its device. images: uint8 (N, C, H, W); labels: int64 (N,)."""

    name: str  # "train", "val" or "test"
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: Levels  # of the training pixels, 0 ... 255
    std: Levels
    batch_size: int = 500
    axes: Axes | None = field(default=None, repr=False)  # of the training pixels; None: of its own

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.images.device

    def head(self, count: int) -> "Split":
        """The first `count` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def fingerprint(self) -> str:
        """SHA-256 of the pixels and labels."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            for chunk in tensor.split(1024):  # a GPU's images are never all on the CPU
                digest.update(chunk.cpu().contiguous().numpy())
        return digest.hexdigest()

    def _read(
        self, slices: Sequence[slice], epoch: Epoch | None = None
    ) -> Iterator[tuple[Tensor, slice]]:
        if epoch is None:
            yield from ((self.images[part], part) for part in slices)
            return
        order = epoch.order.to(self.device)
        for part in slices:  # index_select: on a CPU 5 times as fast as images[order[part]]
            yield self.images.index_select(0, order[part]), part


@dataclass(frozen=True)
class Splits:
    """Train to learn from, val to choose by, test to report once."""

    name: str
    train: Part
    val: Part
    test: Part
    origin: str  # one line: where the images come from

    def renormalised(self, mean: Levels, std: Levels) -> "Splits":
        """The same images, normalised otherwise: `renormalised(*data.IMAGENET)`."""
        parts = {name: getattr(self, name) for name in ("train", "val", "test")}
        return replace(self, **{k: part.renormalised(mean, std) for k, part in parts.items()})

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.train.shape))
        counts = f"{self.train.n:,} train / {self.val.n:,} val / {self.test.n:,} test"
        return f"{self.name}: {counts} images of {shape}, {self.origin}"


_BATCH_VALUES = 2**22  # of images in one batch of a split, at most: 16 MB as floats


def batch_size_for(values: int) -> int:
    """Images of so many values in one batch."""
    return max(1, min(500, _BATCH_VALUES // values))


def in_memory(
    name: str,
    origin: str,
    device: torch.device,
    *,
    scale: Scale | None = None,
    **parts: tuple[Tensor, Tensor],
) -> Splits:
    """Three splits of uint8 (N, C, H, W) and labels, all normalised as the training ones."""
    pixels = parts["train"][0]
    mean, std, axes = scale or scale_of(pixels)
    batch = batch_size_for(pixels[0].numel())
    made = {
        part: Split(part, images.to(device), labels.long().to(device), mean, std, batch, axes)
        for part, (images, labels) in parts.items()
    }
    return Splits(name, origin=origin, **made)
