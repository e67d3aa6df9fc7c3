"""Image files as pixels: as torchvision's loader and transforms give them."""

import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning_lab.data import augment

Shape = tuple[int, int, int]  # (C, H, W) of an image
MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**27  # 400 MB as RGB
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, which smooths where it shrinks
# Others never open: PIL would start Ghostscript for an EPS file, whatever its name is.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")


class BrokenImageError(ValueError):
    """Why a file cannot be used as an image, for the brackets after its name."""


def check_broken(root: Path, left_out: Mapping[str, str], broken: float, count: int) -> None:
    """Raise ValueError where more than a fraction `broken`, rounded up, cannot be used."""
    if len(left_out) > (allowed := math.ceil(broken * count)):
        raise ValueError(
            f"{listed(left_out, root)}; of {count:,} images {allowed:,} may be left out: replace "
            f"these files, delete them, or call data.load with a larger fraction, broken=0.1"
        )


def listed(left_out: Mapping[str, str], root: Path | str = "") -> str:
    """The first few images that cannot be used, each with the reason."""
    return first([f"{Path(root, name)} ({why})" for name, why in left_out.items()])


def first(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def stamp(path: Path) -> tuple[int, int, int]:
    """Bytes of a file, and its mtime and ctime in ns; (-1, 0, 0) for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def header(path: Path) -> tuple[bool, int, int]:
    """Whether an image is grey, its width and its height, without decoding it."""
    with _opened(path) as image:
        return image.mode in ("1", "L", "LA"), *image.size


def decode_all(
    root: Path, shape: Shape, short: int, crop: float, batch: tuple[Sequence[str], Tensor | None]
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """uint8 images (n, *shape), their places in the batch, and why the others cannot be used.

    A batch is the names of files, and rows of numbers for random crops; None: no crops.
    """
    names, numbers = batch
    images, usable, broken = torch.empty(len(names), *shape, dtype=torch.uint8), [], {}
    for place, name in enumerate(names):
        row = None if numbers is None else numbers[place]
        try:
            images[len(usable)] = _decoded(root / name, shape, short, crop, row)
            usable.append(place)
        except BrokenImageError as error:
            broken[name] = str(error)
    return images[: len(usable)], torch.tensor(usable, dtype=torch.int64), broken


def _decoded(path: Path, shape: Shape, short: int, crop: float, numbers: Tensor | None) -> Tensor:
    """uint8 (C, H, W): the first image of the file, without transparency, as torchvision has it.

    Its short side is scaled to `short` and the middle cut out; or, with numbers, the box that
    `augment.boxes` makes of them is scaled to H x W.
    """
    channels, high, wide = shape
    with _opened(path) as image:
        width, height = image.size
        if numbers is None:
            image.draft(None, (4 * short, 4 * short))  # a huge JPEG, no finer than of use
        try:
            image = image.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # PIL raises what its many readers raise
            raise BrokenImageError(f"cannot be decoded: {error}"[:200]) from None
    if numbers is None:  # torchvision's Resize(short) and CenterCrop((high, wide))
        scaled = tuple(int(short * side / min(width, height)) for side in (width, height))
        if math.prod(scaled) > MAX_PIXELS:
            raise BrokenImageError(f"too long and thin for its size, {width} x {height} pixels")
        left, top = round((scaled[0] - wide) / 2), round((scaled[1] - high) / 2)
        image = image if image.size == scaled else image.resize(scaled, _BILINEAR)
        image = image.crop((left, top, left + wide, top + high))
    else:
        top, left, h, w = augment.boxes(numbers[None], height, width, crop)[0].tolist()
        image = image.crop((left, top, left + w, top + h)).resize((wide, high), _BILINEAR)
    return torch.from_numpy(np.array(image)).reshape(high, wide, channels).permute(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator:
    """A PIL image of a regular file (a pipe would wait forever), small enough and of 8 bits."""
    from PIL import Image  # slow to import, and mnist-5k never needs it

    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenImageError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BrokenImageError(f"more than {MAX_FILE_BYTES:,} bytes")
        file = path.open("rb")
    except OSError as error:
        raise BrokenImageError(f"cannot be read: {error.strerror}") from None
    with file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except Image.DecompressionBombError:
            raise BrokenImageError(f"more than {MAX_PIXELS:,} pixels") from None
        except Exception:
            raise BrokenImageError("cannot be read as an image") from None
        (wide, high), mode = image.size, image.mode
        if not 0 < wide * high <= MAX_PIXELS:
            raise BrokenImageError(f"{wide:,} x {high:,} pixels; 1 to {MAX_PIXELS:,} are decoded")
        if mode.startswith(("I", "F")):
            raise BrokenImageError(f"more than 8 bits for each pixel, mode {mode}; save it with 8")
        yield image
