"""Figures of the pooled counts: summed over cases, and over classes, before dividing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import COUNTS, RUN
from lossbench.config import ALL_CLASSES, POOLED
from lossbench.stages.compare.conventions import ratios
from lossbench.stages.compare.scores import Scores, mean, to_rows
from lossbench.statistics import jackknife_ratio

OVER_CLASSES = ("micro", "macro")


def with_pooled(scores: Scores, metrics: Sequence[str], background: Mapping[str, str]) -> Scores:
    """Add those of `POOLED` that are asked for: values of cases whose mean is the pooled figure.

    Each training is pooled over all its cases, those of all folds of a seed together. A case's
    value is what it adds, so that subjects and trainings vary as for any other metric. micro and
    macro figures are `over_classes`; the background of a dataset counts in neither.
    """
    asked = [name for name in metrics if name in POOLED]
    if not asked or not set(COUNTS) <= scores.values.keys():
        return scores
    tp, fp, fn = (np.moveaxis(scores.values[name], 2, -1) for name in COUNTS)  # (L, S, K, C)
    kept = scores.foreground(background)
    of_classes, over = dict(scores.values), {}
    for name in asked:
        kind, _, metric = name.partition("_")
        part = 2 * tp if metric == "dice" else tp
        whole = part + fp + fn
        if kind == "pooled":
            of_classes[name] = np.moveaxis(jackknife_ratio(part, whole, scores.subject), -1, 2)
            continue
        part, whole = part[:, :, kept], whole[:, :, kept]
        if kind == "micro":
            pooled = jackknife_ratio(part.sum(axis=2), whole.sum(axis=2), scores.subject)
        else:  # values that a class adds to, averaged as their means are
            pooled = mean(jackknife_ratio(part, whole, scores.subject), 2)
        over[name] = pooled[..., None]
    if not over:
        return replace(scores, values=of_classes)
    rows = scores.rows.any(axis=3, keepdims=True)
    together = replace(scores, classes=[ALL_CLASSES], rows=rows, values=over)
    return replace(scores, values=of_classes, over_classes=together)


def pooled(groups: Sequence[Scores], background: Mapping[str, str]) -> pd.DataFrame:
    """Dataset-level figures: the counts are summed over cases and trainings, then divided.

    Not to be mixed with means over cases: a large case counts more here. micro sums over the
    classes, too, and macro is the mean over those that occur; both without a background.
    """
    rows: list[dict[str, Any]] = []
    for scores in groups:
        if not set(COUNTS) <= scores.values.keys():
            continue
        sums = {name: np.nansum(scores.values[name], axis=(1, 2)) for name in COUNTS}
        counts = {name: values.astype(np.int64) for name, values in sums.items()}
        n_cases = scores.rows.any(axis=1).sum(axis=1)
        rows += to_rows(scores, {"n_cases": n_cases, **counts, **ratios(*sums.values(), "nnunet")})
        kept = scores.foreground(background)
        over = over_classes(*(sums[name][:, kept] for name in COUNTS))
        micro = {name: values[:, kept].sum(axis=1) for name, values in counts.items()}
        for i, loss in enumerate(scores.losses):
            keys = {**scores.keys, "loss": loss, "n_cases": n_cases[i].max()}
            for kind in OVER_CLASSES:
                figures = {name: values[i] for name, values in over[kind].items()}
                figures |= {name: values[i] for name, values in micro.items()}
                rows.append({**keys, "class": kind, **figures})
    return pd.DataFrame(rows, columns=tables.POOLED)


def figures_of_runs(groups: Sequence[Scores], background: dict[str, str]) -> pd.DataFrame:
    """Mean Dice of every run and, where there are counts, micro and macro figures over its cases.

    Parameters
    ----------
    groups
        What was measured, for each dataset and model.
    background
        Name of the background of each dataset that has one.

    Returns
    -------
    pd.DataFrame
        A row per run that has rows: its keys, dice (without any background) and
        dice_with_background (over all classes), as DiceMetric's reduction "mean": over classes,
        then over cases; n_missing: cases of the fold that other runs have and this one has not;
        and the pooled figures.
    """
    rows: list[dict[str, Any]] = []
    for scores in groups:
        dice = scores.values.get("dice", np.full(scores.rows.shape, np.nan))
        kept = scores.foreground(background)
        means = {"dice": mean(dice[..., kept], 3), "dice_with_background": mean(dice, 3)}
        missing = (scores.rows.any(axis=(0, 1)) & ~scores.rows).any(axis=3)
        for f, of_fold in enumerate(scores.cases_of_folds()):
            figures = {name: mean(x[:, :, of_fold], 2) for name, x in means.items()}  # (L, S)
            figures["n_missing"] = missing[:, :, of_fold].sum(axis=2)
            if set(COUNTS) <= scores.values.keys():
                counts = (scores.values[name][:, :, of_fold] for name in COUNTS)
                over = over_classes(*(np.nansum(x[..., kept], 2) for x in counts))
                for kind, name in product(OVER_CLASSES, ("dice", "iou")):
                    figures[f"{kind}_{name}"] = over[kind][name]
            has_rows = scores.rows[:, :, of_fold].any(axis=(2, 3))
            for s, (fold, seed) in enumerate(scores.trainings):
                for i in np.flatnonzero(has_rows[:, s]):
                    keys = {**scores.keys, "loss": scores.losses[i]}
                    keys |= {"fold": scores.folds[f] if fold is None else fold, "seed": seed}
                    rows.append(keys | {name: values[i, s] for name, values in figures.items()})
    return pd.DataFrame(rows, columns=None if rows else [*RUN, "dice"])


def over_classes(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Ratios over classes, from sums over cases (..., K): of the summed counts, and their mean."""
    micro = ratios(*(counts.sum(axis=-1) for counts in (tp, fp, fn)), "nnunet")
    macro = {name: mean(values, -1) for name, values in ratios(tp, fp, fn, "nnunet").items()}
    return {"micro": micro, "macro": macro}
