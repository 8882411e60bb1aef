"""How many cases and blocks a comparison needs, from the variance components of a pilot."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lossbench.statistics.differences import Difference, paired_difference
from lossbench.statistics.variance_components import NOISE_EXPONENT, Components, balanced

POWER = 0.8  # of the numbers of cases and blocks that would decide
MAX_PLANNED = 1_000_000  # cases or blocks that anybody would plan for
SEEDS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
_QUANTILES = (np.arange(64) + 0.5) / 64


@dataclass(frozen=True)
class Plan:
    """A study that shows a true difference with the power that was asked for.

    Attributes
    ----------
    n_folds, n_seeds, n_blocks
        Trainings of each loss: blocks = folds x seeds.
    n_cases
        Smallest number of cases, over all folds; infinite where no number would do.
    power
        Probability that the difference is found with that many.
    """

    n_folds: int
    n_seeds: int
    n_blocks: int
    n_cases: float
    power: float


def needed(
    difference: Difference, margin: float, alpha: float, tests: int = 1
) -> tuple[float, float]:
    """Cases in all, or blocks in all, that would decide if the difference is what it seems.

    Parameters
    ----------
    difference
        An undecided one.
    margin, alpha
        Of the comparison: a difference beyond the margin is to be shown, one within it to be
        shown equivalent.
    tests
        Comparisons that share `alpha`; each gets its part, as the smallest p does from Holm.

    Returns
    -------
    tuple of float
        Cases with the blocks that there are, and blocks with the cases that there are, for a
        power of 0.8, the folds being kept; infinite where more of these alone would not do, NaN
        where nothing can be said.
    """
    d = difference
    if not np.isfinite(d.components.case):  # unknown, or a variance that is not taken apart
        return np.nan, np.nan
    seeds = d.n_blocks / d.n_folds

    def enough(cases: float, seeds: float) -> bool:
        design = _design(d, cases, seeds)
        if abs(d.mean) > margin:
            return _power_differs(design, abs(d.mean), alpha / tests) >= POWER
        return _power_equivalent(design, abs(d.mean), margin, alpha / tests) >= POWER

    cases = _smallest(d.n_cases, lambda n: enough(n, seeds))
    if not d.more_seeds_help:
        return cases, np.inf
    return cases, d.n_folds * _smallest(int(np.ceil(seeds)), lambda n: enough(d.n_cases, n))


def planned(
    difference: Difference, goal: float, power: float = POWER, alpha: float = 0.05, tests: int = 1
) -> list[Plan]:
    """Studies that would find a true difference.

    Parameters
    ----------
    difference
        Of a pilot; its components and folds are used, not its mean.
    goal
        True difference to be found, in units of the metric, of either sign.
    power
        Probability of finding it.
    alpha, tests
        Level, and the comparisons that share it by Holm: each is planned at alpha / tests.

    Returns
    -------
    list of Plan
        One for each number of seeds in `SEEDS` that makes two blocks or more; empty where the
        pilot says nothing of training noise.
    """
    d = difference
    if not np.isfinite(d.variance):
        return []
    plans = []
    for seeds in SEEDS:
        if d.n_folds * seeds < 2:  # one block says nothing
            continue

        def reached(cases: float, seeds: int = seeds) -> float:
            return _power_differs(_design(d, cases, seeds), abs(goal), alpha / tests)

        cases = _smallest(2 * d.n_folds, lambda n, reached=reached: reached(n) >= power)
        plans.append(
            Plan(d.n_folds, seeds, d.n_folds * seeds, cases, reached(min(cases, MAX_PLANNED)))
        )
    return plans


def pairing_gain(loss: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Variance of the unpaired difference over that of the paired one.

    Parameters
    ----------
    loss, reference
        Values of the metric, a matrix (seeds, cases) for each fold, NaN where missing.

    Returns
    -------
    float
        How many times as much data would have given the same precision without pairing: with
        other cases, initial weights and batches for each loss. NaN where either cannot be told,
        infinite where the paired difference does not vary.
    """
    paired = [x - y for x, y in zip(loss, reference, strict=True)]

    def alone(side: Sequence[np.ndarray]) -> float:
        shared = [np.where(np.isfinite(d), v, np.nan) for d, v in zip(paired, side, strict=True)]
        return paired_difference(shared).variance

    unpaired = alone(loss) + alone(reference)
    variance = paired_difference(paired).variance
    if variance == 0:
        return np.inf if unpaired > 0 else np.nan
    return float(unpaired / variance)


def _design(d: Difference, cases: float, seeds: float) -> Components:
    """What the components promise for another number of cases, in all, and of seeds."""
    c = d.components
    return balanced(c.case, c.block, c.residual, d.n_folds, seeds, cases)


def _spread(design: Components, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors that such a study may estimate, and the quantile each is multiplied by.

    Equally probable ones: the training noise is estimated with few degrees of freedom, but never
    below 0, and the reference follows it; the cases' part is taken as known.
    """
    known = design.variance - design.noise
    estimated = design.noise * special.chdtri(design.df, _QUANTILES) / design.df
    variance = np.maximum(estimated + known, design.floor)
    weight = (1 - known / variance) ** NOISE_EXPONENT
    # The quantile x of a mixture is that of weight few + (1 - weight) many = p. It is easy to solve
    # for the weight: on a grid of x, which is then read the other way round.
    low, high = np.sort(-special.stdtrit([design.df, design.df_case], p))
    x = np.linspace(high, low, 64)
    few, many = special.stdtr(design.df, -x), special.stdtr(design.df_case, -x)
    gap = few - many
    weights = np.where(gap > 0, (p - many) / np.where(gap > 0, gap, 1), 1.0)
    return np.sqrt(variance), np.interp(weight, weights[::-1], x[::-1])


def _power_differs(design: Components, goal: float, alpha: float) -> float:
    """Probability that a true difference `goal` is found, with the right sign."""
    if design.variance == 0:
        return float(goal > 0)
    errors, quantiles = _spread(design, alpha / 2)
    return float(special.ndtr((goal - errors * quantiles) / np.sqrt(design.variance)).mean())


def _power_equivalent(design: Components, goal: float, margin: float, alpha: float) -> float:
    """Probability that a true difference `goal` is shown to lie within the margin."""
    if design.variance == 0:
        return float(goal < margin)
    errors, quantiles = _spread(design, alpha)
    room, scale = margin - errors * quantiles, np.sqrt(design.variance)
    shown = special.ndtr((room - goal) / scale) - special.ndtr((-room - goal) / scale)
    return float(np.maximum(shown, 0).mean())


def _smallest(start: int, enough: Callable[[int], bool]) -> float:
    """Smallest number from `start` on that is enough; infinite beyond `MAX_PLANNED`."""
    if enough(start):
        return float(start)
    if not enough(MAX_PLANNED):
        return np.inf
    high = start
    while not enough(high):
        high = min(2 * high, MAX_PLANNED)
    numbers = range(start, high + 1)
    return float(numbers[bisect_left(numbers, True, key=enough)])
