"""What gives images: any re-iterable of (x, y), and the base class of the splits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pruning_lab.data import augment
from pruning_lab.data.scale import Axes, Levels, scale_of


class Images(Protocol):
    """Batches (x, y), the same number on every pass: x float (N, C, H, W), y int64 (N,).

    A split, a DataLoader and a list of batches are such.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Part:
    """The train, val or test part of a data set. `n` counts images, `len(part)` batches.

    Iterating gives batches in order, always the same ones, normalised by the training pixels.
    Subclasses add `head(count)`, `fingerprint()` and `_read`.
    """

    name: str  # "train", "val" or "test"
    labels: Tensor  # int64 (N,)
    mean: Levels  # of the training pixels, 0 ... 255
    std: Levels
    axes: Axes | None  # colour axes of the training pixels; None: of its own
    batch_size: int
    shape: tuple[int, int, int]  # (C, H, W) of an image
    device: torch.device
    _crops_files = False  # whether `_read` has cropped at random already

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches()

    def batches(self, start: int = 0, step: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches number `start`, `start + step`, ... in order; decodes only those."""
        if start < 0 or step < 1:
            raise ValueError(f"batches from 0 on, in steps of 1 or more; got {start} and {step}")
        firsts = range(start * self.batch_size, self.n, step * self.batch_size)
        slices = [slice(first, first + self.batch_size) for first in firsts]
        for pixels, places in self._read(slices):
            yield self.normalise(pixels), self.labels[places]

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
        """One epoch in random order, augmented as `augment.draw` says.

        The generator (on the CPU) decides everything: equal seeds give equal epochs. With
        `share=(rank, world)`, each of `world` processes gets its part of every batch. Batches of a
        stream are short by the images that cannot be used, and may be empty.
        """
        axes = (self.axes or scale_of(self.images).axes) if colour else ()
        kinds = {"shift": shift, "flip": flip, "crop": crop, "colour": colour}
        epoch = augment.draw(self.n, axes, generator, **kinds)
        slices = list(augment.shares(self.n, batch_size, share))
        if crop < 1 and not self._crops_files:
            epoch = replace(epoch, boxes=augment.boxes(epoch.numbers, *self.shape[1:], crop))
        applied = epoch.on(self.device)
        for pixels, places in self._read(slices, epoch):
            y = self.labels[applied.order[places]]
            yield self.normalise(applied.apply(pixels, places)), y

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) as float, with the training pixels' mean at 0 and their std at 1."""
        mean, std = self._levels
        return (pixels - mean).div_(std)

    def renormalised(self, mean: Levels, std: Levels) -> "Part":
        """The same images, normalised otherwise: `renormalised(*data.IMAGENET)`."""
        return replace(self, mean=mean, std=std)

    def _read(
        self, slices: Sequence[slice], epoch: augment.Epoch | None = None
    ) -> Iterator[tuple[Tensor, slice | Tensor]]:
        """For each slice (of the epoch's order) uint8 pixels, and which of its places they are."""
        raise NotImplementedError

    @cached_property
    def _levels(self) -> tuple[float | Tensor, float | Tensor]:
        return tuple(
            torch.tensor(level, device=self.device)[:, None, None]
            if isinstance(level, tuple)
            else level
            for level in (self.mean, self.std)
        )


def for_choosing(images: Images, what: str, *, give: str = "splits.val") -> Images:
    """The images; ValueError where they are the test split, which is not for choosing by."""
    if getattr(images, "name", None) == "test":  # of a split, or of what wraps one
        raise ValueError(f"{what} chooses, and the test split is not for choosing; give {give}")
    return images


def count(images: Images) -> int | None:
    """How many images there are; None where only reading them would tell."""
    if isinstance(images, Part):
        return images.n
    if isinstance(images, list | tuple):
        return sum(len(y) for _, y in images)
    dataset = getattr(images, "dataset", None)  # of a DataLoader, whose own length is of batches
    try:
        return None if isinstance(dataset, IterableDataset) else len(dataset)
    except (TypeError, NotImplementedError):
        return None


def fingerprint_of(images: Images) -> str | None:
    """SHA-256 of the images and labels; None where they have none."""
    return images.fingerprint() if hasattr(images, "fingerprint") else None
