"""The gradient ledger: how a loss pulls on the network, on a fixed batch along the training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from lossbench.datasets.batches import Batch
from lossbench.losses import batch_loss, one_hot
from lossbench.losses.gradients import class_terms, cosines, flat_gradient, shares


def ledger_entry(
    model: nn.Module,
    predict: Callable[[Tensor], Tensor],
    losses: tuple[nn.Module, nn.Module],
    batch: Batch,
    classes: Sequence[str],
) -> dict[str, float]:
    """Look at the gradients of a loss; the training goes on as if nobody had looked.

    Parameters
    ----------
    model
        The network, in training mode.
    predict
        Images (B, C, *S) -> logits (B, K, *S), float32, by `model`.
    losses
        The loss of the run, and the one that it is compared with.
    batch
        The same one for every entry of a run.
    classes
        Names of the classes.

    Returns
    -------
    dict
        ``ledger/norm``, gradient norm of the loss with respect to the parameters;
        ``ledger/scale``, that norm over the other loss's; ``ledger/cosine`` of the two;
        ``ledger/value/{class}``, ``ledger/l1/{class}`` and ``ledger/l2/{class}``, each class's
        share of the value and of the norms of the gradient with respect to the logits. NaN where
        a loss cannot be taken apart, or a gradient is 0.
    """
    mine, other = (partial(batch_loss, loss, labels=batch.labels) for loss in losses)
    with unmoved(model):
        logits = predict(batch.images)
        gradients = [flat_gradient(loss(logits), model.parameters()) for loss in (mine, other)]
    terms = class_terms(mine, logits, one_hot(batch.labels, len(classes)))
    norm, other_norm = (float(gradient.norm()) for gradient in gradients)
    entry = {
        "norm": norm,
        "scale": norm / other_norm if other_norm else torch.nan,
        "cosine": float(cosines(gradients)[0, 1]),
    }
    for kind, parts in terms._asdict().items():
        entry |= {f"{kind}/{c}": s for c, s in zip(classes, shares(parts).tolist(), strict=True)}
    return {f"ledger/{key}": value for key, value in entry.items()}


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Put back what passes in training mode move: the running statistics of normalisation."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(old)
