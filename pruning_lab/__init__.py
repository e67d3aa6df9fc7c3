"""pruning_lab: learn, and do, neural-network weight pruning (Han et al. 2015)."""

__version__ = "0.3.0"
