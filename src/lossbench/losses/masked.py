"""A loss without the ignored pixels."""

import copy

import torch
from torch import Tensor, nn

from lossbench.config import UserError
from lossbench.losses.known_losses import TERMS
from lossbench.losses.targets import example_target

TOLERANCE = 1e-5  # relative, of losses that are the same but for the order of summation


class MaskedLoss(nn.Module):
    """A loss without the ignored pixels: equal, in value and gradient, to cutting them out.

    A loss that pools the batch (the same value when a batch is laid out as one image) gets all
    the pixels that are left as one image; one that is a mean over samples gets them sample by
    sample, and the mean is taken over the samples that have pixels left.

    Parameters
    ----------
    loss
        A loss of the contract; it must not look at where a pixel lies.
    num_classes, spatial_dims
        Of the dataset.
    overlapping
        Whether the classes are regions that overlap.

    Raises
    ------
    UserError
        For a loss that needs its pixels in place (distances, boundaries, skeletons, neighbours),
        and one that neither pools the batch nor is a mean over its samples.
    """

    def __init__(
        self, loss: nn.Module, num_classes: int, spatial_dims: int, overlapping: bool = False
    ) -> None:
        super().__init__()
        self.loss, name = loss, type(loss).__name__
        self.terms = [
            (factor, part, _pools(part, num_classes, spatial_dims, overlapping, name))
            for factor, part in _terms(loss)
        ]

    def forward(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S), valid bool (B, *S) -> scalar."""
        if not valid.any():
            return logits.sum() * 0
        return sum(
            factor * self._without(part, pools, logits, target, valid)
            for factor, part, pools in self.terms
        )

    def _without(
        self, part: nn.Module, pools: bool, logits: Tensor, target: Tensor, valid: Tensor
    ) -> Tensor:
        if pools:
            return part(*_cut(logits, target, valid))
        samples = [_cut(*(t[[b]] for t in (logits, target, valid))) for b in range(len(valid))]
        return torch.stack([part(*s) for s in samples if s[0].numel()]).mean()


def _terms(loss: nn.Module) -> list[tuple[float, nn.Module]]:
    kind = type(loss)
    is_known = kind.__module__.startswith(("monai.", "lossbench."))
    parts = TERMS.get(kind.__name__, {}) if is_known else {}
    return [(getattr(loss, f), getattr(loss, part)) for f, part in parts.items()] or [(1, loss)]


def _cut(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The valid pixels as one image, (1, K, n, 1, ...)."""
    shape = (1, logits.shape[1], -1, *[1] * (logits.ndim - 3))
    logits, target = (t.movedim(1, -1)[valid].T.reshape(shape) for t in (logits, target))
    return logits, target


def _pools(loss: nn.Module, k: int, spatial_dims: int, overlapping: bool, name: str) -> bool:
    """Whether the loss pools the batch (else it is a mean over samples), tried on a batch.

    The classes lie in stripes, and the samples are of different make-up.
    """

    def value_of(*batch: Tensor) -> Tensor:
        return copy.deepcopy(loss)(*batch)  # the state of the loss stays as it is

    generator = torch.Generator().manual_seed(0)
    size = [8, 8] if spatial_dims == 2 else [4] * spatial_dims
    labels = (torch.arange(64) * (k + overlapping) // 64).repeat(2, 1)
    labels[0, :48] = 0
    target = example_target(labels.view(2, *size), k, overlapping)
    logits = 3 * torch.randn(target.shape, generator=generator) + 2 * target
    order = torch.randperm(64, generator=generator)
    mixed = [t.flatten(2)[..., order].view(t.shape) for t in (logits, target)]
    valid = torch.ones(2, *size, dtype=torch.bool)
    try:
        with torch.no_grad():
            value, elsewhere = value_of(logits, target), value_of(*mixed)
            pooled = value_of(*_cut(logits, target, valid))
            single = [value_of(*_cut(logits[[b]], target[[b]], valid[[b]])) for b in (0, 1)]
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(_in_place(name, f" ({error})")) from error
    if not _close(value, elsewhere):
        raise UserError(_in_place(name))
    if _close(value, pooled):
        return True
    if _close(value, torch.stack(single).mean()):
        return False
    raise UserError(
        f"{name} neither pools the pixels of a batch nor is a mean over its samples, so the "
        "dataset's ignored pixels cannot be left out; set reduction: mean, or choose another loss"
    )


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.isclose(a, b, rtol=TOLERANCE, atol=1e-7).item()


def _in_place(name: str, why: str = "") -> str:
    return (
        f"{name} needs its pixels in place{why}, so the dataset's ignored pixels cannot be left "
        "out; choose another loss for this dataset"
    )
