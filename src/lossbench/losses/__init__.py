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
from lossbench.losses.build import (
    batch_loss,
    batch_loss_of_copies,
    build_loss,
    loss_for_cases,
    run_loss,
)
from lossbench.losses.fscore import FScoreLoss, f_score
from lossbench.losses.masked import MaskedLoss
from lossbench.losses.regions import BinaryCrossEntropy, DiceBCELoss, RegionLoss
from lossbench.losses.scaled import Scaled, match_scale, scale_of
from lossbench.losses.sync_free import SyncFreeDice, make_sync_free
from lossbench.losses.targets import example_target, make_target, one_hot
from lossbench.losses.weights import class_weights

__all__ = [
    "BinaryCrossEntropy",
    "DiceBCELoss",
    "FScoreLoss",
    "ForegroundProbability",
    "IndexTarget",
    "MaskedLoss",
    "NeighborAwareLoss",
    "RegionLoss",
    "Scaled",
    "SyncFreeDice",
    "WassersteinDiceLoss",
    "activation_problem",
    "are_probabilities",
    "batch_loss",
    "batch_loss_of_copies",
    "build_loss",
    "class_weights",
    "example_target",
    "f_score",
    "loss_for_cases",
    "make_sync_free",
    "make_target",
    "match_scale",
    "one_hot",
    "run_loss",
    "scale_of",
]
