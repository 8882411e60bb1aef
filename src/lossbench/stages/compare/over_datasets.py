"""What holds over data sets: one value per data set, combined by random effects."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.config import Study
from lossbench.stages.compare.family import difference, rules
from lossbench.stages.compare.scores import Scores, mean, with_over_classes
from lossbench.statistics import FEWEST_DATASETS, RandomEffects, decide, random_effects


def over_datasets(
    groups: Sequence[Scores], study: Study, background: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each loss minus the reference on every data set, and over them, per model and metric.

    Parameters
    ----------
    groups
        What was measured, for each dataset and model.
    study
        Reference, metrics, margins, alpha.
    background
        Name of class 0 of each dataset that has one.

    Returns
    -------
    tuple of pd.DataFrame
        `tables.DATASETS`, a value per data set: the mean over the foreground classes of the paired
        difference, with its standard error; and `tables.OVER_DATASETS`, decided together. Both are
        empty where no loss has a value with a standard error on three data sets of a model.
    """
    settings, alpha = study.comparison, study.comparison.alpha
    of_datasets, combined = [], []
    models = list(dict.fromkeys(scores.model for scores in groups))
    for model, metric, loss in product(models, settings.metrics, study.compared):
        keys = {"model": model, "loss": loss, "reference": study.reference_of(loss)}
        keys |= {"metric": metric}
        rows, effects = [], []
        limit = study.metric(metric).high
        of_model = [
            scores
            for scores in with_over_classes(groups)
            if scores.model == model and metric in scores.values
        ]
        for scores in of_model if len(of_model) >= FEWEST_DATASETS else ():
            kept = scores.foreground(background)
            d = difference(scores, mean_of_classes(scores, metric, loss, keys["reference"], kept))
            if np.isfinite(d.variance):
                low, high = d.interval(1 - alpha, limit)
                figures = {"n_subjects": d.n_cases, "n_blocks": d.n_blocks, "difference": d.mean}
                figures |= {"standard_error": d.variance**0.5, "ci_low": low, "ci_high": high}
                rows.append({"dataset": scores.dataset, **keys, **figures})
                effects.append((d.mean, d.variance))
        if effects and (found := random_effects(*zip(*effects, strict=True))):
            of_datasets += rows
            combined.append((keys, found, limit))
    return (
        pd.DataFrame(of_datasets, columns=tables.DATASETS),
        pd.DataFrame(_rows(combined, study), columns=tables.OVER_DATASETS),
    )


def _rows(
    combined: Sequence[tuple[dict[str, str], RandomEffects, float]], study: Study
) -> list[dict[str, str | float]]:
    settings = study.comparison
    margins, higher = rules([keys["metric"] for keys, _, _ in combined], study)
    differences = [found.difference for _, found, _ in combined]
    decisions = decide(differences, margins, higher, settings.alpha)
    rows = []
    for (keys, found, limit), decision in zip(combined, decisions, strict=True):
        low, high = found.prediction(1 - settings.alpha, limit)
        rows.append(
            {
                **keys,
                "n_datasets": found.difference.n_blocks,
                "difference": found.difference.mean,
                "ci_low": max(decision.low, -limit),
                "ci_high": min(decision.high, limit),
                "p": found.difference.p(),
                "p_holm": decision.p_holm,
                "verdict": decision.verdict,
                "sd_between": found.sd_between,
                "prediction_low": low,
                "prediction_high": high,
            }
        )
    return rows


def mean_of_classes(
    scores: Scores, metric: str, loss: str, reference: str, classes: Sequence[int]
) -> list[np.ndarray]:
    """Matrices (seeds, subjects), a fold each, whose mean is the mean over classes of differences.

    `classes` are their positions. A class that some subjects lack is to count as much as the
    others, so that the mean is that of the differences in comparisons.csv. Each subject's
    deviations from the means of its classes are therefore weighted by how rare a class is, which
    also carries the correlation of the classes into the standard error.
    """
    a, b = (scores.compared(metric)[scores.losses.index(name)] for name in (loss, reference))
    differences = np.where(np.isfinite(a - b), a - b, np.nan)
    folds = scores.subject_means(np.moveaxis(differences[..., classes], -1, 0))  # (K, S, subjects)
    per_subject = mean(np.concatenate(folds, axis=2), axis=1)
    n_subjects = np.isfinite(per_subject).sum(axis=1)
    seen = n_subjects > 0
    means = mean(per_subject, axis=1)[seen, None, None]
    n = np.isfinite(per_subject).any(axis=0).sum()
    weights = (n / n_subjects[seen])[:, None, None]
    return [
        np.where(
            np.isfinite(fold[seen]).any(axis=0),
            (means + weights * np.nan_to_num(fold[seen] - means)).sum(axis=0) / max(seen.sum(), 1),
            np.nan,
        )[:, np.isfinite(fold).any(axis=(0, 1))]
        for fold in folds
    ]
