"""Accuracy with its interval; networks evaluated again and again. Measuring leaves no trace."""

from pruning_lab.evaluation.accuracy import (
    Accuracy,
    Drop,
    change,
    check_labels,
    check_logits,
    drop,
    evaluate,
    measuring,
    pooled,
    right,
    wilson,
)
from pruning_lab.evaluation.evaluator import Evaluator
from pruning_lab.evaluation.recalibration import batch_norms, recalibrate
from pruning_lab.evaluation.replica import Changes
from pruning_lab.evaluation.thresholded import Thresholded

__all__ = ["Accuracy", "Changes", "Drop", "Evaluator", "Thresholded", "batch_norms", "change"]
__all__ += ["check_labels", "check_logits", "drop", "evaluate", "measuring", "pooled"]
__all__ += ["recalibrate", "right", "wilson"]
