"""Simulated differences and scores."""

import numpy as np

from benchmarks.error_rates import Design
from lossbench.statistics import (
    decide,
)

FULL = Design(5, 3, 52, 0.003)


def verdict(found, margin, alpha, higher=True):
    """Of a comparison that stands alone."""
    return decide([found], [margin], [higher], alpha)[0].verdict


def scores(means, seed=0, folds=3, seeds=3, cases=30):
    """Values of losses, (losses, seeds, cases) for each fold: mean + hard cases + noise."""
    generator = np.random.default_rng(seed)
    return [
        np.array(means)[:, None, None]
        + 0.1 * generator.standard_normal(cases)
        + 0.01 * generator.standard_normal((len(means), seeds, 1))
        + 0.02 * generator.standard_normal((len(means), seeds, cases))
        for _ in range(folds)
    ]
