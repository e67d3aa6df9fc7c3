"""Ten classes of coloured shapes, rendered on the spot: for large networks without photos.

Each shape lies anywhere, in any size, at any angle and in any colour, on a cloudy background and
below a few bars and dots that belong to no class.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pruning_lab.data.splits import Splits, in_memory, too_large

SIZE = 64  # pixels
_COUNTS = {"train": 3_600, "val": 400, "test": 1_000}


def splits(size: int | None, origin: str = "drawn on the spot, which needs no file") -> Splits:
    """The same images for the same size; all classes equally often, in turns."""
    size, count = size or SIZE, sum(_COUNTS.values())
    if why := too_large(count, (3, size, size)):
        raise ValueError(f"{why}; give a smaller size")
    cuts = (tensor.split(list(_COUNTS.values())) for tensor in draw(count, size, seed=0))
    return in_memory("shapes", origin, dict(zip(_COUNTS, zip(*cuts, strict=True), strict=True)))


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


def _most(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs())


def _wave(x: Tensor, period: float) -> Tensor:
    return (x % period - period / 2).abs() - period / 4


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: in each fifth, the line from the point to the notch."""
    fifth = 2 * math.pi / 5
    angle = (torch.atan2(y, x) % fifth - fifth / 2).abs()  # 0 at the notch, fifth / 2 at the point
    r = torch.hypot(x, y)
    along, across = r * torch.cos(angle), r * torch.sin(angle)
    return 0.81 * (along - 0.42) - 0.59 * across * 0.68


# Signed distances, below 0 inside, at places x and y of a shape that fills about -1 ... 1.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": _disc,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.7).abs() - 0.2,
    "crescent": lambda x, y: torch.maximum(_disc(x, y), -_disc(x - 0.45, y)),
    "square": lambda x, y: _most(x, y) - 0.78,
    "frame": lambda x, y: (_most(x, y) - 0.62).abs() - 0.17,
    "triangle": lambda x, y: torch.maximum(0.866 * x.abs() + 0.5 * y, -y) - 0.5,
    "star": _star,
    "cross": lambda x, y: torch.maximum(_most(x, y) - 0.95, torch.minimum(x.abs(), y.abs()) - 0.28),
    "stripes": lambda x, y: torch.maximum(_disc(x, y), _wave(x, 0.6)),
    "checks": lambda x, y: torch.maximum(_disc(x, y), 4 * _wave(x, 1.0) * _wave(y, 1.0)),
}


def _draw(distance: Callable, count: int, size: int, generator: torch.Generator) -> Tensor:
    """float (count, 3, size, size), 0 ... 255."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def place(reach: float) -> tuple[Tensor, Tensor]:
        """Coordinates of all pixels, from a random origin and turned by a random angle."""
        x0, y0 = uniform(-reach, reach, 2, 1, 1).unbind(1)
        angle = uniform(0, 2 * math.pi, 1, 1)
        x, y, cos, sin = axis - x0, axis[:, None] - y0, angle.cos(), angle.sin()
        return cos * x + sin * y, cos * y - sin * x

    def paint(inside: Tensor) -> None:
        """A light colour where a distance is below 0, antialiased; the side of an image is 2."""
        colour = uniform(90, 255, 3, 1, 1)
        images.lerp_(colour, (0.5 - inside * (size / 2)).clamp_(0, 1)[:, None])

    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    clouds = uniform(20, 90, 3, 1, 1) + uniform(-50, 50, 3, 4, 4)
    blend = torch.softmax(-8 * (axis[:, None] - torch.linspace(-1, 1, 4)) ** 2, dim=1)  # (size, 4)
    images = blend @ clouds @ blend.T
    scale = uniform(0.4, 0.8, 1, 1)
    x, y = place(0.3)
    paint(scale * distance(x / scale, y / scale))
    for _ in range(3):
        x, y = place(0.9)
        half = uniform(0, 0.3, 1, 1)  # 0: a dot
        paint(torch.hypot((x.abs() - half).clamp_(min=0), y) - uniform(0.03, 0.07, 1, 1))
    grain = torch.randn(3 * size * size + 997, generator=generator)
    starts = torch.randint(997, (count,), generator=generator)
    noise = grain.unfold(0, 3 * size * size, 1)[starts].view(images.shape)
    return images.add_(noise.mul_(uniform(4, 20, 1, 1, 1))).round_().clamp_(0, 255)
