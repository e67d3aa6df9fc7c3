"""What a picture shows, in words; and a figure with these words as its alternative text."""

import base64
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from pruning_lab.counts import Counts, LayerCount
from pruning_lab.evaluation import Drop, change
from pruning_lab.plots import looks
from pruning_lab.rows import counted
from pruning_lab.sensitivity import PriorRow, ScanPoint


@runtime_checkable
class KeptRow(Protocol):
    """A layer of `studio.metrics()`, `mask.receipt`, `counts.layers` or `cost.table`."""

    layer: str
    weights: int
    kept: int


DPI = 150  # half as many again as the page's pixels, for sharp screens and projectors


def words(rows: object) -> str:
    """One or two sentences in words for what a plot draws; computed from its rows.

    Takes what the plots take: a scan, points (density, drop) of a trade-off, name -> drops of
    `epochs`, `counts.layers` and other rows of layers, `sensitivity.prior`, the weights of a
    histogram, a mask (out, in).

    >>> words([(0.5, Drop(0, -0.001, 0.001, 900)), (0.1, Drop(0.02, 0.01, 0.03, 900))])
    'No loss beyond noise down to 50 % kept; -2.00 points at 10 %.'
    """
    if isinstance(rows, Tensor):
        return _mask(rows) if rows.dtype == torch.bool else _histogram(rows)
    rows = list(rows.items() if isinstance(rows, Mapping) else rows)
    if not rows:
        return "Nothing is drawn."
    return next(say for kind, say in _SENTENCES.items() if isinstance(rows[0], kind))(rows)


def _scan(points: list[ScanPoint], allowed: float = 0.01) -> str:
    """From which density on each layer loses more than `allowed`, the most sensitive first."""
    falls, stays, limit = [], [], f"{100 * allowed:g} point"
    for layer in dict.fromkeys(point.layer for point in points):
        rows = sorted((p for p in points if p.layer == layer), key=lambda p: -p.density)
        end = next((row for row in rows if row.drop.value > allowed), rows[-1])
        row = end.density, end.drop.value, layer
        (falls if end.drop.value > allowed else stays).append(row)
    levels = groupby(sorted(falls, reverse=True), key=lambda fall: fall[0])
    each = [f"by {_list(fall[-1] for fall in of)} at {percent(at)} kept" for at, of in levels]
    ends = [f"{layer} down to {percent(at)} kept ({change(lost)})" for at, lost, layer in stays]
    parts = [f"more than {limit} is lost {_list(each)}"] if each else []
    return _sentence(parts + ([f"at most {limit} is lost by {_list(ends)}"] if ends else []))


def _trade_off(points: list[tuple[float, Drop]]) -> str:
    if isinstance(points[0][0], str):
        return _epochs(points)
    points = sorted(points, key=lambda point: -point[0])
    real = next((n for n, (_, drop) in enumerate(points) if drop.low > 0), len(points))
    parts = [f"no loss beyond noise down to {percent(points[real - 1][0])} kept"] * bool(real)
    for density, drop in dict(points[real : real + 1] + points[real:][-1:]).items():
        parts.append(f"{change(drop.value)} points at {percent(density)}")
    return _sentence(parts)


def _epochs(curves: list[tuple[str, Sequence[Drop]]]) -> str:
    each = (
        f"{name}: {change(drops[0].value)} points at first, {change(drops[-1].value)} after "
        f"{counted(len(drops) - 1, 'epoch')}"
        for name, drops in curves
    )
    return f"Change from the dense network: {'; '.join(each)}."


def _counts(rows: list[LayerCount]) -> str:
    total = Counts(rows).total
    each = (f"{r.layer} {percent(r.density)} and {percent(r.flop_density)}" for r in rows)
    weights = f"{percent(total.density)} of {total.weights:,} weights"
    operations = f"{percent(total.flop_density)} of the operations"
    return f"{weights} and {operations} are left: {', '.join(each)}."


def headline(rows: Sequence[KeptRow]) -> str:
    """All layers together: how much of them is kept."""
    weights, kept = sum(row.weights for row in rows), sum(row.kept for row in rows)
    smaller = f", compression {weights / kept:,.3g}x" if kept else ""
    return f"{percent(kept / max(weights, 1))} of {weights:,} weights kept{smaller}"


def _network(rows: list[KeptRow]) -> str:
    each = (f"{row.layer} {percent(row.kept / row.weights)}" for row in rows if row.weights)
    return f"{headline(rows)}; {', '.join(each)}."


def _prior(rows: list[PriorRow]) -> str:
    near = min((row.quality for row in rows), key=lambda quality: abs(quality - 1))
    kept = {row.layer: row.density for row in rows if row.quality == near}
    each = (f"{percent(density)} of {layer}" for layer, density in kept.items())
    return f"A threshold of {near:g} sigma keeps {_list(each)}."


def _histogram(weight: Tensor) -> str:
    sizes = weight.detach().reshape(-1).float().abs().cpu().numpy()
    if not len(sizes):
        return "No weight is left."
    few, half, most = (f"±{size:.2g}" for size in np.quantile(sizes, (0.05, 0.5, 0.95)))
    return (
        f"{counted(len(sizes), 'weight')}: 5 % lie within {few}, half within {half}, 95 % within "
        f"{most}."
    )


def _mask(kept: Tensor) -> str:
    inputs = kept.sum(0).flatten()
    none, most = int((inputs == 0).sum()), int(inputs.max())
    return (
        f"{int(kept.sum()):,} of {kept.numel():,} weights are kept. Inputs without any: "
        f"{none:,} of {inputs.numel():,}; most for one input: {most:,}."
    )


_SENTENCES: dict[type, Callable[[list], str]] = {
    ScanPoint: _scan,
    LayerCount: _counts,
    PriorRow: _prior,
    KeptRow: _network,
    tuple: _trade_off,
}


def percent(density: float) -> str:
    return f"{100 * density:.3g} %"


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _list(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def show(drawn: Axes | Figure | Iterable[Axes], rows: object) -> None:
    """Show a plot in a notebook, with words for those who do not see it.

    The words, of `words(rows)` or a text of your own, are its alternative text, and stand below it
    on request. Where no HTML is shown, they are printed.
    """
    from IPython import display  # part of the course's installation, not of the library's

    first = drawn if isinstance(drawn, Axes | Figure) else next(iter(drawn))
    figure = getattr(first, "figure", None) or first
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")  # makes room for a legend beside the axes
    text = rows if isinstance(rows, str) else words(rows)
    display.display(Picture(png(figure), text, round(100 * figure.get_figwidth())))
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close(figure)  # else a notebook shows it again


@dataclass(frozen=True)
class Picture:
    """A PNG with words for those who do not see it; `width` in the page's pixels."""

    png: bytes
    words: str
    width: int

    @property
    def img(self) -> str:
        """As HTML."""
        address = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        look = f'width="{self.width}" style="max-width: 100%; height: auto"'
        return f'<img alt="{escape(self.words)}" {look} src="{address}">'

    def __repr__(self) -> str:
        return self.words

    def _repr_mimebundle_(self, **options) -> dict[str, str]:
        words = f"<details><summary>in words</summary>{escape(self.words)}</details>"
        return {"text/plain": self.words, "text/html": f"{self.img}{words}"}


def png(figure: Figure) -> bytes:
    """A figure as it is now, without pyplot: threads must not share its state."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    without_formulas(figure)
    canvas.draw()
    return encoded(canvas)


def svg(figure: Figure) -> bytes:
    """A figure for a slide or a page: sharp at any size, its background transparent.

    >>> from matplotlib.figure import Figure
    >>> svg(Figure()).startswith(b"<?xml")
    True
    """
    without_formulas(figure)
    content = io.BytesIO()
    with looks.style():  # its salt: the same plot gives the same file
        figure.savefig(content, format="svg", dpi=200, transparent=True, metadata={"Date": None})
    return content.getvalue()


def without_formulas(figure: Figure) -> None:
    """Layers and attempts may be called `$x^{$`: names are text."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def encoded(canvas: FigureCanvasAgg) -> bytes:
    """In 256 colours: a quarter of the bytes to send and to store, and as quick to make."""
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.FASTOCTREE)
    # It rounds a little down: white shall be the page's white.
    picture.putpalette([255 if value == 254 else value for value in picture.getpalette()])
    content = io.BytesIO()
    picture.save(content, format="png", compress_level=1)  # more would cost a drag its pictures
    return content.getvalue()
