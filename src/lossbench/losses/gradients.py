"""Gradients of losses: their norms, the cosines between them, and each class's share."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossbench.losses.watch import WatchActivations

# Logits (B, K, *S), or those of several heads -> scalar, the target held fixed.
LossOf = Callable[[Tensor | Sequence[Tensor]], Tensor]
PERFECT_GAP = 60.0  # gap of logits that makes a probability of 1 in float32, without underflow
MAX_BYPASS = 1e-2  # largest part of a gradient that may pass by the probabilities


class ClassTerms(NamedTuple):
    """What each class adds to a loss, float (K,) each; NaN where a loss cannot be taken apart.

    Attributes
    ----------
    value
        The loss where only this class's probabilities are as predicted and all others perfect,
        less the loss of a perfect prediction. Of a sum over classes, that is the class's term.
    l1, l2
        Norms of that part of the gradient with respect to the logits that passes through this
        class's probabilities: the gradient of the class's term.
    """

    value: Tensor
    l1: Tensor
    l2: Tensor


class GradientSnapshot(NamedTuple):
    """Gradients of several losses of the same logits, by name of the loss.

    Attributes
    ----------
    values, norms
        Value, and norm of the gradient with respect to the network's parameters.
    scales
        Norm over that of the reference; NaN where that is 0.
    cosines
        Of the gradient to that of each other loss; NaN where one is 0.
    shares
        Each class's share of the value and of the norms, by the fields of `ClassTerms`.
    """

    values: dict[str, float]
    norms: dict[str, float]
    scales: dict[str, float]
    cosines: dict[str, dict[str, float]]
    shares: dict[str, dict[str, list[float]]]


def gradient_snapshot(
    losses: Mapping[str, LossOf],
    logits: Tensor | Sequence[Tensor],
    target: Tensor,
    parameters: Iterable[Tensor],
    reference: str,
    split: Collection[str],
) -> GradientSnapshot:
    """Measure how losses pull on a network.

    Parameters
    ----------
    losses
        Each as a function of the logits.
    logits
        The network's output, float (B, K, *S), with its graph; of several heads, classes share
        the loss of the first.
    target
        One-hot, float (B, K, *S).
    parameters
        Of the network.
    reference
        Name of the loss that scales are relative to.
    split
        Names of the losses that are split into classes.
    """
    parameters, values, gradients, class_shares = list(parameters), {}, {}, {}
    first = logits if isinstance(logits, Tensor) else logits[0]
    for name, loss_of in losses.items():
        value = loss_of(logits)
        values[name] = value.item()
        gradients[name] = flat_gradient(value, parameters)
        if name in split:
            terms = class_terms(loss_of, first, target)._asdict()
            class_shares[name] = {kind: shares(parts).tolist() for kind, parts in terms.items()}
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    unit = norms[reference]
    rows = cosines([*gradients.values()]).tolist()
    return GradientSnapshot(
        values,
        norms,
        {name: norm / unit if unit else torch.nan for name, norm in norms.items()},
        {name: dict(zip(losses, row, strict=True)) for name, row in zip(losses, rows, strict=True)},
        class_shares,
    )


def flat_gradient(value: Tensor, inputs: Iterable[Tensor]) -> Tensor:
    """Gradient of a scalar with respect to tensors, as one vector; the graph is kept.

    Inputs that the value does not depend on have gradient 0; frozen ones are left out.
    """
    trained = [tensor for tensor in inputs if tensor.requires_grad]
    gradients = torch.autograd.grad(
        value, trained, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def cosines(gradients: Sequence[Tensor]) -> Tensor:
    """Cosine between every two of L vectors: float64 (L, L); NaN where a vector is 0."""
    stacked = torch.stack([g.flatten() for g in gradients])
    unit = stacked / stacked.norm(dim=1, keepdim=True)
    return (unit @ unit.T).double().clamp(-1, 1)


def perfect_logits(target: Tensor) -> Tensor:
    """Logits of a prediction that is the one-hot target, by softmax and by sigmoid."""
    return PERFECT_GAP * (target - 0.5)


def shares(parts: Tensor) -> Tensor:
    """Parts as shares of their sum; NaN where the sum is 0."""
    return parts / parts.sum()


def class_terms(loss_of: LossOf, logits: Tensor, target: Tensor) -> ClassTerms:
    """Take a loss apart into what each class adds to its value and to its gradient.

    The loss runs as it is; what it makes of the logits by softmax or sigmoid is watched. A loss
    that computes its probabilities by other means cannot be taken apart.

    Parameters
    ----------
    loss_of
        The loss as a function of the logits.
    logits
        float (B, K, *S).
    target
        One-hot, float (B, K, *S): what a perfect prediction is; all 0 where a pixel is ignored.
    """
    logits = logits.detach().requires_grad_()
    with WatchActivations(logits.shape[1]) as watched:
        value = loss_of(logits)
    whole, *parts = torch.autograd.grad(
        value, [logits, *watched.probabilities], retain_graph=True, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    terms = [
        _gradient_through_class(watched.probabilities, logits, parts, k)
        for k in range(logits.shape[1])
    ]
    rest = whole - sum(terms)
    if watched.sigmoid:  # a class's probabilities depend on its own logits alone
        terms = [term + _keep_class(rest, k) for k, term in enumerate(terms)]
    elif not rest.norm() <= MAX_BYPASS * whole.norm() + _rounding(parts):
        unknown = torch.full((len(terms),), torch.nan, device=logits.device)
        return ClassTerms(unknown, unknown, unknown)
    return ClassTerms(
        _values(loss_of, logits.detach(), perfect_logits(target), watched.probabilities),
        torch.stack([term.abs().sum() for term in terms]),
        torch.stack([term.norm() for term in terms]),
    )


def _rounding(parts: Sequence[Tensor]) -> float:
    """What rounding may leave of gradients that cancel, as those of a sure prediction do."""
    return sum(100 * torch.finfo(part.dtype).eps * float(part.norm()) for part in parts)


def _gradient_through_class(
    probabilities: Sequence[Tensor], logits: Tensor, parts: Sequence[Tensor], k: int
) -> Tensor:
    """The part of the logits' gradient that passes through the probabilities of a class."""
    if not probabilities:
        return torch.zeros_like(logits)
    kept = [_keep_class(part, k) for part in parts]
    return torch.autograd.grad(probabilities, logits, kept, retain_graph=True)[0]


@torch.no_grad()
def _values(
    loss_of: LossOf, logits: Tensor, perfect: Tensor, probabilities: Sequence[Tensor]
) -> Tensor:
    """Loss of each class alone, all others perfect, less the loss of a perfect prediction."""
    with WatchActivations(logits.shape[1]) as seen_perfect:
        floor = loss_of(perfect)
    if len(seen_perfect.probabilities) != len(probabilities):
        return torch.full((logits.shape[1],), torch.nan, device=logits.device)
    values = []
    for k in range(logits.shape[1]):
        mixed = [
            best + _keep_class(predicted - best, k)
            for best, predicted in zip(seen_perfect.probabilities, probabilities, strict=True)
        ]
        with WatchActivations(logits.shape[1], mixed):
            values.append(loss_of(perfect + _keep_class(logits - perfect, k)))
    return torch.stack(values) - floor


def _keep_class(tensor: Tensor, index: int) -> Tensor:
    """One class, (B, K, *S), the others 0."""
    kept = torch.zeros_like(tensor)
    kept[:, index] = tensor[:, index]
    return kept
