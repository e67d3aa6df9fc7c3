"""One number under a slider: a layer's threshold, or the drop that each layer may cost."""

import copy
import html
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import traitlets
from matplotlib.figure import Figure
from torch import nn

from pruning_lab import masks, plots, sensitivity
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images, for_choosing
from pruning_lab.evaluation import Accuracy, Changes, Drop, Evaluator, drop
from pruning_lab.studio.attempts import Setting
from pruning_lab.studio.layers import Choice, Layer
from pruning_lab.widgets.panels import SliderPanel
from pruning_lab.widgets.pictures import LINE, OTHERS, WIDTH, png
from pruning_lab.widgets.tables import NUMBER, table

FIRST_LOOK = 500  # images on which accuracy is estimated before all of them are asked


class _Panel(SliderPanel):
    """Accuracy, text and picture follow the slider.

    A subclass says for a value of its number which weights stand in for the network's own
    (`_changes`), what is written (`_words`) and what is painted (`_paint`). It sets what these need
    before it calls this `__init__`.

    The panel looks at the network as it is now: it works on a copy, and leaves `model` alone.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        value: float,
        *,
        limit: float,
        step: float,
        description: str,
    ):
        images = for_choosing(images, "a slider")
        # The copy's parameters need no gradient, and nobody else changes them or its mode.
        self._model = copy.deepcopy(model).requires_grad_(False).eval()
        self._evaluator = Evaluator(self._model, images)
        self.dense = self._evaluator.accuracy()
        self._measured: tuple[float, Accuracy] | None = None
        self._writing = threading.Lock()
        super().__init__(self._follow, value, limit=limit, step=step, description=description)

    @property
    def accuracy(self) -> Accuracy | None:
        """On all images where the slider stands; None until it has been measured."""
        return self._accuracy_at(getattr(self, self.follows))

    def _changes(self, state: float) -> Changes:
        raise NotImplementedError

    def _words(self, state: float, accuracy: str, lost: str) -> str:
        raise NotImplementedError

    def _paint(self, state: float, figure: Figure) -> None:
        raise NotImplementedError

    def _accuracy_at(self, state: float) -> Accuracy | None:
        measured = self._measured
        return measured[1] if measured and measured[0] == state else None

    def _drop_at(self, state: float) -> Drop | None:
        """Accuracy lost against the network as it came; None until it has been measured."""
        accuracy = self._accuracy_at(state)
        return drop(self.dense, accuracy) if accuracy else None

    def _show(self) -> None:
        """What takes no time, at once; the rest when the worker comes to it."""
        state = getattr(self, self.follows)
        self._write(state, "measuring …")
        self._worker.submit(state)

    def _follow(self, state: float, stale: Callable[[], bool]) -> None:
        """The worker's task: draw, estimate, measure; leave as soon as the state is an old one."""
        try:
            with torch.no_grad():
                self._draw(state)
                for accuracy in self._looks(state, stale):
                    self._report(state, accuracy)
        except Exception as error:
            self._write(state, f"not measured: {html.escape(str(error))}")
            raise

    def _looks(self, state: float, stale: Callable[[], bool]) -> Iterator[Accuracy]:
        """Accuracy on the first images, then on all of them."""
        if stale():
            return
        hits, seen, looked = [], 0, False
        for some in self._evaluator.advance(self._changes(state)):
            if stale():
                return
            hits.append(some)
            seen += len(some)
            if FIRST_LOOK <= seen < self.dense.n and not looked:
                yield Accuracy.of(torch.cat(hits))
                looked = True
        yield Accuracy.of(torch.cat(hits))

    def _report(self, state: float, accuracy: Accuracy) -> None:
        if accuracy.n == self.dense.n:
            self._measured = (state, accuracy)
        dense = Accuracy.of(self.dense.hits[: accuracy.n])
        value, details = str(accuracy).split(" ", 1)
        self._write(state, f"<b>{value}</b> {details}", str(drop(dense, accuracy)))

    def _write(self, state: float, accuracy: str, lost: str = "…") -> None:
        """The text, unless the slider has moved on: two threads write it."""
        with self._writing:
            if state == getattr(self, self.follows):
                self.text.value = self._words(state, accuracy, lost)

    def _draw(self, state: float) -> None:
        figure = Figure(figsize=(WIDTH / 100, self.height / 100))
        self._paint(state, figure)
        self.picture.value = png(figure)


class ThresholdSlider(_Panel):
    """One layer's threshold under a slider; histogram, densities and accuracy follow.

    `images` is what accuracy is measured on: splits.val, a DataLoader, any re-iterable of (x, y).
    The panel looks at the network as it is now: it works on a copy, and leaves `model` alone. Set
    `panel.quality` in a cell, or move the slider; read `threshold`, `density`, `mask` at once, and
    `accuracy` and `drop` when they have been measured, for which `settle()` waits.

    Raises ValueError for the test split: choosing by it would spoil it. KeyError for a layer that
    is not there.
    """

    quality = traitlets.Float(help="threshold / sigma; rounded to a step of the slider")
    follows, limited_by, css, height = "quality", "max_quality", "threshold", 270

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        layer: str,
        *,
        quality: float = 1.0,
        max_quality: float = 3.0,
        step: float = 0.05,
    ):
        layers = masks.prunable(model)
        weight = layers[layer].weight.detach().clone()
        self.layer, self._weights = layer, Layer(layer, weight)
        others = [other.weight for name, other in layers.items() if name != layer]
        self._others = sum(weight.numel() for weight in others)
        self._others_kept = sum(int(weight.count_nonzero()) for weight in others)
        super().__init__(
            model,
            images,
            quality,
            limit=max_quality,
            step=step,
            description="quality",
        )

    @traitlets.validate("quality")
    def _rounded(self, proposal) -> float:
        return self._on_the_grid(proposal["value"])

    @property
    def sigma(self) -> float:
        """Standard deviation of the layer's weights that are not zero."""
        return self._weights.sigma

    @property
    def threshold(self) -> float:
        return self.quality * self.sigma

    @property
    def kept(self) -> int:
        """How many of the layer's weights stay."""
        return self._choice(self.quality).kept

    @property
    def density(self) -> float:
        """Of the layer."""
        return self.kept / max(1, self._weights.size)

    @property
    def network_density(self) -> float:
        return (self.kept + self._others_kept) / max(1, self._weights.size + self._others)

    @property
    def mask(self) -> masks.Mask:
        """What the slider stands for, ready to apply or to train with."""
        return masks.prune(self._model, quality={self.layer: self.quality})

    @property
    def drop(self) -> Drop | None:
        """Accuracy lost against the network as it came; None until it has been measured."""
        return self._drop_at(self.quality)

    def _changes(self, quality: float) -> Changes:
        return {self.layer: self._weights.cut(self._choice(quality))}

    def _choice(self, quality: float) -> Choice:
        return self._weights.choose(Setting("quality", quality))

    def _words(self, quality: float, accuracy: str, lost: str) -> str:
        kept, weights = self.kept, self._weights.size
        rows = {
            "threshold": f"<b>{self.threshold:.4f}</b> ({quality:.2f} × σ of {self.sigma:.4f})",
            f"{html.escape(self.layer)} keeps": f"<b>{kept / weights:.1%}</b> "
            f"({kept:,} of {weights:,} weights)",
            "network keeps": f"<b>{self.network_density:.1%}</b> (the other layers as they are)",
            "accuracy": accuracy,
            "drop from dense": lost,
        }
        return table(rows.items())

    def _paint(self, quality: float, figure: Figure) -> None:
        ax = figure.add_axes((0.13, 0.19, 0.85, 0.7))  # by hand: laying out costs a drawing
        title = f"{self.layer}: pruned where |w| < {quality:.2f} × σ"
        plots.weights(self._weights.weight, threshold=quality * self.sigma, title=title, ax=ax)
        if quality:
            ax.legend(loc="upper right", framealpha=1, edgecolor="none")  # over the moving lines

    def __repr__(self) -> str:
        return (
            f"ThresholdSlider(layer={self.layer!r}, quality={self.quality:g}, "
            f"threshold={self.threshold:.4g}, density={self.density:.4g})"
        )


class DropSlider(_Panel):
    """The drop that each layer alone may cost under a slider; the densities of a scan follow.

    `scan` is sensitivity.scan's, of this network. Set `panel.max_drop` (percentage points) in a
    cell, or move the slider; read `plan` (sensitivity.choose's) and `mask` at once, and what all
    layers pruned `together` lose on `images` when it has been measured, for which `settle()` waits.

    Raises ValueError for the test split, by which nothing may be chosen, and for a scan of other
    weights.
    """

    max_drop = traitlets.Float(help="percentage points; rounded to a step of the slider")
    follows, limited_by, css, height = "max_drop", "limit", "drop", 330

    def __init__(
        self,
        scan: sensitivity.Scan,
        model: nn.Module,
        images: Images,
        *,
        max_drop: float = 0.5,
        limit: float = 5.0,
        step: float = 0.1,
        saliency: Saliency | None = None,
    ):
        layers = masks.prunable(model)
        sensitivity.check_same_weights(scan, model)
        self.scan = scan
        self.height = max(DropSlider.height, LINE * (len(scan.layers) + OTHERS))
        self._saliency = saliency
        self._convolutions = [name for name, layer in layers.items() if layer.weight.ndim > 2]
        # Raises where the scan is none to choose by, or its saliency is not given.
        self._plan_at(0.0).mask(model, saliency=saliency)
        super().__init__(
            model,
            images,
            max_drop,
            limit=limit,
            step=step,
            description="allowed drop, points",
        )

    @traitlets.validate("max_drop")
    def _rounded(self, proposal) -> float:
        return self._on_the_grid(proposal["value"])

    @property
    def plan(self) -> sensitivity.Plan:
        """A density for each layer; with the drop of all together as soon as it is measured."""
        max_drop = self.max_drop
        return replace(self._plan_at(max_drop), together=self._drop_at(max_drop))

    @property
    def mask(self) -> masks.Mask:
        """What the slider stands for, ready to apply or to train with."""
        return self._mask_at(self.max_drop)

    @property
    def together(self) -> Drop | None:
        """What all layers pruned at once lose; None until it has been measured."""
        return self._drop_at(self.max_drop)

    def _plan_at(self, max_drop: float) -> sensitivity.Plan:
        return sensitivity.choose(self.scan, max_drop=max_drop, saliency=self._saliency)

    def _mask_at(self, max_drop: float) -> masks.Mask:
        return self._plan_at(max_drop).mask(self._model, saliency=self._saliency)

    def _changes(self, max_drop: float) -> Changes:
        layers, mask = masks.prunable(self._model), self._mask_at(max_drop)
        return {name: layers[name].weight * mask[name] for name in self.scan.layers}

    def _words(self, max_drop: float, accuracy: str, lost: str) -> str:
        plan = self._plan_at(max_drop)
        weights = sum(row.weights for row in plan.rows)
        rows = [("layer", "keeps", "of its weights", "quality", "drop alone, points")]
        for row in plan.rows:
            cells = html.escape(row.layer), *_kept(row.density, row.weights)
            quality = "" if row.quality is None else f"{row.quality:.2f}"
            rows.append((*cells, quality, f"{100 * row.drop:+.2f}"))
        total = f"sum {100 * plan.predicted:+.2f}"
        rows.append(("all", *_kept(plan.density, weights), "", total))
        measured = [("all layers together", f"<b>{lost}</b>"), ("accuracy", accuracy)]
        return (
            f"{table(rows, NUMBER)}{table(measured)}"
            f'<p style="margin: 0.3em 1em; opacity: 0.65">Drops of single layers do not add: '
            f"what one layer lost, the next cannot mend.</p>"
        )

    def _paint(self, max_drop: float, figure: Figure) -> None:
        ax = figure.add_axes((0.095, 0.155, 0.565, 0.75))  # the legend stands beside
        plan = self._plan_at(max_drop)
        points = "1 point" if max_drop == 1 else f"{max_drop:g} points"
        title = f"each layer alone may lose {points}: {plan.density:.1%} of all stay"
        plots.sensitivity(
            self.scan, max_drop=max_drop, convolutions=self._convolutions, title=title, ax=ax
        )
        chosen = [row for row in plan.rows if row.density > 0]  # nothing left has no place there
        x = [row.density for row in chosen]
        y = [-100 * row.drop for row in chosen]
        ax.plot(x, y, "o", color=plots.LIMIT, markersize=5, zorder=5)

    def __repr__(self) -> str:
        return f"DropSlider(max_drop={self.max_drop:g}, density={self.plan.density:.4g})"


def _kept(density: float, weights: int) -> tuple[str, str]:
    return f"<b>{density:.1%}</b>", f"{round(density * weights):,} of {weights:,}"
