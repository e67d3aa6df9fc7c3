"""Splits held in memory: batches in order, or one epoch shuffled and augmented on the device."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pruning_lab.data import augment
from pruning_lab.data.augment import Augment

Levels = float | tuple[float, ...]  # one number for all channels, or one for each; 0 ... 255
Axes = tuple[tuple[float, ...], ...]  # (C, C): steps of colour, in levels

# What torchvision's pretrained networks expect: mean and std of ImageNet's pixels.
IMAGENET: tuple[Levels, Levels] = (
    tuple(255 * value for value in (0.485, 0.456, 0.406)),
    tuple(255 * value for value in (0.229, 0.224, 0.225)),
)


class Scale(NamedTuple):
    """What is typical of the training pixels."""

    mean: Levels
    std: Levels
    axes: Axes  # eigenvectors of the covariance of the channels, as long as their eigenvalues


class Part:
    """What a split in memory and a streamed one have in common."""

    def __len__(self) -> int:
        return len(self.labels)

    def normalise(self, images: Tensor) -> Tensor:
        mean, std = self._scale
        return (images - mean).div_(std)

    def renormalised(self, mean: Levels, std: Levels) -> "Part":
        """The same images, normalised otherwise: `renormalised(*data.IMAGENET)`."""
        return replace(self, mean=mean, std=std)

    @cached_property
    def _scale(self) -> tuple[float | Tensor, float | Tensor]:
        return tuple(
            torch.tensor(level, device=self.device)[:, None, None]
            if isinstance(level, tuple)
            else level
            for level in (self.mean, self.std)
        )


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth; two splits are two
class Split(Part):
    """Images and labels of one split. Iterating gives batches in order, always the same ones.

    images: uint8 (N, C, H, W); labels: int64 (N,). What comes out is float (N, C, H, W), normalised
    to mean 0 and std 1 of the training images. `len(split)` counts images.
    """

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

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.normalise(self.images[part]), self.labels[part]

    def shuffled(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        shift: int = 0,
        flip: bool = False,
        crop: float = 1.0,
        colour: float = 0.0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, each image augmented as `Augment` says.

        The generator (on the CPU) decides everything, so equal seeds give equal epochs. With
        `share=(rank, world)`, `world` processes see each their part of the batches that one sees.
        """
        wanted = Augment(shift=shift, flip=flip, crop=crop, colour=colour)
        axes = (self.axes or scale_of(self.images).axes) if colour else ()
        epoch = augment.draw(len(self), wanted, axes, generator)
        if crop < 1:
            epoch = replace(epoch, boxes=augment.boxes(epoch.numbers, *self.shape[1:], crop))
        epoch = epoch.on(self.device)
        for part in augment.shares(len(self), batch_size, share):
            chosen = epoch.order[part]
            images = self.images.index_select(0, chosen)  # on a CPU 5 times as fast as [chosen]
            yield self.normalise(epoch.apply(images, part, shift)), self.labels[chosen]

    def head(self, count: int) -> "Split":
        """The first `count` images, for a quick look."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def fingerprint(self) -> str:
        """SHA-256 of the pixels and labels: two runs with the same one saw the same data."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            for some in tensor.split(1024):  # from a GPU it comes bit by bit
                digest.update(some.cpu().contiguous().numpy())
        return digest.hexdigest()


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
        parts = (self.train, self.val, self.test)
        train, val, test = (part.renormalised(mean, std) for part in parts)
        return replace(self, train=train, val=val, test=test)

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.train.shape))
        counts = f"{len(self.train):,} train / {len(self.val):,} val / {len(self.test):,} test"
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
    return Splits(name, made["train"], made["val"], made["test"], origin)


def scale_of(images: Tensor) -> Scale:
    """Of uint8 (N, C, H, W): one mean and std of grey images, one for each channel of others."""
    if images.shape[1] == 1:
        levels = torch.arange(256, dtype=torch.float64)
        share = torch.bincount(images.reshape(-1), minlength=256).cpu() / images.numel()
        mean = float((share * levels).sum())
        std = float((share * (levels - mean) ** 2).sum().sqrt())
        return Scale(mean, std, ((std**2 / 255,),))
    sums, products = 0, 0  # of whole numbers far below 2^53, so exact in any order
    for some in images.split(64):
        values = some.transpose(0, 1).reshape(images.shape[1], -1).double()  # (C, pixels)
        sums, products = sums + values.sum(1), products + values @ values.T
    pixels = images.numel() // images.shape[1]
    mean = sums.cpu() / pixels
    covariance = products.cpu() / pixels - mean[:, None] * mean
    # In levels of 1 rather than 255, as everyone reads Krizhevsky et al. (2012, section 4.1):
    # an eigenvalue is a square, and 0.1 of one in levels of 255 would be a thousand levels.
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    axes = (vectors * vectors.sum(0).sign() * (eigenvalues / 255)).T
    std = covariance.diagonal().sqrt()
    return Scale(tuple(mean.tolist()), tuple(std.tolist()), tuple(map(tuple, axes.tolist())))
