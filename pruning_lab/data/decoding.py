"""Image files as pixels, one at a time: as torchvision's loader and transforms give them."""

import io
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**27  # 400 MB as RGB
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, which smooths where it shrinks
# Others never open: PIL would start Ghostscript for an EPS file, whatever its name is.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")


class BrokenImageError(ValueError):
    """Why a file cannot be used as an image, for the brackets behind its name."""


def check_broken(root: Path, left_out: Mapping[str, str], allowed: int, count: int) -> None:
    """Raise ValueError when too many images are broken."""
    if len(left_out) > allowed:
        raise ValueError(
            f"{listed(left_out, root)}; of {count:,} images {allowed:,} may be left out: replace "
            f"these files, delete them, or call data.load with a larger fraction, broken=0.1"
        )


def listed(left_out: Mapping[str, str], root: Path | str = "") -> str:
    """The first few images that cannot be used, each with the reason."""
    first = ", ".join(f"{Path(root, name)} ({why})" for name, why in list(left_out.items())[:3])
    more = len(left_out) - 3
    return first + (f" and {more:,} more" if more > 0 else "")


def stamp(path: Path) -> tuple[int, int, int]:
    """Bytes of a file, and its mtime and ctime in ns; (-1, 0, 0) for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read(path: Path) -> bytes:
    """The content of an image file."""
    with _reading(path) as file:
        return file.read()


def header(path: Path) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its (width, height), without decoding it."""
    with _reading(path) as file, _opened(file) as image:
        return image.mode in ("1", "L", "LA"), image.size


def decode(
    content: bytes,
    *,
    grey: bool = False,
    size: int | None = None,
    short: int | None = None,
    choose: Callable[[int, int], Sequence[int]] | None = None,
) -> np.ndarray:
    """uint8 (C, H, W): the first image of the file, without transparency, as torchvision has it.

    With `size`, the short side is scaled to `short` (else `size`), and the middle cut out; or the
    box `choose(height, width)` -> (top, left, height, width) is scaled to it.
    """
    with _opened(io.BytesIO(content)) as image:
        full, short = image.size, short or size
        if size and not choose:
            image.draft(None, (4 * short, 4 * short))  # a huge JPEG, no finer than of use
        image = _converted(image, "L" if grey else "RGB")
        if choose:
            top, left, height, width = choose(*full[::-1])
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((size, size), _BILINEAR)
        elif size:
            image = _fitted(image, full, size, short)
        pixels = np.asarray(image)
        return pixels[None] if grey else pixels.transpose(2, 0, 1)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open: a pipe would wait forever, and a device never end."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenImageError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BrokenImageError(f"more than {MAX_FILE_BYTES:,} bytes")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise BrokenImageError(f"cannot be read: {error.strerror}") from None


def _opened(file: BinaryIO):
    from PIL import Image  # slow to import, and digits never needs it

    try:
        image = Image.open(file, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise BrokenImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception:  # PIL raises what its many readers raise
        raise BrokenImageError("cannot be read as an image") from None
    if why := _refusal(image):
        image.close()
        raise BrokenImageError(why)
    return image


def _refusal(image) -> str | None:
    if not 0 < math.prod(image.size) <= MAX_PIXELS:
        return f"{image.width:,} x {image.height:,} pixels; 1 to {MAX_PIXELS:,} are decoded"
    if image.mode.startswith(("I", "F")):
        return f"more than 8 bits for each pixel, mode {image.mode}; save it with 8"
    return None


def _converted(image, mode: str):
    try:
        return image.convert(mode)
    except Exception as error:
        raise BrokenImageError(f"cannot be decoded: {error}"[:200]) from None


def _fitted(image, full: tuple[int, int], size: int, short: int):
    """torchvision's Resize(short) and CenterCrop(size) of an image that had `full` pixels."""
    scaled = tuple(int(short * side / min(full)) for side in full)
    if math.prod(scaled) > MAX_PIXELS:
        raise BrokenImageError(f"too long and thin for its size, {full[0]} x {full[1]} pixels")
    if image.size != scaled:
        image = image.resize(scaled, _BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.crop((left, top, left + size, top + size)) if scaled != (size, size) else image
