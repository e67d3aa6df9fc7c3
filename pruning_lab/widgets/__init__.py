"""Widgets: some state, one library call, one drawing; a cell or a test sets and reads the state.

A callback only looks numbers up; accuracy and picture come from a thread of their own, so that a
slider follows the hand. Pictures are drawn without pyplot, whose global state threads must not
share, and sent as PNG, which every notebook front end shows.
"""

from pruning_lab.widgets.growing import GrowingScan
from pruning_lab.widgets.numbers import NumbersSlider
from pruning_lab.widgets.sliders import DropSlider, ThresholdSlider
from pruning_lab.widgets.studio import StudioPanel

__all__ = ["DropSlider", "GrowingScan", "NumbersSlider", "StudioPanel", "ThresholdSlider"]
