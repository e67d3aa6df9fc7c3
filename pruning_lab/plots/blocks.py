"""A pruned network at a glance: a block per layer, filled as far as its weights are kept."""

import math
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pruning_lab.plots import looks
from pruning_lab.plots.shown import KeptRow, headline, percent
from pruning_lab.rows import printable

# Inches: the scale on the left, the headline above, the note below, between blocks, the slimmest.
_SCALE, _HEAD, _NOTE, _GAP, _SLIM = 0.55, 0.42, 0.3, 0.09, 0.05
_SIZES = (9, 8, 7)  # of the labels in points: the first at which all fit beside each other


def network(rows: Iterable[KeptRow], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A block per layer, blue as far as its weights are kept, on a logarithmic scale.

    Takes `studio.metrics()`, `mask.receipt` or `counts.layers`. Where rows have the FLOPs of the
    dense layer, a block is as wide as their square root, so that the smallest is seen too: in
    LeNet-5 one layer has 300 times as many as another.
    """
    rows = _checked(rows)
    if ax is None:
        many = len(rows) > 18  # too many for labels that are not turned
        wide = 1.5 + 0.23 * len(rows) if many else 1.2 + 0.7 * len(rows)
        ax = looks.axes(None, title, "", "", figsize=(max(6.5, wide), 5.2 if many else 3.8))
        ax.axis("off")
        ax.figure.draw_without_rendering()  # the layout widens the axes
    else:
        looks.axes(ax, title, "", "").axis("off")
    width, height = ax.bbox.width / ax.figure.dpi, ax.bbox.height / ax.figure.dpi

    labels, points = _labels(rows, width - _SCALE)
    lines = [label.split("\n") for label in labels]
    upright = max(map(len, lines)) == 1  # all in one line, which is turned
    long = [max(map(len, of)) * 0.62 * points / 72 for of in lines]
    line = 1.35 * points / 72
    rooms = [line] * len(rows) if upright else long
    widths = _widths(rows, rooms, width - _SCALE)
    bottom = _NOTE + (max(long) if upright else 3 * line)
    tall = max(height - _HEAD - bottom, 0.2 * height)
    filled = _scale(ax, [row.kept / row.weights for row in rows], bottom, tall, width)
    left = _SCALE
    for row, label, wide, room in zip(rows, labels, widths, rooms, strict=True):
        middle = left + max(wide, room) / 2
        for part, colour in ((1, looks.GONE), (filled(row.kept / row.weights), looks.KEPT)):
            corner = (middle - wide / 2, bottom)
            ax.add_patch(Rectangle(corner, wide, part * tall, color=colour, linewidth=0))
        look = {"fontsize": points, "rotation": 270 * upright, "ha": "center", "va": "top"}
        ax.text(middle, bottom - 0.05, label, **look)
        left += max(wide, room) + _GAP
    # A unit is an inch, unless the axes are too narrow for all.
    ax.set(xlim=(0, max(width, left - _GAP)), ylim=(0, height))
    note = "blue: weights kept, on a logarithmic scale"
    if _flops(rows):
        note += "; width: square root of the dense layer's FLOPs"
    head, middle = headline(rows), ax.get_xlim()[1] / 2
    large, small = (width * 72 / 0.66 / len(text) for text in (head, note))  # as wide as the axes
    ax.text(middle, height, head, ha="center", va="top", fontsize=min(12, large), weight="bold")
    ax.text(middle, 0, note, ha="center", va="bottom", fontsize=min(8, small))
    for text in ax.texts:
        text.set(color=looks.INK, parse_math=False, in_layout=False)  # the axes are its room
    return ax


def _checked(rows: Iterable[KeptRow]) -> list[KeptRow]:
    """Those that have weights; "other", of operations alone, has none."""
    rows = list(rows)
    for row in rows:
        if not isinstance(row, KeptRow):
            raise TypeError(
                f"a row needs layer, weights and kept, and {type(row).__name__} lacks one; give "
                f"studio.metrics(), mask.receipt or counts.layers(model, shape)"
            )
    if not (rows := [row for row in rows if row.weights]):
        raise ValueError(
            "no layers to draw; give studio.metrics(), mask.receipt or counts.layers(model, shape)"
        )
    return rows


def _labels(rows: Sequence[KeptRow], width: float) -> tuple[list[str], float]:
    """Name, density and weights kept, below each other where they fit; and their size in points."""
    names = looks.short_names([printable(row.layer) for row in rows])
    said = [
        (names[printable(row.layer)], percent(row.kept / row.weights), _short(row.kept))
        for row in rows
    ]
    letters = sum(max(map(len, parts)) for parts in said)
    for points in _SIZES:
        if letters * 0.62 * points / 72 + len(rows) * _GAP < width:
            return ["\n".join(parts) for parts in said], points
    return ["  ".join(parts) for parts in said], _SIZES[-1]


def _short(count: int) -> str:
    """Exact up to 9,999; 36,812 is 36.8k."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= max(unit, 10_000):
            return f"{count / unit:.3g}{name}"
    return f"{count:,}"


def _flops(rows: Sequence[KeptRow]) -> list[float]:
    """Of every layer, or none where those of one are not known."""
    flops = [getattr(row, "flops", None) for row in rows]
    return flops if None not in flops and any(flops) else []


def _widths(rows: Sequence[KeptRow], rooms: Sequence[float], width: float) -> list[float]:
    """Of blocks that fill the width together, each in the room of its label or wider."""
    roots = [math.sqrt(flops) for flops in _flops(rows)] or [1.0] * len(rows)
    free, inches = width - _GAP * len(rows), 0.0  # for a root of the largest
    for step in (2.0**-n for n in range(-4, 12)):
        tried = [(inches + step) * root / max(roots) for root in roots]
        if sum(map(max, tried, rooms)) <= free:
            inches += step
    return [max(inches * root / max(roots), _SLIM) for root in roots]


def _scale(
    ax: Axes, densities: Sequence[float], bottom: float, tall: float, width: float
) -> Callable[[float], float]:
    """Draw the scale; gives the function from a density to the part of a block that is filled."""
    lowest = min((density for density in densities if density), default=1.0)
    decades = max(3, math.ceil(-math.log10(lowest)))
    # Nothing kept is the bottom, half a decade below the last tick.
    for power in range(decades + 1):
        y = bottom + tall * (decades + 0.5 - power) / (decades + 0.5)
        ax.plot([_SCALE - 0.07, width], [y, y], color=looks.NOISE, linewidth=0.5, zorder=3)
        ax.text(_SCALE - 0.1, y, percent(10.0**-power), fontsize=8, ha="right", va="center")

    def filled(density: float) -> float:
        return (math.log10(density) + decades + 0.5) / (decades + 0.5) if density else 0.0

    return filled
