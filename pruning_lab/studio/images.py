"""Images as the studio's thread reads them: until it is stopped, with random numbers of its own."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pruning_lab import data
from pruning_lab.data import Images

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - it is no error
    """The user asked for an end."""


class OwnRandom(TorchDispatchMode):
    """Inside, what torch draws in this thread comes from generators of this object.

    torch's default generator belongs to all threads: a DataLoader or a dropout layer in one would
    change what another draws.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self._seed, self._generators = seed, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_random = torch.Tag.nondeterministic_seeded in function.tags
        if not is_random or kwargs.get("generator") is not None:
            return function(*args, **kwargs)
        tensors = (arg for arg in args if isinstance(arg, torch.Tensor))
        device = getattr(next(tensors, None), "device", kwargs.get("device") or "cpu")
        generator = self._generator(torch.device(device))
        if function is torch.ops.aten.native_dropout.default:  # on a GPU; it takes no generator
            x, rate, _ = args
            kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - rate, generator=generator)
            return x * kept / (1 - rate), kept
        # The packet finds the overload that takes a generator: torch.rand has one of its own.
        return function.overloadpacket(*args, **{**kwargs, "generator": generator})

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each is made inside, and used by the caller outside."""
        with self:
            iterator = iter(items)
        end = object()
        while True:
            with self:
                item = next(iterator, end)
            if item is end:
                return
            yield item


class StudioImages:
    """Images read with random numbers of their own; `check` may raise between two batches."""

    def __init__(self, images: Images, check: Callable[[], None] = lambda: None):
        self._images, self._check, self._random = images, check, OwnRandom()

    def __getattr__(self, name: str):
        if name == "shuffled" and hasattr(self._images, name):
            return lambda *args, **options: self._each(self._images.shuffled(*args, **options))
        return getattr(self._images, name)

    def __len__(self) -> int:
        return len(self._images)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator:
        with self._random:
            batches = data.checked(self._images)
        return self._each(batches)

    def _each(self, batches: Iterable[T]) -> Iterator[T]:
        for batch in self._random.each(batches):
            self._check()
            yield batch


def own(images: Images | None, *check: Callable[[], None]) -> StudioImages | None:
    return None if images is None else StudioImages(images, *check)


def pictures(images: Images, indices: Iterable[int]) -> list[np.ndarray]:
    """uint8 (H, W) or (H, W, 3), by place; pixels of no split are scaled to 0 ... 255."""
    indices = [int(index) for index in indices]
    if hasattr(images, "pictures"):
        return images.pictures(indices)
    each = (x for batch, _ in StudioImages(images) for x in batch)
    first = enumerate(islice(each, 1 + max(indices, default=-1)))
    found = {index: _scaled(x) for index, x in first if index in indices}
    if missing := {*indices} - found.keys():
        raise IndexError(f"there is no image {min(missing)}; images are counted from 0")
    return [found[index] for index in indices]


def _scaled(x: torch.Tensor) -> np.ndarray:
    """(C, H, W) -> uint8; other than three channels become their mean."""
    x = torch.atleast_3d(x.detach().float().cpu())  # what is no image becomes a strip
    x = x.permute(1, 2, 0) if len(x) == 3 else x.mean(0)
    low, high = x.aminmax()
    return ((x - low) / (high - low).clamp_min(1e-12) * 255).round().byte().numpy()
