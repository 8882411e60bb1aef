"""Random effects over data sets: a published example, statsmodels, and error rates by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from lossbench.statistics import decide, random_effects

EFFECTS, VARIANCES = [0.012, 0.004, -0.003, 0.009, 0.016], [4e-6, 9e-6, 6e-6, 2e-5, 5e-6]
# BCG vaccine trials (Colditz et al. 1994): tuberculosis and none, vaccinated and not.
BCG = np.array([
    [4, 6, 3, 62, 33, 180, 8, 505, 29, 17, 186, 5, 27],
    [119, 300, 228, 13536, 5036, 1361, 2537, 87886, 7470, 1699, 50448, 2493, 16886],
    [11, 29, 11, 248, 47, 372, 10, 499, 45, 65, 141, 3, 29],
    [128, 274, 209, 12619, 5761, 1079, 619, 87892, 7232, 1600, 27197, 2338, 17825],
])  # fmt: skip


def test_the_bcg_trials_have_the_published_figures():
    """Knapp and Hartung's -0.7145 (-1.108 to -0.321), p .0019 by REML; tau2 .3181 by Paule-Mandel."""
    a, b, c, d = BCG
    effects = np.log(a / (a + b) / (c / (c + d)))
    found = random_effects(effects, 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
    assert found.sd_between**2 == pytest.approx(0.3181, abs=1e-4)
    assert found.difference.mean == pytest.approx(-0.7145, abs=1e-3)
    assert found.difference.interval(0.95) == pytest.approx((-1.108, -0.321), abs=2e-3)
    assert found.difference.p() == pytest.approx(0.0019, abs=1e-4)


def test_mean_and_interval_are_those_of_statsmodels():
    combined = combine_effects(np.array(EFFECTS), np.array(VARIANCES), "iterated")
    mean, error = combined.summary_frame().loc["random effect wls"].to_numpy()[:2]
    half = stats.t.ppf(0.975, 4) * error
    found = random_effects(EFFECTS, VARIANCES)
    difference = found.difference
    assert (difference.n_blocks, difference.mean) == (5, pytest.approx(mean, rel=1e-4))
    assert difference.interval(0.95) == pytest.approx((mean - half, mean + half), rel=1e-4)
    assert found.sd_between == pytest.approx(np.sqrt(combined.tau2), rel=1e-3)
    half = stats.t.ppf(0.975, 3) * np.sqrt(combined.tau2 + error**2)
    assert found.prediction(0.95) == pytest.approx((mean - half, mean + half), rel=1e-3)
    assert found.prediction(0.95, bound=0.02) == pytest.approx((mean - half, 0.02), rel=1e-3)


def test_under_three_data_sets_nothing_is_said():
    assert random_effects(EFFECTS[:2], VARIANCES[:2]) is None
    assert random_effects([*EFFECTS[:2], np.nan], VARIANCES[:3]) is None
    assert random_effects([*EFFECTS[:2], 0.1], [*VARIANCES[:2], np.inf]) is None


def test_without_any_noise_the_effect_is_known():
    found = random_effects([0.0] * 3, [0.0] * 3)
    assert (found.difference.mean, found.difference.p()) == (0.0, 1.0)
    assert found.prediction(0.95) == (0.0, 0.0)


def test_data_sets_that_agree_better_than_their_errors_are_not_surer_than_these():
    found = random_effects([0.01, 0.0101, 0.0099], [0.002**2] * 3)
    assert found.sd_between == 0
    assert found.difference.variance == pytest.approx(0.002**2 / 3)


@pytest.mark.parametrize(("within", "lowest"), [(0.0002, 0.035), (0.001, 0.03)])
def test_a_mean_of_zero_is_called_different_in_five_percent_of_studies(within, lowest):
    """Five data sets, true effects N(0, .002); and a new one lies in the prediction interval."""
    generator = np.random.default_rng(0)
    called, predicted, studies = 0, 0, 1000
    for _ in range(studies):
        effects = generator.normal(0, 0.002, 5) + generator.normal(0, within, 5)
        found = random_effects(effects, np.full(5, within**2))
        (decision,) = decide([found.difference], [1e-6], [True], 0.05)
        called += decision.verdict in ("better", "worse")
        low, high = found.prediction(0.95)
        predicted += low <= generator.normal(0, 0.002) <= high
    assert lowest < called / studies < 0.065
    assert predicted / studies > 0.91
