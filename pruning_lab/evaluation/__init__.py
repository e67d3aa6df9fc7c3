"""Accuracy with its error bar; the suffix evaluator. Measuring leaves no trace."""

from pruning_lab.evaluation.accuracy import (
    Accuracy,
    Drop,
    Images,
    Z,
    check_labels,
    device_of,
    drop,
    evaluate,
    hits,
    measuring,
    mode,
    right,
    wilson,
)
from pruning_lab.evaluation.session import SuffixEvaluator
from pruning_lab.evaluation.suffix import Changes
from pruning_lab.evaluation.thresholded import Thresholded

__all__ = [
    "Accuracy",
    "Changes",
    "Drop",
    "Images",
    "SuffixEvaluator",
    "Thresholded",
    "Z",
    "check_labels",
    "device_of",
    "drop",
    "evaluate",
    "hits",
    "measuring",
    "mode",
    "right",
    "wilson",
]
