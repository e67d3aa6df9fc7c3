"""Image files as pixels, one at a time: as torchvision's loader and transforms give them."""

import io
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**27  # 400 MB as RGB


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
    """Bytes of a file, and the times of its last changes in ns (mtime, ctime); -1 for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read(path: Path) -> bytes:
    """The content of a regular file: a pipe would wait forever, a device never end."""
    try:
        _check_file(path)
        return path.read_bytes()
    except OSError as error:
        raise BrokenImageError(f"cannot be read: {error.strerror}") from None


def header(path: Path) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its (width, height), without decoding it."""
    try:
        _check_file(path)
        with path.open("rb") as file, _opened(file) as image:
            return image.mode in ("1", "L", "LA"), image.size
    except OSError as error:
        raise BrokenImageError(f"cannot be read: {error.strerror}") from None


def decode(
    content: bytes, *, grey: bool = False, size: int | None = None, short: int | None = None
) -> np.ndarray:
    """uint8 (C, H, W): the first image of the file, without transparency, as torchvision has it.

    With `size`, the short side is scaled to `short` (else `size`), and the middle cut out.
    """
    with _opened(io.BytesIO(content)) as image:
        if size is None:
            return _channels_first(_decoded(image, grey))
        full, short = image.size, short or size
        image.draft(None, (4 * short, 4 * short))  # a huge JPEG, no finer than of use
        return _channels_first(_fitted(_decoded(image, grey), full, size, short))


def decode_box(content: bytes, size: int, choose) -> np.ndarray:
    """uint8 (3, size, size): the box `choose(height, width)` -> (top, left, height, width)."""
    with _opened(io.BytesIO(content)) as image:
        pixels = _decoded(image, grey=False)
        top, left, height, width = choose(pixels.height, pixels.width)
        pixels = pixels.crop((left, top, left + width, top + height))
        return _channels_first(pixels.resize((size, size), _BILINEAR))


_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, which smooths where it shrinks
# Others never open: PIL would start Ghostscript for an EPS file, whatever its name is.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")


def _check_file(path: Path) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise BrokenImageError("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise BrokenImageError(f"more than {MAX_FILE_BYTES:,} bytes")


def _opened(file):
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
        return f"more than {MAX_PIXELS:,} pixels" if min(image.size) else "no pixels"
    if image.mode.startswith(("I", "F")):
        return f"more than 8 bits for each pixel, mode {image.mode}; save it with 8"
    return None


def _decoded(image, grey: bool):
    try:
        return image.convert("L" if grey else "RGB")
    except Exception as error:
        raise BrokenImageError(f"cannot be decoded: {error}"[:200]) from None


def _fitted(image, full: tuple[int, int], size: int, short: int):
    """torchvision's Resize(short) and CenterCrop(size) of an image that had `full` pixels."""
    scaled = tuple(int(short * side / min(full)) for side in full)
    if math.prod(scaled) > MAX_PIXELS:
        raise BrokenImageError(f"too long and thin for size {size}: {full[0]} x {full[1]} pixels")
    if image.size != scaled:
        image = image.resize(scaled, _BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.crop((left, top, left + size, top + size)) if scaled != (size, size) else image


def _channels_first(image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
