"""How many cases and blocks a comparison needs, from the variance components of a pilot."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

from lossbench.statistics.differences import Difference
from lossbench.statistics.sequential import Looks, both_p
from lossbench.statistics.training_sets import shared_ratios
from lossbench.statistics.variance_components import NOISE_EXPONENT
from lossbench.statistics.verdicts import step_down

POWER = 0.8  # of the numbers of cases and blocks that would decide
MAX_PLANNED = 1_000_000  # cases or blocks that anybody would plan for
SEEDS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
DRAWS = 400  # studies of a design that are drawn
MOST_SHARED = 6  # comparisons that are drawn; the mean of more is as good as known


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
        if abs(d.mean) > margin:
            return _power_differs(d, cases, seeds, abs(d.mean), alpha / tests) >= POWER
        return _power_equivalent(d, cases, seeds, margin, alpha / tests) >= POWER

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
        pilot says nothing of training noise, or does not take it apart (`crossed_difference`).
    """
    d = difference
    if not (np.isfinite(d.variance) and np.isfinite(d.components.case)):
        return []
    plans = []
    for seeds in SEEDS:
        if d.n_folds * seeds < 2:  # one block says nothing
            continue

        def reached(cases: float, seeds: int = seeds) -> float:
            return _power_differs(d, cases, seeds, abs(goal), alpha / tests)

        cases = _smallest(2 * d.n_folds, lambda n, reached=reached: reached(n) >= power)
        plans.append(
            Plan(d.n_folds, seeds, d.n_folds * seeds, cases, reached(min(cases, MAX_PLANNED)))
        )
    return plans


def rounds_needed(
    pilot: Sequence[Difference],
    per_round: Sequence[float],
    margins: Sequence[float],
    effect: float,
    alpha: float,
    looks: Looks,
    studies: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """After how many rounds comparisons are decided, in studies drawn with a pilot's components.

    Parameters
    ----------
    pilot
        A difference of each comparison: its variance components, folds and cases are used.
    per_round
        Blocks of a round, of each comparison.
    margins
        Of each comparison.
    effect
        True difference of all of them, in margins.
    alpha, looks
        Of the study.
    studies, seed
        How many are drawn, and from what.

    Returns
    -------
    np.ndarray
        int (studies, comparisons); the budget where a comparison is not decided before.
    """
    generator, rounds = np.random.default_rng(seed), np.array(looks.rounds)
    p = np.ones((len(rounds), studies, len(pilot), 4))
    for i, (d, blocks, margin) in enumerate(zip(pilot, per_round, margins, strict=True)):
        c, folds = d.components, d.n_folds
        of_training = c.block + c.residual * folds / d.n_cases
        shared = np.sqrt(c.case * folds / d.n_cases + c.training_sets * folds)
        drawn = (studies, min(max(c.shared_by, 1), MOST_SHARED))  # it is the first of each study
        noise = generator.standard_normal((looks.budget, *drawn, folds)).cumsum(axis=0)
        noise *= np.sqrt(of_training * folds / blocks)
        of_folds = shared * generator.standard_normal((*drawn, folds))
        dfs = np.full((looks.budget, 1, 1), blocks)
        dfs[0] -= folds
        squares = 2 * generator.gamma(dfs / 2, size=(looks.budget, *drawn)).cumsum(axis=0)
        for j, k in enumerate(rounds):
            means = of_folds + noise[k - 1] / k
            spread = means.var(axis=-1, ddof=1) if folds > 1 else np.zeros(drawn)
            seeds = blocks * k / folds
            within = squares[k - 1] / max(blocks * k - folds, 1) * of_training / seeds
            e = _estimate(d, d.n_cases, seeds, spread, within)
            mean = effect * margin + means[:, 0].mean(axis=-1)
            error = np.sqrt(np.maximum(e.variance[:, 0], np.finfo(float).tiny))
            for side, shift in enumerate((mean, -mean, mean + margin, margin - mean)):
                few, many = (special.stdtr(df, -shift / error) for df in (e.df[:, 0], e.df_case))
                weight = e.weight[:, 0]
                p[j, :, i, side] = weight * few + (1 - weight) * many
    both = both_p(looks.sequential_p(p))
    needed = np.full((studies, len(pilot)), looks.budget)
    for j, s in reversed([*np.ndindex(both.shape[:2])]):
        corrected, _ = step_down(both[j, s])
        needed[s, (corrected < alpha).any(axis=1)] = rounds[j]
    return needed


class _Estimate(NamedTuple):
    """What studies of a design estimate, arrays (studies, comparisons)."""

    variance: np.ndarray
    weight: np.ndarray
    df: np.ndarray
    df_case: float


def _estimate(
    d: Difference, cases: float, seeds: float, spread: np.ndarray, within: np.ndarray
) -> _Estimate:
    """As `combine` and `share_training_sets` estimate, of a full table.

    `spread` is the variance of the folds' means, and `within` what the trainings of a fold say of
    that: what blocks and residuals add to it. The cases' part is taken as known.
    """
    c, folds = d.components, d.n_folds
    of_case, of_residual = c.case * folds / cases, c.residual * folds / (cases * seeds)
    df_block, df_fold = folds * (seeds - 1), folds - 1
    df = df_block + df_fold
    block = df_block * (within - of_residual) + df_fold * (spread - of_case - of_residual)
    trainings = of_residual + np.maximum(block / df, 0.0)
    variance = (of_case + trainings) / folds
    # As in `combine`.
    noise = (trainings + (df_fold / df) ** 2 * of_case) / folds if cases > folds else variance
    dfs = np.full_like(variance, df)
    if df_block and df_fold and c.shared_by:
        expected = of_case + np.maximum(within, of_residual)
        own = spread / np.maximum(expected, np.finfo(float).tiny)
        ratio, of = shared_ratios(own, df_fold, df_block)
        part = np.maximum(ratio - 1, 0) * expected / folds
        variance, noise = variance + part, noise + part
        dfs = np.minimum(dfs, of * df_fold)
    weight = (noise / np.maximum(variance, np.finfo(float).tiny)) ** NOISE_EXPONENT
    return _Estimate(variance, weight, dfs, cases - folds if cases > folds else np.inf)


@lru_cache(maxsize=256)
def _drawn(df: float, comparisons: int, which: int) -> np.ndarray:
    """Chi-square over its degrees of freedom, (DRAWS, comparisons); the same for the same."""
    drawn = np.random.default_rng((comparisons, which)).uniform(size=(DRAWS, comparisons))
    return special.chdtri(df, drawn) / df if df else np.zeros((DRAWS, comparisons))


def _studies(
    d: Difference, cases: float, seeds: float, p: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Standard deviation of the mean of a design, standard errors of studies, and quantiles.

    Equally probable studies: training noise and what training sets add are estimated with few
    degrees of freedom, and the reference follows them.
    """
    c, folds = d.components, d.n_folds
    of_trainings = (c.block + c.residual * folds / cases) / seeds
    of_folds = of_trainings + c.case * folds / cases + c.training_sets * folds
    n = min(max(c.shared_by, 1), MOST_SHARED)
    spread = of_folds * _drawn(folds - 1, n, 0)
    within = of_trainings * _drawn(folds * (seeds - 1), n, 1)
    variance, weight, df, df_case = (
        x if np.isscalar(x) else x[:, 0] for x in _estimate(d, cases, seeds, spread, within)
    )
    quantiles = np.empty_like(variance)
    for value in np.unique(df):
        # The quantile x of a mixture is that of weight few + (1 - weight) many = p. It is easy to
        # solve for the weight: on a grid of x, which is then read the other way round.
        low, high = np.sort(-special.stdtrit([value, df_case], p))
        x = np.linspace(high, low, 64)
        few, many = special.stdtr(value, -x), special.stdtr(df_case, -x)
        gap = few - many
        weights = np.where(gap > 0, (p - many) / np.where(gap > 0, gap, 1), 1.0)
        of = df == value
        quantiles[of] = np.interp(weight[of], weights[::-1], x[::-1])
    return float(np.sqrt(of_folds / folds)), np.sqrt(variance), quantiles


def _power_differs(d: Difference, cases: float, seeds: float, goal: float, alpha: float) -> float:
    """Probability that a true difference `goal` is found, with the right sign."""
    scale, errors, quantiles = _studies(d, cases, seeds, alpha / 2)
    if scale == 0:
        return float(goal > 0)
    return float(special.ndtr((goal - errors * quantiles) / scale).mean())


def _power_equivalent(
    d: Difference, cases: float, seeds: float, margin: float, alpha: float
) -> float:
    """Probability that the difference as it seems is shown to lie within the margin."""
    goal = abs(d.mean)
    scale, errors, quantiles = _studies(d, cases, seeds, alpha)
    if scale == 0:
        return float(goal < margin)
    room = margin - errors * quantiles
    shown = special.ndtr((room - goal) / scale) - special.ndtr((-room - goal) / scale)
    return float(np.maximum(shown, 0).mean())


def _smallest(start: int, enough: Callable[[int], bool]) -> float:
    """Smallest number from `start` on that is enough; infinite beyond `MAX_PLANNED`.

    More need not be better: what training sets add to few folds is found more often in more cases.
    """
    low = high = start
    while not enough(high):
        if high >= MAX_PLANNED:
            return np.inf
        low, high = high, min(2 * high, MAX_PLANNED)
    numbers = range(low, high + 1)
    return float(numbers[bisect_left(numbers, True, key=enough)])
