"""What pruning cost, as HTML: lost images, the change of each class, pixels a layer still sees."""

from collections.abc import Iterable

import numpy as np
from matplotlib.colors import to_rgb
from torch import Tensor

from pruning_lab import plots
from pruning_lab.studio import Studio
from pruning_lab.widgets.drawing import array_png
from pruning_lab.widgets.tables import points

IMAGES, CLASSES = 12, 20  # shown at most
_SHOW = "image-rendering: pixelated; border: 1px solid #8888"


def lost_images(studio: Studio) -> str:
    """The first images that were right before and are wrong now, with both answers."""
    flips = studio.flipped()
    lost = [flip for flip in flips if flip.lost]
    title = f"<b>{len(lost)} images lost</b>, {len(flips) - len(lost)} won"
    shown = lost[:IMAGES]
    figures = "".join(
        f'<div style="text-align: center; line-height: 1.3">'
        f'<img alt="image {flip.index}" style="{_SHOW}; width: 48px; height: 48px" '
        f'src="{array_png(pixels)}"><br>{flip.before}, now {flip.after}</div>'
        for flip, pixels in zip(shown, studio.pictures([f.index for f in shown]), strict=True)
    )
    more = " (answer before, now):" if shown else ""
    row = f'<div style="display: flex; flex-wrap: wrap; gap: 4px 8px">{figures}</div>'
    return f"<div>{title}{more}</div>{row}"


def class_changes(rows: Iterable) -> str:
    """A bar per class with its paired interval, as SVG: loss downwards, grey within the noise."""
    rows = sorted(rows, key=lambda row: -abs(row.drop.value))[:CLASSES]
    rows.sort(key=lambda row: row.label)
    ends = [end for row in rows for end in (row.drop.low, row.drop.high)]
    least, most = min([0.0, *(-end for end in ends)]), max([0.005, *(-end for end in ends)])
    left, top, high, wide = 46, 8, 84, 26

    def y(change: float) -> float:
        return round(top + high * (most - change) / (most - least), 1)

    parts = [f'<line stroke="currentColor" x1="{left}" x2="{left + wide * len(rows)}" y1="{y(0)}" y2="{y(0)}"/>']  # the axis
    for place, row in enumerate(rows):
        x, change = left + wide * (place + 0.5), -row.drop.value
        noise = row.drop.low <= 0 <= row.drop.high
        colour = "noise" if noise else "bad" if change < 0 else "gain"
        title = f"class {row.label}: {row.drop}, {row.n:,} images"
        parts.append(
            f'<g><title>{title}</title><rect x="{x - 8}" width="16" '
            f'y="{min(y(0), y(change))}" height="{abs(y(change) - y(0)):.1f}" '
            f'style="fill: var(--{colour})"/>'
            f'<line stroke="currentColor" x1="{x}" x2="{x}" y1="{y(-row.drop.high)}" y2="{y(-row.drop.low)}"/>'
            f'<text x="{x}" y="{top + high + 16}" text-anchor="middle">{row.label}</text></g>'
        )
    for end in {least, 0.0, most}:
        label = points(-end)
        parts.append(f'<text x="{left - 6}" y="{y(end) + 4}" text-anchor="end">{label}</text>')
    return (
        f"<div><b>change of accuracy per class</b>, points</div>"
        f'<svg role="img" aria-label="change of accuracy per class" '
        f'width="{left + wide * len(rows) + 6}" height="{top + high + 22}" '
        f'style="fill: currentColor; font-size: 13px">{"".join(parts)}</svg>'
    )


def sees_pixels(studio: Studio, layer: str) -> tuple[int, int] | None:
    """The (height, width) of the images where this layer is the first and takes in their pixels."""
    weight = studio.layer(layer).weight
    if layer != studio.layers[0] or weight.ndim != 2:
        return None
    shape = studio.pictures([0])[0].shape
    return shape if len(shape) == 2 and weight.shape[1] == shape[0] * shape[1] else None


def pixel_map(layer: str, kept: Tensor, shape: tuple[int, int]) -> str:
    """How many connections each pixel still has: white none, blue the most; `kept` (out, H * W)."""
    counts = kept.sum(0).reshape(shape).cpu().numpy()
    strength = (counts / max(counts.max(), 1))[..., None]
    pixels = 255 * (1 - strength * (1 - np.array(to_rgb(plots.KEPT))))
    seen = int((counts > 0).sum())
    return (
        f"<div><b>{layer} sees {seen} of {counts.size} pixels</b></div>"
        f'<img alt="connections per pixel" style="{_SHOW}; width: 112px; height: 112px" '
        f'src="{array_png(pixels.astype(np.uint8))}"><br>'
        f"at most {counts.max()} connections each"
    )
