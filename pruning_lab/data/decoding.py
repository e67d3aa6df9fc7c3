"""Image files as pixels, one at a time: as torchvision's loader and transforms give them."""

import io
from pathlib import Path

import numpy as np


class BrokenImageError(ValueError):
    """Why a file cannot be used as an image, for the brackets behind its name."""


def header(path: str | Path) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its (width, height), without decoding it."""
    with _opened(path) as image:
        return image.mode in ("1", "L", "LA"), image.size


def decode(
    content: bytes, *, grey: bool = False, size: int | None = None, short: int | None = None
) -> np.ndarray:
    """uint8 (C, H, W). Transparency is left out, as torchvision does.

    With `size`, the short side is scaled to `short` (else `size`), and the middle cut out.
    """
    with _opened(io.BytesIO(content)) as image:
        if size is None:
            return _channels_first(_decoded(image, grey))
        whole, short = image.size, short or size
        image.draft(None, (4 * short, 4 * short))  # a huge JPEG, no finer than of use
        return _channels_first(_fitted(_decoded(image, grey), whole, size, short))


def decode_box(content: bytes, size: int, choose) -> np.ndarray:
    """uint8 (3, size, size): the box `choose(height, width)` -> (top, left, height, width)."""
    with _opened(io.BytesIO(content)) as image:
        pixels = _decoded(image, grey=False)
        top, left, height, width = choose(pixels.height, pixels.width)
        pixels = pixels.crop((left, top, left + width, top + height))
        return _channels_first(pixels.resize((size, size), _BILINEAR))


_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, which smooths where it shrinks


def _opened(file):
    from PIL import Image  # slow to import, and digits never needs it

    try:
        image = Image.open(file)
    except Exception:  # PIL raises what its many readers raise
        raise BrokenImageError("cannot be read as an image") from None
    if image.mode.startswith(("I", "F")):
        image.close()
        raise BrokenImageError(
            f"more than 8 bits for each pixel, mode {image.mode}; save it with 8"
        )
    return image


def _decoded(image, grey: bool):
    try:
        return image.convert("L" if grey else "RGB")
    except Exception as error:
        raise BrokenImageError(f"cannot be decoded: {error}"[:200]) from None


def _fitted(image, whole: tuple[int, int], size: int, short: int):
    """What torchvision's Resize(short) and CenterCrop(size) make of an image of `whole` pixels."""
    scaled = tuple(int(short * side / min(whole)) for side in whole)
    if image.size != scaled:
        image = image.resize(scaled, _BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.crop((left, top, left + size, top + size)) if scaled != (size, size) else image


def _channels_first(image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
