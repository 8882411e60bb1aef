"""Looks at a study that grows by rounds: levels, sequential p, repeated intervals, decisions.

A study of at most K rounds looks at its results after every round from the first look on. Each look
costs error rate: by Lan and DeMets' linear spending, the looks up to round k may call a false
result with probability alpha k / K. With that the nominal level of each look follows from the
Brownian motion that a mean over more and more rounds is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from scipy import optimize, special

from lossbench.statistics.differences import Difference
from lossbench.statistics.verdicts import Decision, step_down

NODES = 128  # of the integral over the Brownian motion; twice as many move no level by 1e-6
TAIL = 9.0  # standard deviations, where the integral begins
# One-sided error rates of the table that levels are interpolated in.
ALPHAS = np.concatenate([np.geomspace(1e-12, 1e-3, 37)[:-1], np.geomspace(1e-3, 0.5, 60)])


def boundaries(times: Sequence[float], spent: Sequence[float]) -> np.ndarray:
    """One-sided boundaries of looks, by recursive integration (Armitage, McPherson, Rowe 1969).

    Parameters
    ----------
    times
        Information at each look, ascending, 1 at the last that is planned.
    spent
        Probability to be spent up to each look, of crossing any boundary so far.

    Returns
    -------
    np.ndarray
        Standard normal quantiles, one a look; infinite where nothing is spent.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    found: list[float] = []
    x, mass, before, spent_before = np.zeros(1), np.ones(1), 0.0, 0.0
    for time, total in zip(times, spent, strict=True):
        scale, step = np.sqrt(time), np.sqrt(time - before)
        z = _boundary(total - spent_before, x, mass, scale, step)
        found.append(z)
        # Where the motion is that has not crossed yet: its density times the weights of the nodes.
        low, high = -TAIL * scale, min(z, TAIL) * scale
        at = (high - low) / 2 * nodes + (high + low) / 2
        density = np.exp(-(((at[:, None] - x) / step) ** 2) / 2) @ mass
        mass = density * weights * (high - low) / 2 / (step * np.sqrt(2 * np.pi))
        x, before, spent_before = at, time, total
    return np.array(found)


def _boundary(share: float, x: np.ndarray, mass: np.ndarray, scale: float, step: float) -> float:
    """Where the motion, after one more step from `x`, lies beyond with probability `share`."""
    if share <= 0:
        return np.inf

    def excess(z: float) -> float:
        # On a log scale, where a small share is found as exactly as a large one.
        return np.log(max(mass @ special.ndtr((x - z * scale) / step), 1e-300) / share)

    return float(optimize.brentq(excess, -TAIL, TAIL))


@dataclass(frozen=True)
class Looks:
    """The looks of a study: after every round from `first` on, up to `budget`."""

    first: int
    budget: int

    @property
    def rounds(self) -> range:
        """After which rounds the study looks."""
        return range(self.first, self.budget + 1)

    def levels(self, alpha: float) -> np.ndarray:
        """Nominal one-sided level of each look, (looks,), for a one-sided error rate in all."""
        table = _level_table(self)
        return np.exp([np.interp(np.log(alpha), np.log(ALPHAS), of_look) for of_look in table.T])

    def sequential_p(self, p: np.ndarray) -> np.ndarray:
        """Smallest one-sided error rate at which some look so far calls a result.

        Parameters
        ----------
        p
            One-sided p at the looks that were taken, (looks, ...); NaN says nothing.

        Returns
        -------
        np.ndarray
            As large; it never rises from look to look. 1 where no rate up to 0.5 would do.
        """
        # A look may spend this share of the rate, and calls p below it in any case.
        shares = np.diff(np.array(self.rounds) / self.budget, prepend=0.0)
        rates = np.ones(np.shape(p))
        for j, (of_look, levels) in enumerate(zip(p, np.exp(_level_table(self).T), strict=False)):
            tiny, known = of_look < levels[0], of_look <= levels[-1]  # False for NaN
            log_p = np.log(np.where(known & ~tiny, of_look, 1.0))
            rate = np.exp(np.interp(log_p, np.log(levels), np.log(ALPHAS)))
            rates[j] = np.where(tiny, of_look / shares[j], np.where(known, rate, 1.0))
        return np.minimum.accumulate(rates, axis=0)


@lru_cache(maxsize=16)
def _level_table(looks: Looks) -> np.ndarray:
    """Logarithm of the level of each look (columns) for each of `ALPHAS` (rows)."""
    times = np.array(looks.rounds) / looks.budget
    return np.log([special.ndtr(-boundaries(times, alpha * times)) for alpha in ALPHAS])


def decide_rounds(
    history: Sequence[Sequence[Difference]],
    margins: Sequence[float],
    higher_is_better: Sequence[bool],
    alpha: float,
    looks: Looks,
) -> list[list[Decision]]:
    """Decide comparisons together at every look, so that error rates hold over all of it.

    Parameters
    ----------
    history
        For every planned comparison its difference at each look, loss minus reference, from all
        rounds up to it; shorter where its loss was trained no more.
    margins, higher_is_better
        Of each comparison.
    alpha
        Probability of any false verdict at any look.
    looks
        When the study looks; fewer may have been taken.

    Returns
    -------
    list of list of Decision
        For every comparison, of each look. A verdict stays as it was first reached. The interval
        is what the repeated intervals of the looks so far have in common; where they have nothing
        in common, that of the look.

    Notes
    -----
    As `decide`, with sequential p in place of p: twice the smaller of those of both sides, and for
    equivalence the larger of those of the two one-sided tests. What says nothing (one block)
    counts as a test all the same.
    """
    n_looks, n = max(map(len, history), default=0), len(history)
    p = np.full((n_looks, n, 4), np.nan)
    for i, (of_looks, margin) in enumerate(zip(history, margins, strict=True)):
        p[: len(of_looks), i] = [_one_sided(d, margin) for d in of_looks]
    p = looks.sequential_p(p)
    both = both_p(p)

    @cache
    def repeated(i: int, j: int, level: float) -> tuple[float, float]:
        return history[i][j].interval(1 - 2 * looks.levels(level / 2)[j])

    verdicts = ["undecided"] * n
    decisions: list[list[Decision]] = [[] for _ in history]
    for j in range(n_looks):
        corrected, n_open = step_down(both[j])
        stopped = n_open[corrected >= alpha].max(initial=1)
        for i in range(n):
            if verdicts[i] == "undecided":
                if corrected[i, 1] < alpha:
                    verdicts[i] = "equivalent"
                elif corrected[i, 0] < alpha:
                    above = p[j, i, 0] < p[j, i, 1]
                    verdicts[i] = "better" if above == higher_is_better[i] else "worse"
            level = {
                "undecided": alpha / stopped,
                "equivalent": 2 * alpha / n_open[i, 1],
            }.get(verdicts[i], alpha / n_open[i, 0])
            ends = [repeated(i, k, level) for k in range(min(j + 1, len(history[i])))]
            low, high = max(low for low, _ in ends), min(high for _, high in ends)
            if not low <= high:
                low, high = ends[-1]
            decisions[i].append(Decision(verdicts[i], *map(float, corrected[i]), low, high))
    return decisions


def _one_sided(d: Difference, margin: float) -> tuple[float, float, float, float]:
    """P that it is not above 0, not below 0, not above -margin, not below the margin."""
    if not np.isfinite(d.variance):
        return (np.nan,) * 4
    if d.variance == 0:  # as in `Difference.p`
        sign = 0.5**d.n_blocks
        of_zero = (sign if d.mean > 0 else 1.0, sign if d.mean < 0 else 1.0)
        return *of_zero, float(d.mean <= -margin), float(d.mean >= margin)
    error, tail = np.sqrt(d.variance), d.components.tail
    means = (d.mean, -d.mean, d.mean + margin, margin - d.mean)
    return tuple(float(tail(mean / error)) for mean in means)


def more_rounds_lack(d: Difference, margin: float, alpha: float, looks: Looks) -> str:
    """What forbids a verdict however many rounds follow: too few cases, or too few folds.

    Parameters
    ----------
    d
        An undecided difference.
    margin, alpha
        Of the comparison, as if it were the only one left.
    looks
        When the study looks.

    Returns
    -------
    str
        "cases" where no number of trainings would do: at the last look, without any training noise,
        the spread of the cases alone (at the lower end of its 95 % interval) would be too large for
        every mean that the training noise leaves possible (two standard errors). "folds" where it
        would be so with what the training sets add, which are beyond doubt. Empty else. Stopping
        there costs no error rate.
    """
    if not np.isfinite(d.variance):
        return "" if d.n_blocks < 2 else "cases"
    c = d.components
    case = c.case / d.n_cases
    noise = 2 * np.sqrt(max(d.variance - case - c.training_sets, 0.0))
    df = c.df_case
    of_cases = np.sqrt(case * df / special.chdtri(df, 0.025)) if np.isfinite(df) else 0.0
    largest, smallest = abs(d.mean) + noise, max(abs(d.mean) - noise, 0.0)

    def forbids(error: float, df: float = np.inf) -> bool:
        beyond, within = (-special.stdtrit(df, looks.levels(a)[-1]) for a in (alpha / 2, alpha))
        return not (largest > beyond * error or smallest < margin - within * error)

    if forbids(of_cases):
        return "cases"
    if d.more_seeds_help:  # the component is in doubt
        return ""
    return "folds" if forbids(np.sqrt(of_cases**2 + c.training_sets), c.df) else ""


def both_p(p: np.ndarray) -> np.ndarray:
    """Sequential p of no difference, and of one beyond the margin: (..., 4) -> (..., 2)."""
    return np.stack([np.minimum(2 * p[..., :2].min(axis=-1), 1), p[..., 2:].max(axis=-1)], axis=-1)
