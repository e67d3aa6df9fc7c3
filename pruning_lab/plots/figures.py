"""The paper's figures that put several pictures or curves together: 4, 5 and 7."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pruning_lab.experiments import Run
from pruning_lab.experiments.penalties import CURVES, CurvePoint
from pruning_lab.masks import prunable
from pruning_lab.plots import looks
from pruning_lab.plots.curves import trade_off
from pruning_lab.plots.pictures import bands, kept_pixels, weights_beside

_L1, _L2, _CHAIN = looks.CURVES[1], looks.CURVES[0], looks.CURVES[2]
_LOOKS = {  # as in the paper: dashed without retraining, the iterative one filled
    "L1 without retraining": {"color": _L1, "linestyle": "--", "marker": ""},
    "L2 without retraining": {"color": _L2, "linestyle": "--", "marker": ""},
    "L1 with retraining": {"color": _L1, "markerfacecolor": "white"},
    "L2 with retraining": {"color": _L2, "markerfacecolor": "white"},
    "L2 iterative": {"color": _CHAIN},
    "L2 control": {"color": looks.INK, "linestyle": ":", "marker": ""},
}


def penalties(rows: Sequence[CurvePoint], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Figure 5: change from the dense network over density, a curve for each way to prune.

    Colours tell the penalties apart; dashed is without retraining. The control, dotted, is the
    dense network trained on for as long as the iterative curve at that density.
    """
    for number, curve in enumerate(CURVES):
        beside = 1.018 ** (2.5 - number)  # else one curve's bars would hide another's
        points = [(beside * row.density, row.dense_drop) for row in rows if row.curve == curve]
        if not points:
            continue
        ax = trade_off(points, label=curve, title=title, ax=ax)
        line, caps, bars = ax.containers[-1]
        line.set(**_LOOKS[curve])
        for cap in caps:
            cap.set_visible(False)
        for bar in bars:
            bar.set_color(_LOOKS[curve]["color"])
    dense = ax.texts[0]  # to the left: on the right are the curves
    dense.xy, dense.xyann = (0, 0), (4, 5)
    dense.set_horizontalalignment("left")
    return looks.legend(ax, loc="lower left", handlelength=3)


def pixels(kept: Tensor, *, figure: Figure | None = None) -> list[Axes]:
    """Figure 4: `bands` of the first matrix, and beside it `kept_pixels` of the image."""
    figure = figure or looks.new_figure(figsize=(10, 3.2))
    with looks.style():
        drawn = figure.subplots(1, 2, width_ratios=(2.4, 1))
    return [bands(kept, ax=drawn[0]), kept_pixels(kept, ax=drawn[1])]


def before_and_after(run: Run, layer: str, *, figure: Figure | None = None) -> list[Axes]:
    """Figure 7: the weights of a layer before pruning, and those left after retraining."""
    dense, pruned = (prunable(model)[layer].weight for model in (run.dense, run.model))
    layers = {f"{layer}, dense": dense, "pruned and retrained": pruned[run.mask[layer]]}
    return weights_beside(layers, figure=figure)
