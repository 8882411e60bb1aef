"""The target of every loss: one-hot."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Class indices (B, *S), any integer type, -> float32 (B, K, *S); other values give all 0."""
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, *[1] * (labels.ndim - 1))
    return (labels.unsqueeze(1) == classes).float()
