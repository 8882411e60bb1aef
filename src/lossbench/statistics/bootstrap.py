"""Bootstrap: intervals of means, and the stability of ranks."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 1000


class Ranks(NamedTuple):
    """Ranks of losses, arrays (losses,); NaN for a loss without any value.

    Attributes
    ----------
    rank
        1 is the best; ties share the better rank.
    low, high
        Interval of the rank; NaN where training noise cannot be told (one block).
    p_first
        Share of resamples in which the loss is first; ties share it.
    """

    rank: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_first: np.ndarray


def mean_interval(
    values: np.ndarray, confidence: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean of every column.

    Parameters
    ----------
    values
        float (n, ...); NaN is left out of its column. Columns of as many values share their
        resamples: the means are one product of matrices.
    confidence
        For example 0.95.
    seed
        Of the resampling.

    Returns
    -------
    tuple of np.ndarray
        Lower and upper end, (...) each; NaN for columns with fewer than 2 values.
    """
    columns = np.reshape(values, (len(values), int(np.prod(np.shape(values)[1:]))))
    finite = ~np.isnan(columns)
    sizes = finite.sum(axis=0)
    ends = np.full((2, columns.shape[1]), np.nan)
    for n in np.unique(sizes[sizes > 1]):
        same = sizes == n
        kept = columns[:, same].T[finite[:, same].T].reshape(-1, n).T  # (n, columns), without NaN
        means = _draws(int(n), seed) @ kept / n
        ends[:, same] = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    low, high = ends.reshape(2, *np.shape(values)[1:])
    return low, high


def ranks(
    values: Sequence[np.ndarray],
    confidence: float = 0.95,
    seed: int = 0,
    units: Sequence[int] | None = None,
) -> Ranks:
    """Ranks of losses by their mean, and how stable they are over blocks and cases.

    Parameters
    ----------
    values
        An array (losses, seeds, cases) of a metric for each fold, NaN where missing. Higher is
        better: give the negative of a metric of which less is better.
    confidence, seed
        Of the interval of the rank, and of the resampling.
    units
        What the trainings along the second axis are of that is drawn together and counts as one,
        such as the seeds whose trainings start from the same weights in all folds; None: each block
        is drawn by itself.

    Returns
    -------
    Ranks

    Notes
    -----
    Whole blocks of all folds are drawn with replacement, and the cases within folds, the same for
    all losses. The mean of B drawn blocks varies by (B - 1) / B of what it should, and B blocks say
    how much they vary no better than Student's distribution with B - 1 degrees of freedom: the
    resampled means are moved away from the mean by both factors. Where the seeds alone were drawn,
    within folds, one seed a fold had no training noise at all.
    """
    n = len(values[0])
    blocks = [
        (f, s)
        for f, v in enumerate(values)
        for s in np.flatnonzero(np.isfinite(v).any(axis=(0, 2)))
    ]
    # What is drawn together, a position for each block.
    together = range(len(blocks)) if units is None else [units[s] for _, s in blocks]
    found, places = np.unique([*together], return_inverse=True)
    n_units = len(found)
    drawn = np.vstack([np.ones(n_units), _draws(n_units, (seed, 2))])[:, places] if blocks else None
    # The first row is of the values themselves, the others of resamples.
    sums, counts = np.zeros((RESAMPLES + 1, n)), np.zeros((RESAMPLES + 1, n))
    for b, (f, s) in enumerate(blocks):
        v = values[f][:, s]
        measured = np.isfinite(v)
        # Less what the losses share on a pair: one that is missing for a loss must not move it.
        shared = np.where(measured, v, 0).sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
        centred = np.where(measured, v - shared, 0.0)
        cases = np.vstack([np.ones(v.shape[1]), _draws(v.shape[1], (seed, f, 3))])
        sums += drawn[:, [b]] * (cases @ centred.T)
        counts += drawn[:, [b]] * (cases @ measured.T.astype(float))
    empty = counts[0] == 0
    means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
    rank = np.where(empty, np.nan, _rank(means[:1])[0])
    if n_units < 2:
        return Ranks(rank, *[np.full(n, np.nan)] * 3)
    p = (1 - confidence) / 2
    widening = np.sqrt(n_units / (n_units - 1)) * stats.t.isf(p, n_units - 1) / stats.norm.isf(p)
    centre = np.where(empty, 0, means[0])
    ranked = _rank(centre + widening * (means[1:] - centre))
    low, high = np.quantile(ranked, [p, 1 - p], axis=0, method="inverted_cdf")
    first = ranked == 1
    p_first = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return Ranks(rank, *(np.where(empty, np.nan, x) for x in (low, high, p_first)))


def _rank(means: np.ndarray) -> np.ndarray:
    """Ranks within each row, 1 for the largest; equal up to rounding share the better one."""
    return stats.rankdata(-np.round(means, 12), method="min", axis=1)


@lru_cache(maxsize=64)
def _draws(n: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """How often each of n is drawn with replacement, (RESAMPLES, n); the same for the same seed."""
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return counts
