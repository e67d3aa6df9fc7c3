# What `import pruning_lab` has: the module itself loads each name when it is first used.
from pruning_lab import checkpoints as checkpoints
from pruning_lab import cli as cli
from pruning_lab import cost as cost
from pruning_lab import counts as counts
from pruning_lab import criteria as criteria
from pruning_lab import data as data
from pruning_lab import evaluation as evaluation
from pruning_lab import exercises as exercises
from pruning_lab import experiments as experiments
from pruning_lab import files as files
from pruning_lab import layers as layers
from pruning_lab import masks as masks
from pruning_lab import models as models
from pruning_lab import neurons as neurons
from pruning_lab import paper as paper
from pruning_lab import plots as plots
from pruning_lab import processes as processes
from pruning_lab import provenance as provenance
from pruning_lab import reports as reports
from pruning_lab import retraining as retraining
from pruning_lab import rows as rows
from pruning_lab import sensitivity as sensitivity
from pruning_lab import sparse as sparse
from pruning_lab import storage as storage
from pruning_lab import studio as studio
from pruning_lab import training as training
from pruning_lab import widgets as widgets
from pruning_lab.evaluation import evaluate as evaluate
from pruning_lab.masks import Mask as Mask
from pruning_lab.masks import prune as prune
from pruning_lab.sensitivity import choose as choose
from pruning_lab.sensitivity import scan as scan
from pruning_lab.studio import Studio as Studio
from pruning_lab.training import TrainConfig as TrainConfig
from pruning_lab.training import train as train

__version__: str
