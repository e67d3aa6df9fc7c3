"""Splits too large for memory: decoded by worker processes, batch by batch, and never held."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pruning_lab.data import augment, splits
from pruning_lab.data.augment import Epoch
from pruning_lab.data.decoding import BrokenImageError, check_broken, decode, listed, read, stamp
from pruning_lab.data.folders import Files
from pruning_lab.data.request import Request
from pruning_lab.data.splits import IMAGENET, IMAGENET_AXES, Axes, Levels, Part, Splits


@dataclass(frozen=True, eq=False)
class Stream(Part):
    """A part decoded from its image files on every pass; always RGB.

    Images in order have their short side scaled to `short` and their middle size x size cut out. An
    image that cannot be used is left out of its batch, with a warning; a fraction `broken` of them,
    rounded up, may be. Random crops are cut from the whole photo; all other augmentation happens on
    the device.
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
    _crops_files = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return 3, self.size, self.size

    def head(self, count: int) -> "Stream":
        """The first `count` images, for a quick look, with a limit of their own on broken ones."""
        files = self.files[:count]
        left_out = {name: self.left_out[name] for name in files if name in self.left_out}
        return replace(self, files=files, labels=self.labels[:count], left_out=left_out)

    def fingerprint(self) -> str:
        """SHA-256 of the names and sizes of the files, and of the labels."""
        sizes = [stamp(self.root / name)[0] for name in self.files]
        content = [self.files, sizes, self.labels.tolist(), self.size, self.short]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _read(
        self, slices: Sequence[slice], epoch: Epoch | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = range(self.n) if epoch is None else epoch.order.tolist()
        crop, numbers = (1.0, None) if epoch is None else (epoch.crop, epoch.numbers)
        requests = [
            ([self.files[p] for p in order[part]], crop, None if crop == 1 else numbers[part])
            for part in slices
        ]
        loader = DataLoader(
            _Reader(self.root, self.size, self.short),
            batch_size=None,  # a sample is a batch already
            sampler=requests,
            num_workers=self._workers() if len(requests) > 1 else 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it would draw a number from everyone's
        )
        for part, (images, usable, broken) in zip(slices, loader, strict=True):
            self._leave_out(broken)
            if len(usable) or epoch is not None:
                images = images.to(self.device, non_blocking=True)
                yield images, part.start + usable.to(self.device)

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))

    def _leave_out(self, broken: dict[str, str]) -> None:
        new = {name: why for name, why in broken.items() if name not in self.left_out}
        self.left_out.update(new)
        for name in new:
            warnings.warn(f"left out: {listed({name: new[name]}, self.root)}", stacklevel=4)
        allowed = math.ceil(self.broken * self.n)
        check_broken(self.root, self.left_out, allowed, self.n)


@dataclass(frozen=True)
class _Reader(Dataset):
    """What is sent to the worker processes; it holds no list of files."""

    root: Path
    size: int
    short: int

    def __getitem__(
        self, request: tuple[list[str], float, Tensor | None]
    ) -> tuple[Tensor, Tensor, dict[str, str]]:
        """uint8 images of a batch, their places in it, and why the others cannot be used.

        Asked for by names, and an epoch's `crop` and `numbers`; None: the middle is cut out.
        """
        names, crop, numbers = request
        images = torch.empty(len(names), 3, self.size, self.size, dtype=torch.uint8)
        usable, broken, box = [], {}, None
        for place, name in enumerate(names):
            if numbers is not None:
                box = partial(_box, numbers[place : place + 1], crop)
            try:
                content = read(self.root / name)
                pixels = decode(content, size=self.size, short=self.short, choose=box)
            except BrokenImageError as error:
                broken[name] = str(error)
            else:
                images[len(usable)] = torch.tensor(pixels)
                usable.append(place)
        return images[: len(usable)], torch.tensor(usable, dtype=torch.int64), broken


def _box(numbers: Tensor, crop: float, height: int, width: int) -> list[int]:
    return augment.boxes(numbers, height, width, crop)[0].tolist()


def streamed(
    name: str,
    root: Path,
    parts: dict[str, Files],
    origin: str,
    request: Request,
    size: int,
    *,
    short: int,
) -> Splits:
    """Three streams, normalised as ImageNet is."""
    device, batch_size = request.device, splits.batch_size_for(3 * size**2)
    options = {"device": device, "broken": request.broken}
    made = {}
    for part, (names, labels) in parts.items():
        shown = size, short, *IMAGENET, batch_size
        made[part] = Stream(part, root, names, labels.to(device), *shown, **options)
    return Splits(name, origin=f"{origin}; streamed, never all in memory", **made)
