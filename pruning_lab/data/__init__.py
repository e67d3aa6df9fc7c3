"""Images as tensors on the device: decoded once, split in three, augmented in batches.

Looked for in the folder of the environment variable PRUNING_LAB_DATA, else in `data/`. Nothing is
downloaded unless asked; `digits` and `shapes` need no file at all, and `folder:PATH` reads images
of your own. What is too large for memory streams from its files.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from pruning_lab.data import handwriting, photos, shapes
from pruning_lab.data.request import Request, usable_device
from pruning_lab.data.splits import (
    IMAGENET,
    Images,
    Part,
    Split,
    Splits,
    count,
    fingerprint_of,
    for_choosing,
)
from pruning_lab.data.streams import Stream

__all__ = ["IMAGENET", "LOADERS", "Images", "Part", "Split", "Splits", "Stream"]
__all__ += ["count", "fingerprint_of", "for_choosing", "load"]

LOADERS: dict[str, Callable[[Request], Splits]] = {
    "mnist": handwriting.mnist,
    "digits": handwriting.digits,
    "photos": photos.photos,
    "imagenette": photos.imagenette,
    "imagenet": photos.imagenet,
    "shapes": shapes.splits,
}


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

    `auto` takes mnist where it is, else digits; `photos` takes imagenette where it is, else shapes.
    A folder of your own holds PATH/train/CLASS/IMAGE, and PATH/val, PATH/test or both likewise.
    `size`: photos become size x size pixels, the short side scaled and the middle cut out (160 for
    imagenette, 224 for imagenet, 64 for shapes). A fraction `broken` of the images, rounded up, may
    be unusable; they are left out, and the origin says so.
    Raises FileNotFoundError where the files are not there; ValueError for an unknown name or
    device, for a size that cannot be had, and for more broken images.
    """
    root = Path(root if root is not None else os.environ.get("PRUNING_LAB_DATA", "data"))
    device = usable_device(device)
    request = Request(root=root, device=device, download=download, size=size, broken=broken)
    if name.startswith("folder:"):
        return photos.folder(name, request)
    if name == "auto":
        return _auto(request)
    if name not in LOADERS:
        raise ValueError(f"no data set {name!r}; there are auto, {', '.join(LOADERS)}, folder:PATH")
    return LOADERS[name](request)


def _auto(request: Request) -> Splits:
    folder = handwriting.mnist_folder(request.root)
    if request.download or folder.is_dir():
        return handwriting.mnist(request)
    return handwriting.digits(request, f"scikit-learn's, since {folder} is not there")
