"""Storage: pruned networks as small files, exact to the bit, next to the paper's scheme.

`packing` documents the file's format, `codes` and `weights` what stands in it.
"""

from pruning_lab.storage.packing import Packed, PackedRow, pack, unpack
from pruning_lab.storage.weights import FORMATS, entropy_bound, paper_bytes, sizes

__all__ = [
    "FORMATS",
    "Packed",
    "PackedRow",
    "entropy_bound",
    "pack",
    "paper_bytes",
    "sizes",
    "unpack",
]
