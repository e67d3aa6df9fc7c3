"""A threshold on a few numbers, to meet the rule by hand before a network follows it."""

from collections.abc import Sequence

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from pruning_lab import criteria, plots
from pruning_lab.widgets.drawing import WIDTH, png
from pruning_lab.widgets.slider_panel import SliderPanel
from pruning_lab.widgets.tables import table

MANY = 24  # numbers, of which one can still read each


class NumbersSlider(SliderPanel):
    """A few numbers as bars, and a slider for the quality: those below quality x sigma turn grey.

    Set `panel.quality` in a cell, or move the slider; read `kept` (criteria.by_quality's answer),
    `threshold` and `density`. Raises ValueError unless there are 1 to 24 finite numbers in one row.
    """

    quality = traitlets.Float(help="threshold / sigma; rounded to a step of the slider")
    number, limited_by, css = "quality", "max_quality", "numbers"

    def __init__(
        self, numbers: Tensor | Sequence[float], *, quality: float = 1.0, max_quality: float = 3.0
    ):
        self.numbers = torch.as_tensor(numbers).detach().float().clone()
        if self.numbers.ndim != 1 or not 1 <= len(self.numbers) <= MANY:
            raise ValueError(
                f"expected a row of 1 to {MANY} numbers, got the shape "
                f"{tuple(self.numbers.shape)}; for a layer there is ThresholdSlider"
            )
        if not self.numbers.isfinite().all():
            raise ValueError(f"expected finite numbers, got {self.numbers.tolist()}")
        self.sigma = criteria.sigma(self.numbers)
        super().__init__(quality, limit=max_quality, step=0.05, description="quality")

    @traitlets.validate("quality")
    def _rounded(self, proposal: dict) -> float:
        return self._on_the_grid(proposal)

    @property
    def threshold(self) -> float:
        return self.quality * self.sigma

    @property
    def kept(self) -> Tensor:
        """bool, one for each number; True stays."""
        return criteria.by_quality(self.numbers, self.quality)

    @property
    def density(self) -> float:
        return self.kept.float().mean().item()

    def _show(self) -> None:
        q, kept, n = self.quality, int(self.kept.sum()), len(self.numbers)
        threshold = f"<b>{self.threshold:.4g}</b> ({q:.2f} × σ of {self.sigma:.4g})"
        amount = f"<b>{kept} of {n}</b> (density {kept / n:.0%})"
        self.text.value = table([("threshold", threshold), ("kept", amount)])
        self.picture.value = self._drawn()

    def _drawn(self) -> bytes:
        figure = Figure(figsize=(WIDTH / 100, 2.3))
        ax = figure.add_axes((0.08, 0.05, 0.9, 0.83))
        numbers, kept = self.numbers.tolist(), self.kept.tolist()
        colours = [plots.KEPT if stays else plots.GONE for stays in kept]
        bars = ax.bar(range(len(numbers)), numbers, color=colours)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.bar_label(bars, [f"{number:g}" for number in numbers], padding=3, bbox=box)
        for side in (-self.threshold, self.threshold):
            ax.axhline(side, color=plots.INK, linestyle="--", linewidth=1)
        ax.axhline(0, color=plots.INK, linewidth=0.8)
        reach = 1.2 * max(max(map(abs, numbers)), 1e-12)
        ax.set_ylim(-reach if min(numbers) < 0 else 0, reach)
        ax.set_xticks([])
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.set_title(f"grey is pruned: |w| < {self.quality:.2f} × σ", loc="left", color=plots.INK)
        return png(figure)

    def __repr__(self) -> str:
        return (
            f"NumbersSlider(quality={self.quality:g}, threshold={self.threshold:.4g}, "
            f"kept={self.kept.tolist()})"
        )
