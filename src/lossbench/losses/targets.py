"""The target of every loss: one-hot, or multi-hot where regions overlap."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def downsampled(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels uint8 (B, *S) at the size of a head: those at the centres of its pixels.

    As MONAI's DeepSupervisionLoss and nnU-Net have it (nearest-exact).
    """
    if labels.shape[1:] == size:
        return labels
    # In float32, which all devices interpolate; it holds every label exactly.
    found = interpolate(labels.unsqueeze(1).float(), size=tuple(size), mode="nearest-exact")
    return found.squeeze(1).to(labels.dtype)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Class indices (B, *S), any integer type, -> float32 (B, K, *S); other values give all 0."""
    shape = (1, num_classes, *[1] * (labels.ndim - 1))
    classes = torch.arange(num_classes, dtype=labels.dtype, device=labels.device).view(shape)
    size = (len(labels), num_classes, *labels.shape[1:])
    target = torch.empty(size, dtype=torch.float32, device=labels.device)
    # Numbers at once: to make them of booleans takes ten times as long on a CPU.
    return torch.eq(labels.unsqueeze(1), classes, out=target)


def multi_hot(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Labels (B, *S), any integer type, -> float32 (B, R, *S): 1 in each region with the label."""
    size = (len(labels), len(regions), *labels.shape[1:])
    target = torch.zeros(size, dtype=torch.float32, device=labels.device)
    for number, region in enumerate(regions):
        for label in region:
            target[:, number] += labels == label
    return target


def make_target(
    labels: Tensor, num_classes: int, regions: Sequence[Sequence[int]] | None
) -> Tensor:
    """The target of labels (B, *S): float32 (B, K, *S), all 0 where a voxel is ignored."""
    return multi_hot(labels, regions) if regions else one_hot(labels, num_classes)


def example_target(labels: Tensor, num_classes: int, overlapping: bool) -> Tensor:
    """The target of labels that are made to try a loss on: (B, K, *S).

    Where regions overlap, labels go up to K, 0 is in no region, and each region holds those after.
    """
    nested = [range(number + 1, num_classes + 1) for number in range(num_classes)]
    return make_target(labels, num_classes, nested if overlapping else None)
