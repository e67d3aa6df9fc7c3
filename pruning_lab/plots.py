"""Plots: rows in, axes in and out. The reader decides when to show or save.

A colour means the same in every plot. Names are drawn as they are: a `$` begins no formula.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby

import matplotlib
import numpy as np
import torch
from cycler import cycler
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from torch import Tensor

from pruning_lab import criteria, paper
from pruning_lab.counts import Counts
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.sensitivity import PriorRow, ScanPoint, priors

# The palette, which colour-blind readers can tell apart.
KEPT = OURS = "#1f6feb"  # weights that stay; this library's numbers
GONE = "#c9d1d9"  # pruned weights; an interval in the background
PAPER = "#d1790b"  # the paper's numbers
NOISE = "#8c959f"  # a change that may be chance
LIMIT = "#e0004d"  # what is allowed or chosen
INK = "#24292f"  # text, frames, the dense network
CURVES = (OURS, LIMIT, "#009e73", INK)  # one after the other

STYLE = {
    "axes.prop_cycle": cycler(color=CURVES),
    "figure.constrained_layout.use": True,
    "image.cmap": "Blues",
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("legend.frameon", "text.parse_math"), False),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "svg.hashsalt": "pruning_lab",  # the same plot gives the same file
}
DENSITY, CHANGE = "density (fraction kept)", "change of accuracy (points)"  # of every such axis


def style() -> AbstractContextManager:
    """`with plots.style(): ...` gives your own figures the look of these; for one thread only."""
    return matplotlib.rc_context(STYLE)


def weights(
    weight: Tensor,
    *,
    threshold: float | None = None,
    kept: Tensor | None = None,
    bins: int = 101,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Histogram of one layer's weights. With a threshold, what lies below it is grey.

    With `kept`, only surviving weights are drawn: after retraining they stand on both sides of an
    empty middle (paper, Fig. 7).
    """
    ax = _axes(ax, title, "weight", "number of weights")
    values = weight.detach() if kept is None else weight.detach()[kept]
    values = values.reshape(-1).float().cpu().numpy()
    if not len(values):
        ax.text(0.5, 0.5, "no weight is left", transform=ax.transAxes, ha="center", color=INK)
        return ax
    # The outermost 0.1 % on either side would squeeze everything else into the middle.
    low = np.quantile(values, 0.001, method="lower")
    high = np.quantile(values, 0.999, method="higher")  # outwards: of six weights, all six
    reach = max(-low, high, 1.2 * (threshold or 0), 1e-12)
    counts, edges = np.histogram(values, bins=bins, range=(-reach, reach))
    gone = np.abs(edges[1:] + edges[:-1]) / 2 < (threshold or 0)
    ax.stairs(np.where(gone, 0, counts), edges, fill=True, color=KEPT, label="kept")
    if threshold:
        ax.stairs(np.where(gone, counts, 0), edges, fill=True, color=GONE, label="pruned")
        for side in (-threshold, threshold):
            ax.axvline(side, color=INK, linewidth=1, linestyle="--")
        _legend(ax, loc="upper center", ncols=2)
    ax.set(xlim=(-reach, reach), ylim=(0, 1.15 * counts.max()))  # room for the legend
    return ax


def trade_off(
    points: Iterable[tuple[float, Drop]],
    *,
    label: str = "",
    dense: Accuracy | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Change of accuracy over density, 95 % intervals as bars; a loss is negative.

    Call again on the same axes for more curves. The dense network, whose accuracy may be named,
    stands at 0. Beyond 1 point the axis is logarithmic, so that one network at chance hides none.
    """
    ax = _axes(ax, title, DENSITY, CHANGE)
    densities, drops = zip(*sorted(points, key=lambda point: -point[0]), strict=True)
    if not ax.containers:  # the first curve
        ax.set_yscale("symlog", linthresh=1, linscale=0.7)
        ax.yaxis.set_major_locator(FixedLocator([sign * t for sign in (-1, 1) for t in _TICKS]))
        ax.yaxis.set_minor_locator(NullLocator())
        _dense_line(ax, dense and dense.value)
    place = _density_axis(ax, "x", densities)
    change, low, high = np.array([_points(drop) for drop in drops]).T
    look = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.5, "label": label}
    look["color"] = CURVES[len(ax.containers) % len(CURVES)]
    bars = np.array([change - low, high - change]).clip(0)
    ax.errorbar([place(density) for density in densities], change, yerr=bars, **look)
    return _legend(ax, loc="best") if label else ax


_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)  # of a change in points, either way


def sensitivity(
    points: Sequence[ScanPoint],
    *,
    max_drop: float | None = None,
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
    """
    if not points:
        raise ValueError("no points to draw; give what sensitivity.scan returned")
    if max_drop is not None:
        criteria.check_amount("max_drop", max_drop)
    about = getattr(points, "about", {})
    which = "a layer and those before it" if about.get("cumulative") else "one layer"
    ax = _axes(ax, title, f"{DENSITY} of {which}, the others dense", CHANGE)
    styles = _styles((point.layer for point in points), about.get("layers", {}))
    place = _density_axis(ax, "x", [point.density for point in points])
    fullest = max(points, key=lambda point: point.accuracy.n)
    _dense_line(ax, fullest.accuracy.value + fullest.drop.value)
    for layer, look in styles.items():
        rows = [point for point in points if point.layer == layer]
        _curve(ax, sorted(rows, key=lambda row: -row.density), place, look)
    if any(map(_within_noise, points)):
        ax.plot([], [], color=NOISE, linewidth=2, label="within the noise")
    if max_drop is not None:
        amount = f"-{max_drop:g} point{'' if max_drop == 1 else 's'}"
        ax.axhline(-max_drop, color=LIMIT, linewidth=2, label=f"allowed: {amount}")
        noise = [50 * (p.drop.high - p.drop.low) for p in points if _within_noise(p)]
        reach = max(max_drop, *noise, 0.1)
        ax.set_ylim(max(-100, -8 * reach), 2 * reach)
    return _legend(ax, **_BESIDE)


def prior(rows: Sequence[PriorRow], *, title: str = "", ax: Axes | None = None) -> Axes:
    """What a threshold of quality * sigma keeps of each layer, beside the two shapes' predictions.

    Layers look as they do in `sensitivity`.
    """
    if not rows:
        raise ValueError("no rows to draw; give what sensitivity.prior returned")
    ax = _axes(ax, title, "quality: threshold / sigma of the layer", DENSITY)
    qualities = np.linspace(0, max(row.quality for row in rows), 200)
    shapes = (("Gaussian", priors.gaussian, "-"), ("Laplace", priors.laplace, ":"))
    for name, predict, line in shapes:
        predicted = [predict(quality) for quality in qualities]
        ax.plot(qualities, predicted, line, color=NOISE, linewidth=5, label=f"if {name}")
    place = _density_axis(ax, "y", [row.density for row in rows])
    for layer, look in _styles((row.layer for row in rows), {}).items():
        curve = sorted((row.quality, place(row.density)) for row in rows if row.layer == layer)
        ax.plot(*zip(*curve, strict=True), label=layer, **look)
    return _legend(ax, **_BESIDE)


def layer_table(
    counts: Counts,
    reported: Sequence[paper.LayerRow] = (),
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Weights kept and operations left per layer, the paper's beside ours where it has any."""
    ax = _axes(ax, title, "", "fraction left of the dense layer")
    rows = [*counts, counts.total]
    theirs = {row.layer: row for row in reported}
    paired = {"paper": (PAPER, [theirs.get(row.layer) for row in rows]), "ours": (OURS, rows)}
    columns = {"weights": ("density", 1), "FLOP": ("flop_density", 0.45)}
    series = [(what, whose) for what in columns for whose in paired if theirs or whose == "ours"]
    width = 0.8 / len(series)
    for number, (what, whose) in enumerate(series):
        (column, alpha), (colour, found) = columns[what], paired[whose]
        at = np.arange(len(rows)) + (number - (len(series) - 1) / 2) * width
        values = [getattr(row, column, math.nan) for row in found]
        look = {"color": colour, "alpha": alpha, "label": f"{what}, {whose}"}
        bars = ax.bar(at, values, 0.92 * width, **look)
        ax.bar_label(bars, [f"{100 * value:.0f}" for value in values], fontsize=7, color=INK)
    ax.set_xticks(range(len(rows)), [row.layer for row in rows], parse_math=False)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _legend(ax, ncols=2, fontsize=8)


def bands(
    kept: Tensor, *, image: tuple[int, int] = (28, 28), title: str = "", ax: Axes | None = None
) -> Axes:
    """The first matrix of a network on images, drawn as the paper's Fig. 4: neurons down, pixels
    across, so that each band is one row of the image. Blue is kept.

    `kept` is bool (out, height * width). The middle of the image keeps most, its edges least.
    """
    height, width = image
    _check_takes_pixels(kept, image)
    ax = _axes(ax, title, f"row of the image, {width} pixels each", "neuron", figsize=(10, 4))
    picture = kept.cpu().to(torch.uint8).numpy()
    ax.imshow(picture, cmap=ListedColormap(["white", KEPT]), aspect="auto", interpolation="nearest")
    for edge in range(width, height * width, width):
        ax.axvline(edge - 0.5, color=GONE, linewidth=0.5)
    ticks = np.arange(0, height, 4)
    ax.set_xticks(ticks * width + width / 2 - 0.5, [str(row + 1) for row in ticks])
    return ax


def kept_pixels(
    kept: Tensor, *, image: tuple[int, int] = (28, 28), title: str = "", ax: Axes | None = None
) -> Axes:
    """How many connections each pixel of the image still has; `kept` as in `bands`."""
    _check_takes_pixels(kept, image)
    ax = _axes(ax, title, "", "")
    picture = ax.imshow(kept.float().sum(0).reshape(image).cpu().numpy(), cmap="Blues")
    ax.figure.colorbar(picture, ax=ax, label="connections kept")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return ax


def _check_takes_pixels(kept: Tensor, image: tuple[int, int]) -> None:
    height, width = image
    if kept.ndim != 2 or kept.shape[1] != height * width:
        raise ValueError(
            f"expected a mask of shape (neurons, {height * width}), got {tuple(kept.shape)}; "
            f"this picture is of the layer that takes in the pixels"
        )


def _styles(layers: Iterable[str], about: Mapping[str, Mapping]) -> dict[str, dict]:
    """How the line of each layer looks. Blue and orange differ to every eye, dark and light too."""
    order = list(dict.fromkeys(layers))
    filled = {layer: _is_convolution(layer, about.get(layer, {})) for layer in order}
    styles = {}
    for layer in order:
        family = [other for other in order if filled[other] == filled[layer]]
        depth = family.index(layer)
        shades = colormaps["YlGnBu" if filled[layer] else "YlOrBr"]
        colour = to_hex(shades(0.98 - 0.33 * depth / max(1, len(family) - 1)))
        styles[layer] = {
            "color": colour,
            "linestyle": "-" if filled[layer] else "--",
            "linewidth": 2.2,
            "marker": "osD^vP"[depth % 6],
            "markersize": 7,
            "markeredgecolor": colour,
            "markerfacecolor": colour if filled[layer] else "white",
        }
    return styles


def _is_convolution(layer: str, about: Mapping) -> bool:
    """By the shape of its weight (out, in, kh, kw) where it is known, else by its name."""
    if "shape" in about:
        return len(about["shape"]) > 2
    return "conv" in layer.lower() or "features" in layer


def _curve(ax: Axes, rows: list[ScanPoint], place: Callable[[float], float], style: dict) -> None:
    """One layer's line, band and points, the densest first; in grey where a change may be none."""
    x = np.array([place(row.density) for row in rows])
    y, low, high = np.array([_points(row.drop) for row in rows]).T
    noise = np.array([_within_noise(row) for row in rows])
    grey = {key: NOISE if value == style["color"] else value for key, value in style.items()}
    looks = {False: style, True: grey}
    steps = groupby(range(len(rows) - 1), key=lambda step: bool(noise[step] and noise[step + 1]))
    for is_grey, run in steps:
        first, *more = run
        part, look = slice(first, first + len(more) + 2), looks[is_grey]
        band = {"color": look["color"], "alpha": 0.15 if is_grey else 0.25, "linewidth": 0}
        ax.fill_between(x[part], low[part], high[part], **band)
        ax.plot(x[part], y[part], **{**look, "marker": ""}, zorder=2 if is_grey else 2.1)
    for is_grey, look in looks.items():
        at = noise == is_grey
        ax.vlines(x[at], low[at], high[at], color=look["color"], linewidth=1)
        ax.plot(x[at], y[at], **{**look, "linestyle": ""}, zorder=3)
    ax.plot([], [], label=rows[0].layer, **style)


def _points(drop: Drop) -> tuple[float, float, float]:
    """(change, low, high) of accuracy in percentage points; a loss is negative."""
    return -100 * drop.value, -100 * drop.high, -100 * drop.low


def _dense_line(ax: Axes, accuracy: float | None) -> None:
    """The change 0, named at its end, where few curves are left; and changes with their sign."""
    ax.axhline(0, color=INK, linewidth=1)
    above = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
    name = "dense" if accuracy is None else f"dense {accuracy:.2%}"
    ax.annotate(name, (1, 0), (-2, 3), color=INK, **above)
    ax.yaxis.set_major_formatter(lambda x, _: f"{round(x, 6):+g}" if x else "0")


def _within_noise(point: ScanPoint) -> bool:
    return point.drop.low <= 0 <= point.drop.high


def _density_axis(ax: Axes, which: str, densities: Iterable[float]) -> Callable[[float], float]:
    """Densities in steps of equal ratio, in percent. Returns where each of them is drawn.

    Halving a layer is the same step everywhere. Nothing left would be infinitely far: "none" stands
    where half of the lowest would. An x axis has the sparsity on its other side.
    """
    densities = list(densities)
    if which == "x":  # of an earlier curve
        densities += [x for x in ax.dataLim.intervalx if math.isfinite(x)]
    lowest = min((density for density in densities if density > 0), default=0.1)
    digits = range(1, 10) if lowest >= 0.2 else (1, 2, 5) if lowest >= 0.005 else (1,)
    decades = range(math.floor(math.log10(lowest)), 1)
    ticks = [digit * 10.0**power for power in decades for digit in digits]
    ticks = [tick for tick in ticks if 0.99 * lowest <= tick <= 1]
    labels, opposite = ([f"{100 * t:.6g}%" for t in of] for of in (ticks, [1 - t for t in ticks]))
    if 0 in densities:
        ticks, labels, opposite = [lowest / 2, *ticks], ["none", *labels], ["all", *opposite]
    ends = min(lowest, *ticks) / 1.15, 1.15
    ax.set(**{f"{which}scale": "log", f"{which}lim": ends[:: -1 if which == "x" else 1]})
    axes = {getattr(ax, f"{which}axis"): labels}
    if which == "x":
        top = ax.child_axes[0] if ax.child_axes else ax.secondary_xaxis("top")
        top.set_xlabel("sparsity")
        axes[top.xaxis] = opposite
    for axis, texts in axes.items():
        axis.set_ticks(ticks, texts)
        axis.set_ticks([], minor=True)
    return lambda density: density or lowest / 2


_BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1), "handlelength": 3.5}  # it hides no curve


def _legend(ax: Axes, **options) -> Axes:
    for text in ax.legend(frameon=False, **options).get_texts():
        text.set_parse_math(False)
    return ax


def _axes(ax: Axes | None, title: str, x: str, y: str, **options) -> Axes:
    """The axes, made where none are given, with their title and labels."""
    if ax is None:
        # Only here: pyplot and the style are global, which threads that draw must not share.
        import matplotlib.pyplot as plt

        with style():
            _, ax = plt.subplots(**options)
    if title:  # a second curve keeps the title of the first
        ax.set_title(title, parse_math=False)
    ax.set(xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
