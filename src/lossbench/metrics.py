"""Counts and metrics per case and class; their facts are in config/metric_facts.py.

MONAI's DiceMetric is the figure that is quoted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import DiceMetric
from scipy.spatial import KDTree

from lossbench.common.global_state import preserve_global_state
from lossbench.common.instantiate import instantiate, location_of
from lossbench.config import UserError
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.datasets.regions import region_masks

NO_CLASS = -1  # in a map of surfaces: inside of a class, ignored, or outside of the image
# Prediction (of `predict`), label uint8 (*S), and the spacing -> a number for each class.
OwnMetric = Callable[[np.ndarray, np.ndarray, Sequence[float]], np.ndarray]


def counts(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """True positives, false positives, false negatives per class.

    Parameters
    ----------
    prediction, label
        uint8 (*S); where `label` is `IGNORE`, a voxel counts in none of them.

    Returns
    -------
    np.ndarray
        int64 (3, K).
    """
    valid = label != IGNORE
    pairs = label[valid].astype(np.int64) * num_classes + prediction[valid]
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    tp = table.diagonal()
    return np.stack([tp, table.sum(axis=0) - tp, table.sum(axis=1) - tp])


def counts_of_case(prediction: np.ndarray, row: int, data: Prepared) -> np.ndarray:
    """Counts of a case, int (3, K), by its row; the prediction is that of `predict`."""
    label = np.asarray(data.original_label(row))
    if data.regions is None:
        return counts(prediction, label, len(data.classes))
    pairs = zip(prediction, region_masks(label, data.regions), strict=True)
    return np.stack([counts(found, truth, 2)[:, 1] for found, truth in pairs], axis=1)


def measure_case(prediction: np.ndarray, row: int, data: Prepared) -> dict[str, np.ndarray]:
    """All metrics of a case, as `measure` gives them, by its row; regions are measured one by one.

    Parameters
    ----------
    prediction
        As `predict` gives it: uint8 (*S), or (R, *S) of 0 and 1 where regions overlap.
    row
        Of the table of cases.
    data
        The dataset.
    """
    label, spacing = np.asarray(data.original_label(row)), data.original_spacing(row)
    tolerance = data.info["surface_tolerance"]
    if data.regions is None:
        return measure(prediction, label, spacing, len(data.classes), tolerance)
    pairs = zip(prediction, region_masks(label, data.regions), strict=True)
    figures = [measure(found, truth, spacing, 2, tolerance, first=1) for found, truth in pairs]
    return {name: np.stack([region[name][1] for region in figures]) for name in figures[0]}


def dice_of(cases: Sequence[np.ndarray]) -> np.ndarray:
    """Mean Dice per class over cases that have the class, from their counts: float (K,)."""
    tp, fp, fn = np.stack(cases).astype(float).transpose(1, 0, 2)
    dice = _ratio(2 * tp, 2 * tp + fp + fn, tp + fn)
    present = np.sum(~np.isnan(dice), axis=0)
    return _ratio(np.nansum(dice, axis=0), present, present)


def measure(
    prediction: np.ndarray,
    label: np.ndarray,
    spacing: Sequence[float],
    num_classes: int,
    tolerance: float,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """All metrics of a case.

    Parameters
    ----------
    prediction, label
        uint8 (*S).
    spacing
        Size of a voxel along each axis, in mm or pixels.
    tolerance
        Of surface Dice, in the unit of the spacing.
    first
        The first class of which the surface is measured; those before it are NaN.

    Returns
    -------
    dict
        tp, fp, fn and every metric of `config.METRICS`, each an array (K,). NaN where a class is
        not in the label (dice, iou, recall), not in the prediction (precision), or in one of the
        two (hd95).
    """
    tp, fp, fn = counts(prediction, label, num_classes)
    classes = range(first, num_classes)
    hd95, surface_dice = _surfaces(prediction, label, spacing, num_classes, tolerance, classes)
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "dice": _monai_dice(prediction, label, num_classes),
        "iou": _ratio(tp, tp + fp + fn, tp + fn),
        "precision": _ratio(tp, tp + fp, tp + fp),
        "recall": _ratio(tp, tp + fn, tp + fn),
        "hd95": hd95,
        "surface_dice": surface_dice,
    }


def build_metric(name: str, spec: Mapping[str, Any], data: Prepared) -> OwnMetric:
    """Make a metric of the user's; what it gives is checked at every call.

    Parameters
    ----------
    name, spec
        Of the entry: `_target_` names a class of which an object is called with prediction,
        label (`IGNORE` where ignored) and spacing; `$num_classes` and `$spatial_dims` are filled.
        Where regions overlap it is called for each as for two classes, and the number of class 1
        counts.
    data
        The dataset that it is for.

    Returns
    -------
    OwnMetric
        Gives float (K,), NaN where the user's has no finite number. Raises UserError where the
        user's fails, or gives something else.
    """
    where, regions = f"metrics.{name}", data.regions
    k = 2 if regions else len(data.classes)
    fill = {"num_classes": k, "spatial_dims": data.info["spatial_dims"]}
    metric = instantiate(spec, Callable, where, fill)

    def measured(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        try:
            with preserve_global_state():  # and with arrays of its own, which it may change
                given = metric(prediction.copy(), label.copy(), spacing)
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error} ({location_of(error)})"
            called = "called as metric(prediction, label, spacing)"
            raise UserError(f"{where}: failed, {called}: {what}") from error
        expected = f"expected {k} numbers, one for each class, NaN where it has none"
        try:
            is_masked = isinstance(given, np.ma.MaskedArray)
            found = np.asarray(given.astype(float).filled(np.nan) if is_masked else given, float)
        except (TypeError, ValueError, RuntimeError):  # the last is of a tensor with a gradient
            raise UserError(f"{where}: gives {given!r}; {expected}") from None
        if found.shape != (k,):
            raise UserError(f"{where}: gives shape {list(found.shape)}; {expected}")
        return np.where(np.isfinite(found), found, np.nan)

    def measured_by_region(
        prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float]
    ) -> np.ndarray:
        pairs = zip(prediction, region_masks(label, regions), strict=True)
        return np.stack([measured(found, truth, spacing)[1] for found, truth in pairs])

    return measured_by_region if regions else measured


def _monai_dice(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """MONAI's DiceMetric with background, on class indices, without the ignored voxels."""
    valid = label != IGNORE
    found, truth = (
        torch.from_numpy(a[valid].astype(np.int64))[None, None] for a in (prediction, label)
    )
    metric = DiceMetric(include_background=True, reduction="none", num_classes=num_classes)
    return metric(found, truth)[0].double().numpy()


def _surfaces(
    prediction: np.ndarray,
    label: np.ndarray,
    spacing: Sequence[float],
    num_classes: int,
    tolerance: float,
    classes: Iterable[int],
) -> tuple[np.ndarray, np.ndarray]:
    """HD95 and surface Dice per class, in one pass over the distances.

    Ignored voxels belong to no class, neither in the label nor in the prediction: they are outside
    of the image, whose border is part of a surface as well. So they cost nothing whatever is
    predicted there, and rows that are ignored at the border are as rows that are cut off. What a
    voxel next to them has in both masks lies on both surfaces, at distance 0. It is kept: where
    the annotators left out a band around each object, the band is where the true surface is, and
    all that the prediction can be held against. DAVIS treats void pixels in the same way.

    The figures are those of MONAI's compute_hausdorff_distance and compute_surface_dice on the
    masks of each class without the ignored voxels.
    """
    valid = label != IGNORE
    found, truth = (
        _surface(np.where(valid, a.astype(np.int16), NO_CLASS)) for a in (prediction, label)
    )
    hd95, surface_dice = np.full((2, num_classes), np.nan)
    for c in classes:
        ours, theirs = found == c, truth == c
        if ours.any() and theirs.any():
            there = _distances(ours, theirs, spacing)
            back = _distances(theirs, ours, spacing)
            hd95[c] = max(np.quantile(there, 0.95), np.quantile(back, 0.95))
            near = np.sum(there <= tolerance) + np.sum(back <= tolerance)
            surface_dice[c] = near / (len(there) + len(back))
        elif ours.any() or theirs.any():
            surface_dice[c] = 0.0
    return hd95, surface_dice


def _surface(classes: np.ndarray) -> np.ndarray:
    """Voxels with a neighbour of another class, or at the border: their class; else `NO_CLASS`."""
    inside = np.ones(classes.shape, bool)
    padded = np.pad(classes, 1, constant_values=NO_CLASS)
    middle = (slice(1, -1),) * classes.ndim
    for axis in range(classes.ndim):
        for step in (1, -1):
            inside &= np.roll(padded, step, axis)[middle] == classes
    return np.where(inside, NO_CLASS, classes)


def _distances(points: np.ndarray, others: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of each point of a mask to the nearest one of another: (n,)."""
    found = np.zeros(np.count_nonzero(points))
    apart = ~others[points]  # a point that is in both has distance 0
    tree = KDTree(np.argwhere(others) * spacing, compact_nodes=False, balanced_tree=False)
    found[apart] = tree.query(np.argwhere(points & ~others) * spacing)[0]
    return found


def _ratio(above: np.ndarray, below: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """A quotient, NaN where `needed` is 0."""
    return np.where(needed > 0, above / np.maximum(below, 1), np.nan)
