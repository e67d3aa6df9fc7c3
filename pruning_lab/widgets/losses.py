"""What pruning cost, as HTML: lost images, the change of each class, pixels a layer still sees."""

import math
from collections.abc import Iterable

import numpy as np
from matplotlib.colors import to_rgb
from torch import Tensor

from pruning_lab import plots
from pruning_lab.evaluation import change
from pruning_lab.rows import counted
from pruning_lab.studio import ClassChange, Studio
from pruning_lab.widgets.drawing import data_uri

IMAGES, CLASSES = 12, 20  # shown at most
_STYLE = "image-rendering: pixelated; border: 1px solid #8888"


def lost_images(studio: Studio) -> str:
    """The first images that were right before and are wrong now, with both answers."""
    flips = studio.flipped()
    lost = [flip for flip in flips if flip.lost]
    title = f"<b>{counted(len(lost), 'image')} lost</b>, {len(flips) - len(lost)} won"
    shown = lost[:IMAGES]
    figures = ""
    for flip, pixels in zip(shown, studio.pictures([f.index for f in shown]), strict=True):
        picture = (
            f'<img alt="image {flip.index}" style="{_STYLE}; width: 48px; height: 48px" '
            f'src="{data_uri(pixels)}">'
        )
        figures += f"<div>{picture}<br>{plots.answered(flip.before, flip.after)}</div>"
    style = "display: flex; flex-wrap: wrap; gap: 4px 8px; line-height: 1.3; text-align: center"
    more = " (answer before, now):" if shown else ""
    return f'<div>{title}{more}</div><div style="{style}">{figures}</div>'


def class_changes(rows: Iterable[ClassChange]) -> str:
    """A bar per class with its paired interval, as SVG: loss downwards, grey within the noise."""
    rows = sorted(rows, key=lambda row: -abs(row.drop.value))[:CLASSES]
    rows.sort(key=lambda row: row.label)
    least = min([-0.001, *(-row.drop.high for row in rows)])
    most = max([0.001, *(-row.drop.low for row in rows)])
    left, top, high, wide = 56, 8, 84, 26

    def y(points: float) -> float:
        return round(top + high * (most - points) / (most - least), 1)

    def line(x1: float, x2: float, y1: float, y2: float) -> str:
        return f'<line stroke="currentColor" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'

    def text(x: float, y: float, words: object, anchor: str) -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    right = left + wide * len(rows)
    parts = [line(left, right, y(0), y(0))]
    parts += [text(left - 6, y(end) + 4, change(-end), "end") for end in (least, most)]
    for place, row in enumerate(rows):
        x, gained = left + wide * (place + 0.5), -row.drop.value
        noise = row.drop.low <= 0 <= row.drop.high
        colour = "noise" if noise else "bad" if gained < 0 else "gain"
        size = f'width="16" height="{abs(y(gained) - y(0)):.1f}"'
        parts.append(
            f"<g><title>class {row.label}: {row.drop}, {row.n:,} images</title>"
            f'<rect x="{x - 8}" y="{min(y(0), y(gained))}" {size} style="fill: var(--{colour})"/>'
            f"{line(x, x, y(-row.drop.high), y(-row.drop.low))}"
            f"{text(x, top + high + 16, row.label, 'middle')}</g>"
        )
    return (
        f"<div><b>change of accuracy per class</b>, points</div><svg role="
        f'"img" aria-label="change of accuracy per class" width="{right + 6}" height="{top + 106}" '
        f'style="fill: currentColor; font-size: 13px">{"".join(parts)}</svg>'
    )


def image_shape(studio: Studio) -> tuple[int, int] | None:
    """(height, width) of the images, where the first layer takes in their pixels, one channel."""
    weight, shape = studio.layer(studio.layers[0]).weight, getattr(studio.val, "shape", (0,))
    sees = shape[0] == 1 and weight.ndim == 2 and weight.shape[1] == math.prod(shape)
    return shape[1:] if sees else None


def pixel_map(kept: Tensor, shape: tuple[int, int]) -> str:
    """How many connections each pixel still has: white none, blue the most; `kept` (out, H * W)."""
    counts = kept.sum(0).reshape(shape).cpu().numpy()
    strength = (counts / max(counts.max(), 1))[..., None]
    pixels = 255 * (1 - strength * (1 - np.array(to_rgb(plots.KEPT))))
    return (
        f'<div style="display: flex; gap: 8px"><img alt="connections per pixel" '
        f'style="{_STYLE}; width: 112px; height: 112px" src="{data_uri(pixels.astype(np.uint8))}">'
        f"<div><b>{(counts > 0).sum()} of {counts.size}<br>pixels seen</b>,<br>each by at most<br>"
        f"{counts.max()} of {len(kept)} neurons</div></div>"
    )
