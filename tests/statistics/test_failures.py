import numpy as np
import pytest

from lossbench.statistics.failures import failure_rate, mcnemar


def test_none_of_six_trainings_may_still_be_many():
    rate = failure_rate(0, 6)
    assert (rate.n, rate.n_failed, rate.low) == (6, 0, 0.0)
    assert rate.high == pytest.approx(1 - 0.05 ** (1 / 6))  # 39 %


def test_bounds_are_those_of_clopper_and_pearson():
    """By their definition: at the bound, what was seen or more extreme has probability 5 %."""
    from scipy.stats import binom

    rate = failure_rate(3, 40)
    assert binom.cdf(3, 40, rate.high) == pytest.approx(0.05)
    assert binom.sf(2, 40, rate.low) == pytest.approx(0.05)
    assert failure_rate(0, 0)[:2] == (0, 0)
    assert np.isnan(failure_rate(0, 0).high)


def test_mcnemar_looks_at_the_subjects_on_which_the_losses_differ():
    loss, reference = np.zeros(50), np.zeros(50)
    loss[:8] = 1
    assert mcnemar(loss, reference) == pytest.approx(2 * 0.5**8)
    reference[:8] = 1  # the same subjects fail with both
    assert mcnemar(loss, reference) == 1.0
    assert mcnemar(np.roll(loss, 20), reference) == 1.0  # eight each, on other subjects
    assert mcnemar([np.nan, 1, 0], [1, 0, np.nan]) == 1.0  # one subject alone decides nothing


@pytest.mark.slow
def test_mcnemar_keeps_its_level_where_failures_are_equally_rare():
    generator = np.random.default_rng(0)
    p = [mcnemar(*(generator.random((2, 100)) < 0.05)) for _ in range(2000)]
    assert np.mean(np.array(p) < 0.05) <= 0.05
