"""One number under a slider: a layer's threshold, or the drop that each layer alone may cost."""

from dataclasses import replace
from html import escape

import traitlets
from ipywidgets import HTML
from matplotlib.figure import Figure
from torch import nn

from pruning_lab import plots, sensitivity
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.masks import Mask
from pruning_lab.studio import Failed, LayerMetrics, Measured, Moved, Studio
from pruning_lab.widgets.drawing import WIDTH, height_for, png
from pruning_lab.widgets.figures import WeightsFilm
from pruning_lab.widgets.picture_panel import name_parts
from pruning_lab.widgets.slider_panel import SliderPanel
from pruning_lab.widgets.studio_view import StudioView
from pruning_lab.widgets.tables import alert, layers_table


class ThresholdSlider(StudioView):
    """One layer's threshold under a slider; histogram, densities and accuracy follow.

    `images` is what accuracy is measured on: splits.val, a DataLoader, any re-iterable of (x, y).
    The panel works on a copy of the network as it is now. Set `panel.quality` in a cell, or move the
    slider; read `threshold`, `density`, `mask` at once, and `accuracy` and `drop` when they have
    been measured, for which `settle()` waits. `panel.studio` does the work, and can do more.

    Raises ValueError for the test split: choosing by it would spoil it. KeyError for a layer that
    is not there.
    """

    def __init__(self, model: nn.Module, images: Images, layer: str, *, quality: float = 1.0):
        studio = Studio(model, images)
        studio.layer(layer)  # raises for an unknown one
        film = WeightsFilm(studio, (WIDTH, 270), curve=False)
        super().__init__(studio, [layer], film, "threshold")
        self.text, self.slider = HTML(), self.rows[layer].slider
        self.children = [
            *(self.style_sheet, self.rows[layer].view, self.problem, self.picture),
            *(self.headline, self.text),
        ]
        name_parts("threshold", slider=self.slider, text=self.text)
        self.quality = quality
        self.start()

    @property
    def row(self) -> LayerMetrics:
        """The layer's numbers: threshold, sigma, weights, kept, density."""
        return next(row for row in self.studio.metrics().layers if row.layer == self.layer)

    @property
    def quality(self) -> float:
        """threshold / sigma"""
        return self.row.quality

    @quality.setter
    def quality(self, quality: float) -> None:
        self.studio.set({self.layer: quality}, merge=True)
        self.write()

    @property
    def threshold(self) -> float:
        return self.row.threshold

    @property
    def density(self) -> float:
        """Of the layer; the network's is `panel.studio.metrics().density`."""
        return self.row.density

    @property
    def mask(self) -> Mask:
        """What the slider stands for, ready to apply or to train with."""
        return self.studio.mask

    @property
    def accuracy(self) -> Accuracy | None:
        """On all images; None until it has been measured."""
        return _final(self.studio, "accuracy")

    @property
    def drop(self) -> Drop | None:
        """Accuracy lost compared with the network as it came; None until it has been measured."""
        return _final(self.studio, "drop")

    def write(self) -> None:
        super().write()
        self.text.value = layers_table(self.studio, [self.layer])

    def __repr__(self) -> str:
        return (
            f"ThresholdSlider(layer={self.layer!r}, quality={self.quality:g}, "
            f"threshold={self.threshold:.4g}, density={self.density:.4g})"
        )


class DropSlider(SliderPanel):
    """The drop that each layer alone may cost under a slider; the densities of a scan follow.

    `scan` is sensitivity.scan's, of this network, by magnitude. Set `panel.max_drop_per_layer`
    (percentage points) in a cell, or move the slider; read `plan` (sensitivity.choose's) and `mask`
    at once, and what all layers pruned `together` lose on `images` when it has been measured, for
    which `settle()` waits.

    Raises ValueError for the test split, by which nothing may be chosen, and for a scan of other
    weights.
    """

    max_drop_per_layer = traitlets.Float(help="percentage points; rounded to a step of the slider")
    number, limited_by, css = "max_drop_per_layer", "limit", "drop"

    def __init__(
        self,
        scan: sensitivity.Scan,
        model: nn.Module,
        images: Images,
        *,
        max_drop_per_layer: float = 0.5,
        limit: float = 5.0,
        step: float = 0.1,
    ):
        self.scan, self._error = scan, ""
        self._plan_at(0.0).mask(model)  # raises where the scan is none to choose by
        self.studio = Studio(model, images, scan=scan)
        description = "allowed drop per layer, points"
        super().__init__(max_drop_per_layer, limit=limit, step=step, description=description)
        for event in (Moved, Measured, Failed):
            self.studio.on(event, self._follow)
        self.studio.refresh()

    @traitlets.validate("max_drop_per_layer")
    def _rounded(self, proposal: dict) -> float:
        return self._on_the_grid(proposal)

    @property
    def plan(self) -> sensitivity.Plan:
        """A density for each layer; with the drop of all together as soon as it is measured."""
        return replace(self._plan_at(self.max_drop_per_layer), together=self.together)

    @property
    def mask(self) -> Mask:
        """What the slider stands for, ready to apply or to train with."""
        return self.studio.mask

    @property
    def accuracy(self) -> Accuracy | None:
        """On all images; None until it has been measured."""
        return _final(self.studio, "accuracy")

    @property
    def together(self) -> Drop | None:
        """What all layers pruned at once lose; None until it has been measured."""
        return _final(self.studio, "drop")

    def _plan_at(self, max_drop: float) -> sensitivity.Plan:
        return sensitivity.choose(self.scan, max_drop_per_layer=max_drop)

    def _show(self) -> None:
        densities = self._plan_at(self.max_drop_per_layer).densities
        self.studio.set(density=densities, merge=True)
        self._write()

    def _follow(self, event: object) -> None:
        """Called by the studio, in its thread."""
        self._error = alert(f"not measured: {event.text}") if isinstance(event, Failed) else ""
        self._write()
        if isinstance(event, Moved):
            self.picture.value = self._drawn()

    def _write(self) -> None:
        accuracy = self.accuracy
        measured = "measuring …" if accuracy is None else f"accuracy {accuracy}"
        self.text.value = f"<pre>{escape(str(self.plan))}\n{measured}</pre>{self._error}"

    def _drawn(self) -> bytes:
        plan, height = self.plan, height_for(len(self.scan.layers), 330)
        figure = Figure(figsize=(WIDTH / 100, height / 100))
        ax = figure.add_axes((0.095, 0.155, 0.565, 0.75))  # the legend stands beside
        title = f"{plan.density:.1%} of all weights kept ({plan.asked})"
        allowed = self.max_drop_per_layer
        plots.sensitivity(self.scan, max_drop=allowed, title=title, ax=ax)
        chosen = [row for row in plan.rows if row.density > 0]  # nothing left has no place there
        y = [self.scan.dense.value - row.drop for row in chosen]
        ax.plot([row.density for row in chosen], y, "o", color=plots.LIMIT, markersize=5, zorder=5)
        return png(figure)

    def __repr__(self) -> str:
        return f"DropSlider(max_drop_per_layer={self.max_drop_per_layer:g}, density={self.plan.density:.4g})"


def _final(studio: Studio, name: str):
    """The accuracy or the drop, of all images only."""
    metrics = studio.metrics()
    return getattr(metrics, name) if metrics.final else None
