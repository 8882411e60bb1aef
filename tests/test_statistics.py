"""Statistics on arrays: against formulas, against simulated studies, and at the edges."""

import numpy as np
import pytest
from scipy import stats

from lossbench.statistics import Difference, holm, mean_interval, needed, paired_difference, verdict


def study(generator, folds=5, seeds=3, cases=52, effect=0.0, case=0.010, block=0.003, rest=0.0125):
    """Differences of a simulated study: a matrix (seeds, cases) for each fold."""
    return [
        effect
        + case * generator.standard_normal(cases)
        + block * generator.standard_normal((seeds, 1))
        + rest * generator.standard_normal((seeds, cases))
        for _ in range(folds)
    ]


def test_the_mean_is_the_mean():
    folds = study(np.random.default_rng(0), effect=0.02)
    assert paired_difference(folds).mean == pytest.approx(np.concatenate(folds, axis=1).mean())


def test_components_are_recovered():
    found = paired_difference(study(np.random.default_rng(0), folds=40, seeds=8, cases=60))
    assert found.case == pytest.approx(0.010**2, rel=0.15)
    assert found.block == pytest.approx(0.003**2, rel=0.2)
    assert found.residual == pytest.approx(0.0125**2, rel=0.05)


@pytest.mark.parametrize(
    ("folds", "seeds", "cases", "block"),
    [(5, 3, 52, 0.003), (1, 3, 52, 0.003), (5, 2, 20, 0.003), (2, 2, 15, 0.005), (5, 1, 40, 0.003)],
)
def test_false_winners_and_coverage(folds, seeds, cases, block):
    """No difference in truth: p < 0.05 in at most 5 % of 400 studies, up to Monte Carlo error."""
    generator = np.random.default_rng(folds * 100 + seeds)
    found = [
        paired_difference(study(generator, folds, seeds, cases, block=block)) for _ in range(400)
    ]
    false = np.mean([d.p() < 0.05 for d in found])
    assert false <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    covered = np.mean([low <= 0 <= high for low, high in (d.interval(0.95) for d in found)])
    assert covered == pytest.approx(1 - false)


def test_the_usual_test_over_cases_is_too_sure_here():
    """What the block effect is for: the paired t-test on means over seeds calls false winners."""
    generator = np.random.default_rng(1)
    p = [
        stats.ttest_1samp(np.concatenate([f.mean(axis=0) for f in study(generator)]), 0).pvalue
        for _ in range(400)
    ]
    assert np.mean(np.array(p) < 0.05) > 0.12


def test_one_block_says_nothing():
    found = paired_difference(study(np.random.default_rng(0), folds=1, seeds=1, effect=0.5))
    assert found.mean == pytest.approx(0.5, abs=0.02)
    assert np.isnan(found.interval(0.95)).all()
    assert verdict(found, np.nan, 0.01, 0.05) == "undecided"
    assert np.isnan(needed(found, 0.01, 0.05)).all()


def test_a_loss_against_itself_is_equivalent():
    found = paired_difference([np.zeros((3, 10))] * 2)
    assert found.p() == 1
    assert found.interval(0.95) == (0, 0)
    assert verdict(found, 1.0, 0.01, 0.05) == "equivalent"


def test_nothing_to_compare():
    found = paired_difference([np.full((2, 3), np.nan)])
    assert found.n_cases == 0
    assert np.isnan(found.p())
    assert verdict(found, np.nan, 0.01, 0.05) == "undecided"
    assert paired_difference([np.array([[0.1], [0.2]])]).n_cases == 1


def test_cases_with_a_missing_pair_are_left_out():
    folds = study(np.random.default_rng(0))
    folds[0][1, 3] = np.nan
    kept = [np.delete(folds[0], 3, axis=1), *folds[1:]]
    assert paired_difference(folds) == paired_difference(kept)


def test_holm():
    assert holm([0.01, np.nan, 0.04, 0.03]) == pytest.approx(
        [0.03, np.nan, 0.06, 0.06], nan_ok=True
    )
    assert np.isnan(holm([np.nan])).all()


def difference(mean, se, df=20):
    return Difference(mean, se**2, df, 1e-4, 1e-6, 1e-4, n_cases=50, n_blocks=6)


@pytest.mark.parametrize(
    ("mean", "se", "p", "expected"),
    [
        (0.05, 0.005, 1e-6, "better"),
        (-0.05, 0.005, 1e-6, "worse"),
        (0.002, 0.001, 0.04, "equivalent"),
        (0.03, 0.02, 0.2, "undecided"),
        (0.012, 0.001, 1e-6, "better"),
    ],
)
def test_verdicts(mean, se, p, expected):
    assert verdict(difference(mean, se), p, 0.01, 0.05) == expected


def test_lower_may_be_better():
    assert verdict(difference(-0.05, 0.005), 1e-6, 0.01, 0.05, higher_is_better=False) == "better"


def test_the_number_that_would_decide_does():
    """At the promised number of blocks the power is about what was promised."""
    generator = np.random.default_rng(0)
    pilot = Difference(0.02, 2.5e-4, 3, 1e-4, 1e-3, 1e-4, n_cases=40, n_blocks=4)
    cases, blocks = needed(pilot, 0.001, 0.05)
    assert cases == np.inf  # training noise is left however many cases there are
    seeds = int(blocks)
    power = np.mean(
        [
            paired_difference(study(generator, 1, seeds, 40, 0.02, 0.01, 1e-3**0.5, 0.01)).p()
            < 0.05
            for _ in range(300)
        ]
    )
    assert power == pytest.approx(0.8, abs=0.1)


def test_bootstrap_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.8, 0.1, 200)
    low, high = mean_interval(values, 0.95)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.003)
    assert (low, high) == mean_interval(values, 0.95)
    assert np.isnan(mean_interval(values[:1], 0.95)).all()
