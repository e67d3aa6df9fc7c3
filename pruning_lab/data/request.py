"""What `load` was asked for, checked before anything is read or allocated."""

import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch

MAX_SIZE = 4096  # pixels: an image of that size takes 200 MB as floats
MEMORY_BYTES = 4 * 2**30  # of pixels in memory, at most; what is larger streams


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where to look, and what to make of it."""

    root: Path
    device: torch.device
    download: bool
    size: int | None  # images become size x size pixels; None: the data set's own
    broken: float  # fraction of the images that may be unusable

    def __post_init__(self):
        size, integral = self.size, isinstance(self.size, Integral)
        if size is not None and not (integral and 1 <= size <= MAX_SIZE):
            raise ValueError(f"size is a number of pixels, 1 to {MAX_SIZE:,}, got {size}")
        if not 0 <= self.broken <= 1:
            raise ValueError(f"broken is a fraction of the images, 0 to 1, got {self.broken}")


def usable_device(device: str | torch.device) -> torch.device:
    """The device; ValueError where this machine cannot compute on it."""
    try:
        torch.zeros(1, device=device).item()  # meta tensors have no values
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError, ImportError):
        raise ValueError(
            f"no device {str(device)!r} for images; give cpu, or cuda or mps where this machine "
            f"has one"
        ) from None


def too_large(count: int, shape: tuple[int, int, int]) -> str:
    """Why memory may not hold so many images (C, H, W), a byte for each value; "" where it may."""
    size = count * math.prod(shape)
    if size <= MEMORY_BYTES:
        return ""
    return (
        f"{count:,} images of {shape[2]} x {shape[1]} take {size / 2**30:.1f} GB, and "
        f"{MEMORY_BYTES / 2**30:.0f} may be in memory"
    )
