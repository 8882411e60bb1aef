import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from lossbench.statistics.random_effects import random_effects

EFFECTS, VARIANCES = [0.012, 0.004, -0.003, 0.009, 0.016], [4e-6, 9e-6, 6e-6, 2e-5, 5e-6]


def test_mean_and_interval_are_those_of_hartung_and_knapp():
    combined = combine_effects(np.array(EFFECTS), np.array(VARIANCES), "iterated")
    mean, error = combined.summary_frame().loc["random effect wls"].to_numpy()[:2]
    half = stats.t.ppf(0.975, 4) * error
    found = random_effects(EFFECTS, VARIANCES)
    assert found.n_datasets == 5
    assert found[1:4] == pytest.approx((mean, mean - half, mean + half), rel=1e-4)
    assert found.sd_between == pytest.approx(np.sqrt(combined.tau2), rel=1e-3)
    # Higgins' prediction interval holds the spread between data sets as well.
    assert found.prediction_low < found.low < found.mean < found.high < found.prediction_high


def test_under_three_data_sets_nothing_is_said():
    assert random_effects(EFFECTS[:2], VARIANCES[:2]) is None
    assert random_effects([*EFFECTS[:2], np.nan], VARIANCES[:3]) is None
    assert random_effects([*EFFECTS[:2], 0.1], [*VARIANCES[:2], np.inf]) is None


def test_without_any_noise_the_effect_is_known():
    found = random_effects([0.0] * 3, [0.0] * 3)
    assert (found.mean, found.p, found.prediction_high) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("between", [0.002, 0.01])
def test_a_new_data_set_lies_in_the_prediction_interval(between):
    """And the mean of 0 is called different in about 5 % of studies of five data sets."""
    generator = np.random.default_rng(0)
    called, predicted, studies = 0, 0, 400
    for _ in range(studies):
        effects = generator.normal(0, between, 5) + generator.normal(0, 0.001, 5)
        found = random_effects(effects, np.full(5, 0.001**2))
        called += found.p < 0.05
        predicted += found.prediction_low <= generator.normal(0, between) <= found.prediction_high
    assert called / studies < 0.08
    assert predicted / studies > 0.92
