"""The target of every loss: one-hot."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Class indices (B, *S), any integer type, -> float32 (B, K, *S); other values give all 0."""
    shape = (1, num_classes, *[1] * (labels.ndim - 1))
    classes = torch.arange(num_classes, dtype=labels.dtype, device=labels.device).view(shape)
    size = (len(labels), num_classes, *labels.shape[1:])
    target = torch.empty(size, dtype=torch.float32, device=labels.device)
    # Numbers at once: to make them of booleans takes ten times as long on a CPU.
    return torch.eq(labels.unsqueeze(1), classes, out=target)
