"""The paired difference of two losses: its mean, interval and p, and what may be said of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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
    winners in 23 % of studies, and in 36 % by the seeds alone.
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


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction; NaN stays NaN and counts as no test.

    Own lines: statsmodels takes a second to import and collects garbage at each call.
    """
    values = np.asarray(p, dtype=float)
    corrected, tested = np.full(len(values), np.nan), np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested])]
    scaled = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


class Decision(NamedTuple):
    """What may be said of one comparison among others.

    Attributes
    ----------
    verdict
        better, worse, equivalent or undecided.
    p_holm, p_equivalent_holm
        P of no difference and of one beyond the margin, corrected by Holm's step-down over both
        of all comparisons; NaN where nothing can be said.
    low, high
        The interval that the verdict is read from: it excludes 0 for better and worse, lies within
        the margin for equivalent, and does neither for undecided.
    """

    verdict: str
    p_holm: float
    p_equivalent_holm: float
    low: float
    high: float


def decide(
    differences: Sequence[Difference],
    margins: Sequence[float],
    higher_is_better: Sequence[bool],
    alpha: float,
) -> list[Decision]:
    """Decide comparisons together, so that error rates hold over all of them.

    Parameters
    ----------
    differences
        Of every comparison, loss minus reference.
    margins, higher_is_better
        Of each comparison.
    alpha
        Probability of any false verdict: better, worse or equivalent.

    Notes
    -----
    Each comparison has two hypotheses, no difference and a difference beyond the margin, of which
    at most one is true. Holm's step-down goes over all of them together and multiplies p by the
    number of comparisons with an open hypothesis, not by that of hypotheses (Shaffer 1986): with n
    comparisons the smallest p is tested at alpha / n, and a comparison costs nothing any more once
    both of its hypotheses are rejected. Where both are, equivalent is said. The interval has the
    level at which the comparison was tested: 1 - alpha / n for better and worse, 1 - 2 alpha / n
    for equivalent, as two one-sided tests have it; and for undecided 1 - alpha / n of the step at
    which the procedure stopped.
    """
    p = np.array(
        [(d.p(), d.p_equivalent(margin)) for d, margin in zip(differences, margins, strict=True)],
        dtype=float,
    ).reshape(-1, 2)
    corrected, n_open = step_down(p)
    stopped = n_open[corrected >= alpha].max(initial=1)
    decisions = []
    for i, d in enumerate(differences):
        differs, equivalent = corrected[i] < alpha
        if equivalent:
            verdict, level = "equivalent", 2 * alpha / n_open[i, 1]
        elif differs:
            verdict = "better" if (d.mean > 0) == higher_is_better[i] else "worse"
            level = alpha / n_open[i, 0]
        else:
            verdict, level = "undecided", alpha / stopped
        low, high = d.interval(1 - level)
        decisions.append(Decision(verdict, *map(float, corrected[i]), low, high))
    return decisions


def step_down(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corrected p of two hypotheses (n, 2) a comparison, and how many are open at each test."""
    corrected, n_open = np.full(p.shape, np.nan), np.ones(p.shape, dtype=int)
    n_hypotheses = (~np.isnan(p)).sum(axis=1)  # open ones of each comparison
    largest = 0.0
    for i, kind in zip(*np.unravel_index(p.argsort(axis=None), p.shape), strict=True):
        if np.isnan(p[i, kind]):
            break  # the last ones
        n_open[i, kind] = (n_hypotheses > 0).sum()
        largest = max(largest, p[i, kind] * n_open[i, kind])
        corrected[i, kind] = min(largest, 1.0)
        n_hypotheses[i] -= 1
    return corrected, n_open


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
