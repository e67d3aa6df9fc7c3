"""The studio's two moving figures: a layer's weights and curve, and the trail of attempts."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from pruning_lab import plots
from pruning_lab.studio import Attempt, Studio
from pruning_lab.widgets.drawing import Film
from pruning_lab.widgets.tables import percent

_FONT = 10.5  # readable on a projector


class WeightsFilm(Film):
    """Left the histogram with its threshold, right the layer's curve with where it stands on it."""

    words = "the layer's weights with the threshold, and accuracy against what the layer keeps"

    def __init__(self, studio: Studio, pixels: tuple[int, int] = (620, 290), *, curve: bool = True):
        super().__init__()
        self.studio, self.pixels, self._with_curve = studio, pixels, curve
        self._labels = plots.short_names(studio.layers, 24)

    def picture(self, layer: str) -> bytes:
        with self._lock:
            self._layer, self._points = layer, []
            if self._with_curve and (scan := self.studio.scan) is not None:
                dense = scan.dense.value
                self._points = [(1.0, dense, dense, dense)]
                for p in scan.of(layer):
                    ends = dense - p.drop.high, dense - p.drop.low
                    self._points.append((max(p.density, 1e-9), p.accuracy.value, *ends))
            return self._frame((layer, self.studio.attempt.version, self._points))

    def _draw(self, figure: Figure) -> list:
        layer = self.studio.layer(self._layer)
        width = 0.44 if self._with_curve else 0.88
        left = figure.add_axes((0.10, 0.17, width, 0.70))  # given: laying out costs a drawing
        counts, edges = layer.histogram
        reach = 1.05 * _reach(counts, edges)
        left.stairs(counts, edges, fill=True, color=plots.KEPT)
        self._pruned = left.stairs(counts, edges, fill=True, color=plots.GONE, animated=True)
        look = {"color": plots.INK, "linestyle": "--", "linewidth": 1.2, "animated": True}
        self._sides = [left.axvline(0, **look) for _ in range(2)]
        left.set(xlim=(-reach, reach), ylim=(0, 1.08 * max(counts.max(), 1)))
        left.set_xlabel(f"weight (σ = {layer.sigma:.3g})", fontsize=_FONT)
        left.set_ylabel("number of weights", fontsize=_FONT)
        title = {"transform": left.transAxes, "fontsize": _FONT + 1}
        left.text(0, 1.04, self._labels[self._layer], color=plots.INK, **title)
        self._title = left.text(1, 1.04, "", ha="right", animated=True, **title)
        left.yaxis.set_major_formatter(EngFormatter(sep=""))
        left.locator_params("x", nbins=6)
        moving = [self._pruned, *self._sides, self._title]
        if self._with_curve:
            right = figure.add_axes((0.70, 0.17, 0.29, 0.70))
            self._curve(right)
            self._line = right.axvline(0, color=plots.LIMIT, linewidth=1.4, animated=True)
            (self._dot,) = right.plot([], [], "o", color=plots.LIMIT, markersize=7, animated=True)
            moving += [self._line, self._dot]
        for ax in figure.axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=_FONT - 1)
            ax.locator_params("y", nbins=5)
        return moving

    def _curve(self, ax: Axes) -> None:
        ax.set_xscale("log")
        ax.set_xlim(1.15, 0.008)
        ticks = (1, 0.3, 0.1, 0.03, 0.01)
        ax.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("this layer keeps", fontsize=_FONT)
        ax.set_ylabel("accuracy", fontsize=_FONT)
        ax.set_title("this layer alone", fontsize=_FONT, loc="left", color=plots.INK)
        if not self._points:
            note = "no curve yet:\npress “suggest”"
            ax.text(0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", color="0.35")
            ax.set_yticks([])
            return
        x, y, low, high = zip(*self._points, strict=True)
        ax.fill_between(x, low, high, color=plots.KEPT, alpha=0.2, linewidth=0)
        ax.plot(x, y, "o-", color=plots.KEPT, markersize=3.5)
        ax.axhline(y[0], color=plots.INK, linestyle="--", linewidth=1)
        ax.yaxis.set_major_formatter(_percent)

    def _move(self) -> None:
        row = next(r for r in self.studio.metrics() if r.layer == self._layer)
        threshold = min(row.threshold, 1e30)
        ax = self._pruned.axes
        shade = Rectangle((-threshold, 0), 2 * threshold, ax.get_ylim()[1], transform=ax.transData)
        self._pruned.set_clip_path(shade)
        for side, place in zip(self._sides, (-threshold, threshold), strict=True):
            side.set_xdata([place, place])
            side.set_visible(threshold > 0)
        at = f" at {row.quality:.2f} σ" if threshold else ""  # every letter costs a drag its time
        self._title.set_text(f"{percent(row.density)} kept{at}")
        if self._with_curve:
            density = max(row.density, 0.008)
            self._line.set_xdata([density, density])
            self._line.set_visible(bool(self._points))
            if self._points:
                x, y, *_ = np.array(self._points[::-1]).T
                self._dot.set_data([density], [np.interp(np.log(density), np.log(x), y)])


class TrailFilm(Film):
    """Accuracy against what is kept, a mark for each attempt, with its interval.

    Those that no other beats are filled and joined. An attempt that lost most of what the network
    can do does not stretch the axes, unless it is the current one: it stands at their edge.
    """

    words = "accuracy with 95 % interval against the fraction of weights kept, a mark per attempt"
    pixels = (620, 290)

    def __init__(self, studio: Studio):
        super().__init__()
        self.studio = studio

    def picture(self) -> bytes:
        with self._lock:
            self._comparison, self._now = self.studio.compare(), self.studio.attempt.number
            self._measured = [a for a in self._comparison if a.accuracy is not None]
            limits = trail_limits(self._measured, self._now)
            self._least, self._low, self._top = limits
            names = [(a.name, self._place(a)) for a in self._measured if a.name]
            return self._frame((limits, names))

    def _draw(self, figure: Figure) -> list:
        ax = figure.add_axes((0.12, 0.17, 0.84, 0.72))
        ax.set_xscale("log")
        ax.set(xlim=(1.2, self._least), ylim=(self._low, self._top))
        ax.xaxis.set_major_locator(FixedLocator(_STEPS if self._least >= 0.005 else _STEPS[::3]))
        ax.xaxis.set_minor_locator(NullLocator())
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(_percent)
        if (dense := self.studio.dense) is not None:
            ax.axhspan(dense.low, dense.high, color=plots.GONE, alpha=0.5, linewidth=0)
        ax.set_xlabel("weights kept in the network", fontsize=_FONT)
        ax.set_ylabel("accuracy", fontsize=_FONT)
        title = "attempts: the current one ◆, and those that no other beats ●"
        ax.set_title(title, fontsize=_FONT, loc="left", color=plots.INK)
        ax.tick_params(labelsize=_FONT - 1)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        self._write_names(ax)
        self._bars = LineCollection([], colors=plots.NOISE, linewidths=1, animated=True)
        ax.add_collection(self._bars, autolim=False)
        (self._line,) = ax.plot([], [], color=plots.KEPT, linewidth=1, alpha=0.5, animated=True)
        look = {"linestyle": "", "clip_on": False, "animated": True}
        self._dots = [
            *ax.plot([], [], "o", color=plots.NOISE, ms=5, markerfacecolor="white", **look),
            *ax.plot([], [], "o", color=plots.KEPT, ms=5, **look),
            *ax.plot([], [], "D", color=plots.LIMIT, ms=9, **look),
        ]
        return [self._line, self._bars, *self._dots]

    def _move(self) -> None:
        best = self._comparison.pareto
        numbers = {attempt.number for attempt in best}
        groups = [], [], []
        for attempt in self._measured:
            here = attempt.number == self._now
            groups[2 if here else attempt.number in numbers].append(self._place(attempt))
        for dots, places in zip(self._dots, groups, strict=True):
            dots.set_data(np.reshape(places, (-1, 2)).T)
        line = [(self._place(attempt)[0], attempt.accuracy.value) for attempt in best]
        self._line.set_data(np.reshape(line, (-1, 2)).T)
        ends = [(self._place(a)[0], a.accuracy.low, a.accuracy.high) for a in self._measured]
        self._bars.set_segments([[(x, low), (x, high)] for x, low, high in ends])

    def _place(self, attempt: Attempt) -> tuple[float, float]:
        """(density, accuracy), on the edge where it lies outside."""
        return max(attempt.density, self._least), max(attempt.accuracy.value, self._low)

    def _write_names(self, ax: Axes) -> None:
        """Beside each mark; where another name is in the way, lower."""
        named, taken = [attempt for attempt in self._measured if attempt.name], []
        for attempt in sorted(named, key=self._place, reverse=True):
            x, y = ax.transAxes.inverted().transform(ax.transData.transform(self._place(attempt)))
            side, x, y = ("left", x + 0.02, y + 0.06) if x < 0.6 else ("right", x - 0.03, y - 0.06)
            while any(abs(x - other) < 0.3 and abs(y - height) < 0.08 for other, height in taken):
                y -= 0.02
            taken.append((x, y))
            look = {"transform": ax.transAxes, "fontsize": _FONT - 1, "ha": side, "va": "center"}
            ax.text(x, y, attempt.name, **look)


# What an axis of fractions may end at, from all down to next to nothing.
_STEPS = [round(m * 10.0**-n, 6) for n in range(5) for m in (1, 0.5, 0.2)]


def trail_limits(measured: Sequence[Attempt], now: int) -> tuple[float, float, float]:
    """(lowest density, lowest and highest accuracy) of the axes: few attempts change them.

    An attempt that lost a fifth of the best accuracy counts only while it is the current one.
    """
    best = max((attempt.accuracy.value for attempt in measured), default=1)
    shown = [a for a in measured if a.accuracy.value > 0.8 * best or a.number == now]
    low = min((attempt.accuracy.low for attempt in shown), default=0)
    high = max((attempt.accuracy.high for attempt in shown), default=1)
    for span in reversed(_STEPS):
        top = math.ceil(high / span * 5) * span / 5
        if top - span <= low:
            break
    sparsest = min((attempt.density for attempt in shown), default=1)
    least = next((x for x in _STEPS if x <= min(0.1, 0.7 * sparsest)), _STEPS[-1])
    return least, top - span, top


def _percent(fraction: float, _: int) -> str:
    return f"{round(100 * fraction, 4):g}%"


def _reach(counts: np.ndarray, edges: np.ndarray) -> float:
    """How far out the histogram is worth showing: 99.9 % of the weights."""
    inside = np.abs((edges[1:] + edges[:-1]) / 2)
    order = np.argsort(inside)
    held = np.cumsum(counts[order])
    return float(inside[order][np.searchsorted(held, 0.999 * held[-1])])
