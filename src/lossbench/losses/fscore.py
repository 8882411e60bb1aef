"""The F-score loss of Keras segmentation_models 1.0.1."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lossbench.config import UserError


def f_score(
    probability: Tensor,
    target: Tensor,
    beta: float = 1,
    class_weights: float | Tensor = 1,
    smooth: float = 1e-5,
    per_image: bool = False,
) -> Tensor:
    """Mean over the classes of weight times F-score.

    Parameters
    ----------
    probability, target
        float (B, K, *S).
    beta
        Recall counts `beta` times as much as precision.
    class_weights
        One weight, or (K,). The mean divides by K, not by their sum, so that a perfect
        prediction has the mean weight.
    smooth
        Added to numerator and denominator.
    per_image
        Score each image and take the mean; else the batch is scored as one image.

    Returns
    -------
    Tensor
        A scalar.
    """
    axes = list(range(2, target.ndim)) if per_image else [0, *range(2, target.ndim)]
    tp = (probability * target).sum(axes)
    fp = probability.sum(axes) - tp
    fn = target.sum(axes) - tp
    hits = (1 + beta**2) * tp + smooth
    score = hits / (hits + beta**2 * fn + fp)
    return (score * class_weights).mean()


class FScoreLoss(nn.Module):
    """1 minus the mean of weighted F-scores, as `DiceLoss` of Keras segmentation_models has it.

    The weights multiply the scores and are not normalised: the loss of a perfect prediction is 1
    minus the mean weight, which may be far below 0. Its gradient is that of MONAI's DiceLoss with
    the same weights (batch=True for `per_image=False`).

    Parameters
    ----------
    beta
        Recall counts `beta` times as much as precision.
    class_weights
        One weight, or one for each class that takes part; None is 1.
    class_indexes
        The classes that take part, or one of them; None: all.
    smooth
        Added to numerator and denominator.
    per_image
        Score each image and take the mean; else the batch is scored as one image.
    sigmoid
        Probabilities are made class by class, for regions that overlap; else by softmax.
    """

    def __init__(
        self,
        beta: float = 1,
        class_weights: float | Sequence[float] | Tensor | None = 1,
        class_indexes: int | Sequence[int] | None = None,
        smooth: float = 1e-5,
        per_image: bool = False,
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        weights = torch.as_tensor(1.0 if class_weights is None else class_weights)
        self.register_buffer("class_weights", weights.float(), persistent=False)
        self.class_indexes = [class_indexes] if isinstance(class_indexes, int) else class_indexes
        self.beta, self.smooth, self.per_image, self.sigmoid = beta, smooth, per_image, sigmoid

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S) -> scalar."""
        probability = logits.sigmoid() if self.sigmoid else logits.softmax(dim=1)
        if self.class_indexes is not None:
            self._check(self.class_indexes, logits.shape[1])
            probability, target = probability[:, self.class_indexes], target[:, self.class_indexes]
        n = target.shape[1]
        if self.class_weights.ndim and len(self.class_weights) != n:  # one would be broadcast
            found = len(self.class_weights)
            raise UserError(f"class_weights has {found} numbers; expected {n}, one per class")
        options = (self.beta, self.class_weights, self.smooth, self.per_image)
        return 1 - f_score(probability, target, *options)

    @staticmethod
    def _check(indexes: Sequence[int], k: int) -> None:
        if not indexes or not all(0 <= index < k for index in indexes):
            raise UserError(f"class_indexes {list(indexes)}; expected numbers from 0 to {k - 1}")
