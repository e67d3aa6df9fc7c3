"""Plots: rows in, axes in and out; `show` shows one in a notebook, with its sentence in words.

A colour means the same in every plot. Names are drawn as they are: a `$` begins no formula.
"""

from pruning_lab.plots.blocks import network
from pruning_lab.plots.comparisons import saliencies
from pruning_lab.plots.contrast import contrast
from pruning_lab.plots.costs import frontier
from pruning_lab.plots.curves import epochs, prior, sensitivity, sensitivity_grid, trade_off
from pruning_lab.plots.figures import before_and_after, penalties, pixels
from pruning_lab.plots.gallery import energy, images
from pruning_lab.plots.looks import (
    CURVES,
    GONE,
    INK,
    KEPT,
    LIMIT,
    NOISE,
    OURS,
    PAPER,
    STYLE,
    short_names,
    style,
)
from pruning_lab.plots.pictures import (
    answered,
    bands,
    kept_pixels,
    layer_table,
    lost_images,
    weights,
    weights_beside,
)
from pruning_lab.plots.shown import DPI, Picture, encoded, png, show, svg, without_formulas, words
from pruning_lab.plots.storing import layer_times, stored
from pruning_lab.plots.teaching import class_points
from pruning_lab.plots.techniques import techniques

__all__ = ["before_and_after", "penalties", "pixels"]
__all__ += ["CURVES", "DPI", "GONE", "INK", "KEPT", "LIMIT", "NOISE", "OURS", "PAPER", "STYLE"]
__all__ += ["Picture", "answered", "bands", "class_points", "contrast", "encoded", "energy"]
__all__ += ["epochs", "frontier"]
__all__ += ["images", "kept_pixels", "layer_table", "layer_times", "lost_images", "network", "png"]
__all__ += ["prior", "saliencies", "sensitivity", "sensitivity_grid", "short_names", "show"]
__all__ += ["stored", "style", "svg", "techniques"]
__all__ += ["trade_off", "weights", "weights_beside", "without_formulas", "words"]
