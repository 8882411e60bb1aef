"""What the libraries' losses lack: class weights from the data, index targets, an ignore label."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossbench.config import UserError, did_you_mean
from lossbench.instantiate import instantiate

# These want a weight per class although their Dice part may leave the background out.
WEIGHTS_OF_ALL_CLASSES = ("monai.losses.DiceCELoss", "monai.losses.DiceFocalLoss")
EFFECTIVE_NUMBER_BETA = 0.9999  # Cui et al. 2019, arXiv:1901.05555

WEIGHTS = {
    "inverse_frequency": lambda f, n: 1 / f,
    "inverse_square_root": lambda f, n: 1 / np.sqrt(f),
    "median_frequency": lambda f, n: np.median(f) / f,
    "effective_number": lambda f, n: 1 / -np.expm1(n * np.log(EFFECTIVE_NUMBER_BETA)),
}


def class_weights(name: str, voxels: Sequence[int], classes: Sequence[str]) -> list[float]:
    """Weights of classes by their frequency in the training cases.

    Parameters
    ----------
    name
        A key of `WEIGHTS`, for weights with mean 1; with `_raw` behind it, not scaled.
    voxels
        Voxels per class over the training cases, int (K,).
    classes
        Their names, for messages.

    Raises
    ------
    UserError
        Unknown name; a class without a voxel, whose weight would be infinite.
    """
    formula = name.removesuffix("_raw")
    if formula not in WEIGHTS:
        names = [f"${n}{end}" for n in WEIGHTS for end in ("", "_raw")]
        raise UserError(f"unknown weights ${name}; {did_you_mean('$' + name, names)}")
    counts = np.asarray(voxels, dtype=float)
    if absent := [c for c, n in zip(classes, counts, strict=True) if n == 0]:
        raise UserError(
            f"${name} of class {', '.join(absent)} is infinite: "
            "no voxel of it in the training cases of the fold"
        )
    weights = WEIGHTS[formula](counts / counts.sum(), counts)
    if not name.endswith("_raw"):
        weights = weights / weights.mean()
    return weights.tolist()


def build_loss(spec: Mapping[str, Any], voxels: Sequence[int], classes: Sequence[str]) -> nn.Module:
    """Make a loss of a catalogue entry for the training cases of a fold.

    Parameters
    ----------
    spec
        `name`, `_target_` and keyword arguments; `$inverse_frequency` and its kin are filled.
    voxels
        Voxels per class over the training cases, int (K,).
    classes
        Names of the classes.

    Returns
    -------
    nn.Module
        (logits (B, K, *S), one-hot target (B, K, *S)) -> scalar.
    """
    where = f"losses.{spec['name']}"
    try:
        filled = _with_weights(spec, list(voxels), list(classes))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return instantiate(filled, nn.Module, where)


def _with_weights(value: Any, voxels: list[int], classes: list[str]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        return torch.tensor(class_weights(value[1:], voxels, classes), dtype=torch.float32)
    if not isinstance(value, Mapping):
        return value
    weighted = any(isinstance(item, str) and item.startswith("$") for item in value.values())
    if (
        not value.get("include_background", True)
        and value.get("_target_") not in WEIGHTS_OF_ALL_CLASSES
    ):
        if weighted and len(classes) == 2:
            raise UserError(
                "one class is left without the background, and its weight would be ignored in "
                "silence; take the weight away or include the background"
            )
        voxels, classes = voxels[1:], classes[1:]
    return {key: _with_weights(item, voxels, classes) for key, item in value.items()}


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


class Ignoring(nn.Module):
    """A loss without the ignored pixels: equal, in value and gradient, to cutting them out.

    A loss that pools the batch (the same value when a batch is laid out as one image) gets all
    the pixels that are left as one image; one that works per sample gets sample by sample, and
    the mean is taken.

    Parameters
    ----------
    loss
        A loss of the contract; it must not look at where a pixel lies.

    Raises
    ------
    UserError
        For a loss that needs its pixels in place (distances, boundaries).
    """

    def __init__(self, loss: nn.Module, num_classes: int, spatial_dims: int) -> None:
        super().__init__()
        self.loss = loss
        self.pooled = self._is_pooled(num_classes, spatial_dims)

    def _is_pooled(self, num_classes: int, spatial_dims: int) -> bool:
        """Whether the loss of two samples is the loss of one sample with the pixels of both."""
        generator = torch.Generator().manual_seed(0)
        shape = (2, num_classes, 64, *[1] * (spatial_dims - 1))
        logits = 3 * torch.randn(shape, generator=generator)
        labels = torch.randint(num_classes, (2, *shape[2:]), generator=generator)
        labels[0, :48] = 0  # samples of different make-up, or per-sample and pooled agree
        target = one_hot(labels, num_classes)
        try:
            as_two = self.loss(logits, target)
            as_one = self.loss(torch.cat([*logits], dim=1)[None], torch.cat([*target], dim=1)[None])
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f"{type(self.loss).__name__} needs its pixels in place ({error}), so the dataset's "
                "ignored pixels cannot be left out; choose another loss for this dataset"
            ) from error
        return torch.isclose(as_two, as_one, rtol=1e-4).item()

    def forward(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Logits and one-hot target (B, K, *S), valid bool (B, *S) -> scalar."""
        whole = (logits, target, valid)
        groups = (
            [whole] if self.pooled else [tuple(t[[b]] for t in whole) for b in range(len(valid))]
        )
        parts = [self._cut(*group) for group in groups if group[2].any()]
        return torch.stack(parts).mean() if parts else logits.sum() * 0

    def _cut(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        shape = (1, logits.shape[1], -1, *[1] * (logits.ndim - 3))
        return self.loss(*(t.movedim(1, -1)[valid].T.reshape(shape) for t in (logits, target)))


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Class indices (B, *S), any integer type, -> float32 (B, K, *S); other values give all 0."""
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, *[1] * (labels.ndim - 1))
    return (labels.unsqueeze(1) == classes).float()
