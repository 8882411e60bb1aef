"""Adapters to the contract: (logits (B, K, *S), one-hot target (B, K, *S)) -> scalar."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.config import UserError


class IndexTarget(nn.Module):
    """A loss that wants class indices, (B, *S) int64, as its target.

    Parameters
    ----------
    loss
        (logits (B, K, *S), indices (B, *S)) -> scalar, such as the losses of
        segmentation_models_pytorch with mode multiclass.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S) -> scalar."""
        return self.loss(logits, target.argmax(dim=1))


class ForegroundProbability(nn.Module):
    """A loss for two classes, or one region, which wants the probability of the foreground.

    Parameters
    ----------
    loss
        (probability (B, 1, *S), target (B, 1, *S) of 0 and 1) -> scalar.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and one-hot target (B, 2, *S), or those of one region (B, 1, *S) -> scalar."""
        if logits.shape[1] == 1:  # one region
            return self.loss(logits.sigmoid(), target)
        if logits.shape[1] != 2:
            raise UserError(
                f"{type(self.loss).__name__} is for two classes, and there are {logits.shape[1]}; "
                "choose another loss for this dataset"
            )
        return self.loss(logits.softmax(dim=1)[:, 1:], target[:, 1:])


class WassersteinDiceLoss(nn.Module):
    """MONAI's GeneralizedWassersteinDiceLoss, with its matrix of distances.

    Parameters
    ----------
    distances
        Of class to class, (K, K), symmetric with 0 on the diagonal; None: 1 between background
        and any other class, 0.5 between two others, as in MONAI's example.
    options
        Further arguments of monai.losses.GeneralizedWassersteinDiceLoss.
    """

    def __init__(self, distances: Sequence[Sequence[float]] | None = None, **options: Any) -> None:
        super().__init__()
        self.distances, self.options, self.loss = distances, options, None
        self.alpha_mode = options.get("weighting_mode", "default")  # as MONAI's attribute

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S) -> scalar."""
        if self.loss is None or self.loss.num_classes != logits.shape[1]:
            self.loss = self._make(logits.shape[1])
        return self.loss(logits, target.argmax(dim=1))

    def _make(self, k: int) -> nn.Module:
        from monai.losses import GeneralizedWassersteinDiceLoss

        if self.distances is None:
            matrix = 0.5 * (1 - torch.eye(k))
            matrix[0, 1:] = matrix[1:, 0] = 1
        else:
            matrix = torch.tensor(self.distances, dtype=torch.float32)
        if matrix.shape != (k, k):
            raise UserError(f"distances: found {list(matrix.shape)}, expected {[k, k]}")
        return GeneralizedWassersteinDiceLoss(matrix, **self.options)


class NeighborAwareLoss(nn.Module):
    """MONAI's NACLLoss, told the number of classes and dimensions by the logits.

    Parameters
    ----------
    options
        Arguments of monai.losses.NACLLoss, but for `classes` and `dim`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options, self.loss = options, None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S) -> scalar."""
        from monai.losses import NACLLoss

        k, dims = logits.shape[1], logits.ndim - 2
        if self.loss is None or (self.loss.nc, self.loss.dim) != (k, dims):
            self.loss = NACLLoss(k, dims, **self.options)
        with torch.autocast(logits.device.type, enabled=False):  # it convolves the target
            return self.loss(logits, target.argmax(dim=1))
