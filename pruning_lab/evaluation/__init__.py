"""Accuracy with its interval; networks evaluated again and again. Measuring leaves no trace."""

from pruning_lab.evaluation.accuracy import (
    Accuracy,
    Drop,
    Images,
    Z,
    check_labels,
    check_logits,
    device_of,
    drop,
    evaluate,
    hits,
    measuring,
    mode,
    right,
    wilson,
)
from pruning_lab.evaluation.evaluator import Evaluator
from pruning_lab.evaluation.recalibration import recalibrate
from pruning_lab.evaluation.suffix import Changes
from pruning_lab.evaluation.thresholded import Thresholded

__all__ = [
    "Accuracy",
    "Changes",
    "Drop",
    "Evaluator",
    "Images",
    "Thresholded",
    "Z",
    "check_labels",
    "check_logits",
    "device_of",
    "drop",
    "evaluate",
    "hits",
    "measuring",
    "mode",
    "recalibrate",
    "right",
    "wilson",
]
