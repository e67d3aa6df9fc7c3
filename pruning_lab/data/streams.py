"""Splits too large for memory: decoded by worker processes, batch by batch, and never held."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pruning_lab.data import augment, cache
from pruning_lab.data.augment import Augment
from pruning_lab.data.decoding import BrokenImageError, decode, decode_box
from pruning_lab.data.folders import Sample
from pruning_lab.data.splits import IMAGENET, Axes, Levels, Part, Splits, batch_size_for

if TYPE_CHECKING:
    from pruning_lab.data.loading import Wish

# Of ImageNet's RGB, as fb.resnet.torch measured them, in levels of 1: eigenvalues, eigenvectors.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)
IMAGENET_AXES = tuple(
    tuple(255 * value * entry for entry in vector)
    for value, vector in zip(_EIGENVALUES, _EIGENVECTORS, strict=True)
)


@dataclass(frozen=True, eq=False)
class Stream(Part):
    """Image files and labels of one split, with the face of a `Split`; always RGB.

    Iterating gives batches in order, always the same ones: the short side scaled to `short`, the
    middle size x size cut out. An image that cannot be used is left out of its batch, with a
    warning; a share `broken` of them, rounded up, may be. Random crops are cut from the whole
    photo, the rest of the augmentation happens on the device.
    """

    name: str  # "train", "val" or "test"
    root: Path = field(repr=False)
    files: tuple[str, ...] = field(repr=False)  # relative to root
    labels: Tensor = field(repr=False)  # int64 (N,)
    size: int
    short: int
    mean: Levels  # 0 ... 255
    std: Levels
    batch_size: int
    axes: Axes = field(default=IMAGENET_AXES, repr=False)
    device: torch.device = field(default=torch.device("cpu"), repr=False)
    broken: float = field(default=0.01, repr=False)
    workers: int | None = field(default=None, repr=False)  # None: one for each core, 8 at most
    left_out: dict[str, str] = field(default_factory=dict, repr=False)  # so far: file -> why

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return 3, self.size, self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, len(self), self.batch_size)
        asked = [_Asked(self.files[k : k + self.batch_size]) for k in starts]
        for start, (images, good) in zip(starts, self._decoded(asked), strict=True):
            if len(good):
                yield self.normalise(images), self.labels[start + good]

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
        """As `Split.shuffled`, and with the same choices for the same generator.

        A batch is short by the images that cannot be used, and may be empty for that.
        """
        wanted = Augment(shift=shift, flip=flip, crop=crop, colour=colour)
        epoch = augment.draw(len(self), wanted, self.axes if colour else (), generator)
        parts = list(augment.shares(len(self), batch_size, share))
        asked = [self._asked(epoch, part, crop) for part in parts]
        epoch = replace(epoch, numbers=None).on(self.device)
        for part, (images, good) in zip(parts, self._decoded(asked), strict=True):
            some = part.start + good
            yield (
                self.normalise(epoch.apply(images, some, shift)),
                self.labels[epoch.order[some]],
            )

    def head(self, count: int) -> "Stream":
        """The first `count` images, for a quick look, with a limit of their own on broken ones."""
        files = self.files[:count]
        left_out = {name: self.left_out[name] for name in files if name in self.left_out}
        return replace(self, files=files, labels=self.labels[:count], left_out=left_out)

    def fingerprint(self) -> str:
        """SHA-256 of the names and sizes of the files, and of the labels."""
        sizes = [os.path.getsize(self.root / name) for name in self.files]
        told = [self.files, sizes, self.labels.tolist(), self.size, self.short]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def _asked(self, epoch: augment.Epoch, part: slice, crop: float) -> "_Asked":
        names = tuple(self.files[place] for place in epoch.order[part].tolist())
        return _Asked(names, crop, None if crop == 1 else epoch.numbers[part])

    def _decoded(self, asked: Sequence["_Asked"]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch uint8 images on the device, and which of those asked for they are."""
        loader = DataLoader(
            _Reader(self.root, self.size, self.short),
            batch_size=None,  # a sample is a batch already
            sampler=asked,
            num_workers=self._workers() if len(asked) > 1 else 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it would draw a number from everyone's
        )
        for images, good, broken in loader:
            self._leave_out(broken)
            yield images.to(self.device, non_blocking=True), good.to(self.device)

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))

    def _leave_out(self, broken: dict[str, str]) -> None:
        new = {name: why for name, why in broken.items() if name not in self.left_out}
        self.left_out.update(new)
        for name in new:
            warnings.warn(f"left out: {cache.said({name: new[name]}, self.root)}", stacklevel=4)
        allowed = math.ceil(self.broken * len(self))
        cache.check_broken(self.root, self.left_out, allowed, len(self))


@dataclass(frozen=True)
class _Asked:
    """A batch for a worker to decode."""

    names: tuple[str, ...]
    crop: float = 1.0
    numbers: Tensor | None = None  # of `augment.Epoch`; None: no random crop


@dataclass(frozen=True)
class _Reader(Dataset):
    """What travels to the worker processes; it holds no list of files."""

    root: Path
    size: int
    short: int

    def __getitem__(self, asked: _Asked) -> tuple[Tensor, Tensor, dict[str, str]]:
        images = torch.empty(len(asked.names), 3, self.size, self.size, dtype=torch.uint8)
        good, broken = [], {}
        for place, name in enumerate(asked.names):
            try:
                images[len(good)] = torch.tensor(self._pixels(asked, place))
            except (BrokenImageError, OSError) as error:
                broken[name] = str(error)
            else:
                good.append(place)
        return images[: len(good)], torch.tensor(good, dtype=torch.int64), broken

    def _pixels(self, asked: _Asked, place: int) -> np.ndarray:
        content = (self.root / asked.names[place]).read_bytes()
        if asked.numbers is None:
            return decode(content, size=self.size, short=self.short)
        numbers = asked.numbers[place : place + 1]

        def choose(height: int, width: int) -> list[int]:
            return augment.boxes(numbers, height, width, asked.crop)[0].tolist()

        return decode_box(content, self.size, choose)


def streamed(
    name: str,
    root: Path,
    samples: dict[str, list[Sample]],
    origin: str,
    wish: "Wish",
    size: int,
    *,
    short: int,
) -> Splits:
    """Three streams, normalised as ImageNet is."""
    made = {
        part: Stream(
            part,
            root,
            tuple(os.path.relpath(path, root) for path, _ in some),
            torch.tensor([label for _, label in some]).to(wish.device),
            size,
            short,
            *IMAGENET,
            batch_size_for(3 * size**2),
            device=wish.device,
            broken=wish.broken,
        )
        for part, some in samples.items()
    }
    return Splits(name, origin=f"{origin}; streamed, never all in memory", **made)
