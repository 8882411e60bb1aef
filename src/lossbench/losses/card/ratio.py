"""Is a class's term a smoothed ratio of overlap, as in Dice, Jaccard and Tversky, and which."""

from typing import NamedTuple

import numpy as np

from lossbench.losses import one_hot
from lossbench.losses.card.probes import Measured, Probe, holding
from lossbench.losses.gradients import perfect_logits

MISSED = (1, 8, 64)  # voxels of a class that is missed
ROUNDING = 1e-9
MISFIT = 1e-3  # largest relative one of a formula that is the loss's


class Ratio(NamedTuple):
    """A class's term: 1 - (I + b s) / (I + a FP + b FN + b s), of soft predictions.

    Attributes
    ----------
    form
        Dice (a = b = 1/2), Jaccard (1), Tversky with its a and b, or other.
    denominator
        linear, or squared: the sum of squared probabilities is in the false positives.
    smoothing
        s, in voxels: a class of that many voxels, missed altogether, keeps half of its term.
    """

    form: str
    denominator: str
    smoothing: float


def ratio(m: Measured) -> Ratio | None:
    """Fit such a term to one class, all other classes perfect; None where it has none."""
    k, dims = m.example, m.probe.logits.ndim - 2
    smoothing, weight = _smoothing(m, k)
    if np.isnan(smoothing):
        return None
    probes = [m.soft(holding(k, 24, m.num_classes, dims), seed) for seed in (1, 2, 3)]
    scores = np.array([1 - float(m.terms(probe).value[k]) / weight for probe in probes])
    for denominator, power in (("linear", 1), ("squared", 2)):
        a, b, misfit = _fit(scores, [_overlap(m, probe, k, power) for probe in probes], smoothing)
        if misfit < MISFIT:
            return Ratio(_form(round(a, 2), round(b, 2)), denominator, smoothing)
    return None


def _form(a: float, b: float) -> str:
    named = {(0.5, 0.5): "Dice", (1.0, 1.0): "Jaccard"}
    return named.get((a, b), f"Tversky {a:g} {b:g}")


def _smoothing(m: Measured, k: int) -> tuple[float, float]:
    """Voxels s and weight w of a term w n / (n + s) of a class of n voxels that is missed.

    NaN where no such term is found.
    """
    missed = [float(m.terms(_missed(m, k, n)).value[k]) for n in MISSED]
    sizes = []
    for n, term in zip(MISSED[1:], missed[1:], strict=True):
        part = missed[0] / term if term else np.nan  # (n + s) / (n (1 + s)), to be solved for s
        sizes.append(n * (1 - part) / (n * part - 1) if abs(n * part - 1) > 0.1 else np.nan)
    # Of a true ratio both sizes tell the same; a float32 loss shows nothing below 1e-5 or so.
    if not np.isclose(*sizes, rtol=0.05, atol=1e-5) or sizes[1] < -1e-5:
        return np.nan, np.nan
    smoothing = sizes[0] if sizes[0] > ROUNDING else 0.0
    return smoothing, missed[2] * (MISSED[2] + smoothing) / MISSED[2]


def _missed(m: Measured, k: int, number: int) -> Probe:
    """A class of some voxels that are all surely predicted as background."""
    labels = holding(k, number, m.num_classes, m.probe.logits.ndim - 2)
    target, predicted = (
        one_hot(x, m.num_classes).double() for x in (labels, labels * (labels != k))
    )
    return Probe(perfect_logits(predicted), target)


def _overlap(m: Measured, probe: Probe, k: int, power: int) -> tuple[float, float, float]:
    """Intersection, false positives and false negatives of a class, from soft predictions."""
    activated = probe.logits.sigmoid() if m.sigmoid else probe.logits.softmax(dim=1)
    p, g = activated[:, k], probe.target[:, k]
    inside = float((p * g).sum())
    return inside, float((p**power).sum()) - inside, float(g.sum()) - inside


def _fit(
    scores: np.ndarray, overlaps: list[tuple[float, float, float]], s: float
) -> tuple[float, float, float]:
    """Weights a, b of false positives and negatives in (I + bs) / (I + a FP + b FN + bs).

    Returns
    -------
    tuple
        a, b and the largest relative misfit.
    """
    inside, extra, missing = np.array(overlaps).T
    # Times its denominator, the formula of a score is linear in a and b.
    matrix = np.stack([scores * extra, scores * (missing + s) - s], axis=1)
    (a, b), *_ = np.linalg.lstsq(matrix, inside * (1 - scores), rcond=None)
    fitted = (inside + b * s) / (inside + a * extra + b * (missing + s))
    # Of the score and of the term 1 - score: one that is nearly 0 is no evidence for a formula.
    smaller = np.minimum(np.abs(scores), np.abs(1 - scores))
    return float(a), float(b), float(np.abs((fitted - scores) / smaller).max())
