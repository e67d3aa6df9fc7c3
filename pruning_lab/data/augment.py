"""Augmentation of whole batches, on their device: shift, random resized crop, flip, colour.

Random numbers are drawn for a whole epoch, on the CPU, before its first batch: equal seeds give
equal epochs on any device, and each of many processes can work on its own part of each batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10  # of torchvision's RandomResizedCrop, until a box lies within the image
_LOG_RATIO = math.log(4 / 3)  # boxes are 3:4 to 4:3


@dataclass(frozen=True)
class Epoch:
    """The random choices of an epoch, for each image in the order in which they are shown."""

    order: Tensor  # int64 (N,)
    shift: int  # pixels, at most, in each direction
    offsets: Tensor  # int64 (2, N), 0 ... 2 * shift
    flips: Tensor | None  # bool (N,)
    colours: Tensor | None  # (N, C): what is added to each channel, in levels of 255
    numbers: Tensor | None  # (N, 2 * TRIES + 2), in [0, 1): areas, ratios and places of boxes
    boxes: Tensor | None = None  # int64 (N, 4): top, left, height, width

    def apply(self, images: Tensor, places: Tensor) -> Tensor:
        """Augment images (n, C, H, W), which have these places in the epoch."""
        if self.shift:
            images = shifted(images, self.offsets[:, places], self.shift)
        if self.boxes is not None:
            images = cropped(images, self.boxes[places])
        if self.flips is not None:
            images = torch.where(self.flips[places, None, None, None], images.flip(3), images)
        return images if self.colours is None else images + self.colours[places, :, None, None]


def draw(
    count: int,
    axes: tuple[tuple[float, ...], ...],
    generator: torch.Generator,
    *,
    shift: int,
    flip: bool,
    crop: float,
    colour: float,
) -> Epoch:
    """One epoch of `count` images; what is switched off draws no number.

    Images move by at most `shift` pixels in each direction; `flip` mirrors every other one; `crop`
    shows a random box of `crop` to all of the area; `colour` is the std of the steps along the
    colour `axes` (Krizhevsky et al. took 0.1).
    """
    if shift < 0 or colour < 0:
        raise ValueError(f"shift and colour must be >= 0, got {shift} and {colour}")
    if not 0 < crop <= 1:
        raise ValueError(f"crop is the smallest fraction of the area shown, in (0, 1], got {crop}")
    order = torch.randperm(count, generator=generator)
    offsets = torch.randint(2 * shift + 1, (2, count), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5 if flip else None
    numbers = torch.rand(count, 2 * TRIES + 2, generator=generator) if crop < 1 else None
    colours = None
    if colour:
        steps = colour * torch.randn(count, len(axes), generator=generator)
        colours = steps @ torch.tensor(axes)  # for all at once: a part must not round otherwise
    return Epoch(order, shift, offsets, flips, colours, numbers)


def moved(value, device: str | torch.device):
    """A dataclass with all its tensors on a device."""
    tensors = {name: field for name, field in vars(value).items() if isinstance(field, Tensor)}
    return replace(value, **{name: tensor.to(device) for name, tensor in tensors.items()})


def shares(count: int, batch_size: int, share: tuple[int, int]) -> Iterator[slice]:
    """The part of process `rank` out of `world` of each batch; parts differ by one at most."""
    rank, world = share
    if not 0 <= rank < world:
        raise ValueError(f"share is (rank, world) with 0 <= rank < world, got {share}")
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        yield slice(start + size * rank // world, start + size * (rank + 1) // world)


def shifted(images: Tensor, offsets: Tensor, shift: int) -> Tensor:
    """Images (N, C, H, W) moved by `shift` - offsets (2, N) pixels; zeros come in at the border."""
    height, width = images.shape[-2:]
    # (N, C, 2 * shift + 1, 2 * shift + 1, H, W): every position of the frame, as a view
    windows = F.pad(images, 4 * (shift,)).unfold(2, height, 1).unfold(3, width, 1)
    down, right = offsets
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def boxes(numbers: Tensor, height: int, width: int, crop: float) -> Tensor:
    """int64 (N, 4): top, left, height and width of random boxes, from `Epoch.numbers`.

    torchvision's rule (RandomResizedCrop, after Szegedy et al. 2014): an area of `crop` ... 1 and a
    ratio of 3:4 ... 4:3; the first of ten boxes that fits; else the largest box of such a ratio.
    """
    areas, ratios, place = numbers.double().split([TRIES, TRIES, 2], dim=1)
    areas = height * width * (crop + (1 - crop) * areas)
    ratios = torch.exp(_LOG_RATIO * (2 * ratios - 1))
    sides = torch.stack([(areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()], dim=2)
    frame = torch.tensor([height, width])
    fits = ((sides > 0) & (sides <= frame)).all(2)
    first = sides[torch.arange(len(numbers)), fits.int().argmax(1)]
    most = torch.tensor([min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))])
    side = torch.where(fits.any(1, keepdim=True), first, most)
    room = frame - side
    corner = torch.where(fits.any(1, keepdim=True), place * (room + 1), room / 2).floor()
    return torch.cat([corner, side], dim=1).long()


def cropped(images: Tensor, boxes: Tensor) -> Tensor:
    """float (N, C, H, W): of each image its box (N, 4), enlarged to the whole, bilinearly."""
    top, left, high, wide = boxes.to(torch.float32).unbind(1)
    y, x = _steps(top, high, images.shape[2]), _steps(left, wide, images.shape[3])
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _steps(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(N, size): where a box's pixels lie along one axis, -1 ... 1; never outside of the box."""
    start, length = start[:, None], length[:, None]
    middles = (torch.arange(size, device=start.device) + 0.5) * (length / size)
    inside = middles.clamp(min=0.5).minimum(length - 0.5)
    return (start + inside) * (2 / size) - 1
