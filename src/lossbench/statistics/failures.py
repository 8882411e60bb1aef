"""How often a loss fails altogether: exact tests and bounds, since means hide rare failures."""

from typing import NamedTuple

import numpy as np
from scipy import special, stats


class Rate(NamedTuple):
    """How often something happened, with exact (Clopper-Pearson) bounds of its probability."""

    n: int
    n_failed: int
    low: float
    high: float


def failure_rate(n_failed: int, n: int, confidence: float = 0.95) -> Rate:
    """Rate of failures with exact bounds.

    Parameters
    ----------
    n_failed, n
        Failures among independent units: subjects, or trainings.
    confidence
        Of each bound alone. Where nothing failed, the upper one is what an observer can still not
        rule out: 0 of 6 trainings is compatible with up to 39 %.

    Returns
    -------
    Rate
        NaN bounds where n is 0.
    """
    if n == 0:
        return Rate(0, 0, np.nan, np.nan)
    # Quantiles of beta distributions; scipy's binomtest searches for them step by step.
    low = special.betaincinv(n_failed, n - n_failed + 1, 1 - confidence) if n_failed else 0.0
    high = special.betaincinv(n_failed + 1, n - n_failed, confidence) if n_failed < n else 1.0
    return Rate(n, n_failed, float(low), float(high))


def mcnemar(loss_failed: np.ndarray, reference_failed: np.ndarray) -> float:
    """Exact McNemar test that two losses fail equally often on the same subjects.

    Parameters
    ----------
    loss_failed, reference_failed
        Number of failures of each subject, float or int (subjects,), among as many attempts of
        both losses; NaN where a subject was not attempted by both. With one attempt a subject this
        is McNemar's test; with several the subjects are counted by the sign of their difference.

    Returns
    -------
    float
        Two-sided p; 1 where the losses failed on the same subjects.
    """
    difference = np.asarray(loss_failed, dtype=float) - np.asarray(reference_failed, dtype=float)
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    if more + less == 0:
        return 1.0
    return float(stats.binomtest(more, more + less).pvalue)
