"""The vertex of a tuning curve, and the expected best of so many trainings."""

import itertools

import numpy as np
import pytest

from lossbench.statistics import expected_best, peak

POINTS = np.arange(7)


def curve(top, left=0.01, right=0.01):
    """Dice at each point: a parabola, whose sides may differ."""
    away = POINTS - top
    return 0.8 - np.where(away < 0, left, right) * away**2


@pytest.mark.parametrize("top", [1.6, 2.5, 3.0, 3.4, 4.9])
def test_the_vertex_of_a_parabola_is_between_the_points(top):
    assert peak(curve(top)[None]).position == pytest.approx(top)
    assert peak(np.tile(curve(top), (3, 1))).position == pytest.approx(top)


def test_trainings_that_fall_off_at_one_side_do_not_pull_the_vertex_along():
    """Five points would; with noise so small they do not fit, and three are taken."""
    generator = np.random.default_rng(0)
    scores = curve(3.0, right=0.01) + generator.normal(0, 1e-4, (3, 7))
    scores[:, 5:] = 0.1
    assert peak(scores).position == pytest.approx(3, abs=0.05)


def test_five_points_within_their_noise_are_less_scattered_than_three():
    generator = np.random.default_rng(0)
    errors = {1: [], 3: []}
    for _ in range(200):
        scores = curve(3.2, 0.003, 0.003) + generator.normal(0, 0.003, (3, 7))
        errors[3].append(peak(scores).position - 3.2)
        errors[1].append(peak(scores.mean(axis=0)[None]).position - 3.2)  # its noise is not known
    assert np.std(errors[3]) < 0.8 * np.std(errors[1])


def test_what_diverged_counts_as_the_worst():
    scores = np.tile(curve(4.0), (2, 1))
    scores[0, 4] = scores[:, 5:] = np.nan  # one of the two at the best rate, all beyond
    found = peak(scores)
    assert found.edge == 0
    assert found.position < 4, "such a rate is not the best one"
    scores[:] = np.nan
    assert peak(scores) is None


@pytest.mark.parametrize(("top", "position", "edge"), [(-2.0, 0, -1), (9.0, 6, 1)])
def test_a_best_point_at_an_edge_is_said(top, position, edge):
    assert peak(curve(top)[None]) == (position, edge)


@pytest.mark.parametrize("n_trainings", [1, 2, 3])
def test_five_points_count_where_a_parabola_fits_them_within_their_noise(n_trainings):
    """Else three, and three where one training tells no noise."""
    rng, counted = np.random.default_rng(0), {3: 0, 4: 0, 5: 0}
    for _ in range(200):
        away = np.arange(7) - rng.uniform(1, 5)
        curve = -0.01 * np.where(away < 0, 1, 3) * away**2
        scores = curve + rng.normal(0, 0.02, (n_trainings, 7))
        means, found = scores.mean(axis=0), peak(scores)
        best = int(means.argmax())
        if best in (0, 6):
            continue
        for reach in (2, 1):
            at = np.arange(max(best - reach, 0), min(best + reach, 6) + 1)
            fit = np.polyfit(at - best, means[at], 2)
            if reach == 1 or n_trainings == 1:
                continue
            noise = scores[:, at].var(axis=0, ddof=1).mean() / n_trainings
            misfit = ((np.polyval(fit, at - best) - means[at]) ** 2).sum() / (len(at) - 3)
            if misfit <= 3 * noise:
                break
        counted[len(at)] += 1
        vertex = -fit[1] / (2 * fit[0]) if fit[0] < 0 else 0.0
        assert found.position == pytest.approx(best + np.clip(vertex, -1, 1))
    assert min(counted.values()) > 10 if n_trainings > 1 else counted[3] > 100


def test_expected_best_is_the_mean_over_all_draws():
    scores = np.array([0.3, 0.7, 0.5])
    assert len(expected_best(scores)) == 3
    for k, found in enumerate(expected_best(scores), 1):
        draws = itertools.product(scores, repeat=k)
        assert found == pytest.approx(np.mean([max(draw) for draw in draws]))
