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
    # The trainings of each fold that have a value; what is drawn together, a position for each.
    trained = [np.flatnonzero(np.isfinite(v).any(axis=(0, 2))) for v in values]
    blocks = [(f, s) for f, of_fold in enumerate(trained) for s in of_fold]
    together = range(len(blocks)) if units is None else [units[s] for _, s in blocks]
    found, places = np.unique([*together], return_inverse=True)
    n_units = len(found)
    # The first row is of the values themselves, the others of resamples.
    sums, counts = np.zeros((RESAMPLES + 1, n)), np.zeros((RESAMPLES + 1, n))
    drawn = _with_all(n_units, (seed, 2))[:, places]
    drawn = np.split(drawn, np.cumsum([len(of_fold) for of_fold in trained])[:-1], axis=1)
    for f, (v, of_fold) in enumerate(zip(values, trained, strict=True)):
        v = np.moveaxis(v[:, of_fold], 2, 0)  # (cases, losses, trainings)
        measured = np.isfinite(v)
        # Less what the losses share on a pair: one that is missing for a loss must not move it.
        shared = np.where(measured, v, 0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
        centred = np.where(measured, v - shared[:, None], 0.0)
        cases = _with_all(len(v), (seed, f, 3))
        sums += (np.tensordot(cases, centred, 1) @ drawn[f][..., None])[..., 0]
        counts += (np.tensordot(cases, measured, 1) @ drawn[f][..., None])[..., 0]
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


def _with_all(n: int, seed: tuple[int, ...]) -> np.ndarray:
    """All n once, and `_draws` below: (RESAMPLES + 1, n)."""
    return np.vstack([np.ones(n), _draws(n, seed)])


@lru_cache(maxsize=64)
def _draws(n: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """How often each of n is drawn with replacement, (RESAMPLES, n); the same for the same seed."""
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return counts
