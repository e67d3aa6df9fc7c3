"""Masks: which weights of which layers are kept, how they were chosen, and holding them."""

from pruning_lab.layers import ADAPTERS, Layer, NotCovered, prunable, unknown_layer
from pruning_lab.masks.holding import Hold
from pruning_lab.masks.mask import Mask, Receipt, ReceiptRow, masked
from pruning_lab.masks.pruning import Amount, prune

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
