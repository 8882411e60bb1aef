"""What the training sets of the folds add to the noise of a mean.

All trainings of a fold share their training set, and it may suit one loss: a component that more
seeds do not shrink. Five folds say little of it: one as large as that of the blocks is found, at
p < 0.05, in one of three studies of five folds and three seeds. Left out, it gave 23 % false
winners, and 52 % with ten seeds. A test with the folds as the unit holds and finds half of the
differences. So it is not decided whether the component is there: it is estimated from all
comparisons that share trainings, added to the variance, and the degrees of freedom are at most
those of the estimate (benchmarks/hard_designs.py).

A comparison may have such a component that the others lack. Where its own spread shows that, it is
estimated from this comparison alone; else, where its own is larger, half-way between that and what
all share. This is their mean: by the median, and half-way with the degrees of freedom of all, a
component of one block that half of six comparisons have gave 6 (three seeds) to 8 % (ten seeds)
false winners, half of sixteen 12 %.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from lossbench.statistics.differences import Difference
from lossbench.statistics.variance_components import NOISE_EXPONENT, Components

# P of the fold component below which a comparison is estimated alone. At 0.01 two comparisons of
# six that have one give 7 % false winners; 0.05 costs 1 % of power with three seeds, 3 % with ten.
ALONE = 0.05
# P below which it says nothing of the others: a loss that collapses in one fold would widen them.
BEYOND_DOUBT = 1e-4


def share_training_sets(differences: Sequence[Difference]) -> list[Difference]:
    """Add to each variance what training sets are estimated to add.

    Parameters
    ----------
    differences
        Of comparisons that share trainings and a metric: losses and classes of a dataset and
        model, each by `paired_difference`. Those of which folds or seeds are too few to tell come
        back as they are: with one seed the spread of the folds holds the component already, and
        with one fold all is of one training set.
    """
    known = [i for i, d in enumerate(differences) if np.isfinite(d.components.ratio)]
    found = list(differences)
    if known:
        own = [found[i].components for i in known]
        figures = np.transpose([(c.ratio, c.df_fold, c.df_within) for c in own])
        for i, ratio, of in zip(known, *shared_ratios(*figures), strict=True):
            found[i] = replace(found[i], components=_add(found[i].components, ratio, of, len(own)))
    return found


def shared_ratios(
    ratio: np.ndarray, df_fold: np.ndarray | float, df_within: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """What is taken as the ratio of each comparison, from those of all that share trainings.

    Parameters
    ----------
    ratio, df_fold, df_within
        Of `Components`, (..., comparisons), without NaN.

    Returns
    -------
    tuple of np.ndarray
        As large: the ratio over its median without training sets, and of how many comparisons it
        has the degrees of freedom. The mean over comparisons, without those that are beyond doubt,
        has those of all. One that lies above it is alone, or half-way between the mean and its own:
        with n spreads of one degree of freedom each, (mean + own) / 2 has 4 n / (n + 3).
    """
    p = special.fdtrc(df_fold, df_within, ratio)
    own = ratio / special.fdtri(df_fold, df_within, 0.5)
    kept = p >= BEYOND_DOUBT
    n = np.maximum(kept.sum(axis=-1, keepdims=True), 1)
    sizes = np.arange(1, ratio.shape[-1] + 1)
    medians = special.fdtri(sizes * np.mean(df_fold), sizes * np.mean(df_within), 0.5)
    mean = (ratio * kept).sum(axis=-1, keepdims=True) / n / medians[n - 1]
    above = own > mean
    alone = above & (p < ALONE)
    shared = np.where(alone, own, np.maximum(mean, (mean + own) / 2))
    return shared, np.where(alone, 1, np.where(above, 4 * n / (n + 3), n))


def on_same_cases(d: Difference, values: np.ndarray, fold: np.ndarray) -> Difference:
    """What training sets add, where the trainings of all folds evaluate the same cases.

    Parameters
    ----------
    d
        The difference of a single matrix, of `paired_difference`.
    values
        That matrix, (trainings, cases).
    fold
        int (trainings,): the training set of each.

    Returns
    -------
    Difference
        With the spread of the folds over that of their trainings; as it is with a single fold, or
        one training a fold.
    """
    measured = np.isfinite(values)
    has, n = measured.any(axis=1), np.maximum(measured.sum(axis=1), 1)
    means, fold = (np.where(measured, values, 0).sum(axis=1) / n)[has], fold[has]
    _, fold, seeds = np.unique(fold, return_inverse=True, return_counts=True)
    df_fold, df_block = len(seeds) - 1, int((seeds - 1).sum())
    if not (df_fold > 0 and df_block):
        return d
    of_folds = np.bincount(fold, means) / seeds
    within = ((means - of_folds[fold]) ** 2).sum() / df_block
    if not within or not d.variance > 0:
        return d
    spread = seeds @ (of_folds - means.mean()) ** 2 / df_fold
    share = seeds / seeds.sum()
    effective = (seeds.sum() - (seeds**2).sum() / seeds.sum()) / df_fold  # seeds of a fold
    c = d.components.with_spread(spread, within, df_fold, df_block, effective, share)
    return replace(d, components=c)


def _add(c: Components, ratio: float, of: int, n: int) -> Components:
    part = max(0.0, ratio - 1) * c.unit
    variance, noise = c.variance + part, c.noise + part
    return c._replace(
        variance=variance,
        noise=noise,
        floor=c.floor + part,
        weight=(noise / variance) ** NOISE_EXPONENT if variance else 1.0,
        df=min(c.df, of * c.df_fold),
        training_sets=part,
        shared_by=1 if of == 1 else n,
    )
