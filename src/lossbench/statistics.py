"""Pure functions on arrays: intervals, paired differences, verdicts. No files, no pandas.

The model of a paired difference d[s, f, i], case i of fold f trained with seed s: a case effect,
shared by all seeds; a block effect, shared by all cases of (f, s), in which training noise lives;
a residual. Averaging over seeds and testing over cases leaves the block effect out, and more cases
then only make it surer of one training's luck.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

POWER = 0.8  # of the numbers of cases and blocks that would decide
MOST = 1_000_000  # cases or blocks that anybody would plan for
RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, and where its uncertainty comes from.

    Attributes
    ----------
    mean, variance, df
        Of the mean difference; NaN where training noise cannot be told from the loss.
    case, block, residual
        Variance components of a single difference.
    n_cases, n_blocks
        What it rests on.
    """

    mean: float
    variance: float
    df: float
    case: float
    block: float
    residual: float
    n_cases: int
    n_blocks: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """Student interval of the mean difference."""
        if not np.isfinite(self.variance):
            return np.nan, np.nan
        half = stats.t.ppf((1 + confidence) / 2, self.df) * np.sqrt(self.variance)
        return self.mean - half, self.mean + half

    def p(self) -> float:
        """Two-sided p of no difference; 1 where every difference is 0."""
        if self.variance == 0:
            return 1.0 if self.mean == 0 else np.nan
        return float(2 * stats.t.sf(abs(self.mean) / np.sqrt(self.variance), self.df))


def paired_difference(folds: Sequence[np.ndarray]) -> Difference:
    """Mean difference over blocks and cases, by the method of moments within folds.

    Parameters
    ----------
    folds
        A matrix (seeds, cases) of differences for each fold, the same seeds in each. NaN where a
        pair is missing; a case with a missing pair is left out.

    Returns
    -------
    Difference
        Its degrees of freedom are Satterthwaite's, and never more than those of the blocks: with
        few blocks their variance is itself a guess. With one seed the fold means carry the block
        effect; with a single block nothing does, and the variance is NaN.
    """
    folds = [f[:, ~np.isnan(f).any(axis=0)] for f in folds]
    folds = [f for f in folds if f.size]
    if not folds:
        return Difference(*[np.nan] * 6, n_cases=0, n_blocks=0)
    seeds, sizes = len(folds[0]), np.array([f.shape[1] for f in folds])
    total, blocks = sizes.sum(), seeds * len(folds)
    mean = sum(f.sum() for f in folds) / (seeds * total)
    unknown = Difference(mean, np.nan, np.nan, np.nan, np.nan, np.nan, int(total), blocks)
    ms_case, df_case = _mean_square(folds, lambda f: seeds * (f.mean(0) - f.mean()) ** 2, sizes - 1)
    if seeds == 1:
        if len(folds) == 1 or df_case == 0:
            return unknown
        df = len(folds) - 1
        ms_block = sum(n * (f.mean() - mean) ** 2 for f, n in zip(folds, sizes, strict=True)) / df
        block = max(0.0, (ms_block - ms_case) / sizes.mean())
        variance = max(ms_block, ms_case) / total
        return Difference(mean, variance, df, ms_case, block, 0.0, int(total), blocks)
    if df_case == 0:
        return unknown
    ms_block, df_block = _mean_square(
        folds,
        lambda f: f.shape[1] * (f.mean(1) - f.mean()) ** 2,
        np.full(len(folds), seeds - 1),
    )
    ms_rest, df_rest = _mean_square(
        folds,
        lambda f: (f - f.mean(0) - f.mean(1, keepdims=True) + f.mean()) ** 2,
        (sizes - 1) * (seeds - 1),
    )
    case, block = (
        max(0.0, (ms_case - ms_rest) / seeds),
        max(0.0, (ms_block - ms_rest) / sizes.mean()),
    )
    variance = (
        case / total + block * (sizes**2).sum() / (total**2 * seeds) + ms_rest / (total * seeds)
    )
    above = max(ms_case + ms_block - ms_rest, ms_case, ms_block) ** 2
    below = ms_case**2 / df_case + ms_block**2 / df_block + ms_rest**2 / df_rest
    df = min(above / below, df_block) if below else df_block
    return Difference(mean, variance, df, case, block, ms_rest, int(total), blocks)


def _mean_square(folds, squares, dfs) -> tuple[float, int]:  # noqa: ANN001 (see its callers)
    """Sum of squares over the folds by its degrees of freedom; 0 of 0."""
    df = int(np.sum(dfs))
    return (sum(float(squares(f).sum()) for f in folds) / df if df else 0.0), df


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction; NaN stays NaN and counts as no test."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, dtype=float)
    corrected, tested = np.full(len(values), np.nan), ~np.isnan(values)
    if tested.any():
        corrected[tested] = multipletests(values[tested], method="holm")[1]
    return corrected


def verdict(
    difference: Difference,
    p_holm: float,
    margin: float,
    alpha: float,
    higher_is_better: bool = True,
) -> str:
    """better, worse, equivalent or undecided.

    Equivalent: both one-sided tests against the margin at `alpha`, that is, the interval of
    confidence 1 - 2 alpha lies within it. Better and worse: Holm's p under `alpha`.
    """
    low, high = difference.interval(1 - 2 * alpha)
    if -margin < low and high < margin:
        return "equivalent"
    if p_holm < alpha:
        return "better" if (difference.mean > 0) == higher_is_better else "worse"
    return "undecided"


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
        power of 0.8; infinite where more of these alone would not do, NaN where nothing can be
        said.
    """
    d, size = difference, abs(difference.mean)
    if not np.isfinite(d.variance):
        return np.nan, np.nan
    goal, level = (size, 1 - alpha / (2 * tests)) if size > margin else (margin - size, 1 - alpha)

    def enough(cases: int, blocks: int) -> bool:
        variance = d.case / cases + d.block / blocks + d.residual / (cases * blocks)
        return stats.t.ppf([level, POWER], d.df * blocks / d.n_blocks).sum() * variance**0.5 <= goal

    return (
        _smallest(d.n_cases, lambda n: enough(n, d.n_blocks)),
        _smallest(d.n_blocks, lambda n: enough(d.n_cases, n)),
    )


def _smallest(start: int, enough: Callable[[int], bool]) -> float:
    """Smallest number from `start` on that is enough; infinite beyond `MOST`."""
    high = start
    while not enough(high):
        if high > MOST:
            return np.inf
        high *= 2
    return float(range(start, high + 1)[bisect_left(range(start, high + 1), True, key=enough)])


def mean_interval(values: np.ndarray, confidence: float, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of (n,) without NaN; NaN for fewer than 2."""
    if len(values) < 2:
        return np.nan, np.nan
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
