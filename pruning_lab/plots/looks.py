"""How every plot looks: the palette, the style, an axis of densities, a guess as a ghost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import pairwise

import matplotlib
from cycler import cycler
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pruning_lab.evaluation import Drop

# The palette, which colour-blind readers can tell apart.
KEPT = OURS = "#1f6feb"  # weights that stay; this library's numbers
GONE = "#c9d1d9"  # pruned weights; an interval in the background
PAPER = "#d1790b"  # the paper's numbers
NOISE = "#8c959f"  # a change that may be chance
LIMIT = "#e0004d"  # what is allowed or chosen
INK = "#24292f"  # text, frames, the dense network, a guess
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


def short_names(names: Sequence[str], most: int = 16) -> dict[str, str]:
    """Names of at most `most` letters, cut in the middle; more where two would look alike."""
    for width in range(most, max(map(len, names)) + 1):
        tail = 2 * width // 3
        cut = [f"{n[: width - tail - 1]}…{n[-tail:]}" if len(n) > width else n for n in names]
        if len({*cut}) == len(names):
            return dict(zip(names, cut, strict=True))
    return {name: name for name in names}


def new_figure(**options) -> Figure:
    """One that a notebook shows by itself."""
    # Only here: pyplot and the style are global, which threads that draw must not share.
    import matplotlib.pyplot as plt

    with style():
        return plt.figure(**options)


def axes(ax: Axes | None, title: str, x: str, y: str, **options) -> Axes:
    """The axes, made where none are given, with their title and labels."""
    if ax is None:
        figure = new_figure(**options)
        with style():
            ax = figure.subplots()
    if title:  # a second curve keeps the title of the first
        ax.set_title(title, parse_math=False)
    ax.set(xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1), "handlelength": 3.5}  # it hides no curve


def legend(ax: Axes, **options) -> Axes:
    for text in ax.legend(frameon=False, **options).get_texts():
        text.set_parse_math(False)
    return ax


def few_ticks(ax: Axes) -> None:
    """So few that their labels never meet; thousands with a comma."""
    inches = ax.bbox.width / ax.figure.dpi
    ax.xaxis.set_major_locator(MaxNLocator(max(2, min(int(1.3 * inches), 6))))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter("{x:,.0f}")


def ghost(ax: Axes, curve: Iterable[tuple[float, float]]) -> bool:
    """The guessed (x, y) as a dashed line; False where there are none."""
    if curve := sorted(curve):
        look = {"color": INK, "linestyle": (0, (5, 2)), "linewidth": 1.5, "zorder": 4}
        ax.plot(*zip(*curve, strict=True), marker="o", markersize=3, label="your guess", **look)
    return bool(curve)


def guessed_curve(guess: object, places: Sequence[float] = ()) -> list[tuple[float, float]]:
    """(x, y) of a guess: a mapping of numbers, or a list of them, one for each of the places.

    Whatever else was noted is no curve.
    """
    with suppress(TypeError, ValueError, AttributeError):
        listed = isinstance(guess, list | tuple)
        pairs = zip(places, guess, strict=True) if listed else guess.items()
        return [(float(x), float(y)) for x, y in pairs]
    return []


def points_of(drop: Drop) -> tuple[float, float, float]:
    """(change, low, high) of accuracy in percentage points; a loss is negative."""
    return -100 * drop.value, -100 * drop.high, -100 * drop.low


def dense_line(ax: Axes, accuracy: float | None, name: str = "dense") -> None:
    """The change 0, named at its end, where few curves are left; and changes with their sign."""
    ax.axhline(0, color=INK, linewidth=1)
    name_line(ax, 0, name if accuracy is None else f"{name} {accuracy:.2%}", INK)
    ax.yaxis.set_major_formatter(lambda x, _: f"{round(x, 6):+g}" if x else "0")


def name_line(ax: Axes, y: float, name: str, colour: str) -> None:
    """Above a horizontal line, at its right end."""
    above = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
    ax.annotate(name, (1, y), (-2, 5), color=colour, **above)


def density_axis(
    ax: Axes, which: str, densities: Iterable[float], *, sparsity: bool = True
) -> None:
    """Densities in steps of equal ratio, in percent; 0, "none", where half of the lowest would be.

    Halving a layer is the same step everywhere. An x axis has the sparsity on its other side.
    """
    densities = list(densities)
    if which == "x":  # of an earlier curve
        densities += [x for x in (*ax.dataLim.intervalx, ax.dataLim.minposx) if math.isfinite(x)]
    lowest = min((density for density in densities if density > 0), default=0.1)
    # Below `lowest` the scale is linear, as long as a halving is: what is drawn at 0 stays there.
    scale = {"linthresh": lowest, "linscale": 0.9 * math.log10(2)}
    ends = -0.12 * lowest if 0 in densities else lowest / 1.15, 1.15
    ends = ends[:: -1 if which == "x" else 1]
    getattr(ax, f"set_{which}scale")("symlog", **scale)
    getattr(ax, f"set_{which}lim")(ends)
    inches = getattr(ax.bbox, "width" if which == "x" else "height") / ax.figure.dpi
    room = inches * (0.7 if sparsity else 1)  # a legend beside takes some
    ticks = _density_ticks(lowest, 0 in densities, room)
    sides = {getattr(ax, f"{which}axis"): [_percent(t) if t else "none" for t in ticks]}
    if which == "x" and sparsity:
        top = ax.child_axes[0] if ax.child_axes else ax.secondary_xaxis("top")
        top.set_xscale("symlog", **scale)
        top.set_xlabel("sparsity")
        sides[top.xaxis] = [_percent(1 - t) if t else "all" for t in ticks]
    for axis, labels in sides.items():
        axis.set_ticks(ticks, labels)
        axis.set_ticks([], minor=True)


def _density_ticks(lowest: float, none: bool, inches: float) -> list[float]:
    """As many round densities as have room for their labels."""
    decades = range(math.floor(math.log10(lowest)), 1)
    for digits, times in ((range(1, 10), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 4)):
        ticks = [digit * 10.0**power for power in decades for digit in digits]
        ticks = [0.0] * none + [tick for tick in ticks if 0.99 * times * lowest <= tick <= 1]
        places = [math.log10(tick or lowest / 2) for tick in ticks]
        inch = inches / (math.log10(1.15) - min(math.log10(lowest), *places, 0))
        wide = [0.1 + 0.08 * len(_percent(1 - tick)) for tick in ticks]
        gaps = [(b - a) * inch for a, b in pairwise(places)]
        if all(2 * gap >= a + b for gap, (a, b) in zip(gaps, pairwise(wide), strict=True)):
            break
    return ticks


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.6g}%"


def layer_styles(layers: Iterable[str], about: Mapping[str, Mapping]) -> dict[str, dict]:
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
