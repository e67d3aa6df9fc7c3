"""The threshold studio: thresholds of a network, and the accuracy that follows; no widgets."""

from pruning_lab.studio.history import ALL, Attempt, Comparison, History, Setting
from pruning_lab.studio.layers import LIMIT, STEP, Layer
from pruning_lab.studio.measurer import Changed, Failed, Measured, Moved, Progress
from pruning_lab.studio.metrics import ClassChange, Flip, LayerMetrics, Metrics
from pruning_lab.studio.studio import Studio

__all__ = ["ALL", "LIMIT", "STEP", "Attempt", "Changed", "ClassChange", "Comparison", "Failed"]
__all__ += ["Flip", "History", "Layer", "LayerMetrics", "Measured", "Metrics"]
__all__ += ["Moved", "Progress", "Setting", "Studio"]
