"""What each loss reached, per class over subjects."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import COUNTS
from lossbench.stages.compare.scores import Scores, deviation, mean, to_rows
from lossbench.statistics import mean_interval


def summary(groups: Sequence[Scores], background: dict[str, str], alpha: float) -> pd.DataFrame:
    """Mean of each metric over subjects, their seeds and then their cases averaged first."""
    rows = []
    for scores in groups:
        metrics = [name for name in scores.values if name not in COUNTS]
        # A case is empty where the class is not in the label: by the counts, or without any value.
        first = scores.values["dice" if "dice" in metrics else metrics[0]]
        empty = np.isnan(first).all(axis=1)
        if set(COUNTS) <= scores.values.keys():
            size = scores.values["tp"] + scores.values["fn"]
            empty = ~(size > 0).any(axis=1) & scores.rows.any(axis=1)
        n_empty = empty.sum(axis=1)
        seeds = np.array([seed for _, seed in scores.trainings])
        for metric in metrics:
            values = scores.values[metric]
            per_case = mean(values, axis=1)
            # (L, K, C) -> (L, subjects, K)
            averaged = scores.average_cases(
                np.moveaxis(per_case, 1, 2), np.arange(len(scores.cases))
            )
            per_subject = np.moveaxis(averaged, 2, 1)
            low, high = mean_interval(np.moveaxis(per_subject, 1, 0), 1 - alpha)
            of_seeds = [mean(values[:, seeds == s], axis=(1, 2)) for s in np.unique(seeds)]
            kept = scores.foreground(background)
            is_background = ~np.isin(np.arange(len(scores.classes)), kept)
            figures = {
                "n_cases": (~np.isnan(per_case)).sum(axis=1),
                "n_subjects": (~np.isnan(per_subject)).sum(axis=1),
                "n_empty": n_empty,
                "mean": mean(per_subject, axis=1),
                "ci_low": low,
                "ci_high": high,
                "sd_case": deviation(per_case, axis=1),
                "sd_seed": deviation(np.stack(of_seeds, axis=1), axis=1),
                "background": np.broadcast_to(is_background, low.shape),
            }
            n_seeds = [[scores.n_seeds(loss)] * len(scores.classes) for loss in scores.losses]
            rows += to_rows(scores, figures | {"n_seeds": np.array(n_seeds)}, metric=metric)
    return pd.DataFrame(rows, columns=tables.SUMMARY)
