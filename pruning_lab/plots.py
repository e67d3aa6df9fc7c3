"""Plots: rows in, axes in and out. The reader decides when to show or save."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pruning_lab import paper
from pruning_lab.counts import Counts
from pruning_lab.evaluation import Accuracy
from pruning_lab.sensitivity import ScanPoint

KEPT, GONE, PAPER, INK = "#1f6feb", "#c9d1d9", "#d1790b", "#24292f"
LAYERS = ("#1f6feb", "#d1790b", "#2da44e", "#8250df", "#cf222e", "#0a7ea4", "#9a6700", "#57606a")


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


def sensitivity(points: Sequence[ScanPoint], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A curve per layer: accuracy when that layer alone is pruned (paper, Fig. 6)."""
    ax = _axes(ax)
    for place, (layer, group) in enumerate(groupby(points, key=lambda point: point.layer)):
        rows = sorted(group, key=lambda point: -point.density)
        sparsities = [1 - row.density for row in rows]
        accuracies = [row.accuracy for row in rows]
        _curve(ax, sparsities, accuracies, label=layer, color=LAYERS[place % len(LAYERS)])
    ax.legend(frameon=False, loc="lower left")
    _percent(ax)
    return _finish(ax, title, "sparsity of one layer, the others dense", "accuracy")


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

        _, ax = plt.subplots(**options)
    return ax


def _finish(ax: Axes, title: str, x: str, y: str) -> Axes:
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
