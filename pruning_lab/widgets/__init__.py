"""Panels for notebooks: one slider, or a whole studio; a cell or a test sets and reads them.

A slider's message only looks numbers up: accuracy and pictures come from the studio's thread, so
that dragging stays smooth. Pictures are sent as PNG or SVG, which every notebook front end shows.
"""

from pruning_lab.widgets.cost_slider import CostSlider
from pruning_lab.widgets.function_slider import FunctionSlider
from pruning_lab.widgets.growing import GrowingScan, GrowingTraining
from pruning_lab.widgets.guesses import DrawCurve, GuessSlider, Pick, Rank
from pruning_lab.widgets.numbers import NumbersSlider
from pruning_lab.widgets.panel import StudioPanel
from pruning_lab.widgets.sliders import DropSlider, ThresholdSlider

__all__ = [
    "CostSlider",
    "DrawCurve",
    "DropSlider",
    "FunctionSlider",
    "GrowingScan",
    "GrowingTraining",
]
__all__ += ["GuessSlider", "NumbersSlider", "Pick", "Rank", "StudioPanel", "ThresholdSlider"]
