"""A ratio of sums over subjects, and how surely two losses are compared by it."""

import numpy as np
import pytest

from lossbench.statistics import jackknife_ratio, paired_difference

FOLDS, SEEDS, SUBJECTS = 5, 3, 12


def over_subjects(values, subject):
    return np.mean([np.nanmean(values[subject == s]) for s in np.unique(subject)])


def test_the_mean_over_subjects_is_the_ratio_of_the_sums():
    rng = np.random.default_rng(0)
    part = rng.integers(0, 50, (2, 20)).astype(float)
    whole = part + rng.integers(1, 50, (2, 20))
    subject = rng.integers(0, 7, 20)
    part[0, 3] = np.nan
    found = jackknife_ratio(part, whole, subject)
    assert np.isnan(found[0, 3])
    assert np.isfinite(found).sum() == 39
    for values, a, b in zip(found, part, whole, strict=True):
        there = np.isfinite(a)
        expected = a[there].sum() / b[there].sum()
        assert over_subjects(values, subject) == pytest.approx(expected)
    assert np.isnan(jackknife_ratio(0 * whole, 0 * whole, subject)).all()


def test_it_varies_as_the_ratio_does_over_resampled_subjects():
    rng = np.random.default_rng(1)
    whole = rng.lognormal(5, 0.5, 80)
    part, subject = whole * rng.beta(8, 2, 80), np.arange(80) // 2
    sums = np.stack([part, whole]).reshape(2, 40, 2).sum(axis=2)
    drawn = sums[:, rng.integers(40, size=(4000, 40))].sum(axis=2)
    of_subject = jackknife_ratio(part, whole, subject).reshape(40, 2).mean(axis=1)
    assert of_subject.std(ddof=1) / np.sqrt(40) == pytest.approx(
        (drawn[0] / drawn[1]).std(), rel=0.1
    )


def study(rng, gain, sd_size):
    """Pooled IoU of two losses in a cross-validation: sizes, hard subjects, luck of trainings."""
    size = rng.lognormal(6, sd_size, FOLDS * SUBJECTS)
    hard = rng.normal(0, 0.5, size.shape)
    differs = rng.normal(0, 0.1, size.shape)
    parts = np.empty((2, SEEDS, size.size))
    for i, s in np.ndindex(2, SEEDS):
        luck = np.repeat(rng.normal(0, 0.05, FOLDS), SUBJECTS)
        logit = 1.2 + hard + i * (gain + differs) + luck + rng.normal(0, 0.1, size.size)
        parts[i, s] = size / (1 + np.exp(-logit))
    values = jackknife_ratio(parts, np.broadcast_to(size, parts.shape), np.arange(size.size))
    return paired_difference(np.split(values[1] - values[0], FOLDS, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("sd_size", [0.3, 1.0])
def test_error_rates_of_verdicts_by_a_pooled_figure(sd_size):
    """200 studies: false winners, and false *equivalent* at the margin, at 5 % within 3 SE."""
    rng, most = np.random.default_rng(5), 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean([study(rng, 0, sd_size).p() < 0.05 for _ in range(200)]) < most
    apart = [study(rng, 0.1, sd_size) for _ in range(200)]
    margin = np.mean([d.mean for d in apart])
    assert np.mean([d.p_equivalent(margin) < 0.05 for d in apart]) < most
    assert np.mean([d.p() < 0.05 for d in apart]) > 0.7, "a difference is found"
