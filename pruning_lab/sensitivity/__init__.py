"""How much each layer minds being pruned, and what to keep of each."""

from pruning_lab.sensitivity.choosing import Plan, PlanRow, check_choice, choose
from pruning_lab.sensitivity.points import Scan, ScanPoint
from pruning_lab.sensitivity.priors import PriorRow, prior
from pruning_lab.sensitivity.scanning import Progress, scan

__all__ = [
    "Plan",
    "PlanRow",
    "PriorRow",
    "Progress",
    "Scan",
    "ScanPoint",
    "check_choice",
    "choose",
    "prior",
    "scan",
]
