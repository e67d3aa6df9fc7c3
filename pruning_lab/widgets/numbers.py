"""A threshold on a few numbers, to meet the rule by hand before a network follows it."""

from collections.abc import Callable, Sequence

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from pruning_lab import criteria, plots
from pruning_lab.widgets.panels import SliderPanel
from pruning_lab.widgets.pictures import WIDTH, png
from pruning_lab.widgets.tables import table

MANY = 24  # numbers, of which one can still read each


class NumbersSlider(SliderPanel):
    """A few numbers as bars, and a slider for the quality: those below quality x sigma turn grey.

    Set `panel.quality` in a cell, or move the slider; read `kept` (criteria.by_quality's answer),
    `threshold` and `density` at once. `settle()` waits for the picture.

    Raises ValueError unless there are 1 to 24 finite numbers in one row.
    """

    quality = traitlets.Float(help="threshold / sigma; rounded to a step of the slider")
    follows, limited_by, css, height = "quality", "max_quality", "numbers", 230

    def __init__(
        self,
        numbers: Tensor | Sequence[float],
        *,
        quality: float = 1.0,
        max_quality: float = 3.0,
        step: float = 0.05,
    ):
        self.numbers = _checked(numbers)
        self.sigma = criteria.sigma(self.numbers)
        super().__init__(self._draw, quality, limit=max_quality, step=step, description="quality")

    @traitlets.validate("quality")
    def _rounded(self, proposal) -> float:
        return self._on_the_grid(proposal["value"])

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
        """The text at once, the picture when the worker comes to it."""
        stay, n = int(self.kept.sum()), len(self.numbers)
        self.text.value = table(
            {
                "threshold": f"<b>{self.threshold:.4g}</b> "
                f"({self.quality:.2f} × σ of {self.sigma:.4g})",
                "stay": f"<b>{stay} of {n}</b>",
                "density": f"<b>{stay / n:.0%}</b>",
            }.items()
        )
        self._worker.submit(self.quality)

    def _draw(self, quality: float, stale: Callable[[], bool]) -> None:
        figure = Figure(figsize=(WIDTH / 100, self.height / 100))
        ax = figure.add_axes((0.08, 0.05, 0.9, 0.83))
        kept = criteria.by_quality(self.numbers, quality).tolist()
        numbers, threshold = self.numbers.tolist(), quality * self.sigma
        colours = [plots.KEPT if stays else plots.GONE for stays in kept]
        for place, bar in enumerate(ax.bar(range(len(numbers)), numbers, color=colours)):
            up = numbers[place] >= 0
            ax.annotate(
                f"{numbers[place]:g}",
                (place, bar.get_y() + bar.get_height()),
                xytext=(0, 3 if up else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
                color=plots.INK if kept[place] else "0.45",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
        for side in (-threshold, threshold):
            ax.axhline(side, color=plots.INK, linestyle="--", linewidth=1)
        ax.axhline(0, color=plots.INK, linewidth=0.8)
        reach = 1.2 * max(max(map(abs, numbers)), 1e-12)
        ax.set_ylim(-reach if min(numbers) < 0 else 0, reach)
        ax.set_xticks([])
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.set_title(f"grey goes: |w| < {quality:.2f} × σ", loc="left", color=plots.INK)
        self.picture.value = png(figure)

    def __repr__(self) -> str:
        return (
            f"NumbersSlider(quality={self.quality:g}, threshold={self.threshold:.4g}, "
            f"kept={self.kept.tolist()})"
        )


def _checked(numbers: Tensor | Sequence[float]) -> Tensor:
    row = torch.as_tensor(numbers).detach().float().clone()
    if row.ndim != 1 or not 1 <= len(row) <= MANY:
        raise ValueError(
            f"expected a row of 1 to {MANY} numbers, got the shape {tuple(row.shape)}; for a layer "
            f"there is ThresholdSlider"
        )
    if not row.isfinite().all():
        raise ValueError(f"expected finite numbers, got {row.tolist()}")
    return row
