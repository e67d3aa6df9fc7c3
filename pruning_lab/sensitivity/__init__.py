"""How much each layer minds being pruned, and what to keep of each."""

from pruning_lab.sensitivity.points import Scan, ScanPoint
from pruning_lab.sensitivity.scanning import Progress, scan

__all__ = ["Progress", "Scan", "ScanPoint", "scan"]
