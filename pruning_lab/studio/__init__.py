"""The threshold studio: thresholds of a network, and the accuracy that follows; no widgets."""

from pruning_lab.studio.history import ALL, Attempt, Comparison, History, Setting
from pruning_lab.studio.layers import LIMIT, STEP, Layer
from pruning_lab.studio.measurer import Failed, Measured, Moved, Progress
from pruning_lab.studio.metrics import ClassChange, Flip, LayerMetrics, Metrics
from pruning_lab.studio.studio import Studio

__all__ = ["ALL", "LIMIT", "STEP", "Attempt", "ClassChange", "Comparison", "Failed", "Flip"]
__all__ += ["History", "Layer", "LayerMetrics", "Measured", "Metrics"]
__all__ += ["Moved", "Progress", "Setting", "Studio"]
