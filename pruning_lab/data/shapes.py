"""Ten classes of coloured shapes, rendered on the spot: for large networks without photos.

Each shape lies anywhere, in any size, at any angle and in any colour, before a cloudy background
and behind a few bars and dots that belong to no class.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pruning_lab.data.request import Request, too_large
from pruning_lab.data.splits import Splits, in_memory

SIZE = 64  # pixels
_COUNTS = {"train": 3_600, "val": 400, "test": 1_000}


def splits(request: Request, origin: str = "drawn on the spot, which needs no file") -> Splits:
    """The same images for the same size; all classes equally often, in turns."""
    size, count = request.size or SIZE, sum(_COUNTS.values())
    if why := too_large(count, (3, size, size)):
        raise ValueError(f"{why}; give a smaller size")
    images, labels = draw(count, size, seed=0)
    cuts = list(_COUNTS.values())
    parts = zip(_COUNTS, images.split(cuts), labels.split(cuts), strict=True)
    return in_memory("shapes", origin, request.device, **{part: (x, y) for part, x, y in parts})


def draw(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, size, size) and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(SHAPES)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for label, distance in enumerate(SHAPES.values()):
        for batch in images[label :: len(SHAPES)].split(50):  # what a core's cache holds
            batch.copy_(_draw(distance, len(batch), size, generator))
    return images, labels


def _disc(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.9


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: in each fifth, the line from the point to the notch."""
    fifth = 2 * math.pi / 5
    angle = (torch.atan2(y, x) % fifth - fifth / 2).abs()  # 0 at the notch, fifth / 2 at the point
    r = torch.hypot(x, y)
    along, across = r * torch.cos(angle), r * torch.sin(angle)
    return 0.81 * (along - 0.42) - 0.59 * across * 0.68


def _cross(x: Tensor, y: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - 0.95, short - 0.28)


def _checks(x: Tensor, y: Tensor) -> Tensor:
    signs = ((x % 1.0 - 0.5).abs() - 0.25) * ((y % 1.0 - 0.5).abs() - 0.25)
    return torch.maximum(_disc(x, y), 4 * signs)


# Signed distances, below 0 inside, at places x and y of a shape that fills about -1 ... 1.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": _disc,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.7).abs() - 0.2,
    "crescent": lambda x, y: torch.maximum(_disc(x, y), -_disc(x - 0.45, y)),
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.78,
    "frame": lambda x, y: (torch.maximum(x.abs(), y.abs()) - 0.62).abs() - 0.17,
    "triangle": lambda x, y: torch.maximum(0.866 * x.abs() + 0.5 * y, -y) - 0.5,
    "star": _star,
    "cross": _cross,
    "stripes": lambda x, y: torch.maximum(_disc(x, y), (x % 0.6 - 0.3).abs() - 0.15),
    "checks": _checks,
}


def _draw(distance: Callable, count: int, size: int, generator: torch.Generator) -> Tensor:
    """float (count, 3, size, size), 0 ... 255."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def place(reach: float) -> tuple[Tensor, Tensor]:
        """Everywhere of the image, seen from a random place and turned by a random angle."""
        x0, y0 = uniform(-reach, reach, 2, 1, 1).unbind(1)
        angle = uniform(0, 2 * math.pi, 1, 1)
        x, y, cos, sin = axis - x0, axis[:, None] - y0, angle.cos(), angle.sin()
        return cos * x + sin * y, cos * y - sin * x

    def paint(images: Tensor, inside: Tensor) -> None:
        """Any colour lighter than most of the background, where the distance `inside` is below 0.

        Distances are in units of the image, whose side is 2; edges are smooth.
        """
        colour = uniform(90, 255, 3, 1, 1)
        coverage = (0.5 - inside * (size / 2)).clamp_(0, 1)[:, None]
        images.lerp_(colour, coverage)

    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    clouds = uniform(20, 90, 3, 1, 1) + uniform(-50, 50, 3, 4, 4)
    blend = torch.softmax(-8 * (axis[:, None] - torch.linspace(-1, 1, 4)) ** 2, dim=1)  # (size, 4)
    images = blend @ clouds @ blend.T
    scale = uniform(0.4, 0.8, 1, 1)
    x, y = place(0.3)
    paint(images, scale * distance(x / scale, y / scale))
    for _ in range(3):
        x, y = place(0.9)
        half = uniform(0, 0.3, 1, 1)  # 0: a dot
        bar = torch.hypot((x.abs() - half).clamp_(min=0), y) - uniform(0.03, 0.07, 1, 1)
        paint(images, bar)
    grain = torch.randn(3 * size * size + 997, generator=generator)
    starts = torch.randint(997, (count,), generator=generator)
    noise = grain.unfold(0, 3 * size * size, 1)[starts].view(images.shape)
    return images.add_(noise.mul_(uniform(4, 20, 1, 1, 1))).round_().clamp_(0, 255)
