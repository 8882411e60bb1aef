"""Losses of overlapping regions: the sigmoid form of an entry, a multi-hot target, two losses."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from lossbench.common.instantiate import locate
from lossbench.config import UserError
from lossbench.losses.known_losses import EXCLUSIVE

HERE = "lossbench.losses"


def sigmoid_form(spec: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the catalogue for regions that overlap: with a sigmoid in place of a softmax.

    - MONAI's losses get `sigmoid: true` for `softmax: true`, FocalLoss without `use_softmax`;
    - those of segmentation_models_pytorch `mode: multilabel` for multiclass;
    - cross-entropy becomes `BinaryCrossEntropy`, and Dice with it `DiceBCELoss`;
    - the F-score of Keras `sigmoid: true`.

    All else stays: `check` measures whether it takes a softmax.

    Raises
    ------
    UserError
        For losses of classes that exclude each other.
    """
    target = spec["_target_"]
    name = target.rpartition(".")[2]
    if name in EXCLUSIVE:
        raise UserError(f"{name} {EXCLUSIVE[name]}; choose another loss for data with regions")
    if target == f"{HERE}.IndexTarget":
        return _without_indices(spec["loss"])
    form = {
        key: sigmoid_form(value) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in spec.items()
    }
    if target == "torch.nn.CrossEntropyLoss":
        return _cross_entropy(form)
    parameters = inspect.signature(locate(target, name)).parameters
    if {"softmax", "sigmoid"} <= set(parameters) or target == f"{HERE}.FScoreLoss":
        form.pop("softmax", None)
        form["sigmoid"] = True
    if "use_softmax" in parameters:
        form.pop("use_softmax", None)
    if target == "monai.losses.DiceCELoss":  # whose cross-entropy takes a softmax in any case
        form["_target_"] = f"{HERE}.DiceBCELoss"
    if "include_background" in parameters:  # there is none: no region is left out by default
        form.setdefault("include_background", True)
    return form


def _without_indices(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The form of a loss that takes class indices, which regions do not have."""
    if spec["_target_"].startswith("segmentation_models_pytorch.") and "mode" in spec:
        return {**spec, "mode": "multilabel"}
    if spec["_target_"] == "torch.nn.CrossEntropyLoss":
        return _cross_entropy(spec)
    raise UserError(
        f"{spec['_target_'].rpartition('.')[2]} takes class indices, and a voxel may lie in "
        "several regions; choose another loss for data with regions"
    )


def _cross_entropy(spec: Mapping[str, Any]) -> dict[str, Any]:
    if others := sorted(set(spec) - {"_target_", "weight"}):
        raise UserError(
            f"CrossEntropyLoss has no binary form with {', '.join(others)}; for data with regions "
            f"name {HERE}.BinaryCrossEntropy or a loss of your own"
        )
    return {**spec, "_target_": f"{HERE}.BinaryCrossEntropy"}


class RegionLoss(nn.Module):
    """A run's loss on a dataset with regions: `batch_loss` makes the target from the labels.

    Parameters
    ----------
    loss
        (logits (B, R, *S), multi-hot target (B, R, *S)) -> scalar, or a `MaskedLoss` of one.
    regions
        The labels of each region.
    """

    def __init__(self, loss: nn.Module, regions: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.loss, self.regions = loss, regions

    def forward(self, *arguments: Tensor) -> Tensor:
        """As the loss itself."""
        return self.loss(*arguments)


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of each region: the mean over regions and voxels.

    Parameters
    ----------
    weight
        Of each region, (R,); the mean is not divided by their sum. None: 1.
    """

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and multi-hot target (B, R, *S) -> scalar."""
        weight = self.weight
        if weight is not None:
            if len(weight) != logits.shape[1]:  # one would be broadcast
                raise UserError(
                    f"weight has {len(weight)} numbers; expected {logits.shape[1]}, one per region"
                )
            weight = weight.view(-1, *[1] * (logits.ndim - 2))
        return binary_cross_entropy_with_logits(logits, target, weight)


class DiceBCELoss(nn.Module):
    """MONAI's DiceCELoss with binary cross-entropy, as nnU-Net's DC_and_BCE_loss for regions.

    Parameters
    ----------
    lambda_dice, lambda_ce
        Factors of the two.
    weight
        Of each region, (R,), in both.
    options
        Further arguments of monai.losses.DiceLoss.
    """

    def __init__(
        self,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        weight: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        from monai.losses import DiceLoss

        self.lambda_dice, self.lambda_ce = lambda_dice, lambda_ce
        self.dice = DiceLoss(weight=weight, **options)
        self.cross_entropy = BinaryCrossEntropy(weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and multi-hot target (B, R, *S) -> scalar."""
        dice, cross_entropy = self.dice(logits, target), self.cross_entropy(logits, target)
        return self.lambda_dice * dice + self.lambda_ce * cross_entropy
