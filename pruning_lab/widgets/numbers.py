"""A threshold on a few numbers, to meet the rule by hand before a network follows it."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from pruning_lab import plots
from pruning_lab.studio import Studio
from pruning_lab.widgets.drawing import WIDTH
from pruning_lab.widgets.sliders import ThresholdSlider

MANY = 24  # numbers, of which one can still read each


class NumbersSlider(ThresholdSlider):
    """A few numbers as bars, and a slider for the quality: those below quality x sigma turn grey.

    They are the weights of a layer in a studio. Set `panel.quality` in a cell, or move the slider;
    read `panel.kept`, `.threshold` and `.density`; `panel.settle()` waits for the picture.

    Raises ValueError unless there are 1 to 24 finite numbers in one row.
    """

    def __init__(self, numbers: Tensor | Sequence[float], *, quality: float = 1.0):
        self.numbers = torch.as_tensor(numbers).detach().float().clone()
        shape, n = tuple(self.numbers.shape), self.numbers.numel()
        if len(shape) != 1 or not 1 <= n <= MANY:
            raise ValueError(
                f"expected a row of 1 to {MANY} numbers, got the shape {shape}; for a layer there "
                f"is ThresholdSlider"
            )
        if not self.numbers.isfinite().all():
            raise ValueError(f"expected finite numbers, got {self.numbers.tolist()}")
        network = nn.Sequential(OrderedDict(numbers=nn.Linear(n, 1, bias=False)))
        network.numbers.weight = nn.Parameter(self.numbers[None])
        images = [(torch.zeros(1, n), torch.zeros(1, dtype=torch.int64))]
        self._open(Studio(network, images), "numbers", quality, "numbers")
        self.start()

    @property
    def kept(self) -> Tensor:
        """bool, one for each number; True stays."""
        return self.mask["numbers"][0]

    def draw(self) -> bytes:
        figure = Figure(figsize=(WIDTH / 100, 2.3))
        ax = figure.add_axes((0.08, 0.05, 0.9, 0.83))
        numbers, row = self.numbers.tolist(), self.row
        bars(ax, numbers, self.kept)
        for side in (-row.threshold, row.threshold):
            ax.axhline(side, color=plots.INK, linestyle="--", linewidth=1)
        title = f"kept: {row.kept} of {row.weights}; grey is pruned: |w| < {row.quality:.2f} × σ"
        ax.set_title(f"{title} of {row.sigma:.4g}", loc="left", color=plots.INK)
        return plots.png(figure)


def bars(ax: Axes, numbers: Sequence[float], kept: Iterable[bool]) -> None:
    """A bar for each number, labelled; grey where it is pruned."""
    colours = [plots.KEPT if stays else plots.GONE for stays in kept]
    drawn = ax.bar(range(len(numbers)), numbers, color=colours)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    ax.bar_label(drawn, [f"{number:g}" for number in numbers], padding=3, bbox=box)
    ax.axhline(0, color=plots.INK, linewidth=0.8)
    reach = 1.2 * max(max(map(abs, numbers)), 1e-12)
    ax.set_ylim(-reach if min(numbers) < 0 else 0, reach)
    ax.set_xticks([])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
