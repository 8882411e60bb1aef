"""How many cases and blocks: the promises of the planner against simulated studies."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.error_rates import Design, estimated, simulated, truth
from lossbench.statistics import needed, paired_difference, pairing_gain, planned
from tests.helpers.simulations import FULL, scores, verdict


@pytest.mark.parametrize(
    ("design", "seeds"), [(Design(5, 2, 20, 0.001), 2), (Design(1, 3, 52, 0.001), 5)], ids=str
)
def test_a_planned_study_has_the_promised_power(design, seeds):
    """Many folds, where residuals matter; and five blocks, where their variance is a guess."""
    plans = planned(truth(design), 0.005, 0.8, 0.05, tests=6)
    plan = next(p for p in plans if p.n_seeds == seeds)
    as_planned = replace(design, seeds=seeds, cases=round(plan.n_cases / plan.n_folds))
    rows = simulated(as_planned, 120, seed=4, effect=0.005)
    found = np.mean([d.p() < 0.05 / 6 for row in rows for d in estimated(row)])
    assert plan.power == pytest.approx(0.8, abs=0.01)
    assert found == pytest.approx(plan.power, abs=0.04)


def test_more_comparisons_need_more_blocks():
    d = replace(truth(Design(4, 2, 15, 0.008)), mean=0.012)
    blocks = [needed(d, 0.01, 0.05, tests)[1] for tests in (1, 10, 100)]
    assert blocks[0] < blocks[1] < blocks[2]


def test_fewer_cases_are_needed_with_more_blocks():
    plans = planned(truth(FULL), 0.005, 0.8, 0.05, 6)
    cases = [p.n_cases for p in plans]
    assert cases == sorted(cases, reverse=True)
    assert cases[0] == np.inf or cases[0] > cases[-1]
    assert all(p.power >= 0.8 for p in plans if np.isfinite(p.n_cases))
    assert all(p.n_blocks == 5 * p.n_seeds for p in plans)


@pytest.mark.parametrize("mean", [0.012, 0.004, 0.0])
def test_the_number_that_would_decide_does(mean):
    """Verdicts with the seeds that were named, and with one less: power about 0.8 or just below."""
    design = Design(4, 2, 15, 0.008)
    blocks = needed(replace(truth(design), mean=mean), 0.01, 0.05)[1]
    expected = "better" if mean > 0.01 else "equivalent"

    def power(seeds):
        said = [
            verdict(d, 0.01, 0.05)
            for row in simulated(replace(design, seeds=seeds), 60, seed=1, effect=mean)
            for d in estimated(row)
        ]
        return np.mean([s == expected for s in said])

    assert power(int(blocks / 4) - 1) - 0.05 < 0.8 < power(int(blocks / 4)) + 0.05


def test_more_cases_do_not_help_against_training_noise():
    pilot = replace(truth(Design(1, 3, 52, 0.02)), mean=0.02)
    cases, blocks = needed(pilot, 0.001, 0.05)
    assert cases == np.inf
    assert blocks < 30


def test_pairing_gain():
    """Cases that are hard for both losses cancel: variance of a mean, unpaired over paired."""
    values = scores([0.8, 0.7], folds=1, seeds=40, cases=200)
    loss, reference = [v[0] for v in values], [v[1] for v in values]
    gain = pairing_gain(loss, reference, paired_difference)
    unpaired = 2 * 0.1**2 / 200
    paired = 2 * 0.01**2 / 40 + 2 * 0.02**2 / 8000
    assert gain == pytest.approx(1 + unpaired / paired, rel=0.25)
    assert pairing_gain(loss, loss, paired_difference) == np.inf
    constant = [np.ones((2, 5)), np.ones((2, 5))]
    assert np.isnan(pairing_gain(constant, constant, paired_difference))
    one_block = [[v[:1] for v in side[:1]] for side in (loss, reference)]
    assert np.isnan(pairing_gain(*one_block, paired_difference))
