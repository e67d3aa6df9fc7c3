"""Accuracy over density: one network cut further and further, or a curve for each layer."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pruning_lab import criteria
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.plots import looks
from pruning_lab.sensitivity import PriorRow, ScanPoint, priors

_LINES, _MARKS = ("-", "--", ":", "-."), ("o", "s", "^", "D")  # of the first, second, ... curve
_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)  # of a change in points, either way


def trade_off(
    points: Iterable[tuple[float, Drop]],
    *,
    label: str = "",
    dense: Accuracy | None = None,
    max_drop: float | None = None,
    guess: object = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Change of accuracy over density, 95 % intervals as bars; a loss is negative.

    Call again on the same axes for more curves. The dense network, whose accuracy may be named,
    stands at 0. Where a change is beyond 1 point the axis is logarithmic from there on, so that one
    network at chance hides none; with `max_drop`, in percentage points, it is linear and stays
    close to that drop.

    `guess` is dashed: accuracies in percent, one for each point from the densest on, as `DrawCurve`
    notes them, or a mapping from densities to them. It needs `dense`.
    """
    ax = looks.axes(ax, title, looks.DENSITY, looks.CHANGE)
    densities, drops = zip(*sorted(points, key=lambda point: -point[0]), strict=True)
    if not ax.containers:  # the first curve
        looks.dense_line(ax, dense and dense.value)
        if max_drop is not None:
            line = _allowed(ax, max_drop, drops)
            looks.name_line(ax, -max_drop, line.get_label(), looks.LIMIT)
            line.set_label("")
    looks.density_axis(ax, "x", densities)
    change, low, high = np.array([looks.points_of(drop) for drop in drops]).T
    number = len(ax.containers)
    look = {"markersize": 4, "capsize": 2, "linewidth": 1.5, "label": label}
    look["color"] = looks.CURVES[number % len(looks.CURVES)]
    look["linestyle"], look["marker"] = _LINES[number % 4], _MARKS[number % 4]
    ax.errorbar(densities, change, yerr=np.array([change - low, high - change]).clip(0), **look)
    if max_drop is None:
        _fit_scale(ax)
    shown = dense is not None and _ghost(ax, guess, dense.value, densities)
    place = "lower left" if max_drop is None else "lower right"  # where no curve is
    return looks.legend(ax, loc=place) if label or shown else ax


def epochs(
    changes: Mapping[str, Sequence[Drop]], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Change of accuracy after 0, 1, 2, ... epochs of one network or several, by name.

    Bands are paired 95 % intervals of the change from one dense network, which stands at 0. The
    axis is that of `trade_off`.
    """
    ax = looks.axes(ax, title, "epochs", looks.CHANGE)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    looks.dense_line(ax, None)
    shades, lines, marks = cycle(looks.CURVES), cycle(_LINES), cycle(_MARKS)
    for (name, drops), *look in zip(changes.items(), shades, lines, marks, strict=False):
        colour, line, mark = look
        change, low, high = np.array([looks.points_of(drop) for drop in drops]).T
        ax.fill_between(range(len(drops)), low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(change, line, marker=mark, markersize=4, color=colour, label=name)
    _fit_scale(ax)
    return looks.legend(ax, loc="best")


def sensitivity(
    points: Sequence[ScanPoint],
    *,
    max_drop: float | None = None,
    guess: object = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A curve per layer: change of accuracy when that layer alone is pruned (paper, Fig. 6).

    Convolutions (by the shapes that a scan knows, else by their names) are blue, solid and filled;
    fully connected layers orange, dashed and hollow; the deeper, the lighter. Bands are paired 95 %
    intervals of the change: where one reaches up to the dense accuracy the change is within the
    noise, and that part is grey.

    With `max_drop`, in percentage points, a line shows how low that is, and the picture stays close
    to it; curves leave it downwards (`ax.set_ylim(-100, 5)` brings them back). The legend stands
    to the right of the axes: a figure with layout="constrained" makes room for it.

    `guess` may be an order of layers, the most sensitive first, as `Rank` notes it: the legend has
    each one's place. A mapping from densities to accuracies in percent is a dashed line.
    """
    about = _about(points, max_drop)
    ax = looks.axes(ax, title, f"{looks.DENSITY} of one layer, the others dense", looks.CHANGE)
    looks.density_axis(ax, "x", [point.density for point in points])
    looks.dense_line(ax, dense := _dense(points))
    for layer, look in looks.layer_styles(
        (p.layer for p in points), about.get("layers", {})
    ).items():
        _curve(ax, _of(points, layer), look)
        place = f" (your guess: {guess.index(layer) + 1})" if _names(guess, layer) else ""
        ax.plot([], [], label=layer + place, **look)
    if any(map(_within_noise, points)):
        ax.plot([], [], color=looks.NOISE, linewidth=2, label="within the noise")
    if max_drop is not None:
        _allowed(ax, max_drop, [point.drop for point in points])
    else:  # room for the name of the dense line above the points
        low, high = ax.get_ylim()
        ax.set_ylim(low, max(high, -0.12 * low))
    _ghost(ax, guess, dense)
    return looks.legend(ax, **looks.BESIDE)


def sensitivity_grid(
    points: Sequence[ScanPoint],
    *,
    max_drop: float | None = None,
    columns: int = 4,
    title: str = "",
    figure: Figure | None = None,
) -> list[Axes]:
    """`sensitivity` with axes for each layer: for networks of many. All have the same scales."""
    about = _about(points, max_drop)
    styles = looks.layer_styles((point.layer for point in points), about.get("layers", {}))
    rows = -(-len(styles) // columns)
    figure = figure or looks.new_figure(figsize=(10, 1 + 1.9 * rows))
    with looks.style():
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    names = looks.short_names(list(styles), 22)
    for ax, (layer, look) in zip(grid, styles.items(), strict=False):
        looks.axes(ax, names[layer], "", "")
        looks.density_axis(ax, "x", [point.density for point in points], sparsity=False)
        looks.dense_line(ax, None, "")
        _curve(ax, _of(points, layer), {**look, "markersize": 5})
        if max_drop is not None:
            _allowed(ax, max_drop, [point.drop for point in points])
    for ax in grid[len(styles) :]:
        ax.remove()
    for ax in grid[max(0, len(styles) - columns) : len(styles)]:
        ax.xaxis.set_tick_params(labelbottom=True)
        ends = ax.get_xticklabels()
        ends[0].set_horizontalalignment("right")  # else they would touch those of the next
        ends[-1].set_horizontalalignment("left")
    figure.suptitle(title, parse_math=False)
    bound = "" if max_drop is None else f"; red line: {-max_drop:+g} points"
    words = f"{looks.DENSITY} of one layer, the others dense{bound}"
    figure.supxlabel(words, fontsize="medium")
    figure.supylabel(looks.CHANGE, fontsize="medium")
    return list(grid[: len(styles)])


def prior(rows: Sequence[PriorRow], *, title: str = "", ax: Axes | None = None) -> Axes:
    """What a threshold of quality * sigma keeps of each layer, beside the two shapes' predictions.

    Layers look as they do in `sensitivity`.
    """
    if not rows:
        raise ValueError("no rows to draw; give what sensitivity.prior returned")
    ax = looks.axes(ax, title, "quality: threshold / sigma of the layer", looks.DENSITY)
    qualities = np.linspace(0, max(row.quality for row in rows), 200)
    shapes = (("Gaussian", priors.gaussian, "-"), ("Laplace", priors.laplace, ":"))
    for name, predict, line in shapes:
        predicted = [predict(quality) for quality in qualities]
        ax.plot(qualities, predicted, line, color=looks.NOISE, linewidth=5, label=f"if {name}")
    looks.density_axis(ax, "y", [row.density for row in rows])
    for layer, look in looks.layer_styles((row.layer for row in rows), {}).items():
        curve = sorted((row.quality, row.density) for row in rows if row.layer == layer)
        ax.plot(*zip(*curve, strict=True), label=layer, **look)
    return looks.legend(ax, **looks.BESIDE)


def _fit_scale(ax: Axes) -> None:
    """Logarithmic beyond 1 point, where a change is beyond it: one network at chance hides none."""
    low, high = ax.get_ylim()
    if max(-low, high) > 1:
        signed = ax.yaxis.get_major_formatter()  # which another scale replaces
        ax.set_yscale("symlog", linthresh=1, linscale=0.7)
        ax.yaxis.set_major_locator(FixedLocator([*(-tick for tick in _TICKS[1:]), *_TICKS]))
        ax.yaxis.set_major_formatter(signed)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylabel(f"{looks.CHANGE},\nlogarithmic beyond 1")


def _about(points: Sequence[ScanPoint], max_drop: float | None) -> dict:
    """What a scan says of itself; raises ValueError where there is nothing to draw."""
    if not points:
        raise ValueError("no points to draw; give what sensitivity.scan returned")
    if max_drop is not None:
        criteria.check_amount("max_drop", max_drop)
    return getattr(points, "about", {})


def _dense(points: Iterable[ScanPoint]) -> float:
    """The dense accuracy, by the point that most images were measured for."""
    fullest = max(points, key=lambda point: point.accuracy.n)
    return fullest.accuracy.value + fullest.drop.value


def _of(points: Iterable[ScanPoint], layer: str) -> list[ScanPoint]:
    return sorted((p for p in points if p.layer == layer), key=lambda point: -point.density)


def _names(guess: object, layer: str) -> bool:
    return isinstance(guess, list | tuple) and layer in guess


def _ghost(ax: Axes, guess: object, dense: float, densities: Sequence[float] = ()) -> bool:
    curve = looks.guessed_curve(guess, densities)
    return looks.ghost(ax, ((density, accuracy - 100 * dense) for density, accuracy in curve))


def _allowed(ax: Axes, max_drop: float, drops: Iterable[Drop]) -> Line2D:
    """A line at the drop that is allowed, and limits close to it."""
    noise = [50 * (drop.high - drop.low) for drop in drops if drop.low <= 0 <= drop.high]
    reach = max(max_drop, *noise, 0.1)
    ax.set_ylim(max(-100, -8 * reach), 2 * reach)
    name = f"allowed: -{max_drop:g} point{'' if max_drop == 1 else 's'}"
    return ax.axhline(-max_drop, color=looks.LIMIT, linewidth=2, label=name)


def _curve(ax: Axes, rows: list[ScanPoint], look: dict) -> None:
    """One layer's line, band and points, the densest first; in grey where a change may be none."""
    x = np.array([row.density for row in rows])
    y, low, high = np.array([looks.points_of(row.drop) for row in rows]).T
    noise = np.array([_within_noise(row) for row in rows])
    grey = {key: looks.NOISE if value == look["color"] else value for key, value in look.items()}
    by_noise = {False: look, True: grey}
    steps = groupby(range(len(rows) - 1), key=lambda step: bool(noise[step] and noise[step + 1]))
    for is_grey, run in steps:
        first, *more = run
        part, look = slice(first, first + len(more) + 2), by_noise[is_grey]
        band = {"color": look["color"], "alpha": 0.15 if is_grey else 0.25, "linewidth": 0}
        ax.fill_between(x[part], low[part], high[part], **band)
        ax.plot(x[part], y[part], **{**look, "marker": ""}, zorder=2 if is_grey else 2.1)
    for is_grey, look in by_noise.items():
        at = noise == is_grey
        ax.vlines(x[at], low[at], high[at], color=look["color"], linewidth=1)
        ax.plot(x[at], y[at], **{**look, "linestyle": ""}, zorder=3)


def _within_noise(point: ScanPoint) -> bool:
    return point.drop.low <= 0 <= point.drop.high
