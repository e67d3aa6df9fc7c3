"""The threshold studio: its state, without any widget."""

from pruning_lab.studio.attempts import ALL, Attempt, Comparison, Setting
from pruning_lab.studio.layers import LayerMetrics, Metrics
from pruning_lab.studio.state import Studio
from pruning_lab.studio.worker import NewestFirst

__all__ = [
    "ALL",
    "Attempt",
    "Comparison",
    "LayerMetrics",
    "Metrics",
    "NewestFirst",
    "Setting",
    "Studio",
]
