"""What is inside a layer, and what pruning it cost: histograms, masks, bars, lost images."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pruning_lab import paper
from pruning_lab.counts import Counts
from pruning_lab.data import Part
from pruning_lab.evaluation import Accuracy
from pruning_lab.experiments.figures import check_takes_pixels
from pruning_lab.plots import looks
from pruning_lab.rows import counted


def weights(
    weight: Tensor,
    *,
    threshold: float | None = None,
    kept: Tensor | None = None,
    guess: object = None,
    bins: int = 101,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Histogram of one layer's weights. With a threshold, what lies below it is grey.

    With `kept`, only surviving weights are drawn: after retraining they stand on both sides of an
    empty middle (paper, Fig. 7). `guess` is dashed: heights of equal parts of the axis, as
    `DrawCurve` notes them, or a mapping from weights to heights. The highest is drawn as high as
    the highest bar.
    """
    ax = looks.axes(ax, title, "weight", "number of weights")
    values = _values(weight if kept is None else weight[kept])
    reach = _reach(values, threshold)
    most = _histogram(ax, values, reach, bins, threshold)
    parts = len(guess) if isinstance(guess, list | tuple) else 0
    curve = looks.guessed_curve(guess, np.linspace(-reach, reach, 2 * parts + 1)[1::2])
    if top := max((y for _, y in curve), default=0):
        looks.ghost(ax, ((x, y * most / top) for x, y in curve))
    if len(values) and (threshold or top):
        looks.legend(ax, loc="upper center", ncols=3)
    return ax


def weights_beside(
    layers: Mapping[str, Tensor],
    *,
    bins: int = 101,
    down: bool = False,
    figure: Figure | None = None,
) -> list[Axes]:
    """Histograms of title -> weights beside each other (or `down` the page) in the same bins.

    They share one y axis. One that would be lower than a fifth of the tallest has its own, which
    says how many times larger it is drawn.
    """
    values = {title: _values(weight) for title, weight in layers.items()}
    reach, shape = max(_reach(found) for found in values.values()), (1, len(values))
    figure = figure or looks.new_figure(figsize=(10, 3))
    with looks.style():
        drawn = figure.subplots(*shape[:: -1 if down else 1], squeeze=False).flatten()
    tops = [
        _histogram(looks.axes(ax, title, "weight", "number of weights"), found, reach, bins)
        for ax, (title, found) in zip(drawn, values.items(), strict=True)
    ]
    for ax, top in zip(drawn, tops, strict=True):
        times = max(tops) / top if top else 1
        ax.set_ylim(0, 1.15 * (max(tops) if times < 5 else top))
        if times >= 5:
            ax.set_ylabel(f"number of weights\n(drawn {times:.0f}x larger)")
    return list(drawn)


def _values(weight: Tensor) -> np.ndarray:
    return weight.detach().reshape(-1).float().cpu().numpy()


def _reach(values: np.ndarray, threshold: float | None = None) -> float:
    """How far out to draw: the outermost 0.1 % would squeeze everything else into the middle."""
    if not len(values):
        return 1.0
    low = np.quantile(values, 0.001, method="lower")
    high = np.quantile(values, 0.999, method="higher")  # outwards: of six weights, all six
    return max(-low, high, 1.2 * (threshold or 0), 1e-12)


def _histogram(
    ax: Axes, values: np.ndarray, reach: float, bins: int, threshold: float | None = None
) -> int:
    """The height of the tallest bar."""
    looks.few_ticks(ax)
    ax.set_xlim(-reach, reach)
    if not len(values):
        ax.text(0.5, 0.5, "no weight is left", transform=ax.transAxes, ha="center", color=looks.INK)
        return 0
    counts, edges = np.histogram(values, bins=bins, range=(-reach, reach))
    gone = np.abs(edges[1:] + edges[:-1]) / 2 < (threshold or 0)
    ax.stairs(np.where(gone, 0, counts), edges, fill=True, color=looks.KEPT, label="kept")
    if threshold:
        ax.stairs(np.where(gone, counts, 0), edges, fill=True, color=looks.GONE, label="pruned")
        for side in (-threshold, threshold):
            ax.axvline(side, 0, 0.87, color=looks.INK, linewidth=1, linestyle="--")
    ax.set_ylim(0, 1.15 * counts.max())  # room for the legend
    return int(counts.max())


def layer_table(
    counts: Counts,
    reported: Sequence[paper.LayerRow] = (),
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Weights kept and operations left per layer, the paper's beside ours where it has any."""
    ax = looks.axes(ax, title, "", "fraction left of the dense layer")
    rows = [*counts, counts.total]
    theirs = {row.layer: row for row in reported}
    paired = {
        "paper": (looks.PAPER, [theirs.get(row.layer) for row in rows]),
        "ours": (looks.OURS, rows),
    }
    columns = {"weights": ("density", 1), "FLOP": ("flop_density", 0.45)}
    series = [(what, whose) for what in columns for whose in paired if theirs or whose == "ours"]
    width = 0.8 / len(series)
    for number, (what, whose) in enumerate(series):
        (column, alpha), (colour, found) = columns[what], paired[whose]
        at = np.arange(len(rows)) + (number - (len(series) - 1) / 2) * width
        values = [getattr(row, column, math.nan) for row in found]
        look = {"color": colour, "alpha": alpha, "label": f"{what}, {whose}"}
        bars = ax.bar(at, values, 0.92 * width, **look)
        ax.bar_label(bars, [f"{100 * value:.0f}" for value in values], fontsize=7, color=looks.INK)
    ax.set_xticks(range(len(rows)), [row.layer for row in rows], parse_math=False)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_ylim(0, 1.2)  # the legend stands above the bars
    return looks.legend(ax, loc="upper center", ncols=4, fontsize=8, columnspacing=1)


def bands(
    kept: Tensor, *, image: tuple[int, int] = (28, 28), title: str = "", ax: Axes | None = None
) -> Axes:
    """The first matrix of a network on images, drawn as the paper's Fig. 4: neurons down, pixels
    across, so that each band is one row of the image. Blue is kept.

    `kept` is bool (out, height * width). The middle of the image keeps most, its edges least.
    """
    height, width = image
    check_takes_pixels(kept, image)
    ax = looks.axes(ax, title, f"row of the image, {width} pixels each", "neuron", figsize=(10, 4))
    picture = kept.cpu().to(torch.uint8).numpy()
    ax.imshow(
        picture, cmap=ListedColormap(["white", looks.KEPT]), aspect="auto", interpolation="nearest"
    )
    for edge in range(width, height * width, width):
        ax.axvline(edge - 0.5, color=looks.GONE, linewidth=0.5)
    ticks = np.arange(0, height, 4)
    ax.set_xticks(ticks * width + width / 2 - 0.5, [str(row + 1) for row in ticks])
    return ax


def kept_pixels(
    kept: Tensor, *, image: tuple[int, int] = (28, 28), title: str = "", ax: Axes | None = None
) -> Axes:
    """How many connections each pixel of the image still has; `kept` as in `bands`."""
    check_takes_pixels(kept, image)
    ax = looks.axes(ax, title, "", "")
    picture = ax.imshow(kept.float().sum(0).reshape(image).cpu().numpy(), cmap="Blues")
    ax.figure.colorbar(picture, ax=ax, label="connections kept")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return ax


def lost_images(
    part: Part,
    before: Accuracy,
    after: Accuracy,
    answers: Tensor,
    *,
    first: int = 12,
    title: str = "",
    figure: Figure | None = None,
) -> list[Axes]:
    """The first images that were answered correctly before and are not now, with both answers.

    `before` and `after` were measured on `part` (a split's val, say); `answers`, int (n,), are what
    the network names now for each of its images.
    """
    if not (before.n == after.n == len(part.labels) == len(answers)):
        raise ValueError(
            f"accuracies and answers of all {len(part.labels)} images are needed, got "
            f"{before.n} before, {after.n} after and {len(answers)} answers"
        )
    lost, won = before.hits & ~after.hits, after.hits & ~before.hits
    shown = lost.nonzero().flatten()[:first].tolist()
    rows = -(-max(1, len(shown)) // 6)
    figure = figure or looks.new_figure(figsize=(6.5, 0.6 + 1.2 * rows))
    found = f"{counted(int(lost.sum()), 'image')} lost, {won.sum():,} won"
    figure.suptitle(title or found, parse_math=False)
    with looks.style():
        drawn = figure.subplots(rows, 6, squeeze=False).flatten()
    for ax in drawn:
        ax.axis("off")
    for ax, place, pixels in zip(drawn, shown, part.pictures(shown), strict=False):
        ax.imshow(pixels, cmap="gray_r")
        ax.set_title(answered(int(part.labels[place]), int(answers[place])), fontsize=9)
    return list(drawn[: max(1, len(shown))])  # of none, empty axes that can be shown


def answered(before: int, now: int) -> str:
    """How a lost image is labelled: the answer before, which was right, and the one now."""
    return f"{before}, now {now}"
