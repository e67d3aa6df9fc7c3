"""Plots: rows in, axes in and out. The reader decides when to show or save."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pruning_lab import criteria, paper
from pruning_lab.counts import Counts
from pruning_lab.evaluation import Accuracy
from pruning_lab.sensitivity import PriorRow, ScanPoint, priors

KEPT, GONE, PAPER, INK = "#1f6feb", "#c9d1d9", "#d1790b", "#24292f"
NOISE, LIMIT = "#8c959f", "#a40e4c"


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
    ax = _axes(ax)
    values = weight.detach() if kept is None else weight.detach()[kept]
    values = values.reshape(-1).float().cpu().numpy()
    if not len(values):
        ax.text(0.5, 0.5, "no weight is left", transform=ax.transAxes, ha="center", color=INK)
    else:
        # The outermost 0.1 % on either side would squeeze everything else into the middle.
        low = np.quantile(values, 0.001, method="lower")
        high = np.quantile(values, 0.999, method="higher")  # outwards: of six weights, all six
        reach = max(-low, high, 1.2 * (threshold or 0), 1e-12)
        counts, edges = np.histogram(values, bins=bins, range=(-reach, reach))
        centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
        gone = np.abs(centres) < (threshold or 0)
        ax.bar(centres[~gone], counts[~gone], width, color=KEPT, label="kept")
        if threshold:
            ax.bar(centres[gone], counts[gone], width, color=GONE, label="pruned")
            for side in (-threshold, threshold):
                ax.axvline(side, color=INK, linewidth=1, linestyle="--")
            ax.legend(frameon=False, loc="upper center", ncols=2)
        ax.set_xlim(-reach, reach)
        ax.set_ylim(0, 1.15 * counts.max())  # room for the legend
    return _finish(ax, title, "weight", "number of weights")


def trade_off(
    points: Iterable[tuple[float, Accuracy]],
    *,
    label: str = "",
    dense: Accuracy | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against sparsity with 95 % bars; call again with the same axes for another curve."""
    ax = _axes(ax)
    densities, accuracies = zip(*sorted(points, key=lambda point: -point[0]), strict=True)
    _curve(ax, [1 - density for density in densities], accuracies, label=label)
    if dense is not None:
        ax.axhspan(dense.low, dense.high, color=GONE, alpha=0.5, linewidth=0)
        ax.axhline(dense.value, color=INK, linewidth=1, linestyle="--", label="dense")
    if label or dense is not None:
        ax.legend(frameon=False, loc="best")
    _percent(ax)
    return _finish(ax, title, "sparsity", "accuracy")


def sensitivity(
    points: Sequence[ScanPoint],
    *,
    max_drop: float | None = None,
    convolutions: Collection[str] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A curve per layer: accuracy when that layer alone is pruned (paper, Fig. 6).

    Convolutions are blue, solid and filled; fully connected layers orange, dashed and hollow; the
    deeper, the lighter. Bands are paired 95 % intervals of the drop: where one reaches up to the
    dense accuracy the drop is within the noise, and that part is grey.

    With `max_drop`, in percentage points, a line shows how low that is, and the picture stays close
    to it; curves leave it downwards (`ax.set_ylim(0, 1)` brings them back). `convolutions` names
    the layers that are; otherwise the scan's `about` says it, or their names do. The legend stands
    to the right of the axes: a figure with layout="constrained" makes room for it.
    """
    if not points:
        raise ValueError("no points to draw; give what sensitivity.scan returned")
    if max_drop is not None:
        criteria.check_amount("max_drop", max_drop)
    ax = _axes(ax)
    about = getattr(points, "about", {})
    styles = _styles((point.layer for point in points), convolutions, about.get("layers", {}))
    densities = _density_axis(ax, "x", [point.density for point in points])
    ax.xaxis.set_inverted(True)
    fullest = max(points, key=lambda point: point.accuracy.n)
    dense = fullest.accuracy.value + fullest.drop.value
    _dense_line(ax, dense)
    for layer, style in styles.items():
        rows = [point for point in points if point.layer == layer]
        _sensitivity_of(ax, sorted(rows, key=lambda row: -row.density), densities, style)
    if any(map(_within_noise, points)):
        ax.plot([], [], color=NOISE, linewidth=2, label="drop within the noise")
    if max_drop is not None:
        _allow(ax, points, dense, max_drop / 100)
    _legend_beside(ax)
    ax.yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g}%")
    which = "a layer and those before it" if about.get("cumulative") else "one layer"
    return _finish(ax, title, f"weights kept in {which}, the others dense", "accuracy")


def prior(
    rows: Sequence[PriorRow],
    *,
    convolutions: Collection[str] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """What a threshold of quality * sigma keeps of each layer, beside the two shapes' predictions.

    Layers look as they do in `sensitivity`.
    """
    if not rows:
        raise ValueError("no rows to draw; give what sensitivity.prior returned")
    ax = _axes(ax)
    qualities = np.linspace(0, max(row.quality for row in rows), 200)
    for name, predict, line in (
        ("Gaussian", priors.gaussian, "-"),
        ("Laplace", priors.laplace, ":"),
    ):
        predicted = [predict(quality) for quality in qualities]
        ax.plot(qualities, predicted, line, color=NOISE, linewidth=5, label=f"if {name}")
    densities = _density_axis(ax, "y", [row.density for row in rows])
    for layer, style in _styles((row.layer for row in rows), convolutions, {}).items():
        mine = sorted((row.quality, densities(row.density)) for row in rows if row.layer == layer)
        ax.plot(*zip(*mine, strict=True), label=layer, **style)
    _legend_beside(ax)
    return _finish(ax, title, "quality: threshold / sigma of the layer", "weights kept")


def layer_table(
    counts: Counts,
    reported: Sequence[paper.LayerRow] = (),
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Weights kept and operations left per layer, the paper's beside ours where it has any."""
    ax = _axes(ax)
    rows = [*counts, counts.total]
    theirs = {row.layer: row for row in reported}
    place = np.arange(len(rows))
    series = [
        ("weights, paper", [_of(theirs, r.layer, "density") for r in rows], PAPER, 1.0),
        ("weights, ours", [r.density for r in rows], KEPT, 1.0),
        ("FLOP, paper", [_of(theirs, r.layer, "flop_density") for r in rows], PAPER, 0.45),
        ("FLOP, ours", [r.flop_density for r in rows], KEPT, 0.45),
    ]
    series = [entry for entry in series if theirs or "ours" in entry[0]]
    width = 0.8 / len(series)
    for number, (label, values, colour, alpha) in enumerate(series):
        at = place + (number - (len(series) - 1) / 2) * width
        bars = ax.bar(at, values, 0.92 * width, color=colour, alpha=alpha, label=label)
        ax.bar_label(bars, [f"{100 * value:.0f}" for value in values], fontsize=7, color=INK)
    ax.set_xticks(place, [row.layer for row in rows])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(frameon=False, ncols=2, fontsize=8)
    return _finish(ax, title, "", "left of the dense layer")


def bands(
    kept: Tensor, *, image: tuple[int, int] = (28, 28), title: str = "", ax: Axes | None = None
) -> Axes:
    """The first matrix of a network on images, drawn as the paper's Fig. 4: neurons down, pixels
    across, so that each band is one row of the image. Blue is kept.

    `kept` is bool (out, height * width). The middle of the image keeps most, its edges least.
    """
    height, width = image
    _check_takes_pixels(kept, image)
    ax = _axes(ax, figsize=(10, 4))
    picture = kept.cpu().to(torch.uint8).numpy()
    ax.imshow(picture, cmap=ListedColormap(["white", KEPT]), aspect="auto", interpolation="nearest")
    for edge in range(width, height * width, width):
        ax.axvline(edge - 0.5, color=GONE, linewidth=0.5)
    ticks = np.arange(0, height, 4)
    ax.set_xticks(ticks * width + width / 2 - 0.5, [str(row + 1) for row in ticks])
    return _finish(ax, title, "row of pixels, 28 pixels each" if width == 28 else "row", "neuron")


def kept_pixels(
    kept: Tensor, *, image: tuple[int, int] = (28, 28), title: str = "", ax: Axes | None = None
) -> Axes:
    """How many connections each pixel of the image still has; `kept` as in `bands`."""
    _check_takes_pixels(kept, image)
    ax = _axes(ax)
    counts = kept.float().sum(0).reshape(image).cpu().numpy()
    picture = ax.imshow(counts, cmap="Blues")
    ax.figure.colorbar(picture, ax=ax, label="connections kept")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title)
    return ax


def _check_takes_pixels(kept: Tensor, image: tuple[int, int]) -> None:
    height, width = image
    if kept.ndim != 2 or kept.shape[1] != height * width:
        raise ValueError(
            f"expected a mask of shape (neurons, {height * width}), got {tuple(kept.shape)}; "
            f"this picture is of the layer that takes in the pixels"
        )


def _styles(
    layers: Iterable[str], convolutions: Collection[str] | None, about: Mapping[str, Mapping]
) -> dict[str, dict]:
    """How the line of each layer looks. Blue and orange differ to every eye, dark and light too."""
    families: dict[bool, list[str]] = {True: [], False: []}
    order = list(dict.fromkeys(layers))
    for layer in order:
        if convolutions is not None:
            convolution = layer in convolutions
        elif shape := about.get(layer, {}).get("shape"):
            convolution = len(shape) == 4  # (out, in, kh, kw)
        else:
            convolution = "conv" in layer.lower() or "features" in layer
        families[convolution].append(layer)
    styles = {}
    for convolution, names in families.items():
        shades = colormaps["YlGnBu" if convolution else "YlOrBr"]
        for place, layer in enumerate(names):
            colour = to_hex(shades(0.98 - 0.33 * place / max(1, len(names) - 1)))
            styles[layer] = {
                "color": colour,
                "linestyle": "-" if convolution else "--",
                "linewidth": 2.2,
                "marker": "osD^vP"[place % 6],
                "markersize": 7,
                "markeredgecolor": colour,
                "markerfacecolor": colour if convolution else "white",
            }
    return {layer: styles[layer] for layer in order}


def _sensitivity_of(
    ax: Axes, rows: list[ScanPoint], densities: Callable[[float], float], style: dict
) -> None:
    """One layer's line, band and points, the densest first; in grey where a drop may be none."""
    x = np.array([densities(row.density) for row in rows])
    y = np.array([row.accuracy.value for row in rows])
    dense = y + [row.drop.value for row in rows]  # on the images of that row
    low = (dense - [row.drop.high for row in rows]).clip(0, 1)
    high = (dense - [row.drop.low for row in rows]).clip(0, 1)
    noise = np.array([_within_noise(row) for row in rows])
    looks = {
        False: style,
        True: {key: NOISE if value == style["color"] else value for key, value in style.items()},
    }
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


def _within_noise(point: ScanPoint) -> bool:
    return point.drop.low <= 0 <= point.drop.high


def _dense_line(ax: Axes, dense: float) -> None:
    """Named at its right end, where most curves are gone."""
    ax.axhline(dense, color=INK, linewidth=1)
    ax.annotate(
        f"dense {dense:.2%}",
        (1, dense),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color=INK,
    )


def _allow(ax: Axes, points: Sequence[ScanPoint], dense: float, allowed: float) -> None:
    """The line of the allowed drop, and a picture that shows what crosses it."""
    amount = f"{100 * allowed:g} point{'' if math.isclose(100 * allowed, 1) else 's'}"
    ax.axhline(dense - allowed, color=LIMIT, linewidth=2, label=f"allowed: {amount} less")
    noise = [(p.drop.high - p.drop.low) / 2 for p in points if _within_noise(p)]
    reach = max(allowed, *noise, 0.001)
    ax.set_ylim(max(0.0, dense - 8 * reach), min(dense + 2 * reach, 1 + reach / 5))


def _density_axis(ax: Axes, which: str, densities: Iterable[float]) -> Callable[[float], float]:
    """Densities in steps of equal ratio, in percent. Returns where each of them is drawn.

    Halving a layer is the same step everywhere. Nothing left would be infinitely far: "none" stands
    where half of the lowest would.
    """
    densities = list(densities)
    lowest = min((density for density in densities if density > 0), default=0.1)
    none = lowest / 2
    digits = range(1, 10) if lowest >= 0.2 else (1, 2, 5) if lowest >= 0.001 else (1,)
    decades = range(math.floor(math.log10(lowest)), 1)
    ticks = [digit * 10.0**power for power in decades for digit in digits]
    ticks = [tick for tick in ticks if 0.99 * lowest <= tick <= 1]
    labels = [f"{100 * tick:g}%" for tick in ticks]
    if 0 in densities:
        ticks, labels = [none, *ticks], ["none", *labels]
    axis = getattr(ax, f"{which}axis")
    ax.set(**{f"{which}scale": "log", f"{which}lim": (min(lowest, *ticks) / 1.15, 1.15)})
    axis.set_ticks(ticks, labels)
    axis.set_ticks([], minor=True)
    return lambda density: density or none


def _legend_beside(ax: Axes) -> None:
    """To the right, where it hides no curve."""
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), handlelength=3.5)


def _curve(ax: Axes, x: Sequence[float], accuracies: Sequence[Accuracy], **style) -> None:
    values = np.array([a.value for a in accuracies])
    bars = np.array([[a.value - a.low, a.high - a.value] for a in accuracies]).T
    ax.errorbar(x, values, yerr=bars, marker="o", markersize=4, capsize=2, linewidth=1.5, **style)


def _of(rows: dict, layer: str, column: str) -> float:
    return getattr(rows[layer], column) if layer in rows else float("nan")


def _percent(ax: Axes) -> None:
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1))


def _axes(ax: Axes | None, **options) -> Axes:
    if ax is None:
        # Only here: pyplot keeps global state, which threads that draw must not share.
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(layout="constrained", **options)
    return ax


def _finish(ax: Axes, title: str, x: str, y: str) -> Axes:
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
