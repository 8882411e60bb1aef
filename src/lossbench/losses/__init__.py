"""What the libraries' losses lack: weights from the data, adapters, an ignore label, checks.

`lossbench.losses.X` is the dotted path of each of these names in a config.
"""

from lossbench.losses.activation import activation_problem, are_probabilities
from lossbench.losses.adapters import (
    ForegroundProbability,
    IndexTarget,
    NeighborAwareLoss,
    WassersteinDiceLoss,
)
from lossbench.losses.build import batch_loss, batch_loss_of_copies, build_loss, run_loss
from lossbench.losses.fscore import FScoreLoss, f_score
from lossbench.losses.ignoring import Ignoring
from lossbench.losses.scaled import Scaled, match_scale, scale_of
from lossbench.losses.sums import DiceOfSums, of_sums
from lossbench.losses.targets import one_hot
from lossbench.losses.weights import class_weights

__all__ = [
    "DiceOfSums",
    "FScoreLoss",
    "ForegroundProbability",
    "Ignoring",
    "IndexTarget",
    "NeighborAwareLoss",
    "Scaled",
    "WassersteinDiceLoss",
    "activation_problem",
    "are_probabilities",
    "batch_loss",
    "batch_loss_of_copies",
    "build_loss",
    "class_weights",
    "f_score",
    "match_scale",
    "of_sums",
    "one_hot",
    "run_loss",
    "scale_of",
]
