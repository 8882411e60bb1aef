"""Conventions for classes that are not there, each derived from the counts.

| in label, predicted | no, no | no, yes | yes, no | sources |
|---|---|---|---|---|
| nnunet | NaN | 0 | 0 | nnunetv2/evaluation/evaluate_predictions.py |
| monai_ignore_empty | NaN | NaN | 0 | DiceMetric(ignore_empty=True), MONAI's default; is quoted |
| monai_count_empty | 1 | 0 | 0 | DiceMetric(ignore_empty=False); segmentation_models_pytorch's metrics with zero_division=1.0; Metrics Reloaded's Dice |
"""  # noqa: E501

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import COUNTS
from lossbench.config import Study
from lossbench.stages.compare.family import Tested, family
from lossbench.stages.compare.scores import Pair, Scores, iterate_pairs, mean, to_rows

QUOTED = "monai_ignore_empty"
CONVENTIONS = ("nnunet", QUOTED, "monai_count_empty")
TIE = 1e-9  # means that differ by less are equal: the order of a sum moves them by more


def overlap(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, convention: str, metric: str = "dice"
) -> np.ndarray:
    """Dice or IoU per case under a convention.

    Parameters
    ----------
    tp, fp, fn
        Counts, float of one shape; NaN where there is no row.
    convention
        One of `CONVENTIONS`.
    metric
        dice or iou.

    Returns
    -------
    np.ndarray
        Of the shape of the counts; NaN where the convention leaves the case out.
    """
    double = 2 if metric == "dice" else 1
    value = quotient(double * tp, double * tp + fp + fn)
    if convention == QUOTED:
        value[tp + fn == 0] = np.nan
    elif convention == "monai_count_empty":
        value[tp + fp + fn == 0] = 1.0
    return value


def ratios(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, convention: str
) -> dict[str, np.ndarray]:
    """Dice and IoU by `overlap`, precision and recall; NaN where there is nothing to divide by."""
    overlaps = {metric: overlap(tp, fp, fn, convention, metric) for metric in ("dice", "iou")}
    return {**overlaps, "precision": quotient(tp, tp + fp), "recall": quotient(tp, tp + fn)}


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part of a whole; NaN where the whole is 0 or unknown."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def conventions(groups: Sequence[Scores]) -> pd.DataFrame:
    """Mean Dice under every convention for empty classes, and who wins under it."""
    rows = []
    for scores in groups:
        for convention in CONVENTIONS if has_conventions(scores) else ():
            means, n_cases = means_by_convention(scores, convention, "dice")
            best = np.max(means, axis=0, where=~np.isnan(means), initial=-np.inf)
            figures = {"mean": means, "n_cases": n_cases, "winner": means >= best - TIE}
            rows += to_rows(scores, figures, convention=convention)
    return pd.DataFrame(rows, columns=tables.CONVENTIONS)


def has_conventions(scores: Scores, metric: str = "dice") -> bool:
    """Whether a metric depends on how empty classes count, and the counts to tell are there."""
    return metric in ("dice", "iou") and set(COUNTS) <= scores.values.keys()


@lru_cache(maxsize=16)
def means_by_convention(
    scores: Scores, convention: str, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """(L, K) each: mean Dice or IoU over cases, seeds averaged first, and how many cases count."""
    values = overlap(*(scores.values[name] for name in COUNTS), convention, metric)
    per_case = mean(values, axis=1)
    return mean(per_case, axis=1), (~np.isnan(per_case)).sum(axis=1)


def flips(
    pairs: Sequence[Pair],
    groups: Sequence[Scores],
    tested: Tested,
    study: Study,
    last_look: int = 0,
) -> dict[tuple[str, ...], list[str]]:
    """The conventions that say otherwise of a comparison than the quoted one, by its keys."""
    found: dict[tuple[str, ...], list[str]] = {pair.key: [] for pair in pairs}
    concerned = []  # a case does not show the class
    for pair in pairs:
        scores, metric, class_ = pair.scores, pair.keys["metric"], pair.keys["class"]
        if has_conventions(scores, metric):
            if not scores.shown(metric, class_).all():
                concerned.append(pair)
            if study.rounds:  # one of the two may have been trained no more
                scores = _until(scores, scores.n_seeds(*pair.both))
            found[pair.key] = _sign_reversals(pair._replace(scores=scores))
    of_metrics = {pair.keys["metric"] for pair in concerned}
    for convention in CONVENTIONS if concerned else ():
        if convention == QUOTED:
            continue
        under = [_under(scores, convention, of_metrics) for scores in groups]
        of_groups = list(iterate_pairs(under, study.comparison.metrics, study))
        decided = family(of_groups, under, study, last_look)
        for pair in concerned:
            key = pair.key
            if key in tested and decided[key].decision.verdict != tested[key].decision.verdict:
                found[key] = [x for x in CONVENTIONS if x in {*found[key], convention}]
    return found


def _under(scores: Scores, convention: str, metrics: Iterable[str]) -> Scores:
    """The scores with the Dice or IoU that they have under a convention."""
    counts = [scores.values[name] for name in COUNTS if name in scores.values]
    changed = {
        metric: overlap(*counts, convention, metric)
        for metric in metrics
        if has_conventions(scores, metric)
    }
    return replace(scores, values=scores.values | changed)


@lru_cache(maxsize=16)
def _until(scores: Scores, seed: int) -> Scores:
    """`Scores.until`, the same object for the same seed, so that its means are computed once."""
    return scores.until(seed)


def _sign_reversals(pair: Pair) -> list[str]:
    """The conventions for empty classes under which the other loss has the higher mean."""
    differences = {}
    for convention in CONVENTIONS:
        means, _ = means_by_convention(pair.scores, convention, pair.keys["metric"])
        differences[convention] = np.subtract(*pair.select(means))
    quoted = differences[QUOTED]
    return [
        convention
        for convention, value in differences.items()
        if quoted * value < 0 and min(abs(quoted), abs(value)) > TIE
    ]
