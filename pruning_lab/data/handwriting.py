"""Handwritten digits: MNIST through torchvision, and scikit-learn's where there is no file."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pruning_lab.data.splits import Splits, in_memory

MNIST = Path("MNIST", "raw")  # its folder


def mnist(root: Path, *, download: bool) -> Splits:
    """MNIST through torchvision, in its own layout; the last 5,000 training images are val."""
    try:
        (images, labels), test = (_read(root, train, download) for train in (True, False))
        if (cut := len(images) - 5000) <= 0:
            raise ValueError(f"{len(images):,} training images, of which val takes 5,000")
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
                f"into {folder} by hand, or take digits"
            ) from None
        raise FileNotFoundError(
            f"no MNIST in {folder}; set PRUNING_LAB_DATA to the folder that holds MNIST/, or fetch "
            f"it with --download (download=True), or take digits"
        ) from None
    parts = {"train": (images[:cut], labels[:cut]), "val": (images[cut:], labels[cut:])}
    return in_memory("mnist", f"from {root / MNIST}", {**parts, "test": test})


def _read(root: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """uint8 (N, 1, 28, 28) and labels."""
    from torchvision import datasets  # slow to import, and digits never needs it

    part = datasets.MNIST(root, train=train, download=download)
    if part.data.shape != (len(part.targets), 28, 28):
        raise ValueError(f"{tuple(part.data.shape)} pixels and {len(part.targets)} labels")
    return part.data[:, None], part.targets


def digits(origin: str = "scikit-learn's, which need no file") -> Splits:
    """1,797 real handwritten digits of 8 x 8 in 17 greys, scaled to 28 x 28.

    The images come writer after writer. The last fifth is test, and the last tenth of the others
    val, so that a network is tested on writers it has not seen.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.from_numpy(found.images.astype(np.float32))[:, None]  # (N, 1, 8, 8), 0 ... 16
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(found.target.astype(np.int64))
    test, val = round(0.8 * len(images)), round(0.72 * len(images))
    cuts = {"train": slice(val), "val": slice(val, test), "test": slice(test, None)}
    return in_memory("digits", origin, {p: (images[cut], labels[cut]) for p, cut in cuts.items()})
