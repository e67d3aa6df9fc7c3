"""Masks: which weights of which layers stay, how that was chosen, and how it keeps holding."""

from pruning_lab.layers import ADAPTERS, Layer, NotCovered, prunable, unknown_layer
from pruning_lab.masks.holding import Hold
from pruning_lab.masks.mask import Mask, masked
from pruning_lab.masks.pruning import Amount, prune
from pruning_lab.masks.receipts import Receipt, ReceiptRow

__all__ = [
    "ADAPTERS",
    "Amount",
    "Hold",
    "Layer",
    "Mask",
    "NotCovered",
    "Receipt",
    "ReceiptRow",
    "masked",
    "prunable",
    "prune",
    "unknown_layer",
]
