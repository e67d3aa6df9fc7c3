"""Splits too large for memory: decoded by worker processes, batch by batch, and never held."""

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pruning_lab.data.decoding import BrokenImageError, check_broken, decode, listed, stamp
from pruning_lab.data.splits import IMAGENET, Axes, Levels, Part
from pruning_lab.files import sha256

# Of ImageNet's RGB, as fb.resnet.torch measured them, in levels of 1: eigenvalue, eigenvector.
IMAGENET_AXES: Axes = tuple(
    tuple(255 * eigenvalue * entry for entry in vector)
    for eigenvalue, vector in (
        (0.2175, (-0.5675, -0.5808, -0.5836)),
        (0.0188, (0.7192, -0.0045, -0.6948)),
        (0.0045, (0.4009, -0.8140, 0.4203)),
    )
)


@dataclass(frozen=True, eq=False)
class Stream(Part):
    """A part decoded from its image files on every pass; always RGB, normalised as ImageNet is.

    Images in order have their short side scaled to `short` and their middle size x size cut out. An
    image that cannot be used is left out of its batch, with a warning; a fraction `broken` of them,
    rounded up, may be. Random crops are cut from the whole photo; all other augmentation happens on
    the device.
    """

    name: str
    root: Path = field(repr=False)
    files: tuple[str, ...] = field(repr=False)  # relative to root
    labels: Tensor = field(repr=False)
    size: int
    short: int
    mean: Levels = IMAGENET[0]
    std: Levels = IMAGENET[1]
    batch_size: int = 500
    axes: Axes = field(default=IMAGENET_AXES, repr=False)
    broken: float = field(default=0.01, repr=False)
    workers: int | None = field(default=None, repr=False)  # None: one for each core, 8 at most
    left_out: dict[str, str] = field(default_factory=dict, repr=False)  # so far: file -> why
    crops_files = True

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
        return sha256(json.dumps(content).encode())

    def _usable(self) -> Tensor:
        return torch.tensor([name not in self.left_out for name in self.files]).nonzero()[:, 0]

    def _read(self, batches, crop=1.0, numbers=None) -> Iterator[tuple[Tensor, Tensor]]:
        places = torch.arange(self.n, device=self.device)
        names = [[self.files[place] for place in places[batch].tolist()] for batch in batches]
        shown = {"size": self.size, "short": self.short, "crop": crop}
        loader = DataLoader(
            list(zip(names, numbers or len(names) * [None], strict=True)),
            batch_size=None,  # a sample is a batch already
            collate_fn=partial(_decoded, self.root, shown),
            num_workers=self._workers() if len(names) > 1 else 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it would draw a number from everyone's
        )
        for images, usable, broken in loader:
            self._leave_out(broken)
            yield images.to(self.device, non_blocking=True), usable.to(self.device)

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))

    def _leave_out(self, broken: dict[str, str]) -> None:
        for name, why in broken.items():
            if self.left_out.setdefault(name, why) is why:
                warnings.warn(f"left out: {listed({name: why}, self.root)}", stacklevel=4)
        check_broken(self.root, self.left_out, self.broken, self.n)


def _decoded(
    root: Path, shown: dict, batch: tuple[list[str], Tensor | None]
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """uint8 images of a batch, their places in it, and why the others cannot be used.

    A batch is the names of files, and rows of numbers for random crops; None: no crops.
    """
    names, numbers = batch
    images = torch.empty(len(names), 3, shown["size"], shown["size"], dtype=torch.uint8)
    usable, broken = [], {}
    for place, name in enumerate(names):
        try:
            row = None if numbers is None else numbers[place]
            images[len(usable)] = torch.tensor(decode(root / name, numbers=row, **shown))
            usable.append(place)
        except BrokenImageError as error:
            broken[name] = str(error)
    return images[: len(usable)], torch.tensor(usable, dtype=torch.int64), broken
