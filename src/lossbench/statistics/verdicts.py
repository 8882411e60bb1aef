"""What may be said of differences: better, worse, equivalent or undecided, with one error rate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lossbench.statistics.differences import Difference


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
