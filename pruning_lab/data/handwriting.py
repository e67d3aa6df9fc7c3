"""Handwritten digits: MNIST through torchvision, and scikit-learn's where there is no file."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pruning_lab.data.request import Request
from pruning_lab.data.splits import Splits, in_memory


def mnist_folder(root: Path) -> Path:
    return root / "MNIST" / "raw"


def mnist(request: Request) -> Splits:
    """MNIST through torchvision, in its own layout; the last 5,000 training images are val."""
    from torchvision import datasets  # slow to import, and digits never needs it

    _check_size("mnist", request)
    folder = mnist_folder(request.root)

    def broken(why: str) -> ValueError:
        return ValueError(
            f"the MNIST files in {folder} are broken: {why}; delete them and fetch them again "
            f"with --download (download=True)"
        )

    def read(*, train: bool) -> tuple[Tensor, Tensor]:
        try:
            part = datasets.MNIST(request.root, train=train, download=request.download)
        except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
            if len(list(folder.glob("*-ubyte"))) == 4:
                raise broken(f"{type(error).__name__} {error}") from None
            if request.download:
                raise ConnectionError(
                    f"MNIST could not be fetched ({error}); check the connection, put its four "
                    f"files into {folder} by hand, or take digits"
                ) from None
            raise FileNotFoundError(
                f"no MNIST in {folder}; set PRUNING_LAB_DATA to the folder that holds MNIST/, "
                f"or fetch it with --download (download=True), or take digits"
            ) from None
        if part.data.shape != (len(part.targets), 28, 28):
            raise broken(f"{tuple(part.data.shape)} pixels and {len(part.targets)} labels")
        return part.data[:, None], part.targets

    (images, labels), test = read(train=True), read(train=False)
    if (cut := len(images) - 5000) <= 0:
        raise broken(f"{len(images):,} training images, of which val takes 5,000")
    parts = {
        "train": (images[:cut], labels[:cut]),
        "val": (images[cut:], labels[cut:]),
        "test": test,
    }
    return in_memory("mnist", f"from {folder}", request.device, **parts)


def digits(request: Request, origin: str = "scikit-learn's, which need no file") -> Splits:
    """1,797 real handwritten digits of 8 x 8 in 17 greys, scaled to 28 x 28.

    The images come writer after writer. The last fifth is test, and the last tenth of the others
    val, so that a network is tested on writers it has not seen.
    """
    from sklearn.datasets import load_digits

    _check_size("digits", request)

    found = load_digits()
    small = torch.from_numpy(found.images.astype(np.float32))[:, None]  # (N, 1, 8, 8), 0 ... 16
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(found.target.astype(np.int64))
    test, val = round(0.8 * len(images)), round(0.72 * len(images))
    cuts = {"train": slice(val), "val": slice(val, test), "test": slice(test, None)}
    parts = {part: (images[cut], labels[cut]) for part, cut in cuts.items()}
    return in_memory("digits", origin, request.device, **parts)


def _check_size(name: str, request: Request) -> None:
    if request.size not in (None, 28):
        raise ValueError(
            f"the images of {name} are 28 x 28, got size {request.size}; leave size out, or take "
            f"photos (imagenette, imagenet, shapes, folder:PATH)"
        )
