"""One number under a slider: a layer's threshold, or the drop that each layer alone may cost."""

from dataclasses import replace
from html import escape
from math import isfinite

from ipywidgets import HTML, FloatSlider, FloatText, HBox
from matplotlib.figure import Figure
from torch import nn

from pruning_lab import criteria, plots, sensitivity
from pruning_lab.data import Images
from pruning_lab.layers import prunable
from pruning_lab.studio import LIMIT, STEP, LayerMetrics, Studio
from pruning_lab.widgets.drawing import WIDTH, height_for
from pruning_lab.widgets.histogram import Histogram
from pruning_lab.widgets.studio_view import StudioView, on_grid, on_steps
from pruning_lab.widgets.tables import percent, table


class ThresholdSlider(StudioView):
    """One layer's threshold under a slider; histogram, densities and accuracy follow.

    `images` is what accuracy is measured on: splits.val, a DataLoader, any re-iterable of (x, y).
    The panel works on a copy of the network as it is now. Set `panel.quality` in a cell, or move
    the slider; read `panel.threshold`, `.density` and `.mask` at once, and `.accuracy` and `.drop`
    after `panel.settle()`. `panel.studio` does the work, and can do more.

    Raises ValueError for the test split: choosing by it would spoil it. KeyError for a layer that
    is not there.
    """

    def __init__(self, model: nn.Module, images: Images, layer: str, *, quality: float = 1.0):
        prunable(model)[layer]  # raises for an unknown one
        studio = Studio(model, images)
        self._histogram = Histogram(studio, (WIDTH, 270))
        self._open(studio, layer, quality, "threshold")
        self.children = [*self.children[:3], self.picture, self.headline, self.text]
        self.start()

    def _open(self, studio: Studio, layer: str, quality: float, css: str) -> None:
        super().__init__(studio, css, f"{layer} with its threshold")
        self.layer, tooltip = layer, f"quality of {layer}: threshold / sigma"
        self._shown: float | None = None  # the quality in the slider and in the box
        self.slider = FloatSlider(0, max=LIMIT, step=STEP, readout=False, tooltip=tooltip)
        self.slider.layout.width, wide = "480px", {"width": "76px"}
        self.box, self._percent, self.text = FloatText(0, layout=wide), HTML(), HTML()
        label = HTML(f"quality of {escape(layer)}")
        parts = [label, self.slider, self.box, self._percent]
        line = HBox(parts, layout={"align_items": "center"})
        self.children = [self.style_sheet, line, self.problem, self.picture, self.text]
        self.quality = quality
        on_steps(self.slider, self._moved)
        self.box.observe(lambda change: self._moved(change["new"]), "value")

    def _moved(self, quality: float) -> None:
        """By the user. What is refused goes back to what it was."""

        def move() -> None:
            self._shown = None
            self.studio.set({self.layer: quality}, merge=True)

        self.press(move)

    def draw(self) -> bytes:
        return self._histogram.picture(self.layer)

    @property
    def row(self) -> LayerMetrics:
        """The layer's numbers: what was asked, threshold, sigma, weights, kept, density."""
        return next(row for row in self.studio.metrics() if row.layer == self.layer)

    @property
    def quality(self) -> float:
        """threshold / sigma"""
        asked = self.row.asked
        return asked.amount if asked.kind == "quality" else self.row.quality

    @quality.setter
    def quality(self, quality: float) -> None:
        self.studio.set({self.layer: quality}, merge=True)
        self.write()

    @property
    def threshold(self) -> float:
        return self.row.threshold

    @property
    def kept(self) -> int:
        """How many of the layer's weights stay."""
        return self.row.kept

    @property
    def density(self) -> float:
        """Of the layer; that of the network is `mask.density`."""
        return self.row.density

    def write(self) -> None:
        super().write()
        with self._lock, self.silent():
            row, quality = self.row, self.quality if isfinite(self.quality) else LIMIT
            self._percent.value = f'<b style="font-size: 14px">{percent(row.density)}</b>'
            self.text.value = table(self.studio.metrics().columns, [row])
            if quality == self._shown:
                return
            # A value off the slider's grid would come back from the browser rounded, over a later
            # one: exact ones are for the box. The same place again would jump back in a fast drag.
            place = on_grid(min(quality, LIMIT), STEP)
            if place != on_grid(self.slider.value, STEP):
                self.slider.value = place
            self.box.value = self._shown = quality

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.layer!r}, quality={self.quality:g}, "
            f"threshold={self.threshold:.4g}, density={self.density:.4g})"
        )


class DropSlider(StudioView):
    """The drop that each layer alone may cost under a slider; the densities of a scan follow.

    `scan` is sensitivity.scan's, of this network, by magnitude. Set `panel.max_drop_per_layer`
    (percentage points) in a cell, or move the slider; read `panel.plan` (sensitivity.choose's) and
    `panel.mask` at once, and the `panel.drop` of all layers pruned together after `panel.settle()`.

    Raises ValueError for the test split, by which nothing may be chosen, and for a scan of other
    weights.
    """

    def __init__(
        self,
        scan: sensitivity.Scan,
        model: nn.Module,
        images: Images,
        *,
        max_drop_per_layer: float = 0.5,
        limit: float = 5.0,
    ):
        self.scan, self._max_drop = scan, 0.0
        self.plan.mask(model)  # raises where the scan is none to choose by
        if self.plan.saliency != criteria.name_of(criteria.magnitude):
            raise ValueError(f"this slider needs a scan by magnitude, got {self.plan.saliency!r}")
        studio, words = Studio(model, images, scan=scan), "the scan's curves, and what is chosen"
        super().__init__(studio, "drop", words)
        self.text = HTML()
        self.slider = FloatSlider(max=limit, step=0.1, layout={"width": "480px"})
        on_steps(self.slider, lambda drop: self.press(lambda: self._choose(drop)))
        line = HBox([HTML("allowed drop per layer, points"), self.slider])
        top = self.style_sheet, line, self.problem, self.picture
        self.children = [*top, self.headline, self.text]
        self.max_drop_per_layer = max_drop_per_layer
        self.start()

    @property
    def max_drop_per_layer(self) -> float:
        """What each layer alone may lose, in percentage points."""
        return self._max_drop

    @max_drop_per_layer.setter
    def max_drop_per_layer(self, max_drop_per_layer: float) -> None:
        self._choose(max_drop_per_layer)
        self.write()

    def _choose(self, max_drop: float) -> None:
        # Raises for an impossible one.
        plan = sensitivity.choose(self.scan, max_drop_per_layer=max_drop)
        self._max_drop = max_drop
        self.studio.set(density=plan.densities, merge=True)
        with self.silent():
            self.slider.value = on_grid(min(max_drop, self.slider.max), self.slider.step)

    @property
    def plan(self) -> sensitivity.Plan:
        """A density for each layer; with the drop of all together as soon as it is measured."""
        plan = sensitivity.choose(self.scan, max_drop_per_layer=self._max_drop)
        return replace(plan, together=self.studio and self.drop)

    def draw(self) -> bytes:
        plan, height = self.plan, height_for(len(self.scan.layers), 360)
        figure = Figure(figsize=(WIDTH / 100, height / 100))
        ax = figure.add_axes((0.095, 0.145, 0.565, 0.655))  # the legend stands beside
        title = f"each layer alone may lose {self._max_drop:g} points"
        plots.sensitivity(self.scan, max_drop=self._max_drop, title=title, ax=ax)
        chosen = [row for row in plan.rows if row.density > 0]  # nothing left has no place there
        y = [-100 * row.drop for row in chosen]
        ax.plot([row.density for row in chosen], y, "o", color=plots.LIMIT, markersize=5, zorder=5)
        return plots.png(figure)

    def write(self) -> None:
        super().write()
        self.text.value = f"<pre>{escape(str(self.plan))}</pre>"

    def __repr__(self) -> str:
        return f"DropSlider(max_drop_per_layer={self._max_drop:g}, density={self.plan.density:.4g})"
