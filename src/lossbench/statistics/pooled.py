"""A ratio of sums over subjects, such as the IoU of pooled counts, as a mean over subjects."""

import numpy as np


def jackknife_ratio(part: np.ndarray, whole: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Values of cases whose mean over subjects is the ratio of the sums: jackknife pseudo-values.

    Parameters
    ----------
    part, whole
        float (..., C): of each case; NaN where it was not measured.
    subject
        int (C,): the subject of each case.

    Returns
    -------
    np.ndarray
        float (..., C). Averaged over the cases of a subject and then over subjects they give
        sum(part) / sum(whole) exactly, and they vary over subjects as that ratio does when each
        subject is left out in turn (Miller 1974; centred, since their own mean corrects a bias).
        NaN where a case was not measured, and everywhere where the sum of `whole` is 0.
    """
    measured = np.isfinite(part) & np.isfinite(whole)
    of = np.unique(subject, return_inverse=True)[1]
    members = np.eye(of.max(initial=-1) + 1)[of]  # (C, subjects)
    n_cases = measured @ members  # of each subject
    n_subjects = (n_cases > 0).sum(axis=-1, keepdims=True)
    part, whole = np.where(measured, part, 0), np.where(measured, whole, 0)
    total = whole.sum(axis=-1, keepdims=True)
    ratio = part.sum(axis=-1, keepdims=True) / np.where(total > 0, total, 1)
    others = total - whole @ members  # without the subject; 0 where there is no other
    influence = (n_subjects - 1) / np.where(others > 0, others, 1)
    moved = (part - ratio * whole) * (influence * n_cases)[..., of]
    bias = (moved / np.maximum(n_cases, 1)[..., of]).sum(axis=-1, keepdims=True)
    values = ratio + moved - bias / np.maximum(n_subjects, 1)
    return np.where(measured & (total > 0), values, np.nan)
