"""A chain is nn.Sequential of layers that have no parts of their own; what all of them share."""

import math
from collections.abc import Callable, Iterable

from torch import nn

Model = Callable[..., nn.Sequential]


def is_chain(model: nn.Module) -> bool:
    """Whether layers simply follow one another, so that a list of them is the whole network."""
    follows = type(model).forward is nn.Sequential.forward  # a subclass may have its own
    return follows and not any(list(layer.children()) for layer in model)


def scaled(width: float, *sizes: int, groups: int = 1) -> list[int]:
    """Channels or units at `width`, of each at least one; `groups` divides them all."""
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width}; 1.0 is the paper's network")
    return [groups * max(1, round(width * size / groups)) for size in sizes]


def dropout(**rates: float) -> dict[str, nn.Module]:
    """A layer for each rate above 0."""
    return {name: nn.Dropout(rate) for name, rate in rates.items() if rate > 0}


def side_behind(layers: Iterable[nn.Module], side: int) -> int:
    """Height (and width) of the map that convolutions and poolings leave of a square image."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            (kernel, _), (stride, _), (padding, _) = layer.kernel_size, layer.stride, layer.padding
            side = (side + 2 * padding - kernel) // stride + 1
        elif isinstance(layer, nn.MaxPool2d):
            rounded = math.ceil if layer.ceil_mode else math.floor
            side = rounded((side - layer.kernel_size) / layer.stride) + 1
    return side
