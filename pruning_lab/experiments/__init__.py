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
from pruning_lab.experiments.rivals import (
    Rival,
    Table6,
    choose_ranks,
    merge_neurons,
    naive_cut,
    svd,
    table_6,
)
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
    "Rival",
    "Run",
    "Saliencies",
    "SaliencyRow",
    "Table6",
    "Workspace",
    "choose_ranks",
    "chosen_recipe",
    "compare",
    "compressed_recipe",
    "frontier",
    "load_config",
    "merge_neurons",
    "naive_cut",
    "obd_against_magnitude",
    "paper_recipe",
    "row_of",
    "run",
    "saliencies",
    "svd",
    "table_6",
]
