"""What training sets of folds add to the noise: false winners, and what is left of the power."""

from dataclasses import replace

import numpy as np
import pytest

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


def test_a_comparison_that_is_far_off_does_not_widen_the_others():
    assert shared_ratios(np.array([1.0, 1.2, 0.8, 50.0])) == pytest.approx([1.1, 1.15, 1.1, 25.55])


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
