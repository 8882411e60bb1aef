"""Weights of classes from their frequency in the training cases of a fold."""

from collections.abc import Sequence

import numpy as np

from lossbench.config import UserError, did_you_mean

EFFECTIVE_NUMBER_BETA = 0.9999  # Cui et al. 2019, arXiv:1901.05555

# Of f, the share of the voxels, and n, their number. With mean 1 the median frequency is the
# inverse frequency: the median is a constant factor.
WEIGHTS = {
    "inverse_frequency": lambda f, n: 1 / f,
    "inverse_square_root": lambda f, n: 1 / np.sqrt(f),
    "median_frequency": lambda f, n: np.median(f) / f,
    "effective_number": lambda f, n: 1 / -np.expm1(n * np.log(EFFECTIVE_NUMBER_BETA)),
}


def class_weights(
    name: str,
    voxels: Sequence[int],
    classes: Sequence[str],
    indices: Sequence[int] | None = None,
    cap: float | None = None,
    labelled: int | None = None,
) -> list[float]:
    """Weights of classes by their frequency in the training cases.

    Parameters
    ----------
    name
        A key of `WEIGHTS`, for weights with mean 1; with `_raw` behind it, not scaled.
    voxels
        Voxels per class over the training cases, int (K,).
    classes
        Their names, for messages.
    indices
        Indices of the classes that the loss takes a weight of; None: all. Frequencies are those
        among all classes, the mean is that of these classes.
    labelled
        Voxels in all, where classes are regions that overlap; None: the sum of `voxels`.
    cap
        Largest ratio to the smallest of these weights; larger weights are cut to it, before
        the mean is made 1. A class without a voxel then gets the cap.

    Returns
    -------
    list of float
        A weight for each of these classes.

    Raises
    ------
    UserError
        Unknown name; without a cap, a class without a voxel, whose weight would be infinite.
    """
    formula = name.removesuffix("_raw")
    if formula not in WEIGHTS:
        names = [f"${n}{end}" for n in WEIGHTS for end in ("", "_raw")]
        raise UserError(f"unknown weights ${name}; {did_you_mean('$' + name, names)}")
    chosen = list(range(len(classes)) if indices is None else indices)
    counts = np.asarray(voxels, dtype=float)
    absent = [classes[c] for c in chosen if counts[c] == 0]
    if absent and (cap is None or len(absent) == len(chosen)):
        raise UserError(
            f"${name} of class {', '.join(absent)} is infinite: no voxel of it in the training "
            "cases of the fold; use other folds, or set weight_cap"
        )
    with np.errstate(divide="ignore"):
        weights = WEIGHTS[formula](counts / (labelled or counts.sum()), counts)[chosen]
    if cap is not None:
        weights = np.minimum(weights, cap * weights.min())
    return (weights if name.endswith("_raw") else weights / weights.mean()).tolist()
