"""What the training sets of the folds add to the noise of a mean.

All trainings of a fold share their training set, and it may suit one loss: a component that more
seeds do not shrink. Five folds say little of it: one as large as that of the blocks is found, at
p < 0.05, in one of three studies of five folds and three seeds. Left out, it gave 23 % false
winners, and 52 % with ten seeds. A test with the folds as the unit holds and finds half of the
differences. So it is not decided whether the component is there: it is estimated from all
comparisons that share trainings, added to the variance, and the degrees of freedom are at most
those of the estimate (benchmarks/hard_designs.py).

A comparison may have such a component that the others lack. Where its own spread shows that, it is
estimated from this comparison alone: half-way to the others, one as large as two blocks gave 6
(three seeds) to 8 % false winners (ten seeds), two of six comparisons with it 7 and 11 %.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lossbench.statistics.differences import Difference
from lossbench.statistics.variance_components import NOISE_EXPONENT, Components

# P of the fold component below which a comparison is estimated alone. At 0.01 two comparisons of
# six that have one give 7 % false winners; 0.05 costs 1 % of power with three seeds, 3 % with ten.
ALONE = 0.05


def share_training_sets(differences: Sequence[Difference]) -> list[Difference]:
    """Add to each variance what training sets are estimated to add.

    Parameters
    ----------
    differences
        Of comparisons that share trainings and a metric: losses and classes of a dataset and
        model, each by `paired_difference`. One whose own component is found (`ALONE`) is estimated
        alone, and informs the others still. Those of which folds or seeds are too few to tell come
        back as they are: with one seed the spread of the folds holds the component already, and
        with one fold all is of one training set.
    """
    known = [i for i, d in enumerate(differences) if np.isfinite(d.components.ratio)]
    found = list(differences)
    if known:
        ratios = shared_ratios(np.array([found[i].components.ratio for i in known]))
        for i, ratio in zip(known, ratios, strict=True):
            c, of = found[i].components, len(known)
            if c.p_fold < ALONE and c.ratio > ratio:
                ratio, of = c.ratio, 1
            found[i] = replace(found[i], components=_add(c, ratio, of))
    return found


def shared_ratios(own: np.ndarray) -> np.ndarray:
    """What is taken as the ratio of each comparison, from those of all that share trainings.

    Parameters
    ----------
    own
        `Components.ratio`, (..., comparisons), without NaN.

    Returns
    -------
    np.ndarray
        As large: the median, since a comparison that is far off is not to widen the others;
        half-way to its own where that is larger.
    """
    median = np.median(own, axis=-1, keepdims=True)
    return np.maximum(median, (median + own) / 2)


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


def _add(c: Components, ratio: float, shared_by: int) -> Components:
    part = max(0.0, ratio - 1) * c.unit
    variance, noise = c.variance + part, c.noise + part
    return c._replace(
        variance=variance,
        noise=noise,
        floor=c.floor + part,
        weight=(noise / variance) ** NOISE_EXPONENT if variance else 1.0,
        df=min(c.df, shared_by * c.df_fold),
        training_sets=part,
        shared_by=shared_by,
    )
