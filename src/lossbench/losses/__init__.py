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
from lossbench.losses.masked import MaskedLoss
from lossbench.losses.scaled import Scaled, match_scale, scale_of
from lossbench.losses.sync_free import SyncFreeDice, make_sync_free
from lossbench.losses.targets import one_hot
from lossbench.losses.weights import class_weights

__all__ = [
    "FScoreLoss",
    "ForegroundProbability",
    "IndexTarget",
    "MaskedLoss",
    "NeighborAwareLoss",
    "Scaled",
    "SyncFreeDice",
    "WassersteinDiceLoss",
    "activation_problem",
    "are_probabilities",
    "batch_loss",
    "batch_loss_of_copies",
    "build_loss",
    "class_weights",
    "f_score",
    "make_sync_free",
    "match_scale",
    "one_hot",
    "run_loss",
    "scale_of",
]
