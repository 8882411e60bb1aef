"""Differences on several data sets put together: random effects with a prediction interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST_DATASETS = 3  # fewer say nothing of the spread between data sets


class RandomEffects(NamedTuple):
    """The mean effect over data sets and what to expect on a new one.

    Attributes
    ----------
    mean, low, high, p
        Of the mean over the population of data sets: Hartung-Knapp interval and two-sided p.
    sd_between
        Standard deviation of the true effects between data sets (Paule and Mandel).
    prediction_low, prediction_high
        Prediction interval for the true effect on a new data set of this population.
    """

    n_datasets: int
    mean: float
    low: float
    high: float
    p: float
    sd_between: float
    prediction_low: float
    prediction_high: float


def random_effects(
    effects: Sequence[float], variances: Sequence[float], confidence: float = 0.95
) -> RandomEffects | None:
    """Combine one effect per data set (Hartung and Knapp 2001; Higgins et al. 2009).

    Parameters
    ----------
    effects, variances
        A difference of two losses on each data set, and the variance of its estimate; data sets
        where either is not finite are left out.
    confidence
        For example 0.95.

    Returns
    -------
    RandomEffects or None
        None with fewer than `FEWEST_DATASETS`.

    Notes
    -----
    The weights are 1 / (variance + variance between). The variance of the mean is that of the
    weighted spread itself (Hartung-Knapp), at least what the weights say, and Student's
    distribution has n - 1 degrees of freedom, n - 2 for a new data set.
    """
    effects, variances = (np.asarray(values, dtype=float) for values in (effects, variances))
    known = np.isfinite(effects) & np.isfinite(variances)
    effects, variances = effects[known], variances[known]
    n = len(effects)
    if n < FEWEST_DATASETS:
        return None
    if np.ptp(effects) == 0 and not variances.any():
        value = float(effects[0])
        return RandomEffects(n, value, value, value, float(value == 0), 0.0, value, value)
    from statsmodels.stats.meta_analysis import combine_effects  # its import takes a second

    smallest = max(float(variances.max()), float(effects.var())) * 1e-9
    variances = np.maximum(variances, smallest)
    between = max(0.0, float(combine_effects(effects, variances, method_re="iterated").tau2))
    weights = 1 / (variances + between)
    mean = float(weights @ effects / weights.sum())
    spread = float(weights @ (effects - mean) ** 2) / (n - 1)
    error = np.sqrt(max(spread, 1.0) / weights.sum())
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * error
    reach = stats.t.ppf((1 + confidence) / 2, n - 2) * np.sqrt(between + error**2)
    p = 2 * stats.t.sf(abs(mean) / error, n - 1)
    values = (mean, mean - half, mean + half, p, np.sqrt(between), mean - reach, mean + reach)
    return RandomEffects(n, *(float(value) for value in values))
