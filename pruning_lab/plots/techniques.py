"""The arms of techniques side by side."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pruning_lab.experiments.techniques import TechniqueRow
from pruning_lab.plots import looks

_TICKS = (-50, -20, -10, -5, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 5, 10)


def techniques(rows: Sequence[TechniqueRow], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A line per arm: change of accuracy from the control, which stands at 0.

    Bars are pooled paired 95 % intervals, small dots the seeds. Filled markers are a technique's
    first arm. Beyond half a point the axis is logarithmic, so that a failure hides nothing.
    """
    if not rows:
        raise ValueError("no rows to draw; give what experiments.techniques returned")
    label = "change of accuracy from the control (points)"
    ax = looks.axes(ax, title, label, "", figsize=(8, 0.9 + 0.36 * len(rows)))
    ax.set_xscale("symlog", linthresh=0.5, linscale=1)
    ax.axvline(0, color=looks.INK, linewidth=1)
    places, names, at = [], [], 0.0
    for row in rows:
        is_first = row.difference is None
        at -= 1.6 if is_first else 1
        change, low, high = looks.points_of(row.drop)
        ends = [[max(0, change - low)], [max(0, high - change)]]
        ax.errorbar(change, at, xerr=ends, color=looks.OURS, capsize=3, linewidth=1.5)
        fill = looks.OURS if is_first else "white"
        ax.plot(change, at, "o", color=looks.OURS, markerfacecolor=fill, zorder=3)
        seeds = [-100 * lost for lost in row.drops]
        ax.plot(seeds, [at - 0.25] * row.seeds, ".", color=looks.OURS, alpha=0.4)
        places.append(at)
        names.append(f"{row.technique}, {row.density:.1%} kept:  " * is_first + row.arm)
    ax.set_yticks(places, names)
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:+g}" if x else "0")
    return ax
