"""The studio's two moving figures: a layer's weights and curve, and the trail of attempts."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from pruning_lab import plots
from pruning_lab.studio import Attempt, Studio
from pruning_lab.widgets.drawing import Film
from pruning_lab.widgets.tables import percent, short_names

_FONT = 10.5  # readable on a projector


class WeightsFilm(Film):
    """Left the histogram with its threshold, right the layer's curve with where it stands on it."""

    words = "the layer's weights with the threshold, and accuracy against what the layer keeps"

    def __init__(self, studio: Studio, pixels: tuple[int, int] = (620, 290), *, curve: bool = True):
        super().__init__()
        self.studio, self.pixels, self._with_curve = studio, pixels, curve
        self._labels = short_names(studio.layers, 24)

    def picture(self, layer: str) -> bytes:
        with self._lock:
            self._layer = layer
            self._scan = self.studio.scan if self._with_curve else None
            return self._frame((layer, self.studio.attempt.base, id(self._scan)))

    def _draw(self, figure: Figure) -> list:
        layer = self.studio.layer(self._layer)
        width = 0.46 if self._with_curve else 0.88
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
        self._points = []
        if self._with_curve:
            right = figure.add_axes((0.69, 0.17, 0.30, 0.70))
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
        ax.set_title("this layer alone", fontsize=_FONT, loc="left", color=plots.INK)
        self._points = [] if self._scan is None else self._scan.of(self._layer)
        if not self._points:
            note = "no curve yet:\npress “suggest”"
            ax.text(0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", color="0.35")
            ax.set_yticks([])
            return
        dense = self._scan.dense.value
        self._x = [1.0, *(max(p.density, 1e-9) for p in self._points)]
        self._y = [dense, *(p.accuracy.value for p in self._points)]
        low = [dense, *(dense - p.drop.high for p in self._points)]
        high = [dense, *(dense - p.drop.low for p in self._points)]
        ax.fill_between(self._x, low, high, color=plots.KEPT, alpha=0.2, linewidth=0)
        ax.plot(self._x, self._y, "o-", color=plots.KEPT, markersize=3.5)
        ax.axhline(dense, color=plots.INK, linestyle="--", linewidth=1)
        ax.yaxis.set_major_formatter(_percent)

    def _move(self) -> None:
        row = next(r for r in self.studio.metrics().layers if r.layer == self._layer)
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
                x = np.log(self._x)[::-1]
                self._dot.set_data([density], [np.interp(np.log(density), x, self._y[::-1])])


class TrailFilm(Film):
    """Accuracy against what is kept, a mark for each attempt, with its interval.

    Those that no other beats are filled and joined. Attempts that lost most of what the network can
    do stand at the lower edge, except while the studio is at one of them.
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
            names = [(a.name, a.density, a.accuracy) for a in self._measured if a.name]
            return self._frame((self._limits(), names, self.studio.dense))

    def _limits(self) -> tuple[float, float, float]:
        """(lowest density, lowest and highest accuracy), such that most attempts change none."""
        best = max((a.accuracy.value for a in self._measured), default=1)
        shown = [a for a in self._measured if a.accuracy.value > best / 2 or a.number == self._now]
        seen = [a.accuracy for a in shown] + [self.studio.dense] * bool(self.studio.dense)
        low, high = min((a.low for a in seen), default=0), max((a.high for a in seen), default=1)
        for span in reversed(_STEPS):
            top = math.ceil(high / span * 5) * span / 5
            if top - span <= low:
                break
        sparsest = min((a.density for a in shown), default=1)
        least = next((x for x in _STEPS if x <= min(0.1, 0.7 * sparsest)), _STEPS[-1])
        return least, top - span, top

    def _draw(self, figure: Figure) -> list:
        ax = figure.add_axes((0.10, 0.17, 0.86, 0.72))
        ax.set_xscale("log")
        self._least, self._low, top = self._limits()
        ax.set(xlim=(1.2, self._least), ylim=(self._low, top))
        ax.xaxis.set_major_locator(FixedLocator(_STEPS if self._least >= 0.005 else _STEPS[::3]))
        ax.xaxis.set_minor_locator(NullLocator())
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(_percent)
        if (dense := self.studio.dense) is not None:
            ax.axhspan(dense.low, dense.high, color=plots.GONE, alpha=0.5, linewidth=0)
        ax.set_xlabel("weights kept in the network", fontsize=_FONT)
        title = "attempts: the current one ◆, and those that no other beats ●"
        ax.set_title(title, fontsize=_FONT, loc="left", color=plots.INK)
        ax.tick_params(labelsize=_FONT - 1)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        self._write_names(ax)
        (self._line,) = ax.plot([], [], color=plots.KEPT, linewidth=1, alpha=0.5, animated=True)
        looks = (
            (plots.NOISE, {"marker": "o", "markersize": 5, "markerfacecolor": "white"}),
            (plots.KEPT, {"marker": "o", "markersize": 5}),
            (plots.LIMIT, {"marker": "D", "markersize": 9}),
        )
        self._marks = [_marks(ax, colour, look) for colour, look in looks]
        return [self._line, *(artist for pair in self._marks for artist in pair)]

    def _move(self) -> None:
        best = self._comparison.pareto
        numbers = {attempt.number for attempt in best}
        self._line.set_data([a.density for a in best], [a.accuracy.value for a in best])
        others = [a for a in self._measured if a.number != self._now]
        groups = (
            [a for a in others if a.number not in numbers],
            [a for a in others if a.number in numbers],
            [a for a in self._measured if a.number == self._now],
        )
        for (dots, bars), attempts in zip(self._marks, groups, strict=True):
            places = [self._place(attempt) for attempt in attempts]
            dots.set_data([x for x, _ in places], [y for _, y in places])
            ends = [(a.accuracy.low, a.accuracy.high) for a in attempts]
            bars.set_segments(
                [[(x, low), (x, high)] for (x, _), (low, high) in zip(places, ends, strict=True)]
            )

    def _place(self, attempt: Attempt) -> tuple[float, float]:
        """(density, accuracy), on the edge where it lies outside."""
        return max(attempt.density, self._least), max(attempt.accuracy.value, self._low)

    def _write_names(self, ax: Axes) -> None:
        """Beside each mark, lines higher or lower where the edge or another name is in the way."""
        frame, line, taken = ax.get_window_extent(), 1.3 * _FONT * ax.figure.dpi / 72, []
        named = [attempt for attempt in self._measured if attempt.name]
        for attempt in sorted(named, key=self._place, reverse=True):
            x, y = ax.transData.transform(self._place(attempt))
            width = 0.42 * line * len(attempt.name)
            x = min(x + 0.4 * line, frame.x1 - width)
            for lines in (0.5, -1.2, 1.6, -2.3, 2.7, -3.4, -4.5, -5.6):
                bottom = y + lines * line
                inside = frame.y0 <= bottom <= frame.y1 - line
                if inside and all(
                    abs(bottom - other) >= line or x + width < left or right < x
                    for left, right, other in taken
                ):
                    break
            taken.append((x, x + width, bottom))
            ax.text(x, bottom, attempt.name, transform=None, fontsize=_FONT - 1)


def _marks(ax: Axes, colour: str, look: dict) -> tuple:
    """(dots, intervals) of attempts that look alike."""
    bars = LineCollection([], colors=colour, linewidths=1, animated=True)
    ax.add_collection(bars, autolim=False)
    (dots,) = ax.plot([], [], color=colour, linestyle="", clip_on=False, animated=True, **look)
    return dots, bars


# What an axis of fractions may end at, from all down to next to nothing.
_STEPS = [round(m * 10.0**-n, 6) for n in range(5) for m in (1, 0.5, 0.2)]


def _percent(fraction: float, _: int) -> str:
    return f"{round(100 * fraction, 4):g}%"


def _reach(counts: np.ndarray, edges: np.ndarray) -> float:
    """How far out the histogram is worth showing: 99.9 % of the weights."""
    inside = np.abs((edges[1:] + edges[:-1]) / 2)
    order = np.argsort(inside)
    held = np.cumsum(counts[order])
    if not held[-1]:
        return float(edges[-1])
    return float(inside[order][np.searchsorted(held, 0.999 * held[-1])])
