"""Runs with their controls, and the paper's tables and figures made from them.

A run is a value (`Recipe`) and a seed: train, scan, prune and retrain in rounds, train the control,
test once. Its result is a plain record of rows that `run.json` holds. A `Workspace` keeps what
experiments trained, so that what exists is not done again.
"""

from pruning_lab.experiments.contrast import Contrast, ContrastRow, contrast
from pruning_lab.experiments.figures import Figure, figure_1, figure_4, figure_6, figure_7, trained
from pruning_lab.experiments.frontier import Frontier, FrontierRow, frontier, row_of
from pruning_lab.experiments.penalties import figure_5
from pruning_lab.experiments.recipes import (
    REDUCED,
    Recipe,
    chosen_recipe,
    compressed_recipe,
    paper_recipe,
)
from pruning_lab.experiments.records import Config, Run, load_config
from pruning_lab.experiments.results import Result, Trained
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
from pruning_lab.experiments.tables import recipe_for, table_1, table_2, table_3, table_4, table_5
from pruning_lab.experiments.techniques import (
    TechniqueRow,
    Techniques,
    technique_recipes,
    techniques,
)
from pruning_lab.experiments.workspace import Workspace

__all__ = ["REDUCED", "Config", "Figure", "Frontier", "FrontierRow", "Note", "Recipe", "Result"]
__all__ += ["Rival", "Run", "Saliencies", "SaliencyRow", "Table6", "TechniqueRow", "Techniques"]
__all__ += ["Trained", "Workspace", "choose_ranks", "chosen_recipe", "compare", "compressed_recipe"]
__all__ += ["figure_1", "figure_4", "figure_5", "figure_6", "figure_7", "frontier", "load_config"]
__all__ += ["merge_neurons", "naive_cut", "obd_against_magnitude", "paper_recipe", "recipe_for"]
__all__ += ["row_of", "run", "saliencies", "svd", "table_1", "table_2", "table_3", "table_4"]
__all__ += ["table_5", "table_6", "technique_recipes", "techniques", "trained"]
__all__ += ["Contrast", "ContrastRow", "contrast"]
