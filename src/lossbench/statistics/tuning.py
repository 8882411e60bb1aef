"""The best point of a grid, from a few noisy trainings at each, and what luck adds to a best."""

from typing import NamedTuple

import numpy as np

MAX_MISFIT = 3.0  # of a parabola through five points, in variances of their means


class Peak(NamedTuple):
    """Where a curve is highest: `position` in points of the grid, from 0, between them too.

    `edge` is -1 where the first point is the best, 1 where the last one is, else 0.
    """

    position: float
    edge: int


def peak(scores: np.ndarray) -> Peak | None:
    """Find the maximum of a curve by the vertex of a parabola around its best point.

    The best point alone is mostly the luckiest one; its neighbours correct that. Curves fall off
    at one side, so five points count where a parabola fits them within their noise, else three.

    Parameters
    ----------
    scores
        Higher is better, (trainings, points); a diverged training is NaN and counts as the worst.

    Returns
    -------
    Peak or None
        The vertex, at most one point from the best one; the best point where it is an edge, or
        where no vertex is a maximum. None where every training diverged.
    """
    if np.isnan(scores).all():
        return None
    scores = np.where(np.isnan(scores), np.nanmin(scores), scores)
    n_trainings, n_points = scores.shape
    means = scores.mean(axis=0)
    best = int(means.argmax())
    if best in (0, n_points - 1):
        return Peak(best, -1 if best == 0 else 1)
    for reach in (2, 1):
        at = np.arange(max(best - reach, 0), min(best + reach, n_points - 1) + 1)
        parabola = np.polynomial.Polynomial.fit(at - best, means[at], 2)
        if len(at) == 3:
            break
        if n_trainings > 1:
            noise = scores[:, at].var(axis=0, ddof=1).mean() / n_trainings
            misfit = np.sum((parabola(at - best) - means[at]) ** 2) / (len(at) - 3)
            if misfit <= MAX_MISFIT * noise:
                break
    _, slope, curvature = parabola.convert().coef
    if curvature >= 0:
        return Peak(best, 0)
    return Peak(best + float(np.clip(-slope / (2 * curvature), -1, 1)), 0)


def expected_best(scores: np.ndarray) -> np.ndarray:
    """Expected maximum of 1, 2, ... draws from scores, with replacement (Dodge et al. 2019).

    Parameters
    ----------
    scores
        Of n trainings.

    Returns
    -------
    np.ndarray
        (n,): rises with the number of draws though nothing gets better, as tables of best results
        do.
    """
    ranked, n = np.sort(scores), len(scores)
    share = np.arange(n + 1) / n
    return np.array([ranked @ np.diff(share**k) for k in range(1, n + 1)])
