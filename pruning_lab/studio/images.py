"""Images as the studio reads them: until it is stopped, and with random numbers of its own."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pruning_lab.data import Images

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - it is no error
    """The user asked for an end."""


class OwnRandom(TorchDispatchMode):
    """Inside, what torch draws comes from other generators than everyone's.

    torch's default generator belongs to all threads: a DataLoader or a dropout layer in one thread
    would change what another draws. A dispatch mode is of one thread alone.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self._seed, self._generators = seed, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        random = torch.Tag.nondeterministic_seeded in function.tags
        if random and kwargs.get("generator") is None:
            tensors = (arg for arg in args if isinstance(arg, torch.Tensor))
            device = getattr(next(tensors, None), "device", kwargs.get("device") or "cpu")
            kwargs = {**kwargs, "generator": self._generator(torch.device(device))}
            if function is torch.ops.aten.native_dropout.default:  # a GPU's, which takes none
                x, rate, _ = args
                kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - rate, **kwargs)
                return x * kept / (1 - rate), kept
            function = function.overloadpacket  # of rand and the like, only an overload takes one
        return function(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each made inside; what the caller does with it is outside."""
        with self:
            iterator = iter(items)
        while True:
            with self:
                try:
                    item = next(iterator)
                except StopIteration:
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
        return len(self._images)  # TypeError where they have none

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator:
        return self._each(self._images)

    def _each(self, batches: Iterable[T]) -> Iterator[T]:
        for batch in self._random.each(batches):
            self._check()
            yield batch


def pictures(images: Images, indices: Iterable[int]) -> list[np.ndarray]:
    """uint8 (H, W) or (H, W, 3) of images by their place; those of no split are scaled to 0 ... 255.

    Raises IndexError for a place where there is no image.
    """
    indices = [int(index) for index in indices]
    if hasattr(images, "pictures"):
        return images.pictures(indices)
    found, start = {}, 0
    for x, _ in StudioImages(images):
        for index in {*indices} & {*range(start, start + len(x))}:
            found[index] = _scaled(x[index - start])
        start += len(x)
        if start > max(indices, default=0):
            break
    if missing := {*indices} - found.keys():
        raise IndexError(f"images go from 0 to {start - 1}, got {min(missing)}")
    return [found[index] for index in indices]


def _scaled(x: torch.Tensor) -> np.ndarray:
    """(C, H, W) of any range -> uint8; other than three channels become their mean."""
    x = x.detach().float().cpu()
    x = x.permute(1, 2, 0) if len(x) == 3 else x.mean(0)
    low, high = x.aminmax()
    return ((x - low) / (high - low).clamp_min(1e-12) * 255).round().byte().numpy()
