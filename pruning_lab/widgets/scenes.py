"""The studio's pictures: a layer's weights and how it takes pruning, and the trail of attempts."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from pruning_lab import plots
from pruning_lab.studio import Attempt, Studio
from pruning_lab.widgets.pictures import Film

_SIZE = (620, 290)
_FONT = 10.5  # readable on a projector


class WeightsFilm:
    """Left the histogram with its threshold, right the layer's curve with where it stands on it."""

    words = "the layer's weights with the threshold, and accuracy against what the layer keeps"
    pixels = _SIZE

    def __init__(self, studio: Studio):
        self.studio = studio
        self._film = Film(*self.pixels, self._draw)
        self._layer = ""

    def picture(self, layer: str) -> bytes:
        self._layer = layer
        scan = self.studio.scan
        scene = layer, self.studio.attempt.version, id(scan)
        return self._film.frame(scene, self._move)

    def _draw(self, figure: Figure) -> list:
        layer = self.studio.layer(self._layer)
        left = figure.add_axes((0.10, 0.17, 0.46, 0.70))  # by hand: laying out costs a drawing
        counts, edges = layer.histogram
        reach = 1.05 * _reach(counts, edges)
        left.stairs(counts, edges, fill=True, color=plots.KEPT)
        self._gone = left.stairs(counts, edges, fill=True, color=plots.GONE, animated=True)
        top = 1.08 * max(counts.max(), 1)
        self._sides = [
            left.axvline(0, color=plots.INK, linestyle="--", linewidth=1.2, animated=True)
            for _ in range(2)
        ]
        left.set_xlim(-reach, reach)
        left.set_ylim(0, top)
        left.set_xlabel(f"weight (σ = {layer.sigma:.3g})", fontsize=_FONT)
        left.set_ylabel("number of weights", fontsize=_FONT)
        title = {"transform": left.transAxes, "fontsize": _FONT + 1}
        left.text(0, 1.04, self._layer, color=plots.INK, **title)
        self._title = left.text(1, 1.04, "", ha="right", animated=True, **title)
        right = figure.add_axes((0.69, 0.17, 0.30, 0.70))
        self._curve(right)
        self._line = right.axvline(0, color=plots.LIMIT, linewidth=1.4, animated=True)
        (self._dot,) = right.plot([], [], "o", color=plots.LIMIT, markersize=7, animated=True)
        for ax in (left, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=_FONT - 1)
            ax.locator_params("y", nbins=5)
        left.yaxis.set_major_formatter(EngFormatter(sep=""))
        left.locator_params("x", nbins=6)
        return [self._gone, *self._sides, self._title, self._line, self._dot]

    def _curve(self, ax: Axes) -> None:
        scan = self.studio.scan
        self._points = [] if scan is None else scan.of(self._layer)
        ax.set_xscale("log")
        ax.set_xlim(1.15, 0.008)
        ticks = (1, 0.3, 0.1, 0.03, 0.01)
        ax.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("this layer keeps", fontsize=_FONT)
        ax.set_title("this layer alone", fontsize=_FONT, loc="left", color=plots.INK)
        if not self._points:
            ax.set_ylim(0, 1)
            note = "no curve yet:\npress “suggest”"
            ax.text(0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", color="0.35")
            ax.set_yticks([])
            return
        x = [1.0, *(p.density for p in self._points)]
        dense = scan.dense.value
        y = [dense, *(p.accuracy.value for p in self._points)]
        low = [dense, *(dense - p.drop.high for p in self._points)]
        high = [dense, *(dense - p.drop.low for p in self._points)]
        ax.fill_between(x, low, high, color=plots.KEPT, alpha=0.2, linewidth=0)
        ax.plot(x, y, "o-", color=plots.KEPT, markersize=3.5)
        ax.axhline(dense, color=plots.INK, linestyle="--", linewidth=1)
        ax.yaxis.set_major_formatter(_percent)

    def _move(self) -> None:
        row = next(r for r in self.studio.metrics().layers if r.layer == self._layer)
        threshold = min(row.threshold, 1e30)
        ax = self._gone.axes
        shade = Rectangle((-threshold, 0), 2 * threshold, ax.get_ylim()[1], transform=ax.transData)
        self._gone.set_clip_path(shade)
        for side, place in zip(self._sides, (-threshold, threshold), strict=True):
            side.set_xdata([place, place])
            side.set_visible(threshold > 0)
        where = (
            f" at {row.quality:.2f} σ" if threshold else ""
        )  # every letter costs a drag its time
        self._title.set_text(f"{row.density:.1%} stay{where}")
        density = max(row.density, 0.008)
        self._line.set_xdata([density, density])
        self._line.set_visible(bool(self._points))
        if self._points:
            x = np.log([1.0, *(max(p.density, 1e-9) for p in self._points)])
            y = [self.studio.scan.dense.value, *(p.accuracy.value for p in self._points)]
            self._dot.set_data([density], [np.interp(np.log(density), x[::-1], y[::-1])])


class TrailFilm:
    """Accuracy against what is left, a mark for each attempt, with its interval.

    Those that no other beats are filled and joined.
    """

    words = "accuracy with 95 % interval against the share of weights kept, one mark per attempt"
    pixels = _SIZE

    def __init__(self, studio: Studio):
        self.studio = studio
        self._film = Film(*self.pixels, self._draw)

    def picture(self) -> bytes:
        self._comparison = self.studio.compare()
        self._measured = [a for a in self._comparison if a.accuracy is not None]
        names = [(a.name, a.density, a.accuracy) for a in self._measured if a.name]
        return self._film.frame((self._limits(), names), self._move)

    def _limits(self) -> tuple[float, float, float]:
        """(least share, lowest and highest accuracy), such that most attempts leave them alone."""
        lowest = min((a.density for a in self._measured), default=1)
        least = next((x for x in _SHARES if x <= min(0.1, 0.7 * lowest)), _SHARES[-1])
        seen = [a.accuracy for a in self._measured]
        seen += [self.studio.dense] if self.studio.dense else []
        low, high = min((a.low for a in seen), default=0), max((a.high for a in seen), default=1)
        for span in reversed(_SHARES):
            top = math.ceil(high / span * 5) * span / 5
            if top - span <= low:
                break
        return least, top - span, top

    def _draw(self, figure: Figure) -> list:
        ax = figure.add_axes((0.10, 0.17, 0.86, 0.72))
        ax.set_xscale("log")
        least, *accuracies = self._limits()
        ax.set(xlim=(1.2, least), ylim=accuracies)
        ax.xaxis.set_major_locator(FixedLocator(_SHARES if least >= 0.005 else _SHARES[::3]))
        ax.xaxis.set_minor_locator(NullLocator())
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(_percent)
        if (dense := self.studio.dense) is not None:
            ax.axhspan(dense.low, dense.high, color=plots.GONE, alpha=0.5, linewidth=0)
        ax.set_xlabel("weights kept in the network", fontsize=_FONT)
        title = "attempts: where you stand ◆, and those that no other beats ●"
        ax.set_title(title, fontsize=_FONT, loc="left", color=plots.INK)
        ax.tick_params(labelsize=_FONT - 1)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        _names(ax, [attempt for attempt in self._measured if attempt.name])
        (self._line,) = ax.plot([], [], color=plots.KEPT, linewidth=1, alpha=0.5, animated=True)
        self._beaten = _Marks(ax, plots.NOISE, marker="o", markersize=5, markerfacecolor="white")
        self._unbeaten = _Marks(ax, plots.KEPT, marker="o", markersize=5)
        self._here = _Marks(ax, plots.LIMIT, marker="D", markersize=9)
        marks = self._beaten, self._unbeaten, self._here
        return [self._line, *(artist for some in marks for artist in some.artists)]

    def _move(self) -> None:
        best, now = self._comparison.pareto, self.studio.attempt.number
        numbers = {attempt.number for attempt in best}
        self._line.set_data(*zip(*map(_place, best), strict=True) if best else ((), ()))
        others = [a for a in self._measured if a.number != now]
        self._beaten.put([a for a in others if a.number not in numbers])
        self._unbeaten.put([a for a in others if a.number in numbers])
        self._here.put([a for a in self._measured if a.number == now])


class _Marks:
    """Attempts that look alike, each with its interval."""

    def __init__(self, ax: Axes, colour: str, **style):
        bars = LineCollection([], colors=colour, linewidths=1, animated=True)
        self._bars = ax.add_collection(bars, autolim=False)
        style |= {"linestyle": "", "clip_on": False, "animated": True}
        (self._dots,) = ax.plot([], [], color=colour, **style)
        self.artists = self._bars, self._dots

    def put(self, attempts: list[Attempt]) -> None:
        places = [_place(attempt) for attempt in attempts]
        self._dots.set_data(*zip(*places, strict=True) if places else ((), ()))
        ends = [(attempt.accuracy.low, attempt.accuracy.high) for attempt in attempts]
        pairs = zip(places, ends, strict=True)
        self._bars.set_segments([[(x, low), (x, high)] for (x, _), (low, high) in pairs])


def _place(attempt: Attempt) -> tuple[float, float]:
    """(density, accuracy); a network without weights stands at the edge."""
    return max(attempt.density, _SHARES[-1]), attempt.accuracy.value


def _names(ax: Axes, attempts: list[Attempt]) -> None:
    """Beside each mark, lines higher or lower where the edge or another name is in the way."""
    frame, line, taken = ax.get_window_extent(), 1.3 * _FONT * ax.figure.dpi / 72, []
    for attempt in sorted(attempts, key=_place, reverse=True):
        x, y = ax.transData.transform(_place(attempt))
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


# What an axis of shares may end at, from all down to next to nothing.
_SHARES = [round(m * 10.0**-n, 6) for n in range(5) for m in (1, 0.5, 0.2)]


def _percent(share: float, _: int) -> str:
    return f"{round(100 * share, 4):g}%"


def _reach(counts: np.ndarray, edges: np.ndarray) -> float:
    """How far out the histogram is worth showing: 99.9 % of the weights."""
    inside = np.abs((edges[1:] + edges[:-1]) / 2)
    order = np.argsort(inside)
    held = np.cumsum(counts[order])
    if not held[-1]:
        return float(edges[-1])
    return float(inside[order][np.searchsorted(held, 0.999 * held[-1])])
