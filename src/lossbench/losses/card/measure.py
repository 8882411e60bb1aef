"""Measure the properties of a loss: its formula, its pooling, what absent classes do, its scale.

Every property is a short text or a number, so that runs can be filtered by it.
"""

import copy
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lossbench.losses.card.probes import (
    SIZES,
    Measured,
    Probe,
    RefusedError,
    labels_of,
)
from lossbench.losses.card.ratio import ratio
from lossbench.losses.gradients import cosines, perfect_logits

Property = str | float
UNKNOWN, NONE = "unknown", "none"
# The properties of a card, in the order in which they are shown.
PROPERTIES = {
    "form": "of a class's term: Dice, Jaccard, Tversky (weights of FP and FN) or other",
    "denominator": "linear or squared probabilities",
    "smoothing": "voxels; of a class of that many voxels, missed altogether, half the term is left",
    "pooling": "a mean of samples, of the batch as one image (per batch), or of voxels: both alike",
    "background_value": "whether the probabilities of the background have a term of their own",
    "background_gradient": "whether the logits of the background get a gradient",
    "background_voxels": "share of the L1 norm of the logits' gradient at the background's voxels",
    "absent_class": "what the term of a class without a voxel in the batch does",
    "absent_value": "that term, where the prediction is right and sure (logits 10 apart)",
    "absent_gradient": "its gradient; vanishing: below a 1,000th of a present class's",
    "weights": "whether the loss has class weights, and divides by their sum",
    "value_perfect": "lowest value: a perfect prediction",
    "value_worst": "value where every voxel is surely wrong",
    "hard_value": "value of a sure prediction with errors, as one minus a metric",
    "scale": "norm of the logits' gradient, against the reference's",
    "cosine": "of the logits' gradient to the reference's",
}
SURE_GAP = 10.0  # gap of logits of a trained network
VANISHING = 1e-3  # a gradient that many times smaller than a present class's
SAME = 1e-4  # relative; what float32 sums may differ by


def measure(
    loss: nn.Module,
    reference: nn.Module,
    num_classes: int,
    spatial_dims: int,
    sigmoid: bool = False,
) -> dict[str, Property]:
    """Measure what a loss computes: a value for each of `PROPERTIES`, the same at every call.

    Parameters
    ----------
    loss
        Of the contract; its class weights filled with those of `probe_voxels`.
    reference
        What its scale is measured against.
    num_classes, spatial_dims
        Of the batches that it is for.
    sigmoid
        Whether the losses make their probabilities class by class, as for regions that overlap.

    Returns
    -------
    dict
        "unknown" where the loss cannot be called in the way that a property needs.
    """
    card = dict.fromkeys(PROPERTIES, UNKNOWN)
    labels = labels_of(num_classes, SIZES[spatial_dims])
    m, r = (Measured(x, labels, num_classes, sigmoid) for x in (loss, reference))
    alone = (_term, _pooling, _background, _absent, _weights, _range, _hard_value)
    for part in (*(partial(part, m) for part in alone), partial(_scale, m, r)):
        # A loss may refuse a probe (a single sample, an absent class) and still train.
        with suppress(RefusedError):
            card |= part()
    return card


def leaves_out_class_0(loss: nn.Module, num_classes: int, spatial_dims: int) -> bool:
    """Whether a loss, or a term of it, takes class 0 for a background that it does not score.

    By MONAI's `include_background`, by the `alpha_mode` of its Wasserstein Dice (all but GDL count
    no true positive of class 0), and for other losses by what is measured: the probabilities of
    class 0 have no part in the value.
    """
    for module in loss.modules():
        if getattr(module, "include_background", True) is False:
            return True
        if getattr(module, "alpha_mode", "GDL") != "GDL":
            return True
    if num_classes == 1:  # a loss without its only region has no gradient, which is found
        return False
    measured = Measured(loss, labels_of(num_classes, SIZES[spatial_dims]), num_classes)
    with suppress(RefusedError):
        return _background(measured)["background_value"] == "no"
    return False


def _term(m: Measured) -> dict[str, Property]:
    term = ratio(m)
    if term is None:
        return {"form": "other", "denominator": NONE, "smoothing": NONE}
    return {**term._asdict(), "smoothing": _round(term.smoothing)}


def _pooling(m: Measured) -> dict[str, Property]:
    """Compare a batch with its samples one by one, and laid end to end as one sample."""
    logits, target = m.probe
    both = m(logits, target)
    each = (m(logits[:1], target[:1]) + m(logits[1:], target[1:])) / 2
    joined = m(*(torch.cat([t[:1], t[1:]], dim=2) for t in (logits, target)))
    if _same(both, 2 * each):
        return {"pooling": "sum over samples"}
    names = {(True, False): "per sample", (False, True): "per batch", (True, True): "per voxel"}
    return {"pooling": names.get((_same(both, each), _same(both, joined)), "other")}


def _background(m: Measured) -> dict[str, Property]:
    terms, gradient = m.terms(m.probe), m.gradient(m.probe).abs()
    at_background = (gradient * m.probe.target[:, :1]).sum() / gradient.sum()
    has_term = UNKNOWN if terms.l1.isnan().any() else _yes(terms.l1[0] > 0)
    return {
        "background_value": has_term,
        "background_gradient": _yes(gradient[:, 0].any()),
        "background_voxels": _round(at_background),
    }


def _absent(m: Measured) -> dict[str, Property]:
    """The term of a class that is nowhere in the target, its voxels made background."""
    k = m.example
    labels = m.probe.target.argmax(dim=1)
    without = m.soft(labels * (labels != k))
    sure = Probe(SURE_GAP * without.target, without.target)
    absent, present = m.terms(without), m.terms(m.probe)
    if absent.value.isnan().any():
        return {}
    # What the absence adds to a perfect prediction, and so no prediction removes.
    floor = m(perfect_logits(without.target), without.target) - m(
        perfect_logits(m.probe.target), m.probe.target
    )
    gradient = absent.l1[k] / present.l1[k]
    gradient_kind = NONE if gradient == 0 else "vanishing" if gradient < VANISHING else "normal"
    has_term = (absent.value[k] + floor).abs() > SAME * present.value[k].abs()
    if has_term:
        kind = "counts" if gradient_kind == "normal" else "adds a constant"
    else:
        kind = _without_term(m, without)
    return {
        "absent_class": kind,
        "absent_value": _round(m.terms(sure).value[k] + floor),
        "absent_gradient": gradient_kind,
    }


def _without_term(m: Measured, without: Probe) -> str:
    """Either the other classes share the whole loss, or the absent one's share is perfect."""
    worst = [m(perfect_logits(p.target.roll(1, dims=1)), p.target) for p in (without, m.probe)]
    return "left out" if torch.isclose(*worst, rtol=0.01) else "counted as perfect"


def _weights(m: Measured) -> dict[str, Property]:
    """Double every class weight: a loss that divides by their sum stays the same."""
    doubled = copy.deepcopy(m)
    weights = [w for part in doubled.loss.modules() for w in _weights_of(part, m.num_classes)]
    if not weights:
        return {"weights": NONE}
    # All are read before one is written, since modules may share a tensor.
    for weight, twice in zip(weights, [2 * weight for weight in weights], strict=True):
        weight.copy_(twice)
    change = float(doubled.gradient(m.probe).norm() / m.gradient(m.probe).norm())
    names = {1.0: "divided by their sum", 2.0: "not divided by their sum"}
    return {"weights": names.get(round(change, 3), f"divided in part: {change:.2f} of 2")}


def _weights_of(module: nn.Module, num_classes: int) -> list[Tensor]:
    """Tensors of a module with a number per class, or per class without the background."""
    held = [*vars(module).values(), *module.buffers(recurse=False)]
    sizes = ((num_classes,), (num_classes - 1,))
    return [t for t in held if isinstance(t, Tensor) and t.shape in sizes]


def _range(m: Measured) -> dict[str, Property]:
    target = m.probe.target
    perfect, worst = perfect_logits(target), perfect_logits(target.roll(1, dims=1))
    values = [float(m(logits, target)) for logits in (perfect, worst / 2, worst)]
    bounded = np.isclose(values[1], values[2], rtol=0.1)
    return {
        "value_perfect": _round(values[0]),
        "value_worst": _round(values[2]) if bounded else "unbounded",
    }


def _hard_value(m: Measured) -> dict[str, Property]:
    """Hold the loss of a prediction without doubts, but with errors, against the metrics."""
    target = m.probe.target
    predicted = target.roll(1, dims=2)  # by a voxel: some are wrong, every class is there
    value = float(m(perfect_logits(predicted), target))
    space = tuple(range(2, target.ndim))
    for kind, axes in (("per sample", space), ("per batch", (0, *space))):
        tp, both = (predicted * target).sum(axes), (predicted + target).sum(axes)
        for name, score in (("Dice", 2 * tp / both), ("IoU", tp / (both - tp))):
            for scope, part in (("", score), (" without background", score[..., 1:])):
                if np.isclose(value, 1 - float(part.mean()), rtol=SAME):
                    return {"hard_value": f"1 - {name}, {kind}{scope}"}
    return {"hard_value": "other"}


def _scale(m: Measured, reference: Measured) -> dict[str, Property]:
    ours, theirs = m.gradient(m.probe), reference.gradient(m.probe)
    return {
        "scale": _round(ours.norm() / theirs.norm()),
        "cosine": _round(cosines([ours, theirs])[0, 1]),
    }


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.isclose(a, b, rtol=SAME).item()


def _yes(condition: Tensor) -> str:
    return "yes" if condition else "no"


def _round(value: Tensor | float) -> float:
    """Three significant digits; what is nothing but rounding is 0."""
    return float(f"{float(value):.3g}") if abs(value) > 1e-9 else 0.0
