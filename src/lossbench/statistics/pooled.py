"""A ratio of sums over subjects, such as the IoU of pooled counts, as a mean over subjects."""

import numpy as np


def linearised_ratio(part: np.ndarray, whole: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Values of cases whose mean over subjects is the ratio of the sums, to its first order.

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
        sum(part) / sum(whole) exactly, and they vary over subjects as that ratio does when subjects
        are drawn anew (its influence function, to which the infinitesimal jackknife and, with many
        subjects, the bootstrap over subjects agree: Efron 1982, chapter 6). NaN where a case was
        not measured, and everywhere where the sum of `whole` is 0.
    """
    measured = np.isfinite(part) & np.isfinite(whole)
    of = np.unique(subject, return_inverse=True)[1]
    members = np.eye(of.max(initial=-1) + 1)[of]  # (C, subjects)
    n_cases = measured @ members  # of each subject
    n_subjects = (n_cases > 0).sum(axis=-1, keepdims=True)
    part, whole = np.where(measured, part, 0), np.where(measured, whole, 0)
    total = whole.sum(axis=-1, keepdims=True)
    safe = np.where(total > 0, total, 1)
    ratio = part.sum(axis=-1, keepdims=True) / safe
    values = ratio + (part - ratio * whole) * n_cases[..., of] * n_subjects / safe
    return np.where(measured & (total > 0), values, np.nan)
