"""Weights pruned beside neurons removed: what each costs, and how fast it is."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pruning_lab.experiments.contrast import BATCHES, METHODS, ContrastRow
from pruning_lab.plots import looks

_LOOKS = dict(zip(METHODS, ((looks.OURS, "o"), (looks.CURVES[2], "s")), strict=True))
_LINES = ("-", "--")  # of the batches
_TICKS = (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10)  # points


def contrast(
    rows: Sequence[ContrastRow], *, title: str = "", figure: Figure | None = None
) -> list[Axes]:
    """Two panels over compression: change from the control, and speed as a multiple of dense.

    Bars are pooled paired 95 % intervals, small dots the seeds; beyond a point the axis of changes
    is logarithmic. Speed is that of dense inference, solid for single images, dashed for batches.
    """
    if not rows:
        raise ValueError("no rows to draw; give what experiments.contrast returned")
    figure = figure or looks.new_figure(figsize=(10, 4.2))
    with looks.style():
        left, right = figure.subplots(1, 2)
    figure.suptitle(title, parse_math=False)
    names = "compression (parameters before / after)", "change from the control (points)"
    looks.axes(left, "accuracy", *names)
    looks.axes(right, "speed of dense inference", names[0], "dense time / time")
    left.set_yscale("symlog", linthresh=1, linscale=0.7)
    looks.dense_line(left, None, "control")
    left.yaxis.set_major_locator(FixedLocator(_TICKS))
    left.yaxis.set_minor_locator(NullLocator())
    right.axhline(1, color=looks.INK, linewidth=1)
    for method, (colour, marker) in _LOOKS.items():
        own = sorted((row for row in rows if row.method == method), key=lambda r: r.compression)
        at = [row.compression for row in own]
        change, low, high = np.array([looks.points_of(row.drop) for row in own]).T
        look = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.5}
        ends = np.maximum([change - low, high - change], 0)
        left.errorbar(at, change, ends, capsize=3, label=method, **look)
        for row in own:
            seeds = [-100 * lost for lost in row.drops]
            left.plot([row.compression] * row.seeds, seeds, ".", color=colour, alpha=0.35)
        for place, line in enumerate(_LINES):
            right.plot(at, [row.speedup[place] for row in own], line, **look)
    ticks = [float(f"{row.compression:.2g}") for row in rows if row.method == METHODS[0]]
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter("{x:g}x")
    for batch, line in zip(BATCHES, _LINES, strict=True):
        right.plot([], [], line, color=looks.INK, label=f"batches of {batch}")
    return [looks.legend(ax, loc="best") for ax in (left, right)]
