"""The paired difference of two losses: its mean, its interval and p, and where they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lossbench.statistics.variance_components import UNKNOWN, Components, combine, fold, student

FOLD_LEVEL = 0.01  # p of the fold component below which it is told; one of many comparisons


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, and where its uncertainty comes from.

    Attributes
    ----------
    mean
        Mean over the cases of each case's mean over the seeds that it has.
    components
        Variance components and the variance of the mean; NaN where training noise cannot be told
        from the loss.
    n_cases, n_blocks, n_folds
        What it rests on.
    n_missing
        Pairs that a full design of these folds, seeds and cases would have had as well.
    """

    mean: float
    components: Components
    n_cases: int
    n_blocks: int
    n_folds: int = 1
    n_missing: int = 0

    @property
    def variance(self) -> float:
        """Variance of the mean."""
        return self.components.variance

    @property
    def more_seeds_help(self) -> bool:
        """Whether further seeds of the same folds would make the mean surer.

        They do not where the training sets of the folds favour different losses, beyond doubt and
        by more than what is left of the training noise: that component does not shrink with seeds.
        """
        c = self.components
        left = c.block * self.n_folds / max(self.n_blocks, 1)
        return not (c.p_fold < FOLD_LEVEL and c.fold > left)

    def interval(self, confidence: float, bound: float = np.inf) -> tuple[float, float]:
        """Interval of the mean difference; NaN without variance.

        Parameters
        ----------
        confidence
            For example 0.95.
        bound
            Largest difference that the metric allows, 1 for Dice. The interval is cut there,
            which costs no coverage: the truth cannot lie beyond.
        """
        if not np.isfinite(self.variance):
            return np.nan, np.nan
        half = self.components.quantile((1 - confidence) / 2) * np.sqrt(self.variance)
        return float(max(self.mean - half, -bound)), float(min(self.mean + half, bound))

    def p(self) -> float:
        """Two-sided p of no difference.

        Where all pairs agree exactly there is no noise to measure the mean by: 1 if every
        difference is 0, else the sign test over blocks.
        """
        if self.variance == 0:
            return 1.0 if self.mean == 0 else 0.5 ** (self.n_blocks - 1)
        return float(2 * self.components.tail(abs(self.mean) / np.sqrt(self.variance)))

    def p_equivalent(self, margin: float) -> float:
        """P of a difference of the margin or more: the larger one of the two one-sided tests."""
        if self.variance == 0:
            return float(abs(self.mean) >= margin)
        return float(self.components.tail((margin - abs(self.mean)) / np.sqrt(self.variance)))


def paired_difference(folds: Sequence[np.ndarray]) -> Difference:
    """Mean difference over blocks and cases, by the method of moments.

    Parameters
    ----------
    folds
        A matrix (seeds, cases) of differences, loss minus reference, for each fold, the same
        seeds in each; the cases of two folds are different cases. NaN or infinite (a distance to
        nothing) where a pair is missing; all pairs that are there count. Cases that show no class
        to measure are not to be among them. Where every fold
        evaluates the same cases (a fixed test set), stack its blocks to one matrix
        (folds x seeds, cases).

    Returns
    -------
    Difference
        NaN variance where there is a single block, or a single case in a single fold.

    Notes
    -----
    Blocks are taken as independent draws of training noise. What all seeds of a fold share (its
    training cases suit one loss) is seen only in the spread of the folds' means, which is pooled
    with that of the seeds: if it is as large as the block effect, 5 folds x 3 seeds call false
    winners in 23 % of studies. `share_training_sets` adds it, from all comparisons that share
    trainings.
    """
    parts = [part for part in map(fold, folds) if part is not None]
    n_missing = sum(int((~np.isfinite(values)).sum()) for values in folds)
    if not parts:
        return Difference(np.nan, UNKNOWN, n_cases=0, n_blocks=0, n_folds=0, n_missing=n_missing)
    n_cases = sum(part.cases for part in parts)
    components = combine(parts)
    if components.variance < (1e-12 * max(part.largest for part in parts)) ** 2:  # rounding
        components = components._replace(variance=0.0, case=0.0, block=0.0, residual=0.0)
    return Difference(
        mean=sum(part.mean * part.cases for part in parts) / n_cases,
        components=components,
        n_cases=n_cases,
        n_blocks=sum(part.seeds for part in parts),
        n_folds=len(parts),
        n_missing=n_missing,
    )


def crossed_difference(folds: Sequence[np.ndarray]) -> Difference:
    """Mean difference where the trainings of a seed share their initial weights in all folds.

    Then the luck of the weights is one draw a seed, not one a block, and seeds are crossed with
    folds. `folds` as for `paired_difference`, of which mean and counts are; the variance is
    max(MS_F + MS_S - MS_FS, MS_F, MS_S) / (F S) of the means of F folds x S seeds, with
    Satterthwaite's degrees of freedom, and of fewest ones with two seeds. NaN variance for a single
    seed; with one fold the seeds are independent as ever.
    """
    d = paired_difference(folds)
    with_pairs = [values for values in folds if np.isfinite(values).any()]
    if len(with_pairs) < 2:
        return d
    counts = np.array([np.isfinite(values).sum(axis=1) for values in with_pairs])
    sums = np.array([np.where(np.isfinite(v), v, 0).sum(axis=1) for v in with_pairs])
    whole = (counts > 0).all(axis=0)  # a seed that a fold lacks says nothing of the crossing
    n_folds, n_seeds = len(with_pairs), int(whole.sum())
    if n_seeds < 2:
        return replace(d, components=UNKNOWN)
    means = sums[:, whole] / counts[:, whole]
    of_fold, of_seed = means.mean(axis=1, keepdims=True), means.mean(axis=0, keepdims=True)
    df = np.array([n_folds - 1, n_seeds - 1, (n_folds - 1) * (n_seeds - 1)])
    squares = [
        n_seeds * ((of_fold - means.mean()) ** 2).sum(),
        n_folds * ((of_seed - means.mean()) ** 2).sum(),
        ((means - of_fold - of_seed + means.mean()) ** 2).sum(),
    ]
    fold, seed, rest = mean_squares = squares / df
    total = max(fold + seed - rest, fold, seed)
    if n_seeds == 2 or not total:
        df_total = 1.0
    elif total in (fold, seed):
        df_total = df[0] if total == fold else df[1]
    else:
        df_total = total**2 / (mean_squares**2 / df).sum()
    cases = np.array([np.isfinite(v).any(axis=0).sum() for v in with_pairs])
    unequal = n_folds * ((cases / cases.sum()) ** 2).sum()  # 1 for equal folds
    variance = total * unequal / (n_folds * n_seeds)
    return replace(d, components=student(variance, float(df_total)))


def models_difference(folds: Sequence[np.ndarray]) -> Difference:
    """Difference of two trained models on new subjects: Student's t over the subjects of one block.

    It holds no training noise, so it says nothing of the losses. `folds` as for
    `paired_difference`; NaN variance for fewer than two subjects.
    """
    values = _case_means(folds)
    n = len(values)
    if n < 2:
        return Difference(float(values.mean()) if n else np.nan, UNKNOWN, n, int(n > 0))
    components = student(values.var(ddof=1) / n, n - 1)
    return Difference(float(values.mean()), components, n, n_blocks=1)


def pairing_gain(
    loss: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    estimate: Callable[[Sequence[np.ndarray]], Difference],
) -> float:
    """Variance of the unpaired difference over that of the paired one.

    Parameters
    ----------
    loss, reference
        Values of the metric, a matrix (seeds, cases) for each fold, NaN where missing.
    estimate
        `paired_difference`, or what suits trainings that share their initial weights.

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
        return estimate(shared).variance

    unpaired = alone(loss) + alone(reference)
    variance = estimate(paired).variance
    if variance == 0:
        return np.inf if unpaired > 0 else np.nan
    return float(unpaired / variance)


def improvement(folds: Sequence[np.ndarray]) -> float:
    """Probability that the loss lies above the reference on a case and a training at random.

    Parameters
    ----------
    folds
        As for `paired_difference`. For a metric of which less is better the probability that the
        loss is better is 1 minus this.

    Returns
    -------
    float
        Mean over cases of the share of their trainings with a difference above 0, ties counting
        a half; NaN without any pair.
    """
    wins = [np.where(np.isfinite(f), (np.sign(f) + 1) / 2, np.nan) for f in folds]
    per_case = _case_means(wins)
    return float(per_case.mean()) if len(per_case) else np.nan


def cases_tests(comparisons: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """P of the usual test, Wilcoxon's signed ranks over cases, which leaves training noise out.

    Parameters
    ----------
    comparisons
        Folds as for `paired_difference`, of each comparison; the seeds of a case are averaged.

    Returns
    -------
    np.ndarray
        Two-sided p of each; 1 where all cases tie, NaN without any case.
    """
    p = np.full(len(comparisons), np.nan)
    alike: dict[tuple[int, str], list[tuple[int, np.ndarray]]] = {}
    for i, folds in enumerate(comparisons):
        per_case = _case_means(folds)
        moved = per_case[per_case != 0]
        if len(moved):
            # scipy's own choice for few cases with ties is a permutation test, which takes seconds.
            tied = len(np.unique(np.abs(moved))) < len(moved)
            method = "asymptotic" if tied or len(moved) > 50 else "exact"
            alike.setdefault((len(moved), method), []).append((i, moved))
        elif len(per_case):
            p[i] = 1.0
    for (_, method), rows in alike.items():  # a call for many, since a call takes a millisecond
        places, values = zip(*rows, strict=True)
        p[list(places)] = stats.wilcoxon(np.stack(values), axis=1, method=method).pvalue
    return p


def _case_means(folds: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the seeds of each case that has any, all folds in one."""
    values = np.concatenate([np.asarray(f, dtype=float) for f in folds], axis=1)
    measured = np.isfinite(values)
    count = measured.sum(axis=0)
    return np.where(measured, values, 0).sum(axis=0)[count > 0] / count[count > 0]
