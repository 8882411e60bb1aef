"""As rounds_and_tuning, for many studies: python -m benchmarks.drawn_means rounds tuning --output DIR

In place of cases, the means of folds and the mean squares of trainings are drawn, which are all that the statistics
take of a full table; they are estimated as a plan does, by the formulas of `combine` and `share_training_sets`. Thus
1,000 studies a row take minutes; rounds_and_tuning says whether the functions of the workflow agree.
"""

from itertools import product

import numpy as np
from scipy import special

from benchmarks.error_rates import ALPHA, COMPARISONS, Design, truth
from benchmarks.rounds_and_tuning import (
    BUDGET,
    CASES,
    CLASSES,
    FIRST,
    FIVE_FOLDS,
    MARGIN,
    PROTOTYPE,
    RULES,
    SEEDS,
    TUNINGS,
    luck,
    of_tuning,
    write_tables,
)
from lossbench.statistics import Difference, Looks
from lossbench.statistics.planning import _estimate
from lossbench.statistics.sequential import both_p
from lossbench.statistics.verdicts import step_down


def one_sided(d: Difference, seeds: int, means: np.ndarray, within: np.ndarray) -> np.ndarray:
    """P of the four one-sided tests, (studies, comparisons, 4), as `decide_rounds` has them.

    `means` are of folds, (studies, comparisons, folds); `within` is what trainings say of their
    variance.
    """
    folds = means.shape[-1]
    spread = means.var(axis=-1, ddof=1) if folds > 1 else np.zeros(means.shape[:2])
    e = _estimate(d, d.n_cases, seeds, spread, within)
    mean, error = means.mean(axis=-1), np.sqrt(e.variance)
    p = np.empty((*mean.shape, 4))
    for side, shift in enumerate((mean, -mean, mean + MARGIN, MARGIN - mean)):
        few, many = (special.stdtr(df, -shift / error) for df in (e.df, e.df_case))
        p[..., side] = e.weight * few + (1 - e.weight) * many
    return p


def rounds_row(block: float, effect: float, studies: int, seed: int = 0) -> dict:
    """Rounds of five folds: means and mean squares are drawn in place of cases.

    No loss stops being trained before the others, and comparisons end with a verdict alone.
    """
    generator, d = np.random.default_rng(seed), truth(Design(5, BUDGET, CASES, block))
    looks, n = Looks(FIRST, BUDGET), (studies, COMPARISONS)
    training = block**2 + d.components.residual / CASES
    of_case = np.sqrt(d.components.case / CASES) * generator.standard_normal((*n, 5))
    noise = np.sqrt(training) * generator.standard_normal((BUDGET, *n, 5)).cumsum(axis=0)
    squares = 2 * training * generator.gamma(5 / 2, size=(BUDGET - 1, *n)).cumsum(axis=0)
    p = np.empty((len(looks.rounds), *n, 4))
    for j, k in enumerate(looks.rounds):
        means = effect * MARGIN + of_case + noise[k - 1] / k
        p[j] = one_sided(d, k, means, squares[k - 2] / (5 * (k - 1)) / k)
    p = looks.sequential_p(p)
    both, settled, kinds = both_p(p), np.full(n, BUDGET), np.full(n, "undecided ")
    for j, s in np.ndindex(both.shape[:2]):
        corrected, _ = step_down(both[j, s])
        new = (kinds[s] == "undecided ") & (corrected < ALPHA).any(axis=1)
        settled[s, new] = looks.rounds[j]
        sign = np.where(p[j, s, :, 0] < p[j, s, :, 1], "better", "worse")
        kinds[s, new] = np.where(corrected[:, 1] < ALPHA, "equivalent", sign)[new]
    of_comparison = 5 * settled.mean(axis=1)
    false = kinds == "worse" if effect else (kinds == "worse") | (kinds == "better")
    return {
        "design": f"5 folds, block {block}",
        "difference": f"{effect:g} margins",
        "false winners": float(false.any(axis=1).mean()),
        "false equivalents": float((kinds == "equivalent").any(axis=1).mean() * (effect >= 1)),
        "blocks of a comparison": float(of_comparison.mean()),
        "error": float(of_comparison.std() / np.sqrt(studies)),
        "blocks of a loss": float(5 * settled.reshape(studies, 3, 2).max(axis=2).mean()),
        "prototype": PROTOTYPE[block, effect],
    }


def tuning_row(folds: int, block: float, trainings: int, studies: int, seed: int = 0) -> dict:
    """False calls of losses that are equally good at their best rates, which are tuned in full."""
    generator, d = np.random.default_rng(seed), truth(Design(folds, 1, CASES, block))
    drawn = [luck(generator, folds, block, trainings) for _ in range(studies)]
    training, found = block**2 + d.components.residual / CASES, {}
    for rule, seeds in product(RULES, SEEDS):
        shift = np.array([x[rule] for x in drawn])
        of_folds = np.repeat(shift[:, 1:] - shift[:, :1], len(CLASSES), axis=1)
        scale = np.sqrt(d.components.case / CASES + training / seeds)
        means = of_folds + scale * generator.standard_normal(of_folds.shape)
        df = folds * (seeds - 1)
        within = training / seeds * generator.chisquare(df, of_folds.shape[:2]) / df
        p = one_sided(d, seeds, means, within)
        said = [step_down(both)[0] < ALPHA for both in both_p(p)]
        found[rule, seeds] = np.mean([(x[:, 0] & ~x[:, 1]).any() for x in said])
    lost = -np.mean([x["vertex"] for x in drawn])
    return of_tuning(folds, block, trainings, found, lost)


if __name__ == "__main__":
    write_tables({"rounds": (rounds_row, FIVE_FOLDS, 1000), "tuning": (tuning_row, TUNINGS, 1000)})
