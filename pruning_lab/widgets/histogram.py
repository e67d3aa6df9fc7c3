"""A layer's histogram with its threshold, drawn quickly enough to follow a slider."""

import threading

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter

from pruning_lab import plots
from pruning_lab.studio import Studio
from pruning_lab.widgets.tables import percent

_FONT = 10.5  # readable on a projector


class Histogram:
    """Pictures of a studio's layers, `pixels` large in the page.

    What stands still is drawn once for a layer, and what a threshold moves is blitted onto it.
    """

    words = "the layer's weights with the threshold"  # for those who do not see it

    def __init__(self, studio: Studio, pixels: tuple[int, int]):
        self.studio, self.pixels = studio, pixels
        self._labels = plots.short_names(studio.layers, 24)
        self._lock, self._scene = threading.Lock(), None

    def picture(self, layer: str) -> bytes:
        """A PNG of the layer with its threshold as it is now."""
        with self._lock:
            scene = layer, self.studio.attempt.version
            if self._scene != scene:
                self._draw(layer)
                self._scene = scene
            self._move(layer)
            self._canvas.restore_region(self._still)
            for artist in self._moving:
                self._ax.draw_artist(artist)
            return plots.encoded(self._canvas)

    def _draw(self, layer: str) -> None:
        figure = Figure(figsize=[side / 100 for side in self.pixels], dpi=plots.DPI)
        self._canvas = FigureCanvasAgg(figure)
        self._ax = ax = figure.add_axes((0.10, 0.17, 0.88, 0.70))  # laying out costs a drawing
        (counts, edges), sigma = self.studio.layer(layer).histogram, self.studio.layer(layer).sigma
        reach = 1.05 * _reach(counts, edges)
        ax.set(xlim=(-reach, reach), ylim=(0, 1.08 * max(counts.max(), 1)))
        ax.stairs(counts, edges, fill=True, color=plots.KEPT)
        self._pruned = ax.stairs(counts, edges, fill=True, color=plots.GONE, animated=True)
        look = {"color": plots.INK, "linestyle": "--", "linewidth": 1.2, "animated": True}
        self._sides = [ax.axvline(0, **look) for _ in range(2)]
        ax.set_xlabel(f"weight (σ = {sigma:.3g})", fontsize=_FONT)
        ax.set_ylabel("number of weights", fontsize=_FONT)
        title = {"transform": ax.transAxes, "fontsize": _FONT + 1}
        ax.text(0, 1.04, self._labels[layer], color=plots.INK, **title)
        self._title = ax.text(1, 1.04, "", ha="right", animated=True, **title)
        ax.yaxis.set_major_formatter(EngFormatter(sep=""))
        ax.locator_params("x", nbins=6)
        ax.locator_params("y", nbins=5)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=_FONT - 1)
        plots.without_formulas(figure)
        self._moving = self._pruned, *self._sides, self._title
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(figure.bbox)

    def _move(self, layer: str) -> None:
        row = next(r for r in self.studio.metrics() if r.layer == layer)
        threshold, top = min(row.threshold, 1e30), self._ax.get_ylim()[1]
        shade = Rectangle((-threshold, 0), 2 * threshold, top, transform=self._ax.transData)
        self._pruned.set_clip_path(shade)
        for side, place in zip(self._sides, (-threshold, threshold), strict=True):
            side.set_xdata([place, place])
            side.set_visible(threshold > 0)
        at = f" at {row.quality:.2f} σ" if threshold else ""  # every letter costs a drag its time
        self._title.set_text(f"{percent(row.density)} kept{at}")


def _reach(counts: np.ndarray, edges: np.ndarray) -> float:
    """How far out the histogram is worth showing: 99.9 % of the weights."""
    inside = np.abs((edges[1:] + edges[:-1]) / 2)
    order = np.argsort(inside)
    held = np.cumsum(counts[order])
    return float(inside[order][np.searchsorted(held, 0.999 * held[-1])])
