"""Differences on several data sets put together: random effects with a prediction interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from lossbench.statistics.differences import Difference
from lossbench.statistics.variance_components import student

FEWEST_DATASETS = 3  # fewer say nothing of the spread between data sets


class RandomEffects(NamedTuple):
    """The mean effect over data sets and what to expect on a new one.

    Attributes
    ----------
    difference
        The mean over the population of data sets, with Hartung and Knapp's interval and p.
    sd_between
        Standard deviation of the true effects between data sets (Paule and Mandel).
    """

    difference: Difference
    sd_between: float

    def prediction(self, confidence: float, bound: float = np.inf) -> tuple[float, float]:
        """Interval for the true effect on a new data set of this population (Higgins 2009).

        `confidence` and `bound` as for `Difference.interval`.
        """
        mean, error = self.difference.mean, self.difference.variance
        # A degree of freedom less than for the mean: the spread is estimated as well.
        quantile = stats.t.ppf((1 + confidence) / 2, self.difference.n_blocks - 2)
        half = quantile * np.sqrt(self.sd_between**2 + error)
        return float(max(mean - half, -bound)), float(min(mean + half, bound))


def random_effects(effects: Sequence[float], variances: Sequence[float]) -> RandomEffects | None:
    """Combine one effect per data set (Hartung and Knapp 2001, Stat. Med. 20:3875).

    Parameters
    ----------
    effects, variances
        A difference of two losses on each data set, and the variance of its estimate. Data sets
        where either is not finite are left out.

    Returns
    -------
    RandomEffects or None
        None with fewer than `FEWEST_DATASETS`. `n_blocks` of its difference counts data sets.

    Notes
    -----
    The weights are 1 / (variance + variance between). The variance of the mean is that of the
    weighted spread itself, but at least what the weights say, and Student's distribution has n - 1
    degrees of freedom.
    """
    effects, variances = (np.asarray(values, dtype=float) for values in (effects, variances))
    known = np.isfinite(effects) & np.isfinite(variances)
    effects, variances = effects[known], variances[known]
    n = len(effects)
    if n < FEWEST_DATASETS:
        return None
    # A variance of exactly 0 would take all the weight.
    smallest = 1e-9 * max(variances.max(), effects.var())
    if smallest == 0:  # all alike, without any noise
        return RandomEffects(_mean(float(effects[0]), 0.0, n), 0.0)
    variances = np.maximum(variances, smallest)

    def weighted(between: float) -> tuple[np.ndarray, float, float]:
        weights = 1 / (variances + between)
        mean = float(weights @ effects / weights.sum())
        return weights, mean, float(weights @ (effects - mean) ** 2) / (n - 1)

    # Paule and Mandel: the variance between at which the weighted spread is what it should be.
    between = 0.0
    if weighted(between)[2] > 1:
        between = optimize.brentq(lambda x: weighted(x)[2] - 1, 0, n * effects.var())
    weights, mean, spread = weighted(between)
    return RandomEffects(_mean(mean, max(spread, 1.0) / weights.sum(), n), between**0.5)


def _mean(mean: float, variance: float, n: int) -> Difference:
    return Difference(mean, student(variance, n - 1), n_cases=n, n_blocks=n)
