"""One layer's weights, ready to be asked how many stay at a threshold, and which."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pruning_lab import criteria, paper
from pruning_lab.evaluation import Accuracy, Drop, Thresholded
from pruning_lab.studio.attempts import Setting

LIMIT, STEP = 3.0, 0.05  # of a slider: qualities on this grid are counted ahead
_CHUNK = 2**18  # weights at a time: what a core's cache holds
_BINS = 120  # of a histogram, as wide as the largest weights


@dataclass(frozen=True, eq=False)
class Choice:
    """What a setting comes to in one layer."""

    kept: int
    threshold: float  # |w| >= threshold stays, and no zero
    chosen: Tensor | None = None  # where ties were cut through, what stays

    def same(self, other: "Choice") -> bool:
        return self.threshold == other.threshold and self.chosen is other.chosen


class Layer:
    """The weights of a layer as they came, or as a retraining left them; zeros are gone for good.

    They are read and never written. Nothing as large as the weights is kept beside them.
    """

    def __init__(self, name: str, weight: Tensor):
        self.name, self.weight = name, _dense(weight.detach())
        self.size = weight.numel()
        self.is_conv = weight.dim() > 2
        self.alive = int(self.weight.count_nonzero())
        self.sigma = criteria.sigma(self.weight, layer=name)
        self._counts: dict[float, int] = {}

    def choose(self, setting: Setting) -> Choice:
        """Which weights stay, as `masks.prune` chooses them within those that are not zero."""
        if setting.kind == "quality":
            threshold = setting.amount * self.sigma
            return Choice(self._count(threshold), threshold)
        count = round(setting.amount * self.size)
        if count >= self.alive:
            return Choice(self.alive, 0.0)
        ((chosen, cut),) = criteria.by_densities(criteria.magnitude(self.weight), [setting.amount])
        if cut is None:
            return Choice(0, float("inf"))
        if self._count(cut) == count:
            return Choice(count, cut)
        return Choice(count, cut, chosen)

    def kept(self, choice: Choice) -> Tensor:
        """bool, shaped like the weight."""
        if choice.chosen is not None:
            return choice.chosen
        return (self.weight.abs() >= choice.threshold) & (self.weight != 0)

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
        if self.weight.dtype not in _NUMPY:
            return
        steps = round(LIMIT / STEP)
        thresholds = [round(step * STEP, 10) * self.sigma for step in range(1, steps + 1)]
        cuts = np.array(thresholds, _NUMPY[self.weight.dtype])
        counts = np.zeros(steps, np.int64)
        for part in self._sorted_parts():
            counts += len(part) - np.searchsorted(part, cuts)
            counts += np.searchsorted(part, -cuts, side="right")
        self._counts |= zip(thresholds, counts.tolist(), strict=True)

    @cached_property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """(counts, edges) of the weights that are not zero, as matplotlib's `stairs` takes them."""
        ends = self.weight.aminmax() if self.size else (0.0, 0.0)
        edge = max(*(abs(float(end)) for end in ends), 1e-12)
        edges = np.linspace(-edge, edge, _BINS + 1)
        edges[_BINS // 2] = 0.0
        below = np.zeros(_BINS + 1, np.int64)
        for part in self._sorted_parts():
            below += np.searchsorted(part, edges.astype(part.dtype))
        below[-1] = self.size
        counts = np.diff(below)
        counts[_BINS // 2] -= self.size - self.alive  # zeros open the first bin right of the middle
        return counts, edges

    def _count(self, threshold: float) -> int:
        if threshold <= 0:
            return self.alive
        if threshold not in self._counts:
            parts = _flat(self.weight).split(_CHUNK)
            count = sum(int((part.abs() >= threshold).count_nonzero()) for part in parts)
            self._counts[threshold] = count
        return self._counts[threshold]

    def _sorted_parts(self):
        for part in _flat(self.weight).split(_CHUNK):
            wide = part if part.dtype in _NUMPY else part.float()
            yield np.sort(wide.cpu().numpy())


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def _dense(weight: Tensor) -> Tensor:
    """The weight without gaps in memory, in its own layout where it has none."""
    layouts = (torch.contiguous_format, *((torch.channels_last,) if weight.dim() == 4 else ()))
    tight = any(weight.is_contiguous(memory_format=layout) for layout in layouts)
    return weight if tight else weight.contiguous()


def _flat(weight: Tensor) -> Tensor:
    """All weights in the order in which they lie in memory, as a view."""
    return weight.as_strided((weight.numel(),), (1,), weight.storage_offset())


@dataclass(frozen=True)
class LayerMetrics:
    """One layer where the studio stands."""

    layer: str
    asked: Setting
    threshold: float  # |w| from here on stays
    quality: float  # threshold / sigma
    sigma: float  # of the weights that this network still has
    weights: int
    kept: int
    flops: int | None  # of the dense layer, per image; None until it has been counted
    locked: bool
    is_conv: bool

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    @property
    def bytes(self) -> int:
        """Stored as the paper does: 32 bits for a kept weight, 8 or 5 for its relative index.

        Or dense, where that is smaller. Fillers for long gaps are not counted (section 5).
        """
        index = paper.INDEX_BITS["conv" if self.is_conv else "fc"]
        return min(-(-self.kept * (32 + index) // 8), 4 * self.weights)


@dataclass(frozen=True)
class Metrics:
    """Where the studio stands. `accuracy` and `drop` are None until there is a first look.

    `final` says that they are of all the images and nothing is left to do.
    """

    attempt: int
    layers: tuple[LayerMetrics, ...]
    accuracy: Accuracy | None
    drop: Drop | None  # against the network as it came, on the same images
    final: bool
    status: str  # "ready", "measuring", "preparing ...", "retraining ...", "failed: ..."

    @property
    def weights(self) -> int:
        return sum(row.weights for row in self.layers)

    @property
    def kept(self) -> int:
        return sum(row.kept for row in self.layers)

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.layers)

    @property
    def flops(self) -> int | None:
        """Of the dense network, per image."""
        flops = [row.flops for row in self.layers]
        return None if None in flops else sum(flops)

    @property
    def flops_kept(self) -> float | None:
        """Left when zero weights are skipped, and no zero activations."""
        if self.flops is None:
            return None
        return sum(row.flops * row.density for row in self.layers)
