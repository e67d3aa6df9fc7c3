"""Images for a studio: in bits, between which somebody may have moved on."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from pruning_lab.data import Images
from pruning_lab.evaluation import device_of


class Stopped(Exception):  # noqa: N818 - it is no error
    """Somebody asked for an end."""


class Stoppable:
    """Images that look up between two batches whether they are still wanted."""

    def __init__(self, images: Images, check: Callable[[], None]):
        self._images, self._check = images, check

    def __getattr__(self, name: str):
        if name == "shuffled" and hasattr(self._images, name):
            return self._shuffled
        return getattr(self._images, name)

    def __len__(self) -> int:
        counted = hasattr(self._images, "__len__")
        return len(self._images) if counted else sum(1 for _ in self._images)

    def __iter__(self) -> Iterator:
        return self._checked(self._images)

    def _shuffled(self, *args, **options) -> Iterator:
        return self._checked(self._images.shuffled(*args, **options))

    def _checked(self, batches) -> Iterator:
        with torch.random.fork_rng([]):  # a DataLoader draws here, from the main thread's generator
            batches = iter(batches)
        for batch in batches:
            self._check()
            yield batch


class Bits:
    """Batches in bits, between which a hand that has moved on is noticed; on a GPU whole ones.

    The first batch is in the smallest: a first look at the accuracy should not have to wait.
    """

    VALUES, FEWEST, FIRST, MOST = 2**21, 16, 128, 256  # of images in a bit

    def __init__(self, images: Images, model: nn.Module):
        self._images, self._whole = images, device_of(model).type != "cpu"

    def __iter__(self) -> Iterator:
        most = self.FIRST
        for x, y in self._images:
            if self._whole or getattr(y, "shape", ())[:1] != x.shape[:1]:  # which is refused later
                yield x, y
                continue
            size = self.VALUES // max(1, x[0].numel())
            count = -(-len(x) // min(most, max(self.FEWEST, size)))
            yield from zip(x.chunk(count), y.chunk(count), strict=True)
            most = self.MOST
