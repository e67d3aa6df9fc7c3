"""Several saliencies over density, before and after retraining side by side."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from pruning_lab.experiments import SaliencyRow
from pruning_lab.plots import looks

_TICKS = (0, 1, 2, 5, 10, 20, 50, 100)  # of a change in points, either way
_LOOKS = {  # LAMP ranks magnitudes too
    "magnitude": (looks.OURS, "o", "-"),
    "LAMP": (looks.OURS, "s", "--"),
    "OBD": (looks.LIMIT, "D", "-"),
    "Taylor": ("#009e73", "^", "-"),
    "gradient": ("#8250df", "v", "-"),
    "random": (looks.NOISE, "x", ":"),
}


def saliencies(
    rows: Sequence[SaliencyRow], *, title: str = "", figure: Figure | None = None
) -> list[Axes]:
    """A curve for each saliency; a loss of accuracy is negative, bars are paired 95 % intervals.

    On the left nothing is retrained, and the dense network stands at 0; on the right all are, and
    the control does. Where nothing was retrained, the right shows the training loss instead: means
    over the seeds, with bars from the lowest to the highest.
    """
    if not rows:
        raise ValueError("no rows to draw; give what experiments.saliencies returned")
    retrained = all(row.cost for row in rows)
    figure = figure or looks.new_figure(figsize=(10, 4.5))
    with looks.style():
        left, right = figure.subplots(1, 2, sharey=retrained)
    looks.axes(left, "not retrained", looks.DENSITY, looks.CHANGE)
    if retrained:
        looks.axes(right, "retrained", looks.DENSITY, "")
    else:
        looks.axes(right, "not retrained", looks.DENSITY, "training loss")
        right.set_yscale("log", subs=())
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter("{x:g}")
    for ax, name in ((left, "dense"), (right, "control"))[: 1 + retrained]:
        ax.set_yscale("symlog", linthresh=1, linscale=0.7)
        looks.dense_line(ax, None, name)
        ax.yaxis.set_major_locator(FixedLocator([*(-tick for tick in _TICKS[1:]), *_TICKS]))
        ax.yaxis.set_minor_locator(NullLocator())
    names = {row.saliency for row in rows}
    names = [*(n for n in _LOOKS if n in names), *sorted(names - _LOOKS.keys())]
    others = cycle(zip(looks.CURVES, "osD^", strict=True))
    for place, name in enumerate(names):
        own = sorted((row for row in rows if row.saliency == name), key=lambda row: -row.density)
        colour, marker, line = _LOOKS.get(name) or (*next(others), "-.")
        look = {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.5}
        # Beside each other, so that no bar hides another.
        x = [row.density * 1.012 ** ((len(names) - 1) / 2 - place) for row in own]
        losses = [(np.mean(row.losses), min(row.losses), max(row.losses)) for row in own]
        after = [looks.points_of(row.cost) for row in own] if retrained else losses
        for ax, points in ((left, [looks.points_of(row.cut) for row in own]), (right, after)):
            middle, low, high = np.array(points).T
            bars = np.array([middle - low, high - middle]).clip(0)
            ax.errorbar(x, middle, yerr=bars, markersize=5, capsize=2, label=name, **look)
    for ax in (left, right):
        looks.density_axis(ax, "x", [row.density for row in rows])
    figure.suptitle(title, parse_math=False)
    looks.legend(right, **looks.BESIDE)
    return [left, right]
