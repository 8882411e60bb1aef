"""MONAI's DiceLoss from sums per class: the same, and nothing is read from the device."""

from torch import Tensor, nn

from lossbench.losses.known_losses import SYNC_FREE_DICE


def make_sync_free(loss: nn.Module) -> nn.Module:
    """Put a `SyncFreeDice` in the place of a DiceLoss: of the loss itself, or of its parts.

    Parameters
    ----------
    loss
        A loss of the contract; its parts are replaced in place.

    Returns
    -------
    nn.Module
        The same loss up to rounding. What `SyncFreeDice` does not know stays MONAI's.
    """
    from monai.losses import DiceLoss

    if (
        type(loss) is DiceLoss
        and loss.softmax != loss.sigmoid
        and all(getattr(loss, key) in values for key, values in SYNC_FREE_DICE.items())
    ):
        return SyncFreeDice(loss)
    for name, part in loss.named_children():
        setattr(loss, name, make_sync_free(part))
    return loss


class SyncFreeDice(nn.Module):
    """MONAI's DiceLoss of a one-hot target, with the same value and gradient.

    MONAI looks at its weights in every step, for which the host waits for the GPU; a CUDA graph
    cannot hold that.

    Parameters
    ----------
    loss
        A monai.losses.DiceLoss, which holds the settings: softmax or sigmoid, include_background,
        squared_pred, jaccard, batch, weight, smooth_nr, smooth_dr, reduction (mean or sum).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S) -> scalar."""
        how = self.loss
        first = 0 if how.include_background else 1
        axes = [0, *range(2, logits.ndim)] if how.batch else list(range(2, logits.ndim))
        probability = logits.softmax(dim=1) if how.softmax else logits.sigmoid()
        hits = (probability * target).sum(axes)[..., first:]
        sizes = (probability.square() if how.squared_pred else probability).sum(axes)
        sizes = (sizes + target.sum(axes))[..., first:]  # a target of 0 and 1 is its own square
        below = 2 * (sizes - hits) if how.jaccard else sizes
        scores = 1 - (2 * hits + how.smooth_nr) / (below + how.smooth_dr)
        if how.class_weight is not None:
            scores = scores * how.class_weight.to(scores)
        return scores.mean() if how.reduction == "mean" else scores.sum()
