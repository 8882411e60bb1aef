"""What each loss reached: per run, per class over cases, and over the pooled counts."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import COUNTS, RUN
from lossbench.stages.compare.conventions import CONVENTIONS, overlap, ratios
from lossbench.stages.compare.scores import Scores, deviation, mean
from lossbench.statistics import mean_interval

TIE = 1e-9  # means that differ by less are equal: the order of a sum moves them by more


def dice_of_runs(groups: Sequence[Scores], background: dict[str, str]) -> pd.DataFrame:
    """Mean Dice of every run, as DiceMetric's reduction "mean": over classes, then over cases.

    Parameters
    ----------
    groups
        Of the experiment.
    background
        Name of class 0 of each dataset that has one.

    Returns
    -------
    pd.DataFrame
        The keys of a run, dice (without background), dice_with_background, and n_missing: cases
        of the fold that other runs have and this one has not.
    """
    rows = []
    for scores in groups:
        dice = scores.values.get("dice", np.full(scores.rows.shape, np.nan))
        kept = [name != background.get(scores.dataset) for name in scores.classes]
        per_case = {
            "dice": mean(dice[..., kept], axis=3),
            "dice_with_background": mean(dice, axis=3),
        }
        missing = (scores.rows.any(axis=(0, 1)) & ~scores.rows).any(axis=3)
        for fold, seed, s, of_fold in scores.blocks():
            means = {name: mean(values[:, s, of_fold], axis=1) for name, values in per_case.items()}
            there = scores.rows[:, s, of_fold].any(axis=(1, 2))
            for i in np.flatnonzero(there):
                keys = {**scores.keys, "loss": scores.losses[i], "fold": fold, "seed": seed}
                figures = {name: values[i] for name, values in means.items()}
                rows.append({**keys, **figures, "n_missing": missing[i, s, of_fold].sum()})
    columns = [*RUN, "dice", "dice_with_background", "n_missing"]
    return pd.DataFrame(rows, columns=columns)


def summary(groups: Sequence[Scores], alpha: float) -> pd.DataFrame:
    """Mean of each metric over cases, the seeds of a case averaged first."""
    rows = [row for scores in groups for row in _summary_rows(scores, 1 - alpha)]
    return pd.DataFrame(rows, columns=tables.SUMMARY)


def _summary_rows(scores: Scores, confidence: float) -> Iterator[dict[str, Any]]:
    figures = {}
    for metric in (name for name in scores.values if name not in COUNTS):
        per_case = mean(scores.values[metric], axis=1)
        low, high = mean_interval(np.moveaxis(per_case, 1, 0), confidence)
        figures[metric] = {
            "n_cases": (~np.isnan(per_case)).sum(axis=1),
            "mean": mean(per_case, axis=1),
            "ci_low": low,
            "ci_high": high,
            "sd_case": deviation(per_case, axis=1),
            "sd_seed": deviation(_seed_means(scores, scores.values[metric]), axis=1),
        }
    # A case is empty where the class has no Dice in any training: it is not in the label.
    first = scores.values["dice" if "dice" in scores.values else next(iter(figures))]
    n_empty = np.isnan(first).all(axis=1).sum(axis=1)
    for (i, loss), (k, name) in product(enumerate(scores.losses), enumerate(scores.classes)):
        for metric, columns in figures.items():
            yield {
                **scores.keys,
                "loss": loss,
                "class": name,
                "metric": metric,
                "n_seeds": scores.n_seeds,
                "n_empty": n_empty[i, k],
                **{column: values[i, k] for column, values in columns.items()},
            }


def _seed_means(scores: Scores, values: np.ndarray) -> np.ndarray:
    """(L, S, C, K) -> (L, seeds, K): the mean of every seed over its folds and cases."""
    seeds = np.array([seed for _, seed in scores.trainings])
    parts = [mean(values[:, seeds == seed], axis=(1, 2)) for seed in np.unique(seeds)]
    return np.stack(parts, axis=1)


def pooled(groups: Sequence[Scores]) -> pd.DataFrame:
    """Dataset-level figures: the counts are summed over cases and trainings, then divided.

    Not to be mixed with means over cases: a large case counts more here.
    """
    rows = []
    for scores in groups:
        if not set(COUNTS) <= scores.values.keys():
            continue
        sums = {name: np.nansum(scores.values[name], axis=(1, 2)) for name in COUNTS}
        figures = ratios(*sums.values(), "nnunet")
        n_cases = scores.rows.any(axis=1).sum(axis=1)
        for (i, loss), (k, name) in product(enumerate(scores.losses), enumerate(scores.classes)):
            keys = {**scores.keys, "loss": loss, "class": name, "n_cases": n_cases[i, k]}
            counts = {count: int(values[i, k]) for count, values in sums.items()}
            rows.append({**keys, **counts, **{x: v[i, k] for x, v in figures.items()}})
    return pd.DataFrame(rows, columns=tables.POOLED)


def conventions(groups: Sequence[Scores]) -> pd.DataFrame:
    """Mean Dice under every convention for empty classes, and who wins under it."""
    rows = []
    for scores in groups:
        if not set(COUNTS) <= scores.values.keys():
            continue
        for convention in CONVENTIONS:
            per_case = mean(convention_values(scores, convention), axis=1)
            means, n = mean(per_case, axis=1), (~np.isnan(per_case)).sum(axis=1)
            for k, name in enumerate(scores.classes):
                # The first of 1, 2, 2, 4: how many are better, and one.
                rank = 1 + (means[None, :, k] > means[:, None, k] + TIE).sum(axis=1)
                for i, loss in enumerate(scores.losses):
                    known = not np.isnan(means[i, k])
                    rows.append(
                        {
                            **scores.keys,
                            "class": name,
                            "convention": convention,
                            "loss": loss,
                            "mean": means[i, k],
                            "n_cases": n[i, k],
                            "winner": bool(known and rank[i] == 1),
                        }
                    )
    return pd.DataFrame(rows, columns=tables.CONVENTIONS)


def convention_values(scores: Scores, convention: str, metric: str = "dice") -> np.ndarray:
    """Dice or IoU (L, S, C, K) under a convention, from the counts."""
    return overlap(*(scores.values[name] for name in COUNTS), convention, metric)
