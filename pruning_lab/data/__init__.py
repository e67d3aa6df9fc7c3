"""Images as tensors on the device: decoded once, split in three, augmented in batches.

Looked for in the folder of the environment variable PRUNING_LAB_DATA, else in `data/`. Nothing is
downloaded unless asked; `digits` and `shapes` need no file at all, and `folder:PATH` reads images
of your own. What is too large for memory streams from its files.
"""

from pruning_lab.data.images import Images, Part, count, fingerprint_of, for_choosing
from pruning_lab.data.loading import LOADERS, load
from pruning_lab.data.scale import IMAGENET
from pruning_lab.data.splits import Split, Splits
from pruning_lab.data.streams import Stream

__all__ = [
    "IMAGENET",
    "LOADERS",
    "Images",
    "Part",
    "Split",
    "Splits",
    "Stream",
    "count",
    "fingerprint_of",
    "for_choosing",
    "load",
]
