"""Conventions for classes that are not there, each derived from the counts.

| in label, predicted | no, no | no, yes | yes, no | source |
|---|---|---|---|---|
| nnunet | NaN | 0 | 0 | nnunetv2/evaluation/evaluate_predictions.py |
| monai_ignore_empty | NaN | NaN | 0 | DiceMetric(ignore_empty=True), MONAI's default; is quoted |
| monai_count_empty | 1 | 0 | 0 | DiceMetric(ignore_empty=False) |
| smp_zero_division_1 | 1 | 0 | 0 | segmentation_models_pytorch.metrics, zero_division=1.0 |
| metrics_reloaded | 1 | 0 | 0 | pairwise_measures.py; its IoU is NaN where both are empty |
"""

import numpy as np

QUOTED = "monai_ignore_empty"
CONVENTIONS = ("nnunet", QUOTED, "monai_count_empty", "smp_zero_division_1", "metrics_reloaded")


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
    whole = double * tp + fp + fn
    value = np.divide(double * tp, whole, out=np.full_like(whole, np.nan), where=whole > 0)
    if convention == QUOTED:
        value[tp + fn == 0] = np.nan
    elif convention != "nnunet" and not (convention == "metrics_reloaded" and metric == "iou"):
        value[whole == 0] = 1.0
    return value


def ratios(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, convention: str
) -> dict[str, np.ndarray]:
    """Dice and IoU by `overlap`, precision and recall; NaN where there is nothing to divide by."""

    def part(of: np.ndarray) -> np.ndarray:
        return np.divide(tp, of, out=np.full_like(of, np.nan), where=of > 0)

    found = {metric: overlap(tp, fp, fn, convention, metric) for metric in ("dice", "iou")}
    return {**found, "precision": part(tp + fp), "recall": part(tp + fn)}
