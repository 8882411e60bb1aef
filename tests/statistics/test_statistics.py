"""Statistics on arrays: against formulas, against simulated studies, and at the edges."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from benchmarks.error_rates import Design, rates, simulated, study
from lossbench.statistics import (
    Components,
    Difference,
    cases_tests,
    crossed_difference,
    decide,
    holm,
    improvement,
    mean_interval,
    needed,
    paired_difference,
    planned,
    ranks,
)
from lossbench.statistics.variance_components import student
from tests.helpers.simulations import FULL, scores, verdict


def folds_of(design=FULL, seed=0, effect=0.0):
    return study(np.random.default_rng(seed), design, effect)


# The estimate


def test_the_mean_is_the_mean():
    folds = folds_of(effect=0.02)
    assert paired_difference(folds).mean == pytest.approx(np.concatenate(folds, axis=1).mean())


def test_components_are_recovered():
    found = paired_difference(folds_of(Design(40, 8, 60, 0.003)))
    assert found.components.case == pytest.approx(0.010**2, rel=0.15)
    assert found.components.block == pytest.approx(0.003**2, rel=0.2)
    assert found.components.residual == pytest.approx(0.0125**2, rel=0.05)


@pytest.mark.parametrize(("folds", "seeds", "cases"), [(5, 3, 20), (1, 3, 30), (3, 2, 4)])
def test_balanced_results_give_the_balanced_formula(folds, seeds, cases):
    """Mean squares of a balanced table, written down in full."""
    d = np.stack(folds_of(Design(folds, seeds, cases, 0.01)))
    fold, block = d.mean((1, 2), keepdims=True), d.mean(2, keepdims=True)
    case = d.mean(1, keepdims=True)
    ms_case = seeds * ((case - fold) ** 2).sum() / (folds * (cases - 1))
    ms_block = cases * ((block - fold) ** 2).sum() / (folds * (seeds - 1))
    ms_rest = ((d - case - block + fold) ** 2).sum() / (folds * (cases - 1) * (seeds - 1))
    within, a = ms_case + ms_block - ms_rest, folds * (seeds - 1) / (folds * seeds - 1)
    between = 0.0
    if folds > 1:
        between = seeds * cases * ((fold - d.mean()) ** 2).sum() / (folds - 1)
    found = paired_difference(list(d))
    assert found.variance == pytest.approx((a * within + (1 - a) * between) / d.size)
    assert found.components.case == pytest.approx((ms_case - ms_rest) / seeds)
    assert found.components.residual == pytest.approx(ms_rest)
    assert (found.components.df, found.components.df_case) == (
        folds * seeds - 1,
        folds * (cases - 1),
    )


def with_gaps(folds, seed=0, share=0.05):
    """A run that diverged, and a share of the pairs missing."""
    generator = np.random.default_rng(seed)
    folds = [np.where(generator.random(f.shape) < share, np.nan, f) for f in folds]
    folds[0][0] = np.nan
    return folds


def test_unbalanced_sums_of_squares_are_those_of_least_squares():
    """The residual of the additive model, by a regression on indicators of cases and blocks."""
    values = with_gaps(folds_of(Design(1, 4, 12, 0.02)))[0]
    seeds, cases = np.nonzero(~np.isnan(values))
    design = np.concatenate([np.eye(4)[seeds], np.eye(12)[cases]], axis=1)
    y = values[seeds, cases]
    residual = y - design @ np.linalg.lstsq(design, y)[0]
    df = len(y) - np.linalg.matrix_rank(design)
    assert paired_difference([values]).components.residual == pytest.approx(
        (residual**2).sum() / df
    )


def test_unbalanced_components_have_no_bias():
    """Components, averaged over 200 studies that lack a third of their pairs."""
    design = replace(FULL, folds=3, cases=20, block=0.008)
    found = [
        paired_difference(with_gaps(folds_of(design, seed), seed, share=0.3)) for seed in range(200)
    ]
    assert np.mean([d.components.case for d in found]) == pytest.approx(0.010**2, rel=0.05)
    assert np.mean([d.components.block for d in found]) == pytest.approx(0.008**2, rel=0.15)
    assert np.mean([d.components.residual for d in found]) == pytest.approx(0.0125**2, rel=0.03)
    assert np.var([d.mean for d in found]) == pytest.approx(
        np.mean([d.variance for d in found]), rel=0.25
    )


def test_all_pairs_count():
    """A gap costs its pair, not its case; what is missing is counted, a whole case too."""
    folds = folds_of()
    folds[0][1, 3] = np.nan
    folds[1][0] = np.nan
    folds[2][:, 5] = np.nan  # a case that one loss lacks in all seeds
    found = paired_difference(folds)
    assert (found.n_cases, found.n_blocks, found.n_missing) == (259, 14, 1 + 52 + 3)
    gone = [np.full((3, 52), np.nan), *folds[1:]]
    assert (paired_difference(gone).n_folds, paired_difference(gone).n_missing) == (4, 156 + 52 + 3)


# Error rates: a small edition of benchmarks/error_rates.py


@pytest.mark.parametrize(
    "design",
    [
        FULL,
        Design(1, 3, 52, 0.003),
        replace(FULL, diverged=True, cases=20),
        Design(5, 1, 52, 0.003),
    ],
    ids=str,
)
def test_false_winners_and_coverage(design):
    """At most 5 % false winners in 60 studies, and 95 % of 360 intervals, to 3 standard errors."""
    differences = [[paired_difference(f) for f in row] for row in simulated(design, 60, seed=3)]
    false = np.mean([(holm([d.p() for d in row]) < 0.05).any() for row in differences])
    assert false <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    low, high = np.array([d.interval(0.95) for row in differences for d in row]).T
    assert 0.915 <= np.mean((low <= 0) & (high >= 0)) <= 0.99


@pytest.mark.parametrize("sizes", [(5, 5, 200), (200, 200, 5)], ids=str)
@pytest.mark.parametrize("seeds", [1, 3])
def test_unequal_folds_do_not_make_sure(sizes, seeds):
    """Coverage was 85 to 93 %: a large fold is one draw of training noise, whatever its cases."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        values = [
            rng.normal(0, 0.01, (1, n))
            + rng.normal(0, 0.006, (seeds, 1))
            + rng.normal(0, 0.0125, (seeds, n))
            for n in sizes
        ]
        low, high = paired_difference(values).interval(0.95)
        covered += low <= 0 <= high
    assert covered / 300 >= 0.93


def test_degrees_of_freedom_are_those_of_the_weights():
    """Two large folds and a tiny one are hardly more than two; equal ones are as many as there are."""
    folds = [np.random.default_rng(i).normal(0, 0.01, (1, n)) for i, n in enumerate((200, 200, 2))]
    assert 1 <= paired_difference(folds).components.df < 1.2
    assert paired_difference([f[:, :2] for f in folds]).components.df == 2


def test_shared_weights_are_crossed():
    """5 x 3 with what a seed shares as large as a block; `paired_difference` covers 80 %."""
    rng, covered = np.random.default_rng(0), np.zeros(2)
    for _ in range(300):
        shared = rng.normal(0, 0.003, (3, 1))
        folds = [f + shared for f in study(rng, replace(FULL, cases=20, block=0.003))]
        for i, estimate in enumerate((paired_difference, crossed_difference)):
            low, high = estimate(folds).interval(0.95)
            covered[i] += low <= 0 <= high
    assert covered[0] / 300 < 0.9
    assert covered[1] / 300 >= 0.93


@pytest.mark.parametrize(("of_fold", "of_seed"), [(0.02, 0.03), (0.05, 0.0), (0.0, 0.05)])
def test_crossed_seeds_and_folds_by_the_mean_squares(of_fold, of_seed):
    """The squares by statsmodels' two-way analysis of variance; folds of unlike size weigh more."""
    generator = np.random.default_rng(0)
    means = of_fold * np.arange(4)[:, None] + of_seed * np.arange(3) ** 2
    means = means + 0.01 * generator.standard_normal((4, 3))
    long = pd.DataFrame({"y": means.ravel(), "f": np.repeat(range(4), 3), "s": [0, 1, 2] * 4})
    table = anova_lm(ols("y ~ C(f) + C(s)", long).fit())
    square = table["mean_sq"].to_numpy()
    total = max(square[0] + square[1] - square[2], *square[:2])
    df = {square[0]: 3, square[1]: 2}.get(total, total**2 / (square**2 / [3, 2, 6]).sum())
    found = crossed_difference([np.repeat(row[:, None], 5, axis=1) for row in means])
    assert found.variance == pytest.approx(total / 12)
    assert found.components.df == pytest.approx(df)
    unlike = [
        np.repeat(row[:, None], n, axis=1) for row, n in zip(means, (2, 4, 6, 8), strict=True)
    ]
    assert crossed_difference(unlike).variance == pytest.approx(
        total / 12 * 4 * (4 + 16 + 36 + 64) / 400
    )


def test_crossing_says_nothing_of_one_seed_and_is_of_single_folds_what_it_was():
    folds = folds_of(Design(5, 1, 52, 0.003))
    assert np.isnan(crossed_difference(folds).p())
    assert np.isnan(needed(crossed_difference(folds_of()), 0.01, 0.05)).all()
    one = folds_of(Design(1, 3, 52, 0.003))
    assert crossed_difference(one) == paired_difference(one)


def test_the_usual_test_over_cases_is_too_sure():
    """What the block effect is for: Wilcoxon over cases calls many more false winners."""
    row = rates(FULL, 60, seed=1)
    assert row["wilcoxon"] > 0.15 > row["ours"]
    assert row["power"] > 0.7  # 0.80 in 20,000 studies


def test_p_and_interval_agree():
    for seed in range(20):
        found = paired_difference(folds_of(Design(2, 3, 20, 0.005), seed, effect=0.008))
        low, high = found.interval(1 - found.p())
        assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


# Where little or nothing can be said


def test_one_block_says_nothing():
    folds = folds_of(Design(1, 1, 52, 0.003), effect=0.5)
    found = paired_difference(folds)
    assert found.mean == pytest.approx(0.5, abs=0.02)
    assert np.isnan(found.interval(0.95)).all()
    assert verdict(found, 0.01, 0.05) == "undecided"
    assert np.isnan(needed(found, 0.01, 0.05)).all()
    assert planned(found, 0.01) == []


def test_a_loss_against_itself_is_equivalent():
    folds = [np.zeros((3, 10))] * 2
    found = paired_difference(folds)
    assert found.p() == cases_tests([folds]) == 1
    assert found.interval(0.95) == (0, 0)
    assert improvement(folds) == 0.5
    assert verdict(found, 0.01, 0.05) == "equivalent"


def test_a_difference_without_any_noise_is_left_to_the_signs_of_the_blocks():
    found = paired_difference([np.full((3, 10), 0.3)] * 2)
    assert found.variance == 0
    assert found.p() == 2 * 0.5**6
    assert verdict(found, 0.01, 0.05) == "better"
    few = paired_difference([np.full((3, 10), 0.3)])
    assert verdict(few, 0.01, 0.05) == "undecided"
    assert verdict(few, 0.4, 0.05) == "equivalent"


@pytest.mark.parametrize(
    "folds",
    [
        [np.full((2, 3), np.nan)],
        [np.zeros((2, 0))],
        [np.array([[0.1], [0.2]])],  # one case
        [np.array([[0.1, 0.2, np.nan], [np.nan, np.nan, 0.3]])],  # no case in two blocks
    ],
    ids=["all missing", "no case", "one case", "unconnected"],
)
def test_nothing_can_be_said(folds):
    found = paired_difference(folds)
    assert np.isnan([found.p(), *found.interval(0.95)]).all()
    assert verdict(found, 0.01, 0.05) == "undecided"
    assert np.isnan(needed(found, 0.01, 0.05)).all()


@pytest.mark.parametrize(
    ("folds", "seeds", "cases"), [(1, 2, 2), (2, 1, 1), (5, 3, 1), (2, 1, 2), (1, 20, 2)]
)
def test_tiny_studies_get_an_answer(folds, seeds, cases):
    values = folds_of(Design(folds, seeds, cases, 0.003), effect=0.005)
    found = paired_difference(values)
    low, high = found.interval(0.95)
    assert low < found.mean < high
    assert 0 < found.p() <= 1
    assert 0 <= cases_tests([values]) <= 1
    assert verdict(found, 0.0001, 0.001) == "undecided"
    assert all(n > 0 for n in needed(found, 0.001, 0.05))


def test_an_interval_ends_where_the_metric_does():
    few = paired_difference([np.array([[0.9, 0.8]]), np.array([[-0.5, 0.1]])])
    low, high = few.interval(0.95)
    assert low < -1 < 1 < high
    assert few.interval(0.95, bound=1) == (-1, 1)


# Verdicts


@pytest.mark.parametrize("n", [1, 2, 50])
def test_holm_is_that_of_statsmodels(n):
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(n).random(n) ** 4
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_skips_what_was_not_tested():
    assert holm([0.01, np.nan, 0.04, 0.03]) == pytest.approx(
        [0.03, np.nan, 0.06, 0.06], nan_ok=True
    )
    assert np.isnan(holm([np.nan])).all()
    assert len(holm([])) == 0


def difference(mean, se):
    components = Components(1e-4, 1e-6, 1e-4, se**2, 20, np.inf, 1.0, se**2, se**2)
    return Difference(mean, components, n_cases=50, n_blocks=6)


@pytest.mark.parametrize(
    ("mean", "se", "expected"),
    [
        (0.05, 0.005, "better"),
        (-0.05, 0.005, "worse"),
        (0.002, 0.001, "equivalent"),
        (0.03, 0.02, "undecided"),
        (0.012, 0.001, "better"),
    ],
)
def test_verdicts(mean, se, expected):
    assert verdict(difference(mean, se), 0.01, 0.05) == expected


def test_lower_may_be_better():
    assert verdict(difference(-0.05, 0.005), 0.01, 0.05, higher=False) == "better"


# What stands beside the verdict


def decided(pairs, alpha=0.05):
    differences = [difference(mean, se) for mean, se in pairs]
    return decide(differences, [0.01] * len(pairs), [True] * len(pairs), alpha)


def test_one_among_many_needs_more_to_be_equivalent_as_to_be_better():
    """Both at p .01 alone; among 20 comparisons, of which the others say nothing, neither is."""
    better, equivalent = difference(0.0285, 0.01), difference(0, 0.00396)
    assert better.p() == pytest.approx(0.01, abs=5e-4)
    assert equivalent.p_equivalent(0.01) == pytest.approx(0.01, abs=5e-4)
    pairs = [(0.0285, 0.01), (0, 0.00396)]
    assert [x.verdict for x in decided(pairs)] == ["better", "equivalent"]
    many = decided(pairs + [(0.01, 0.01)] * 18)
    assert {x.verdict for x in many} == {"undecided"}
    assert many[0].p_holm == pytest.approx(20 * better.p())
    assert many[1].p_equivalent_holm == pytest.approx(20 * equivalent.p_equivalent(0.01))


def test_what_is_rejected_both_ways_no_longer_costs():
    """A difference that is there and lies in the margin leaves nothing false to be said."""
    last, closed = (0.022, 0.01), (0.004, 0.0001)
    assert [x.verdict for x in decided([closed, closed, last])] == [
        "equivalent",
        "equivalent",
        "better",
    ]
    for other in ((0.1, 0.01), (0.0, 0.0001), (0.01, 0.01)):  # each may still be false one way
        assert decided([other, other, last])[-1].verdict == "undecided"
        assert decided([other, other, last])[-1].p_holm == pytest.approx(3 * difference(*last).p())


@pytest.mark.slow
def test_no_verdict_is_false_where_half_differ_by_nothing_and_half_by_the_margin():
    """Holm for each kind of verdict alone says something false in 7.6 % of these studies."""
    studies, margin = 400, 0.005
    generator = np.random.default_rng(0)
    false = 0
    for _ in range(studies):
        row = []
        for effect in [0.0, margin] * 3:
            case = 0.01 * generator.standard_normal((5, 1, 52))
            block = 0.003 * generator.standard_normal((5, 3, 1))
            residual = 0.0125 * generator.standard_normal((5, 3, 52))
            row.append(paired_difference(list(effect + case + block + residual)))
        said = [x.verdict for x in decide(row, [margin] * 6, [True] * 6, 0.05)]
        false += bool({"better", "worse"} & {*said[::2]} or {"equivalent", "worse"} & {*said[1::2]})
    assert false / studies <= 0.05 + np.sqrt(0.05 * 0.95 / studies)


def test_intervals_agree_with_verdicts():
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        n = generator.integers(1, 9)
        pairs = np.column_stack([generator.normal(0, 0.015, n), generator.uniform(0.001, 0.01, n)])
        for x in decided(pairs):
            excludes_0 = x.low > 0 or x.high < 0
            within = x.low > -0.01 and x.high < 0.01
            assert x.verdict != "equivalent" or within
            assert x.verdict not in ("better", "worse") or excludes_0
            assert x.verdict != "undecided" or not (excludes_0 or within)
            seen.add(x.verdict)
    assert len(seen) == 4


@pytest.mark.slow
def test_false_equivalents_are_rare_among_many():
    """Six comparisons at the margin: 5 % of studies, to 3 standard errors; 20 % without Holm."""
    design, margin, studies = Design(5, 3, 52, 0.003), 0.005, 150
    rows = [
        [paired_difference(folds) for folds in row]
        for row in simulated(design, studies, seed=2, effect=margin)
    ]
    alone = [any(d.p_equivalent(margin) < 0.05 for d in row) for row in rows]
    n = len(rows[0])
    together = [
        any(x.verdict == "equivalent" for x in decide(row, [margin] * n, [True] * n, 0.05))
        for row in rows
    ]
    assert np.mean(together) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)
    assert np.mean(alone) > 0.15


def test_nothing_is_decided_of_nothing():
    assert decide([], [], [], 0.05) == []


def test_improvement_counts_cases_and_trainings():
    folds = [np.array([[1.0, -1.0, 0.0], [1.0, np.nan, 0.0]]), np.array([[1.0], [-1.0]])]
    assert improvement(folds) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert np.isnan(improvement([np.full((2, 2), np.nan)]))


def test_cases_tests_are_wilcoxon_on_means_over_seeds():
    folds = with_gaps(folds_of(effect=0.002))
    means = np.concatenate([np.nanmean(f, axis=0) for f in folds])
    few = np.array([[0.3, -0.1, 0.2, 0.5, 0.4]])
    tied = np.array([[0.0, 0.2, 0.2, -0.1, 0.3, 0.3]])
    assert cases_tests([folds, [few], [tied]]).tolist() == [
        stats.wilcoxon(means).pvalue,
        stats.wilcoxon(few[0], method="exact").pvalue,
        stats.wilcoxon(tied[0, 1:], method="asymptotic").pvalue,
    ]


def test_bootstrap_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.8, 0.1, 200)
    low, high = mean_interval(values, 0.95)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.003)
    assert (low, high) == mean_interval(values, 0.95)
    assert np.isnan(mean_interval(values[:1], 0.95)).all()
    assert np.ravel(mean_interval(np.array([0.0, 1.0]), 0.95)).tolist() == [0, 1]  # two are enough


@pytest.mark.parametrize(
    ("fold", "p_fold", "helps"),
    [(1.2e-4, 0.009, False), (0.8e-4, 0.009, True), (1.2e-4, 0.011, True), (np.nan, np.nan, True)],
)
def test_more_seeds_help_unless_training_sets_leave_more_than_what_they_shrink(fold, p_fold, helps):
    """Blocks of variance 3e-4 add 1e-4 to the mean of a fold with three seeds."""
    components = student(1e-4, 9)._replace(block=3e-4, fold=fold, p_fold=p_fold)
    found = Difference(0.01, components, n_cases=40, n_blocks=12, n_folds=4)
    assert found.more_seeds_help == helps


def test_ranks():
    found = ranks(scores([0.6, 0.8, 0.8005, 0.7]))
    assert found.rank[[0, 3]] == pytest.approx([4, 3])
    assert found.p_first == pytest.approx([0, *found.p_first[1:3], 0])
    assert found.p_first.sum() == pytest.approx(1)
    assert (found.low[1:3] == 1).all()
    assert (found.high[1:3] == 2).all()
    assert found.low[3] == found.high[3] == 3


def test_ranks_share_ties_and_keep_the_absent_apart():
    values = scores([0.8, 0.7, 0.5])
    same = [np.concatenate([v, v[:1], np.full_like(v[:1], np.nan)]) for v in values]
    found = ranks(same)
    assert found.rank == pytest.approx([1, 3, 4, 1, np.nan], nan_ok=True)
    assert found.p_first[:4] == pytest.approx([0.5, 0, 0, 0.5])
    assert np.isnan([found.low[4], found.high[4], found.p_first[4]]).all()


def test_a_missing_block_moves_no_rank():
    """The fold that one loss lacks is harder than the others; its plain mean would win."""
    values = scores([0.80, 0.78])
    values[0] -= 0.3
    values[0][1] = np.nan
    assert np.nanmean(values[1:], axis=(0, 2, 3))[1] > np.mean([v[0].mean() for v in values])
    assert ranks(values).rank == pytest.approx([1, 2])


def test_a_missing_block_of_the_better_loss_costs_it_no_rank():
    values = scores([0.78, 0.80])
    values[0] += 0.3  # an easy fold, which the better loss lacks
    values[0][1] = np.nan
    assert ranks(values).rank == pytest.approx([2, 1])


def test_the_luck_of_a_training_makes_no_loss_the_first_with_one_seed_a_fold():
    """Four equal losses. Drawing seeds within folds called one the first in every second study."""
    certain = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        values = [
            0.1 * generator.standard_normal(200)
            + 0.0042 * generator.standard_normal((4, 1, 1))
            + 0.0113 * generator.standard_normal((4, 1, 200))
            for _ in range(5)
        ]
        certain += bool((ranks(values).p_first > 0.95).any())
    assert certain <= 1


def test_the_chance_to_be_first_is_that_of_all_draws_of_blocks_widened_as_said():
    """Four blocks, drawn in all 256 ways; Student's t in place of the normal, and B / (B - 1)."""
    differences = np.array([0.01, 0.03, -0.01, 0.02])
    draws = differences[[*itertools.product(range(4), repeat=4)]].mean(axis=1)
    width = (4 / 3) ** 0.5 * stats.t.isf(0.025, 3) / stats.norm.isf(0.025)
    exact = (differences.mean() + width * (draws - differences.mean()) > 0).mean()
    values = [np.array([[[0.5 + d] * 2], [[0.5] * 2]]) for d in differences]
    found = np.mean([ranks(values, seed=seed).p_first for seed in range(8)], axis=0)
    assert found == pytest.approx([exact, 1 - exact], abs=0.02)


def test_ranks_of_one_block_have_no_interval():
    found = ranks(scores([0.8, 0.7], folds=1, seeds=1))
    assert found.rank == pytest.approx([1, 2])
    assert np.isnan([found.low, found.high, found.p_first]).all()


def test_intervals_are_those_of_every_column_alone():
    generator = np.random.default_rng(0)
    values = generator.random((12, 2, 4))
    values[generator.random(values.shape) < 0.3] = np.nan
    values[:, 0, 0] = np.nan
    values[1:, 0, 1] = np.nan
    low, high = mean_interval(values, 0.9)
    for at in np.ndindex(values.shape[1:]):
        column = values[(slice(None), *at)]
        alone = [float(end) for end in mean_interval(column[~np.isnan(column)], 0.9)]
        assert (low[at], high[at]) == pytest.approx(alone, nan_ok=True)
