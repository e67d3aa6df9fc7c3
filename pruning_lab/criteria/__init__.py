"""Which weights stay: saliencies, and functions from a saliency and one number to a bool tensor.

A *saliency* says how much a weight matters: a function of a weight (`magnitude`, `random(seed)`),
or a dict of layer name -> tensor computed beforehand (`gradient`, `taylor`, `obd`). In a bool
tensor True means kept; `kept` says which weights are still there. A density refers to the whole
layer all the same, so repeating a call never compounds.
"""

from pruning_lab.criteria.hessian import obd
from pruning_lab.criteria.saliencies import (
    Computed,
    Probabilistic,
    Random,
    Saliency,
    by_name,
    check,
    gradient,
    magnitude,
    name_of,
    probabilistic,
    random,
    saliency_of,
    taylor,
)
from pruning_lab.criteria.selecting import (
    across_layers,
    by_densities,
    by_density,
    by_levels,
    by_quality,
    by_threshold,
    check_amount,
    lamp,
    sigma,
)

__all__ = ["Computed", "Probabilistic", "Random", "Saliency", "across_layers", "by_densities"]
__all__ += ["by_density", "by_levels", "by_name", "by_quality", "by_threshold", "check"]
__all__ += ["check_amount", "gradient", "lamp", "magnitude", "name_of", "obd", "probabilistic"]
__all__ += ["random", "saliency_of", "sigma", "taylor"]
