"""The studio's pictures: a layer's weights and how it takes pruning, and the trail of attempts."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from pruning_lab import plots
from pruning_lab.studio import Attempt, Studio
from pruning_lab.widgets.pictures import Film, png

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
        scene = layer, self.studio.attempt.base, id(scan)
        return self._film.frame(scene, self._move)

    def _draw(self, figure: Figure) -> list:
        layer = self.studio.layer(self._layer)
        left = figure.add_axes((0.09, 0.17, 0.47, 0.70))  # by hand: laying out costs a drawing
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
        left.set_xlabel("weight", fontsize=_FONT)
        left.set_ylabel("number of weights", fontsize=_FONT)
        self._title = left.text(
            *(0, 1.04, ""), transform=left.transAxes, fontsize=_FONT + 1, animated=True
        )
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
            f"quality {row.quality:.2f} × σ {row.sigma:.3g}" if threshold else "all that are left"
        )
        self._title.set_text(f"{row.layer}: {row.density:.1%} stay, {where}")
        density = max(row.density, 0.008)
        self._line.set_xdata([density, density])
        self._line.set_visible(bool(self._points))
        if self._points:
            x = np.log([1.0, *(max(p.density, 1e-9) for p in self._points)])
            y = [self.studio.scan.dense.value, *(p.accuracy.value for p in self._points)]
            self._dot.set_data([density], [np.interp(np.log(density), x[::-1], y[::-1])])


class TrailFilm:
    """Accuracy against what is left, a mark for each attempt, with its interval."""

    words = "accuracy with 95 % interval against the share of weights kept, one mark per attempt"
    pixels = _SIZE

    def __init__(self, studio: Studio):
        self.studio = studio

    def picture(self) -> bytes:
        width, height = self.pixels
        figure = Figure(figsize=(width / 100, height / 100))
        trail(self.studio, figure.add_axes((0.10, 0.17, 0.88, 0.72)))
        return png(figure)


def trail(studio: Studio, ax: Axes) -> Axes:
    """Draw the attempts that were measured; those that no other beats are filled and joined."""
    comparison = studio.compare()
    best, now = comparison.pareto, studio.attempt.number
    numbers = {attempt.number for attempt in best} - {now}
    measured = [attempt for attempt in comparison if attempt.accuracy is not None]
    here = [a for a in measured if a.number == now]
    unbeaten = [a for a in measured if a.number in numbers]
    beaten = [a for a in measured if a.number not in {*numbers, now}]
    _marks(ax, beaten, plots.NOISE, fmt="o", markersize=5, markerfacecolor="white")
    _marks(ax, unbeaten, plots.KEPT, fmt="o", markersize=5)
    _marks(ax, here, plots.LIMIT, fmt="D", markersize=9, zorder=3)
    for attempt in measured:
        if attempt.name:
            ax.annotate(
                attempt.name,
                (max(attempt.density, 1e-4), attempt.accuracy.value),
                xytext=(6, 6),
                textcoords="offset points",
                fontsize=_FONT - 1,
            )
    if len(best) > 1:
        x, y = zip(*((max(a.density, 1e-4), a.accuracy.value) for a in best), strict=True)
        ax.plot(x, y, color=plots.KEPT, linewidth=1, alpha=0.5)
    if studio.dense is not None:
        ax.axhspan(studio.dense.low, studio.dense.high, color=plots.GONE, alpha=0.5, linewidth=0)
    ax.set_xscale("log")
    lowest = min((a.density for a in comparison if a.accuracy), default=0.1)
    ax.set_xlim(1.2, max(min(0.5 * lowest, 0.1), 5e-5))
    ax.xaxis.set_major_locator(
        FixedLocator([m * 10.0**-n for n in range(6) for m in (1, 0.5, 0.2)])
    )
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(_percent)
    ax.set_xlabel("weights kept in the network", fontsize=_FONT)
    ax.set_title(
        "attempts: where you stand ◆, and those that no other beats ●",
        fontsize=_FONT,
        loc="left",
        color=plots.INK,
    )
    ax.tick_params(labelsize=_FONT - 1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    return ax


def _marks(ax: Axes, attempts: list[Attempt], colour: str, **style) -> None:
    """Those that look alike at once: each call takes milliseconds, and a drag leaves many."""
    if not attempts:
        return
    values, low, high = zip(
        *((a.accuracy.value, a.accuracy.low, a.accuracy.high) for a in attempts), strict=True
    )
    ax.errorbar(
        [max(a.density, 1e-4) for a in attempts],
        values,
        yerr=[np.subtract(values, low), np.subtract(high, values)],
        **{"color": colour, "elinewidth": 1, "zorder": 2, **style},
    )


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
