"""What a layer takes at each density: measured time, and bytes in several encodings."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from pruning_lab.plots import looks
from pruning_lab.sparse import SparseRow


def layer_times(
    rows: Sequence[SparseRow],
    *,
    density: float | None = None,
    guess: object = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One layer's time over its density, dense and sparse; bars are quartiles.

    Both axes are logarithmic. `density` is marked: the one that is looked at. `guess` is dashed:
    sparse times in percent of the dense one, one for each row from the densest on, as `DrawCurve`
    notes them.
    """
    if not rows:
        raise ValueError("no rows to draw; give those of sparse.bench or sparse.to_sparse")
    ax = looks.axes(ax, title, "density (kept)", "milliseconds", figsize=(5, 3.2))
    rows = sorted(rows, key=lambda row: row.density)
    at = [row.density for row in rows]
    for name, colour in (("dense", looks.PAPER), ("sparse", looks.OURS)):
        spreads = [getattr(row, f"{name}_ms") for row in rows]
        value, low, high = np.array([(s.value, s.low, s.high) for s in spreads]).T
        ends = np.maximum([value - low, high - value], 0)
        ax.errorbar(at, value, ends, marker="o", markersize=4, color=colour, capsize=2, label=name)
    percent = dict(looks.guessed_curve(guess, at[::-1]))
    dense = {row.density: row.dense_ms.value for row in rows}
    looks.ghost(ax, ((x, dense[x] * y / 100) for x, y in percent.items() if y > 0))
    ax.set(xscale="log", yscale="log")
    if density is not None:
        ax.axvline(density, color=looks.INK, linestyle="--", linewidth=1)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if at[0] <= tick <= at[-1]]
    if at[-1] > 1.4 * max(ticks, default=0):  # the densest, where there is room
        ticks.append(at[-1])
    ax.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    return looks.legend(ax, loc="best")


def stored(sizes: Mapping[str, int], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A bar for each encoding of `storage.sizes`, the dense one first."""
    if not sizes:
        raise ValueError("no sizes to draw; give those of storage.sizes")
    ax = looks.axes(ax, title, "kilobytes", "", figsize=(5, 3.2))
    names, values = list(sizes), [size / 1000 for size in sizes.values()]
    colours = [looks.GONE if name == "float32" else looks.KEPT for name in names]
    bars = ax.barh(names, values, color=colours)
    ax.bar_label(bars, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in values], padding=3)
    ax.set_xlim(0, 1.18 * max(max(values), 1e-3))
    ax.invert_yaxis()
    return ax
