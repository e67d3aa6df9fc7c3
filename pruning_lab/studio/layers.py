"""One layer's weights: how many of them stay at a threshold, which, and their histogram."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pruning_lab import criteria
from pruning_lab.evaluation import Thresholded
from pruning_lab.studio.history import ALL, Setting

LIMIT, STEP = 3.0, 0.05  # of a slider: qualities on this grid are counted ahead
_CHUNK = 2**18  # weights at a time: what a core's cache holds
_BINS = 120  # of a histogram, as wide as the largest weights


@dataclass(frozen=True, eq=False)
class Choice:
    """What a setting comes to in one layer."""

    kept: int
    threshold: float  # |w| >= threshold stays, and no zero
    chosen: Tensor | None = None  # what stays, where a threshold does not say it (ties, nothing)


class Layer:
    """The weights of a layer, read and never written; zeros are gone for good.

    Nothing as large as the weights is kept beside them.
    """

    def __init__(self, name: str, weight: Tensor):
        self.name, self.weight = name, _dense(weight.detach())
        self.size = weight.numel()
        self.is_conv = weight.dim() > 2
        self.alive = int(self.weight.count_nonzero())
        self.sigma = criteria.sigma_of(name, self.weight)
        self._counts: dict[float, int] = {}
        self._latest = ALL, Choice(self.alive, 0.0)

    def choose(self, setting: Setting) -> Choice:
        """Which weights stay, as `masks.prune` chooses them; the latest choice is remembered."""
        asked, choice = self._latest
        if asked != setting:
            choice = self._choose(setting)
            self._latest = setting, choice
        return choice

    def _choose(self, setting: Setting) -> Choice:
        if setting.kind == "quality":
            threshold = setting.amount * self.sigma
            return Choice(self._count(threshold), threshold)
        count = round(setting.amount * self.size)
        if count >= self.alive:
            return Choice(self.alive, 0.0)
        ((chosen, cut),) = criteria.by_densities(criteria.magnitude(self.weight), [setting.amount])
        if cut is None:
            return Choice(0, float("inf"), chosen)
        return Choice(count, cut, None if self._count(cut) == count else chosen)

    def kept(self, choice: Choice) -> Tensor:
        """bool, shaped like the weight."""
        if choice.chosen is not None:
            return choice.chosen
        return criteria.by_threshold(self.weight.abs(), choice.threshold, self.weight != 0)

    def cut(self, choice: Choice) -> Tensor | Thresholded:
        """The weight with zeros where nothing stays."""
        if choice.kept == self.alive:
            return self.weight
        if choice.chosen is not None:
            return self.weight * choice.chosen
        return Thresholded(self.weight, choice.threshold)

    def prepare(self) -> None:
        """Count ahead for every quality on the grid of a slider, and for the histogram."""
        _ = self.histogram
        steps = range(1, round(LIMIT / STEP) + 1)
        thresholds = [round(step * STEP, 10) * self.sigma for step in steps]
        cuts = torch.tensor([*thresholds, float("inf")], dtype=self.weight.dtype)
        counts = self._histogram(_numpy(cuts), torch.abs)
        at_least = counts[::-1].cumsum()[::-1]
        self._counts |= zip(thresholds, at_least.tolist(), strict=True)

    @cached_property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """(counts, edges) of the weights that are not zero, as matplotlib's `stairs` takes them."""
        edge = max(float(self.weight.abs().max()) if self.size else 0.0, 1e-12)
        edges = np.linspace(-edge, edge, _BINS + 1)
        edges[_BINS // 2] = 0.0
        counts = self._histogram(edges)
        counts[_BINS // 2] -= self.size - self.alive  # zeros open the first bin right of the middle
        return counts, edges

    def _count(self, threshold: float) -> int:
        if threshold <= 0:
            return self.alive
        if threshold not in self._counts:
            count = sum(int((part.abs() >= threshold).count_nonzero()) for part in self._parts())
            self._counts[threshold] = count
        return self._counts[threshold]

    def _histogram(self, edges: np.ndarray, of=torch.clone) -> np.ndarray:
        return sum(np.histogram(_numpy(of(part)), edges)[0] for part in self._parts())

    def _parts(self) -> tuple[Tensor, ...]:
        """All weights in the order in which they lie in memory, as views."""
        weight = self.weight
        return weight.as_strided((self.size,), (1,), weight.storage_offset()).split(_CHUNK)


def _numpy(values: Tensor) -> np.ndarray:
    """Half precisions, which numpy does not know, widened."""
    return (values.float() if values.element_size() < 4 else values).cpu().numpy()


def _dense(weight: Tensor) -> Tensor:
    """The weight without gaps in memory, in its own layout where it has none."""
    layouts = (torch.contiguous_format, *((torch.channels_last,) if weight.dim() == 4 else ()))
    tight = any(weight.is_contiguous(memory_format=layout) for layout in layouts)
    return weight if tight else weight.contiguous()
