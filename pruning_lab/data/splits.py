"""Train, val and test, in memory or streamed from files: batches, shuffled epochs, pictures."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pruning_lab.data import augment
from pruning_lab.data.decoding import Shape, check_broken, decode_all, listed, stamp

Levels = float | tuple[float, ...]  # one number for all channels, or one for each; 0 ... 255
Axes = tuple[tuple[float, ...], ...]  # (C, C): colour steps, in levels

MEMORY_BYTES = 4 * 2**30  # of pixels in memory, at most; larger data sets stream
_BATCH_VALUES = 2**22  # of images in one batch of a split, at most: 16 MB as floats

# What torchvision's pretrained networks expect: mean and std of ImageNet's pixels.
IMAGENET: tuple[Levels, Levels] = (
    tuple(255 * value for value in (0.485, 0.456, 0.406)),
    tuple(255 * value for value in (0.229, 0.224, 0.225)),
)

# Of ImageNet's RGB, as fb.resnet.torch measured them, in levels of 1: eigenvalue, eigenvector.
_EIGEN = (
    (0.2175, (-0.5675, -0.5808, -0.5836)),
    (0.0188, (0.7192, -0.0045, -0.6948)),
    (0.0045, (0.4009, -0.8140, 0.4203)),
)
IMAGENET_AXES: Axes = tuple(tuple(255 * value * x for x in vector) for value, vector in _EIGEN)


class Scale(NamedTuple):
    """Statistics of the training pixels."""

    mean: Levels
    std: Levels
    axes: Axes  # eigenvectors of the covariance of the channels, as long as their eigenvalues


class Images(Protocol):
    """Re-iterable batches: x float (N, C, H, W), y int64 (N,); a split, a DataLoader or a list."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth; two parts are two
class Part:
    """The train, val or test part of a data set. `n` counts images, `len(part)` batches.

    Iterating gives batches in order, always the same ones, normalised by the training pixels.
    `shape` is (C, H, W) of an image; `fingerprint()` is SHA-256 of what the part is made of.
    """

    name: str  # "train", "val" or "test"
    images: Tensor | tuple[str, ...] = field(repr=False)  # uint8 (N, C, H, W), or names of files
    labels: Tensor = field(repr=False)  # int64 (N,)
    mean: Levels  # of the training pixels, 0 ... 255
    std: Levels
    batch_size: int = 500
    axes: Axes | None = field(default=None, repr=False)  # of the training pixels; None: of its own

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

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
        for places, (pixels, usable) in zip(slices, self._read(slices), strict=True):
            if len(pixels):
                yield self.normalise(pixels), self.labels[places][usable]

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
        numbers = boxes = None
        if crop < 1 and isinstance(self.images, Tensor):
            boxes = augment.boxes(epoch.numbers, *self.shape[1:], crop)
        elif crop < 1:  # cut from the files
            numbers = [epoch.numbers[part] for part in slices]
        epoch = augment.moved(replace(epoch, numbers=None, boxes=boxes), self.device)
        read = self._read([epoch.order[part] for part in slices], crop, numbers)
        for part, (pixels, usable) in zip(slices, read, strict=True):
            places = torch.arange(part.start, part.stop, device=self.device)[usable]
            yield self.normalise(epoch.apply(pixels, places)), self.labels[epoch.order[places]]

    def pictures(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Images for display, not normalised: uint8 (H, W, 3), or (H, W) where they are grey.

        Indices count images as batches give them: those known to be left out do not count.
        """
        places = self._usable()[torch.as_tensor(indices, dtype=torch.int64)].to(self.device)
        ((pixels, _),) = self._read([places])
        if len(pixels) < len(places):  # more are known to be left out now
            return self.pictures(indices)
        return list(pixels.permute(0, 2, 3, 1).squeeze(3).contiguous().cpu().numpy())

    def head(self, count: int) -> "Part":
        """The first `count` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) as float, with the training pixels' mean at 0 and their std at 1."""
        mean, std = self._levels
        return (pixels - mean).div_(std)

    def renormalised(self, mean: Levels, std: Levels) -> "Part":
        """The same images, normalised otherwise: `renormalised(*data.IMAGENET)`."""
        return replace(self, mean=mean, std=std)

    def to(self, device: str | torch.device) -> "Part":
        """The same images on another device."""
        return augment.moved(self, device)

    def _read(self, batches: Sequence[slice | Tensor], crop: float = 1.0, numbers=None):
        """For each batch of indices its uint8 pixels, and which of the indices could be used.

        `crop` and the rows of `numbers` for each batch are those of `augment.boxes`.
        """
        raise NotImplementedError

    def _usable(self) -> Tensor:
        """The indices of the images that are not left out."""
        return torch.arange(self.n)

    @cached_property
    def _levels(self) -> tuple[Tensor, Tensor]:
        """What is subtracted and divided by: mean, and std (1 where all pixels are equal)."""
        levels = [torch.tensor(level, dtype=torch.float32) for level in (self.mean, self.std)]
        mean, std = (level[..., None, None].to(self.device) for level in levels)  # (C, 1, 1)
        return mean, torch.where(std == 0, 1.0, std)


class Split(Part):
    """A part held in memory, on its device."""

    @property
    def shape(self) -> Shape:
        return tuple(self.images.shape[1:])

    def fingerprint(self) -> str:
        """SHA-256 of the pixels and labels."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            for chunk in tensor.split(1024):  # a GPU's images are never all on the CPU
                digest.update(chunk.cpu().contiguous().numpy())
        return digest.hexdigest()

    def _read(self, batches, crop=1.0, numbers=None) -> Iterator[tuple[Tensor, slice]]:
        for batch in batches:
            whole = isinstance(batch, slice)  # index_select: on a CPU 5 times as fast as images[i]
            yield self.images[batch] if whole else self.images.index_select(0, batch), slice(None)


def _workers() -> int:
    """One for each core of this process, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@dataclass(frozen=True, eq=False)
class Stream(Part):
    """A part decoded from its image files on every pass; always RGB, normalised as ImageNet is.

    Images in order have their short side scaled to `short` and their middle cut out; random crops
    are cut from the whole photo. An image that cannot be used is left out of its batch, with a
    warning; a fraction `broken` of them, rounded up, may be.
    """

    root: Path = field(kw_only=True, repr=False)  # the folder of all files
    shape: Shape = field(kw_only=True)
    short: int = field(kw_only=True)
    broken: float = field(default=0.01, repr=False)
    workers: int = field(default_factory=_workers, repr=False)  # processes that decode
    left_out: dict[str, str] = field(default_factory=dict, repr=False)  # so far: file -> why

    def head(self, count: int) -> "Stream":
        """The first `count` images, with a limit of their own on broken ones."""
        head = super().head(count)
        left_out = {name: self.left_out[name] for name in head.images if name in self.left_out}
        return replace(head, left_out=left_out)

    def fingerprint(self) -> str:
        """SHA-256 of the names and sizes of the files, and of the labels."""
        sizes = [stamp(self.root / name)[0] for name in self.images]
        content = [self.images, sizes, self.labels.tolist(), self.shape, self.short]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _usable(self) -> Tensor:
        return torch.tensor([name not in self.left_out for name in self.images]).nonzero()[:, 0]

    def _read(self, batches, crop=1.0, numbers=None) -> Iterator[tuple[Tensor, Tensor]]:
        places = torch.arange(self.n, device=self.device)
        names = [[self.images[place] for place in places[batch].tolist()] for batch in batches]
        loader = DataLoader(
            list(zip(names, numbers or len(names) * [None], strict=True)),
            batch_size=None,  # a sample is a batch already
            collate_fn=partial(decode_all, self.root, self.shape, self.short, crop),
            num_workers=self.workers if len(names) > 1 else 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it would draw a number from everyone's
        )
        for images, usable, broken in loader:
            for name, why in broken.items():
                if name not in self.left_out:
                    self.left_out[name] = why
                    warnings.warn(f"left out: {listed({name: why}, self.root)}", stacklevel=3)
            check_broken(self.root, self.left_out, self.broken, self.n)
            yield images.to(self.device, non_blocking=True), usable.to(self.device)


@dataclass(frozen=True)
class Splits:
    """Train to learn from, val to choose by, test to report once."""

    name: str
    train: Part
    val: Part
    test: Part
    origin: str  # one line: where the images come from

    def to(self, device: str | torch.device) -> "Splits":
        """The same images on another device."""
        train, val, test = (part.to(device) for part in (self.train, self.val, self.test))
        return replace(self, train=train, val=val, test=test)

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.train.shape))
        counts = f"{self.train.n:,} train / {self.val.n:,} val / {self.test.n:,} test"
        return f"{self.name}: {counts} images of {shape}, {self.origin}"


def batch_size_for(values: int) -> int:
    """Images of so many values in one batch."""
    return max(1, min(500, _BATCH_VALUES // values))


def too_large(count: int, shape: Shape) -> str:
    """Why memory may not hold so many images (C, H, W), a byte for each value; "" where it may."""
    size = count * math.prod(shape)
    images = f"{count:,} images of {shape[2]} x {shape[1]} take {size / 2**30:.1f} GB"
    most = f"{MEMORY_BYTES / 2**30:.0f} may be in memory"
    return f"{images}, and {most}" if size > MEMORY_BYTES else ""


def in_memory(
    name: str, origin: str, parts: dict[str, tuple[Tensor, Tensor]], scale: Scale | None = None
) -> Splits:
    """Three splits of uint8 (N, C, H, W) and int64 labels, all normalised as the training ones."""
    pixels = parts["train"][0]
    mean, std, axes = scale or scale_of(pixels)
    batch = batch_size_for(pixels[0].numel())
    made = {part: Split(part, *own, mean, std, batch, axes) for part, own in parts.items()}
    return Splits(name, origin=origin, **made)


def scale_of(images: Tensor) -> Scale:
    """Of uint8 (N, C, H, W): one mean and std of grey images, one for each channel of others."""
    sums, products = 0, 0  # of whole numbers far below 2^53, so exact in any order
    for chunk in images.split(64):
        values = chunk.transpose(0, 1).reshape(images.shape[1], -1).double()  # (C, pixels)
        sums, products = sums + values.sum(1), products + values @ values.T
    pixels = images.numel() // images.shape[1]
    mean = sums.cpu() / pixels
    covariance = products.cpu() / pixels - mean[:, None] * mean
    # In levels of 1 rather than 255, as everyone reads Krizhevsky et al. (2012, section 4.1):
    # an eigenvalue is a square, and 0.1 of one in levels of 255 would be a thousand levels.
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    axes = (vectors * vectors.sum(0).sign() * (eigenvalues / 255)).T
    levels = [tuple(level.tolist()) for level in (mean, covariance.diagonal().sqrt())]
    if images.shape[1] == 1:
        levels = [level for (level,) in levels]
    return Scale(*levels, tuple(map(tuple, axes.tolist())))


def checked(images: Images, *, other: str = "") -> Iterator[tuple[Tensor, Tensor]]:
    """The batches as they are; ValueError for a batch that is no pair (x, y) with a tensor x.

    A loader's iterator is made, and draws, at once. `other` is what else the caller would take.
    """
    is_many = isinstance(images, Iterable) or hasattr(images, "__getitem__")  # as a Dataset
    return _pairs(images, iter(images if is_many else [images]), other)


def _pairs(images: object, batches: Iterator, other: str) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)
        if not pair or _is_one_image(*batch):
            got = repr(images) if len(repr(images)) < 60 else f"a {type(images).__name__}"
            raise ValueError(
                f"expected batches (x, y){other}; got {got}, with {type(batch).__name__} for a "
                f"batch{_todo(images, batch)}"
            )
        yield batch


def _is_one_image(x: object, y: object) -> bool:
    """Whether this is an image (C, H, W) with its label, as a Dataset gives them."""
    is_label = isinstance(y, int) or (isinstance(y, Tensor) and y.dim() == 0)
    return is_label and getattr(x, "ndim", 0) < 4


def _todo(images: object, batch: object) -> str:
    """What to type instead, where that is known."""
    if isinstance(images, Splits):
        return "; give one split, such as splits.val"
    if isinstance(batch, Mapping):
        names = [*map(repr, batch), "...", "..."]
        return f"; type [(b[{names[0]}], b[{names[1]}]) for b in images]"
    if isinstance(batch, Tensor):
        return "; for two tensors, type [(x, y)]"
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return "; type [(x, y) for x, y, *_ in images]"
    if isinstance(batch, tuple | list) and len(batch) == 2 and _is_one_image(*batch):
        return "; for images one by one, type DataLoader(images, batch_size=500)"
    return ""


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
        return sum(len(y) for _, y in checked(images))
    dataset = getattr(images, "dataset", None)  # of a DataLoader, whose own length is of batches
    try:
        return None if isinstance(dataset, IterableDataset) else len(dataset)
    except (TypeError, NotImplementedError):
        return None


def fingerprint_of(images: Images) -> str | None:
    """SHA-256 of the images and labels; None where they have none."""
    return images.fingerprint() if hasattr(images, "fingerprint") else None
