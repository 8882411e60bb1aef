"""Conventions for classes that are not there, each derived from the counts.

| in label, predicted | no, no | no, yes | yes, no | sources |
|---|---|---|---|---|
| nnunet | NaN | 0 | 0 | nnunetv2/evaluation/evaluate_predictions.py |
| monai_ignore_empty | NaN | NaN | 0 | DiceMetric(ignore_empty=True), MONAI's default; is quoted |
| monai_count_empty | 1 | 0 | 0 | DiceMetric(ignore_empty=False); segmentation_models_pytorch's metrics with zero_division=1.0; Metrics Reloaded's Dice |
"""  # noqa: E501

import numpy as np

QUOTED = "monai_ignore_empty"
CONVENTIONS = ("nnunet", QUOTED, "monai_count_empty")


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
