"""The weights that a studio prunes: how many stay at a threshold, which, and their histogram."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pruning_lab import cost, criteria, models
from pruning_lab.evaluation import Changes, Thresholded
from pruning_lab.layers import not_covered, prunable
from pruning_lab.masks import Mask, Receipt, ReceiptRow
from pruning_lab.sensitivity import Scan
from pruning_lab.storage.weights import encode
from pruning_lab.studio.history import ALL, Setting
from pruning_lab.studio.metrics import LayerMetrics

LIMIT, STEP = 3.0, 0.05  # of a slider
_CHUNK = 2**16  # weights at a time: with their bins, what a core's cache holds
_COUNTS = 4000  # at most so many numbers in `at_least`
_PACKED, _MOST = 2**14, 2**18  # weights, kept and all, of the rows that are packed for `stored`
_BINS = 120  # of a histogram, as wide as the largest weights
_STEPS = [digit * 10**power for power in range(-3, 25) for digit in (5, 10)]

Settings = Mapping[str, Setting]


@dataclass(frozen=True, eq=False)
class Choice:
    """What a setting comes to in one layer."""

    kept: int
    threshold: float  # |w| >= threshold stays, and no zero
    chosen: Tensor | None = None  # what stays, where no threshold says it: ties, nothing


class Layer:
    """The weights of a layer, read and never written; zeros are gone for good.

    Nothing as large as the weights is kept beside them.
    """

    def __init__(self, name: str, weight: Tensor):
        self.name, self.weight = name, _dense(weight.detach())
        self.size, self.is_conv = weight.numel(), weight.dim() > 2
        self.alive = int(self.weight.count_nonzero())
        self.sigma = criteria.sigma(self.weight, layer=name)
        self._latest = ALL, Choice(self.alive, 0.0)
        self._stored: tuple[Choice | None, int] = None, 0

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

    def row(self, setting: Setting, locked: bool, flops: int | None) -> LayerMetrics:
        choice = self.choose(setting)
        quality = choice.threshold / self.sigma if self.sigma else 0.0
        numbers = choice.threshold, quality, self.sigma, self.size, choice.kept
        return LayerMetrics(
            self.name, setting, *numbers, self.stored(choice), flops, locked, self.is_conv
        )

    def stored(self, choice: Choice) -> int:
        """Bytes in the encoding of `storage`: from so many rows that a slider does not wait."""
        latest, size = self._stored
        if latest is not choice:
            most = min(_MOST, _PACKED * self.size // max(1, choice.kept))
            if choice.chosen is None:
                part = cost.sample(self.weight, most)
                kept = criteria.by_threshold(part.abs(), choice.threshold, part != 0)
                part = part.masked_fill(~kept, 0)  # -0.0 too, which `storage` would keep
            else:
                part = cost.sample(self.weight.masked_fill(~choice.chosen, 0), most)
            gaps, values, _ = encode(part.float() if part.element_size() > 4 else part)
            ratio = cost.scale(part, self.size, choice.kept)
            self._stored = choice, (size := round(ratio * (len(gaps) + len(values))))
        return size

    @cached_property
    def at_least(self) -> tuple[float, np.ndarray]:
        """(step, counts): counts[k] weights stay at quality round(k * step, 10), the last is 0.

        `step` is the smallest of 0.005, 0.01, 0.05, 0.1, 0.5, ... that needs no more than 4,000
        numbers. Where sigma is 0 there is one: all of them stay at any quality.
        """
        if not self.sigma:
            return _STEPS[0], np.array([self.alive])
        largest = torch.stack(self.weight.aminmax()).abs().max().cpu()
        beyond = float(torch.nextafter(largest, torch.full_like(largest, torch.inf))) / self.sigma
        step = next(step for step in _STEPS if beyond < step * (_COUNTS - 2))
        last = 2 + int(beyond / step)  # a threshold that is rounded down to none of the weights
        edges = torch.tensor([self._at(k, step) for k in range(last + 1)], dtype=self.weight.dtype)
        counts = self._histogram(_numpy(edges), np.abs)
        counts = counts[::-1].cumsum()[::-1].clip(max=self.alive)  # zeros are in the first bin
        return step, np.append(counts[: np.count_nonzero(counts)], 0)

    @cached_property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """(counts, edges) of the weights that are not zero, as matplotlib's `stairs` takes them."""
        ends = self.weight.aminmax() if self.size else (0.0, 0.0)
        edge = max(1e-12, *(abs(float(end)) for end in ends))
        edges = np.linspace(-edge, edge, _BINS + 1)
        edges[_BINS // 2] = 0.0
        counts = self._histogram(edges)
        counts[_BINS // 2] -= self.size - self.alive  # zeros open the first bin right of the middle
        return counts, edges

    def _at(self, k: int, step: float) -> float:
        """The threshold of a place in `at_least`."""
        return round(k * step, 10) * self.sigma

    def _count(self, threshold: float) -> int:
        if threshold <= 0:
            return self.alive
        if "at_least" in vars(self) and self.sigma:
            step, counts = self.at_least
            k = round(threshold / self.sigma / step)
            if self._at(k, step) == threshold:
                return int(counts[min(k, len(counts) - 1)])
        count = sum(int((part.abs() >= threshold).count_nonzero()) for part in self._parts())
        return min(count, self.alive)  # a half precision may round a threshold to 0

    def _histogram(self, edges: np.ndarray, of: Callable = lambda part: part) -> np.ndarray:
        """As np.histogram, several times as fast: of edges about as far apart as the first two."""
        last, width = len(edges) - 2, edges[1] - edges[0]
        counts = np.zeros(last + 1, np.int64)
        for part in self._parts():
            values = of(_numpy(part))
            with np.errstate(all="ignore"):  # a width may be 0; then each is searched for
                bins = np.fmin((values - edges[0]) / width, last).astype(np.intp)
            wrong = (values < edges[bins]) | (values >= edges[bins + 1])
            found = np.searchsorted(edges, values[wrong], side="right") - 1
            bins[wrong] = np.minimum(found, last)
            counts += np.bincount(bins, minlength=last + 1)
        return counts

    def _parts(self) -> tuple[Tensor, ...]:
        """All weights in the order in which they lie in memory, as views."""
        weight = self.weight
        return weight.as_strided((self.size,), (1,), weight.storage_offset()).split(_CHUNK)


class Version:
    """One set of weights of a network: as it came, or as a retraining left it. Never changed."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor] | None = None):
        """`weights`: other ones than the model's own."""
        state = model.state_dict(keep_vars=True)
        weights = state if weights is None else weights
        self.weights = {name: weights[name].detach().to(t.device) for name, t in state.items()}
        self.scan: Scan | None = None
        self._model = model
        layers = prunable(self.network())
        self.layers = {name: Layer(name, layer.weight) for name, layer in layers.items()}
        if not layers:
            raise ValueError("this model has no layer to prune, so there is nothing to set")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of these weights."""
        return models.fingerprint(self.weights)

    def network(self) -> nn.Module:
        """The network before pruning, with these tensors and no copies of them."""
        memo = {}
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            own = self.weights[name]
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(own, tensor.requires_grad) if is_parameter else own
        return copy.deepcopy(self._model, memo).eval()

    def prepare(self, stale: Callable[[], bool]) -> bool:
        """Count ahead what makes a slider quick; returns whether all is done."""
        for layer in self.layers.values():
            if not stale():
                _ = layer.at_least
        return not stale()

    def changes(self, settings: Settings, before: Settings) -> Changes:
        """The pruned weights of the layers whose settings are others than before."""
        asked = {name: settings.get(name, ALL) for name in self.layers}
        changed = {n: setting for n, setting in asked.items() if setting != before.get(n, ALL)}
        return {n: self.layers[n].cut(self.layers[n].choose(s)) for n, s in changed.items()}

    def rows(
        self, settings: Settings, locks: Collection[str] = (), flops: Mapping[str, int] = {}
    ) -> list[LayerMetrics]:
        return [
            layer.row(settings.get(name, ALL), name in locks, flops.get(name))
            for name, layer in self.layers.items()
        ]

    def mask(self, settings: Settings) -> Mask:
        """What stays, with its receipt."""
        kept, receipt = {}, []
        for row in self.rows(settings):
            layer, is_asked = self.layers[row.layer], row.layer in settings
            kept[row.layer] = layer.kept(layer.choose(row.asked))
            asked, cut = (str(row.asked), row.threshold) if is_asked else ("-", None)
            numbers = cut if row.kept else None, row.sigma, row.weights, row.kept, row.density
            receipt.append(ReceiptRow(row.layer, asked, *numbers))
        return Mask(kept, Receipt(receipt, not_covered=not_covered(self._model)))


def _numpy(values: Tensor) -> np.ndarray:
    """Half precisions, which numpy does not know, widened."""
    return (values.float() if values.element_size() < 4 else values).cpu().numpy()


def _dense(weight: Tensor) -> Tensor:
    """The weight without gaps in memory, in its own layout where it has none."""
    layouts = (torch.contiguous_format, *((torch.channels_last,) if weight.dim() == 4 else ()))
    tight = any(weight.is_contiguous(memory_format=layout) for layout in layouts)
    return weight if tight else weight.contiguous()
