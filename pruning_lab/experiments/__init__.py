"""The main job, from a new network to the paper's tables: train, scan, prune and retrain in rounds.

A run is a value (`Recipe`) and a seed; its result is a plain record of rows that `run.json` holds
and that tables, plots and reports read.
"""

from pruning_lab.experiments.frontier import Frontier, FrontierRow, frontier, row_of
from pruning_lab.experiments.recipes import (
    REDUCED,
    Recipe,
    chosen_recipe,
    compressed_recipe,
    paper_recipe,
)
from pruning_lab.experiments.records import Config, Run, load_config
from pruning_lab.experiments.running import Note, compare, run
from pruning_lab.experiments.saliencies import (
    Saliencies,
    SaliencyRow,
    obd_against_magnitude,
    saliencies,
)
from pruning_lab.experiments.workspace import Workspace

__all__ = [
    "REDUCED",
    "Config",
    "Frontier",
    "FrontierRow",
    "Note",
    "Recipe",
    "Run",
    "Saliencies",
    "SaliencyRow",
    "Workspace",
    "chosen_recipe",
    "compare",
    "compressed_recipe",
    "frontier",
    "load_config",
    "obd_against_magnitude",
    "paper_recipe",
    "row_of",
    "run",
    "saliencies",
]
