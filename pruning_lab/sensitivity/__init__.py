"""Layer-wise pruning sensitivity: the scan, and densities chosen from it."""

from pruning_lab.sensitivity.choosing import check_choice, check_same_weights, choose
from pruning_lab.sensitivity.plans import Plan, PlanRow
from pruning_lab.sensitivity.points import Scan, ScanPoint
from pruning_lab.sensitivity.priors import PriorRow, prior
from pruning_lab.sensitivity.scanning import Progress, scan

__all__ = ["Plan", "PlanRow", "PriorRow", "Progress", "Scan", "ScanPoint", "check_choice"]
__all__ += ["check_same_weights", "choose", "prior", "scan"]
