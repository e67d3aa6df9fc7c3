"""Images for a studio: reading them stops when they are no longer wanted."""

from collections.abc import Callable, Iterator

import torch

from pruning_lab.data import Images


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
