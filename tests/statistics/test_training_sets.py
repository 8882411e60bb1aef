"""What training sets of folds add to the noise: false winners, and what is left of the power."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.hard_designs import Hard, simulate
from lossbench.statistics import on_same_cases, paired_difference, planned, share_training_sets
from lossbench.statistics.training_sets import shared_ratios

ALPHA, COMPARISONS = 0.05, 6


def studies(design, n, effect=0.0, together=True):
    """Share of studies that call a winner, by Bonferroni over six comparisons."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(n):
        row = [paired_difference(simulate(rng, design)) for _ in range(COMPARISONS)]
        row = share_training_sets(row) if together else row
        found += min(replace(d, mean=d.mean + effect).p() for d in row) < ALPHA / COMPARISONS
    return found / n


@pytest.mark.parametrize("seeds", [3, 10])
def test_a_component_of_training_sets_calls_no_false_winners(seeds):
    """As large as a block: 23 and 52 % without it."""
    design = Hard("", (20,) * 5, seeds, fold=0.003)
    assert studies(design, 120) < 0.09
    assert studies(design, 120, together=False) > 0.12


def test_most_of_the_power_is_left_where_training_sets_are_alike():
    design = Hard("", (52,) * 5)
    assert studies(design, 60, 0.005) > 0.9


def test_comparisons_share_the_mean_of_their_ratios():
    """Those above it are half-way to their own; F has 4 and 10 degrees of freedom."""
    median, of_four = (stats.f.median(4 * k, 10 * k) for k in (1, 4))
    own = np.array([0.5, 0.5, 0.5, 2.5])
    ratio, of = shared_ratios(own, 4, 10)
    mean = 1 / of_four
    assert ratio == pytest.approx([mean] * 3 + [(mean + 2.5 / median) / 2])
    assert of == pytest.approx([4, 4, 4, 16 / 7])
    of_others = 0.5 / stats.f.median(12, 30)
    # Found, p 0.003: estimated alone, and part of the mean; beyond doubt, p 1e-7: no part of it.
    for found, others in ((8.0, (0.5 * 3 + 8) / 4 / of_four), (100.0, of_others)):
        ratio, of = shared_ratios(np.array([0.5, 0.5, 0.5, found]), np.full(4, 4.0), 10.0)
        assert ratio[3] == pytest.approx(found / median)
        assert ratio[:3] == pytest.approx(max(others, (others + 0.5 / median) / 2))
        assert of.tolist() == [of[0]] * 3 + [1]
        assert of[0] == (4 if found == 8 else pytest.approx(2))  # 4 n / (n + 3) of three
    spreads = np.random.default_rng(0).chisquare(1, (100_000, 4))
    half_way = (spreads[:, 0] + spreads.mean(axis=1)) / 2
    assert 2 / half_way.var() == pytest.approx(16 / 7, rel=0.02)
    ratio, of = shared_ratios(np.array([100.0, 200.0]), 4, 10)
    assert ratio == pytest.approx([100 / median, 200 / median])
    assert of.tolist() == [1, 1]


def test_degrees_of_freedom_are_those_of_the_spread_that_was_taken():
    rng = np.random.default_rng(1)
    row = [paired_difference(simulate(rng, Hard("", (20,) * 3, 10))) for _ in range(COMPARISONS)]
    found = [d.components for d in share_training_sets(row)]
    own = np.array([d.components.ratio for d in row])
    assert min(d.components.p_fold for d in row) > 0.05
    above = own / stats.f.median(2, 27) > own.mean() / stats.f.median(12, 162)
    assert 0 < above.sum() < COMPARISONS
    assert [c.df for c in found] == pytest.approx(np.where(above, 2 * 24 / 9, 12))
    assert {c.shared_by for c in found} == {COMPARISONS}


def test_a_component_that_one_comparison_has_alone_calls_no_false_winners():
    """As large as two blocks, with ten seeds: 8 % half-way to the others."""
    rng, false, n = np.random.default_rng(0), 0, 150
    others, own = Hard("", (20,) * 5, 10), Hard("", (20,) * 5, 10, fold=0.02)
    for _ in range(n):
        row = [paired_difference(simulate(rng, own))]
        row += [paired_difference(simulate(rng, others)) for _ in range(5)]
        found = share_training_sets(row)[0]
        false += found.p() < ALPHA
        if row[0].components.p_fold < 1e-6:
            assert found.components.shared_by == 1
            assert found.components.df == 4
    assert false / n < 0.08


def test_with_one_fold_or_one_seed_nothing_is_added():
    rng = np.random.default_rng(0)
    for sizes, seeds in (((52,), 5), ((20,) * 5, 1)):
        d = paired_difference(simulate(rng, Hard("", sizes, seeds)))
        assert share_training_sets([d]) == [d]
    assert share_training_sets([]) == []
    same = paired_difference([np.zeros((3, 5))] * 4)
    assert share_training_sets([same]) == [same]


def test_folds_that_evaluate_the_same_cases_have_training_sets_too():
    rng, fold = np.random.default_rng(0), np.repeat(np.arange(5), 3)
    false = np.zeros(2)
    for _ in range(100):
        row = []
        for _ in range(COMPARISONS):
            of_training = rng.normal(0, 0.004, 5)[fold] + rng.normal(0, 0.003, 15)
            noise = rng.normal(0, 0.0125, (15, 60))
            values = rng.normal(0, 0.01, 60) + of_training[:, None] + noise
            row.append(on_same_cases(paired_difference([values]), values, fold))
        for i, found in enumerate((row, share_training_sets(row))):
            false[i] += min(d.p() for d in found) < ALPHA / COMPARISONS
    assert false[0] > 15
    assert false[1] < 9


def test_a_plan_counts_what_training_sets_add():
    """More seeds do not help against it, so there is no plan with the cases of the pilot."""
    rng = np.random.default_rng(0)
    pilot = [paired_difference(simulate(rng, Hard("", (20,) * 5, 4, fold=f))) for f in (0, 0.02)]
    alike, unlike = (share_training_sets([d])[0] for d in pilot)
    goal = 0.02
    assert min(plan.n_cases for plan in planned(alike, goal)) < 100
    assert min(plan.n_cases for plan in planned(unlike, goal)) == np.inf
