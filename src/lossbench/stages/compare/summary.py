"""What each loss reached: per run, per class over cases, and over the pooled counts."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import COUNTS, RUN
from lossbench.stages.compare.empty import CONVENTIONS, overlap, ratios
from lossbench.stages.compare.scores import Cube, deviation, mean
from lossbench.statistics import mean_interval

TIE = 1e-9  # means that differ by less are equal: the order of a sum moves them by more


def dice_of_runs(cubes: Sequence[Cube], background: dict[str, str]) -> pd.DataFrame:
    """Mean Dice of every run, as DiceMetric's reduction "mean": over classes, then over cases.

    Parameters
    ----------
    cubes
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
    for cube in cubes:
        dice = cube.values.get("dice", np.full(cube.rows.shape, np.nan))
        kept = [name != background.get(cube.dataset) for name in cube.classes]
        per_case = {
            "dice": mean(dice[..., kept], axis=3),
            "dice_with_background": mean(dice, axis=3),
        }
        missing = (cube.rows.any(axis=(0, 1)) & ~cube.rows).any(axis=3)
        for fold, seed, s, of_fold in cube.blocks():
            means = {name: mean(values[:, s, of_fold], axis=1) for name, values in per_case.items()}
            there = cube.rows[:, s, of_fold].any(axis=(1, 2))
            for i in np.flatnonzero(there):
                keys = {**cube.keys, "loss": cube.losses[i], "fold": fold, "seed": seed}
                figures = {name: values[i] for name, values in means.items()}
                rows.append({**keys, **figures, "n_missing": missing[i, s, of_fold].sum()})
    columns = [*RUN, "dice", "dice_with_background", "n_missing"]
    return pd.DataFrame(rows, columns=columns)


def summary(cubes: Sequence[Cube], alpha: float) -> pd.DataFrame:
    """Mean of each metric over cases, the seeds of a case averaged first."""
    rows = [row for cube in cubes for row in _summary_rows(cube, 1 - alpha)]
    return pd.DataFrame(rows, columns=tables.SUMMARY)


def _summary_rows(cube: Cube, confidence: float) -> Iterator[dict[str, Any]]:
    figures = {}
    for metric in (name for name in cube.values if name not in COUNTS):
        per_case = mean(cube.values[metric], axis=1)
        low, high = mean_interval(np.moveaxis(per_case, 1, 0), confidence)
        figures[metric] = {
            "n_cases": (~np.isnan(per_case)).sum(axis=1),
            "mean": mean(per_case, axis=1),
            "ci_low": low,
            "ci_high": high,
            "sd_case": deviation(per_case, axis=1),
            "sd_seed": deviation(_seed_means(cube, cube.values[metric]), axis=1),
        }
    # A case is empty where the class has no Dice in any training: it is not in the label.
    first = cube.values["dice" if "dice" in cube.values else next(iter(figures))]
    n_empty = np.isnan(first).all(axis=1).sum(axis=1)
    for (i, loss), (k, name) in product(enumerate(cube.losses), enumerate(cube.classes)):
        for metric, columns in figures.items():
            yield {
                **cube.keys,
                "loss": loss,
                "class": name,
                "metric": metric,
                "n_seeds": cube.n_seeds,
                "n_empty": n_empty[i, k],
                **{column: values[i, k] for column, values in columns.items()},
            }


def _seed_means(cube: Cube, values: np.ndarray) -> np.ndarray:
    """(L, S, C, K) -> (L, seeds, K): the mean of every seed over its folds and cases."""
    seeds = np.array([seed for _, seed in cube.trainings])
    parts = [mean(values[:, seeds == seed], axis=(1, 2)) for seed in np.unique(seeds)]
    return np.stack(parts, axis=1)


def pooled(cubes: Sequence[Cube]) -> pd.DataFrame:
    """Dataset-level figures: the counts are summed over cases and trainings, then divided.

    Not to be mixed with means over cases: a large case counts more here.
    """
    rows = []
    for cube in cubes:
        if not set(COUNTS) <= cube.values.keys():
            continue
        sums = {name: np.nansum(cube.values[name], axis=(1, 2)) for name in COUNTS}
        figures = ratios(*sums.values(), "nnunet")
        n_cases = cube.rows.any(axis=1).sum(axis=1)
        for (i, loss), (k, name) in product(enumerate(cube.losses), enumerate(cube.classes)):
            keys = {**cube.keys, "loss": loss, "class": name, "n_cases": n_cases[i, k]}
            counts = {count: int(values[i, k]) for count, values in sums.items()}
            rows.append({**keys, **counts, **{x: v[i, k] for x, v in figures.items()}})
    return pd.DataFrame(rows, columns=tables.POOLED)


def conventions(cubes: Sequence[Cube]) -> pd.DataFrame:
    """Mean Dice under every convention for empty classes, and who wins under it."""
    rows = []
    for cube in cubes:
        if not set(COUNTS) <= cube.values.keys():
            continue
        for convention in CONVENTIONS:
            per_case = mean(convention_values(cube, convention), axis=1)
            means, n = mean(per_case, axis=1), (~np.isnan(per_case)).sum(axis=1)
            for k, name in enumerate(cube.classes):
                # The first of 1, 2, 2, 4: how many are better, and one.
                rank = 1 + (means[None, :, k] > means[:, None, k] + TIE).sum(axis=1)
                for i, loss in enumerate(cube.losses):
                    known = not np.isnan(means[i, k])
                    rows.append(
                        {
                            **cube.keys,
                            "class": name,
                            "convention": convention,
                            "loss": loss,
                            "mean": means[i, k],
                            "n_cases": n[i, k],
                            "rank": rank[i] if known else np.nan,
                            "winner": bool(known and rank[i] == 1),
                        }
                    )
    return pd.DataFrame(rows, columns=tables.CONVENTIONS)


def convention_values(cube: Cube, convention: str, metric: str = "dice") -> np.ndarray:
    """Dice or IoU (L, S, C, K) under a convention, from the counts."""
    return overlap(*(cube.values[name] for name in COUNTS), convention, metric)
