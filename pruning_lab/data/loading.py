"""Names typed by a person become splits."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pruning_lab.data import handwriting, photos, shapes
from pruning_lab.data.splits import Splits


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What `load` was asked for."""

    root: Path
    device: torch.device
    download: bool
    size: int | None
    broken: float


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
    A folder of one's own holds PATH/train/CLASS/IMAGE, and PATH/val, PATH/test or both likewise.
    `size`: photos become size x size pixels, the short side scaled and the middle cut out (160 for
    imagenette, 224 for imagenet, 64 for shapes). A share `broken` of the images, rounded up, may be
    unreadable; they are left out, and the origin says so.
    Raises FileNotFoundError where the files are not there, ValueError for an unknown name, for a
    size that cannot be had, and for more broken images.
    """
    if size is not None and (size != int(size) or size < 1):
        raise ValueError(f"size is a number of pixels, 1 or more, got {size}")
    if not 0 <= broken <= 1:
        raise ValueError(f"broken is a share of the images, 0 to 1, got {broken}")
    root = Path(root if root is not None else os.environ.get("PRUNING_LAB_DATA", "data"))
    wish = Wish(root=root, device=torch.device(device), download=download, size=size, broken=broken)
    if name.startswith("folder:"):
        return photos.folder(name, wish)
    if name == "auto":
        return _auto(wish)
    if name not in LOADERS:
        raise ValueError(f"no data set {name!r}; there are auto, {', '.join(LOADERS)}, folder:PATH")
    return LOADERS[name](wish)


def _auto(wish: Wish) -> Splits:
    folder = handwriting.mnist_folder(wish.root)
    if wish.download or folder.is_dir():
        return _mnist(wish)
    return _digits(wish, f"scikit-learn's, since {folder} is not there")


def _photos(wish: Wish) -> Splits:
    """Imagenette where it is; else shapes, said as loudly as `auto` says digits."""
    folder = photos.imagenette_folder(wish.root)
    if wish.download or folder.is_dir():
        return photos.imagenette(wish)
    return _shapes(wish, f"NO PHOTOS: shapes drawn on the spot, since {folder} is not there")


def _mnist(wish: Wish) -> Splits:
    _check_28("mnist", wish)
    return handwriting.mnist(wish.root, wish.device, wish.download)


def _digits(wish: Wish, origin: str = "scikit-learn's, which need no file") -> Splits:
    _check_28("digits", wish)
    return handwriting.digits(wish.device, origin)


def _shapes(wish: Wish, origin: str = "drawn on the spot, which needs no file") -> Splits:
    return shapes.splits(wish.size or shapes.SIZE, wish.device, origin)


def _check_28(name: str, wish: Wish) -> None:
    if wish.size not in (None, 28):
        raise ValueError(
            f"the images of {name} are 28 x 28, got size {wish.size}; leave size away, or take "
            f"photos (imagenette, imagenet, shapes, folder:PATH)"
        )


LOADERS: dict[str, Callable[[Wish], Splits]] = {
    "mnist": _mnist,
    "digits": _digits,
    "photos": _photos,
    "imagenette": photos.imagenette,
    "imagenet": photos.imagenet,
    "shapes": _shapes,
}
