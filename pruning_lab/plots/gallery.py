"""The first pictures of the course: images with their titles, and the energy of an operation."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from pruning_lab.plots import looks

_GAP, _TITLE = 4, 10  # pixels between images, and for a title above each


def images(
    pictures: Sequence[Tensor | np.ndarray] | Tensor,
    titles: Sequence[object] = (),
    *,
    columns: int = 10,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Grey images (H, W) or (1, H, W), all of one size, in rows; each with its title above it."""
    if len(pictures) == 0:
        raise ValueError("no images to draw; give at least one")
    pixels = [np.asarray(picture, dtype=float).squeeze() for picture in pictures]
    (high, wide), rows = pixels[0].shape, math.ceil(len(pixels) / columns)
    step = high + (_TITLE if len(titles) else _GAP)
    sheet = np.full((rows * step, columns * (wide + _GAP)), np.nan)
    ax = looks.axes(ax, title, "", "", figsize=(10, 10 * rows * step / sheet.shape[1]))
    for number, picture in enumerate(pixels):
        row, column = divmod(number, columns)
        top, left = (row + 1) * step - high, column * (wide + _GAP)
        sheet[top : top + high, left : left + wide] = picture
        if len(titles):
            ax.text(left + wide / 2, top - 2, str(titles[number]), ha="center", parse_math=False)
    ax.imshow(sheet, cmap="gray_r")
    ax.axis("off")
    return ax


def energy(picojoules: Mapping[str, float], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A bar for each operation's energy, on a logarithmic axis (paper, Fig. 1)."""
    ax = looks.axes(ax, title, "energy of one operation (pJ, logarithmic)", "", figsize=(8, 2.8))
    names, costs = [*picojoules], [*picojoules.values()]
    bars = ax.barh(names, costs, color=[looks.LIMIT if "DRAM" in n else looks.OURS for n in names])
    ax.bar_label(bars, [f"{cost:,g}" for cost in costs], padding=3, color=looks.INK)
    ax.set(xscale="log", xlim=(min(costs) / 3, 3 * max(costs)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.invert_yaxis()
    return ax
