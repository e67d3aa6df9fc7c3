"""What pruning costs against the control, over the compression."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from pruning_lab.experiments import FrontierRow
from pruning_lab.plots import looks

_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def frontier(rows: Sequence[FrontierRow], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A curve per network: change of accuracy from the control, over the compression of weights.

    Bars are pooled paired 95 % intervals, small dots the seeds. A filled marker has an interval
    that includes zero, the control; a hollow one is worse. Networks trained on images as they are,
    without augmentation, are dashed.
    """
    if not rows:
        raise ValueError("no rows to draw; give what experiments.frontier returned")
    label = "change of accuracy from the control (points)"
    ax = looks.axes(ax, title, "compression (weights before / after)", label, figsize=(8, 4.5))
    found = [row.compression for row in rows]
    ax.set(xscale="log", xlim=(min(found) / 1.25, 1.25 * max(found)))
    ax.axhline(0, color=looks.INK, linewidth=1)
    networks = dict.fromkeys((row.network, row.data, row.augmented) for row in rows)
    colours = dict(zip(dict.fromkeys(n for n, *_ in networks), cycle(looks.CURVES), strict=False))
    for key, marker in zip(networks, cycle("osD^v"), strict=False):
        name, data, augmented = key
        curve = [row for row in rows if (row.network, row.data, row.augmented) == key]
        curve.sort(key=lambda row: row.compression)
        change, low, high = np.array([looks.points_of(row.cost) for row in curve]).T
        at = np.array([row.compression for row in curve])
        look = {"color": colours[name], "linestyle": "-" if augmented else "--"}
        text = f"{name}, {data}" + ("" if augmented else ", not augmented")
        ax.errorbar(at, change, [change - low, high - change], capsize=3, linewidth=1.5, **look)
        for free, fill in ((True, colours[name]), (False, "white")):
            here = np.array([row.is_free is free for row in curve])
            ax.plot(at[here], change[here], marker, color=colours[name], markerfacecolor=fill)
        ax.plot([], [], marker=marker, label=text, **look)
        for row in curve:
            seeds = [-100 * cost for cost in row.costs]
            ax.plot([row.compression] * len(seeds), seeds, ".", color=colours[name], alpha=0.35)
    low, high = ax.get_xlim()
    ax.set_xticks([tick for tick in _TICKS if low <= tick <= high])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    return looks.legend(ax, **looks.BESIDE)
