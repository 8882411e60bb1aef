"""Where the noise of a mean over blocks and cases comes from: variance components.

The model of a paired difference d[s, f, i], case i of fold f trained with seed s: a case effect,
shared by all seeds; a block effect, shared by all cases of (f, s), in which training noise lives;
a residual. Averaging over seeds and testing over cases leaves the block effect out, and more cases
then only make it surer of one training's luck.

Symbols: `ss` is a sum of squares and `df` its degrees of freedom. The expectation of a sum is
E ss_case = df_case residual + n_case case, and E ss_block = df_block residual + n_block block: with
as many equations as components, solving them is the method of moments. The variance of a mean is
coef_case case + coef_block block + coef_residual residual; for a full table of F folds x S seeds
and N cases in all the coefficients are 1 / N, 1 / (F S) and 1 / (N S).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

NOISE_EXPONENT = 1.5  # found by simulation, see `Components.weight`


class Fold(NamedTuple):
    """The mean of one fold, and the sums of squares and coefficients described above.

    `ss_case` is adjusted for blocks and `ss_block` for cases (Henderson's method III), so that the
    expectations hold where pairs are missing. `largest` is the largest absolute value.
    """

    mean: float
    largest: float
    cases: int
    seeds: int
    ss_case: float
    ss_block: float
    ss_residual: float
    df_case: int
    df_block: int
    df_residual: int
    n_case: int
    n_block: int
    coef_case: float
    coef_block: float
    coef_residual: float


def fold(values: np.ndarray) -> Fold | None:
    """Mean over the cases of a matrix (seeds, cases), and its sums of squares; NaN is missing."""
    measured = np.isfinite(values)
    if not measured.any():
        return None
    if not (full := measured.all()):
        some = np.ix_(measured.any(axis=1), measured.any(axis=0))
        values, measured = np.where(measured, values, 0.0)[some], measured[some]
    seeds, cases = values.shape
    per_case, per_block = measured.sum(axis=0), measured.sum(axis=1)
    pairs = int(per_block.sum())
    case_means = values.sum(axis=0) / per_case
    mean = float(case_means.mean())
    centred = (values - mean) * measured
    of_blocks = centred.sum(axis=1)

    # The additive fit d = case + block by least squares, the cases eliminated: what is left are as
    # many equations as there are seeds, whatever the number of cases. Their rank is the number of
    # blocks less the number of parts that share no case (1 in a full table).
    shares = measured / per_case  # of each block in the mean of a case
    adjusted = of_blocks - shares @ centred.sum(axis=0)
    if full:
        blocks, rank = adjusted / cases, seeds - 1
    else:
        scale, basis = np.linalg.eigh(np.diag(per_block) - shares @ measured.T)
        kept = scale > 1e-9 * measured.size  # others are 0 up to rounding
        blocks = basis[:, kept] @ (basis[:, kept].T @ adjusted / scale[kept])
        rank = int(kept.sum())

    fitted = (case_means - mean - blocks @ shares) + blocks[:, None]
    ss_residual = _sum_of_squares((centred - fitted) * measured)
    within_blocks = (centred - (of_blocks / per_block)[:, None]) * measured
    df_residual = pairs - cases - rank
    return Fold(
        mean=mean,
        largest=float(np.abs(values).max()),
        cases=cases,
        seeds=seeds,
        ss_case=max(0.0, _sum_of_squares(within_blocks) - ss_residual),
        ss_block=float(blocks @ adjusted),
        ss_residual=ss_residual,
        df_case=pairs - seeds - df_residual,
        df_block=rank,
        df_residual=df_residual,
        n_case=pairs - seeds,
        n_block=pairs - cases,
        coef_case=1 / cases,
        coef_block=_sum_of_squares(shares.sum(axis=1)) / cases**2,
        coef_residual=float((1 / per_case).sum()) / cases**2,
    )


def _sum_of_squares(values: np.ndarray) -> float:
    return float(np.vdot(values, values))


class Components(NamedTuple):
    """Variance components of a single difference, and the variance of the mean.

    Attributes
    ----------
    case, block, residual
        Components, none below 0.
    variance
        Variance of the mean over all folds.
    df, df_case
        Degrees of freedom of training noise (blocks but one) and of the cases.
    weight
        The mean over its standard error is referred to a mixture of two Student distributions,
        with `df` in this weight and with `df_case` in the rest. It is the share of training noise
        in the variance to the power `NOISE_EXPONENT`. Satterthwaite's one Student distribution is
        the usual answer; but with few blocks the same luck makes both the variance too small and
        its degrees of freedom too many: with one fold and three seeds it called false winners in 6
        to 16 % of studies instead of 5 %, `df` alone has next to no power, and 1.5 keeps to 5 % at
        any size of the training noise (benchmarks/error_rates.py).
    noise
        The part of the variance that is estimated with `df` degrees of freedom.
    floor
        The variance of the mean if there were no block effect.
    fold, p_fold
        Component of the training set (what all trainings of a fold share beyond their cases), and
        p of there being none; NaN where folds or seeds are too few to tell. More seeds shrink
        `block` and leave it.
    ratio, df_fold, df_within
        Spread of the folds' means over what cases and trainings explain, and the degrees of freedom
        of both; NaN where `fold` is.
    unit
        Variance that a ratio of 2 adds to the mean.
    training_sets, shared_by
        The part of the variance that is from training sets, and from how many comparisons it is
        estimated; 0 before statistics/training_sets.py adds it.
    """

    case: float
    block: float
    residual: float
    variance: float
    df: float
    df_case: float
    weight: float
    noise: float
    floor: float
    fold: float = np.nan
    p_fold: float = np.nan
    ratio: float = np.nan
    df_fold: float = np.nan
    df_within: float = np.nan
    unit: float = 0.0
    training_sets: float = 0.0
    shared_by: int = 0

    def with_spread(
        self,
        spread: float,
        expected: float,
        df_fold: float,
        df_within: float,
        scale: float,
        share: np.ndarray,
    ) -> "Components":
        """With what the spread of the folds' means says of their training sets.

        Parameters
        ----------
        spread, df_fold
            Of the means, and its degrees of freedom.
        expected, df_within
            What cases and trainings explain of it, and degrees of freedom of that.
        scale
            How much of the component `fold` is in the spread.
        share
            (folds,): weight of each fold in the mean.
        """
        ratio, found = spread / expected if expected > 0 else np.nan, max(0.0, spread - expected)
        return self._replace(
            fold=float(found / scale),
            p_fold=float(special.fdtrc(df_fold, df_within, ratio)),
            ratio=float(ratio),
            df_fold=float(df_fold) if expected > 0 else np.nan,
            df_within=float(df_within) if expected > 0 else np.nan,
            unit=float(expected / scale * share @ share) if expected > 0 else 0.0,
        )

    def tail(self, t: float) -> float:
        """Probability that the mean over its standard error lies above t, without a difference."""
        few, many = special.stdtr(self.df, -t), special.stdtr(self.df_case, -t)
        return self.weight * few + (1 - self.weight) * many

    def quantile(self, p: float) -> float:
        """Where `tail` is p, for p < 0.5."""
        low, high = np.sort(-special.stdtrit([self.df, self.df_case], p)) * [1 - 1e-9, 1 + 1e-9]
        return optimize.brentq(lambda t: self.tail(t) - p, low, high)


UNKNOWN = Components(*[np.nan] * 9)


def student(variance: float, df: float) -> Components:
    """A mean with one Student distribution, whose variance is not taken apart."""
    return UNKNOWN._replace(variance=float(variance), df=df, df_case=df, weight=0.0)


def combine(folds: Sequence[Fold]) -> Components:
    """Components by the method of moments, for unbalanced results too.

    The block component has two sources: blocks within folds (Henderson's adjusted sum of squares),
    and the spread of the folds' means beyond what cases and residuals explain. They are pooled by
    their degrees of freedom. With balanced results the variance of the mean is then
    (a (MS_case + MS_block - MS_residual) + (1 - a) MS_fold) / pairs, a = folds (seeds - 1) /
    (blocks - 1). With one seed the folds alone carry the block effect; with a single block nothing
    does, and all is NaN.

    Small folds spread by their few cases. What cases explain is subtracted as for the fold that has
    most of them, or the noise of small folds hides the block effect, of which a large fold is
    nothing but one draw: with folds of 5, 5 and 200 cases and one seed an unbiased estimate is
    0 in most studies, and 95 % intervals held the truth in 88 %. Equal folds are not concerned;
    unequal ones get wider intervals.
    """
    # Of each fold, and their sums.
    each, total = Fold(*np.array(folds, dtype=float).T), Fold(*np.sum(folds, axis=0))
    df_fold, df_case, df_residual = len(folds) - 1, total.df_case, total.df_residual
    # Where no fold shows a case effect (a case a fold), the spread of the folds holds it.
    df_block = total.df_block if df_case else 0
    df = df_block + df_fold
    if df == 0:
        return UNKNOWN
    residual = total.ss_residual / df_residual if df_residual else 0.0
    case = max(0.0, (total.ss_case - df_case * residual) / max(total.n_case, 1))
    share = each.cases / total.cases
    explained = case * each.coef_case + residual * each.coef_residual
    between = share * (1 - share)
    spread = share @ (each.mean - share @ each.mean) ** 2
    block = within = 0.0
    if df_block:
        block += df_block * (total.ss_block - df_block * residual) / total.n_block
        within = max(0.0, block / df_block)
    if df_fold:
        least = between @ np.full(len(folds), explained.min())
        block += df_fold * (spread - least) / (between @ each.coef_block)
    block = max(0.0, float(block / df))
    of_cases = float(case * (share**2 @ each.coef_case))
    of_residuals = float(residual * (share**2 @ each.coef_residual))
    training = float(block * (share**2 @ each.coef_block)) + of_residuals
    variance = training + of_cases
    # What the folds' means say holds the cases' part too, so its uncertainty is of the few folds.
    noise = training + (df_fold / df) ** 2 * of_cases if variance and df_case else variance

    # Satterthwaite: a sum of unequal parts has fewer degrees of freedom than it has parts.
    effective = np.zeros(2)
    if df_block:
        dfs = each.df_block
        expected = residual + block * each.n_block / np.maximum(dfs, 1)
        effective[0] = _satterthwaite(dfs @ expected, dfs @ expected**2, df_block)
    if df_fold:
        expected = block * each.coef_block + explained.min()
        form = (np.diag(share) - np.outer(share, share)) * expected
        effective[1] = _satterthwaite(form.trace(), (form * form.T).sum(), df_fold)
    of_source = np.array([df_block, df_fold]) / df
    parts = of_source > 0
    pooled = _satterthwaite(1.0, (of_source[parts] ** 2 / effective[parts]).sum(), df)
    components = Components(
        case, block, residual, variance,
        df=pooled,
        df_case=df_case or np.inf,
        weight=(noise / variance) ** NOISE_EXPONENT if variance else 1.0,
        noise=noise,
        floor=of_cases + of_residuals,
    )  # fmt: skip
    if df_block and df_fold:
        expected = between @ (within * each.coef_block + explained)
        components = components.with_spread(
            spread, expected, effective[1], effective[0], between.sum(), share
        )
    return components


def _satterthwaite(trace: float, trace_of_square: float, df: int) -> float:
    """Degrees of freedom of a quadratic form; exactly `df` where its parts are equal."""
    effective = trace**2 / trace_of_square if trace_of_square else df
    return float(effective) if effective < df * (1 - 1e-9) else df
