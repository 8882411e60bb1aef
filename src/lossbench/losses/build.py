"""From an entry of losses.yaml and the training cases of a fold to a loss."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.common.global_state import preserve_global_state
from lossbench.common.instantiate import instantiate
from lossbench.config import UserError, unnamed
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.losses.known_losses import NOT_CALLED, WEIGHT_KEYS, WEIGHTS_OF_ALL_CLASSES
from lossbench.losses.masked import MaskedLoss
from lossbench.losses.regions import RegionLoss, sigmoid_form
from lossbench.losses.schedule import add_schedule, set_step
from lossbench.losses.sync_free import make_sync_free
from lossbench.losses.targets import downsampled, example_target, make_target
from lossbench.losses.weights import class_weights


def build_loss(
    spec: Mapping[str, Any],
    voxels: Sequence[int],
    classes: Sequence[str],
    labelled: int | None = None,
) -> nn.Module:
    """Make a loss of a catalogue entry for the training cases of a fold.

    Parameters
    ----------
    spec
        `name`, `_target_`, keyword arguments and perhaps `weight_cap`; `$inverse_frequency` and
        its kin are filled, with the length that the loss wants.
    voxels
        Voxels per class over the training cases, int (K,).
    classes
        Names of the classes.
    labelled
        Voxels in all, where the classes are regions that overlap: then the loss is made in its
        sigmoid form. None: the classes exclude each other.

    Returns
    -------
    nn.Module
        (logits (B, K, *S), one-hot or multi-hot target (B, K, *S)) -> scalar.

    Raises
    ------
    UserError
        Naming the entry: a weight that is infinite, negative, of the wrong length, all 0, or that
        the loss ignores; a loss without a sigmoid form; what `instantiate` refuses.
    """
    where, overlapping = f"losses.{spec['name']}", labelled is not None
    try:
        form = sigmoid_form(unnamed(spec)) if overlapping else unnamed(spec)
        filled = _fill(form, list(voxels), list(classes), labelled)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if _has_weight(filled) and _ignores_weights(filled, len(classes), overlapping, where):
        raise UserError(
            f"{where}: its weight would be ignored in silence: other weights give the same loss"
            f"{_why_ignored(filled, classes)}; remove the weight"
        )
    return add_schedule(instantiate(filled, nn.Module, where))


def run_loss(run: Mapping[str, Any], data: Prepared) -> nn.Module:
    """Make the loss of a run: weights of its fold's training cases, ignored pixels left out.

    Parameters
    ----------
    run
        run.json.
    data
        The dataset of the run.

    Returns
    -------
    nn.Module
        As `build_loss`, with a sync-free form of MONAI's Dice; a `MaskedLoss` where the dataset
        has an ignore label, in a `RegionLoss` where it has regions.
    """
    rows = data.training(run["fold"], run["training"]["min_foreground"])
    loss = make_sync_free(loss_for_cases(run["loss"], data, rows))
    overlapping = data.regions is not None
    if data.info["ignore"]:
        loss = MaskedLoss(loss, len(data.classes), data.info["spatial_dims"], overlapping)
    return RegionLoss(loss, data.regions) if overlapping else loss


def loss_for_cases(spec: Mapping[str, Any], data: Prepared, rows: Sequence[int]) -> nn.Module:
    """Make a loss of a catalogue entry for some training cases of a dataset, by their rows."""
    labelled = int(data.labelled()[rows].sum()) if data.regions else None
    return build_loss(spec, data.voxels()[rows].sum(axis=0), data.classes, labelled)


def batch_loss(
    loss: nn.Module,
    logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    step: int = 0,
    steps: int = 1,
) -> Tensor:
    """Value of a run's loss on a batch.

    Parameters
    ----------
    loss
        Of a run; one whose forward has arguments `step` and `steps` gets the two below.
    logits
        float32 (B, K, *S); of several heads (deep supervision), the first of that size, the value
        is the mean over the heads with weights 1, 1/2, 1/4, ..., each against the labels at the
        head's size.
    labels
        uint8 (B, *S).
    step, steps
        Steps taken, and those of the whole training.

    Returns
    -------
    Tensor
        A scalar.
    """
    set_step(loss, step, steps)
    if isinstance(logits, Tensor):
        return _value_of_head(loss, logits, labels)
    weights = [0.5**n for n in range(len(logits))]
    values = [
        weight * _value_of_head(loss, head, downsampled(labels, head.shape[2:]))
        for weight, head in zip(weights, logits, strict=True)
    ]
    return sum(values) / sum(weights)


def _value_of_head(loss: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    regions = loss.regions if isinstance(loss, RegionLoss) else None
    target = make_target(labels, logits.shape[1], regions)
    if isinstance(loss.loss if regions else loss, MaskedLoss):
        return loss(logits, target, labels != IGNORE)
    return loss(logits, target)


def batch_loss_of_copies(
    loss: nn.Module, labels: Tensor, step: int = 0, steps: int = 1
) -> Callable[[Tensor | Sequence[Tensor]], Tensor]:
    """Make a run's loss a function of the logits that leaves the state of the loss as it is."""

    def value(logits: Tensor) -> Tensor:
        with preserve_global_state():
            return batch_loss(copy.deepcopy(loss), logits, labels, step, steps)

    return value


def _has_placeholder(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_placeholder(item) for item in value.values())
    return isinstance(value, str) and value.startswith("$")


def _fill(
    spec: Mapping[str, Any],
    voxels: list[int],
    classes: list[str],
    labelled: int | None,
    cap: float | None = None,
) -> dict[str, Any]:
    """The specification with weights as tensors: those written $name, and lists of numbers.

    A weight_cap counts for the loss that has it, and for those within.
    """
    if "weight_cap" in spec:
        spec = dict(spec)
        cap = spec.pop("weight_cap")
        if not _has_placeholder(spec):
            raise UserError("weight_cap is set, but no weight is written $inverse_frequency or so")
    indices = _weighted_classes(spec, len(classes))
    filled = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            value = _fill(value, voxels, classes, labelled, cap)
        elif isinstance(value, str) and value.startswith("$"):
            weights = class_weights(value[1:], voxels, classes, indices, cap, labelled)
            value = torch.tensor(weights)
        elif key in WEIGHT_KEYS and _are_numbers(value):
            value = _written_weights(key, value, spec["_target_"], classes)
        filled[key] = value
    return filled


def _weighted_classes(spec: Mapping[str, Any], k: int) -> list[int]:
    """Indices of the classes that the loss takes a weight of."""
    indexes = spec.get("class_indexes")
    if indexes is not None:
        return [c for c in (indexes if isinstance(indexes, list) else [indexes]) if 0 <= c < k]
    without = not spec.get("include_background", True)
    return list(range(int(without and spec.get("_target_") not in WEIGHTS_OF_ALL_CLASSES), k))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, int | float) for x in value)


def _written_weights(key: str, value: list[float], target: str, classes: list[str]) -> Tensor:
    """Weights that the config spells out.

    Libraries check the length themselves, but segmentation_models_pytorch broadcasts one weight.
    """
    if not all(math.isfinite(x) and x >= 0 for x in value) or not any(value):
        raise UserError(
            f"{key} is {value}; expected finite numbers, none below 0 and at least one above"
        )
    if target.startswith("segmentation_models_pytorch.") and len(value) != len(classes):
        raise UserError(
            f"{key} has {len(value)} numbers; expected {len(classes)}, "
            f"one for each of {', '.join(classes)}"
        )
    return torch.tensor(value, dtype=torch.float32)


def _is_weight(key: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, Tensor) or (key in WEIGHT_KEYS and is_number)


def _has_weight(spec: Mapping[str, Any]) -> bool:
    return any(
        _has_weight(value) if isinstance(value, Mapping) else _is_weight(key, value)
        for key, value in spec.items()
        if key not in NOT_CALLED
    )


def _ignores_weights(spec: Mapping[str, Any], k: int, overlapping: bool, where: str) -> bool:
    """Whether other weights, in other proportions, leave the loss of a batch as it is."""
    for shape in ((2, k, 8, 8), (2, k, 4, 4, 4)):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(k + overlapping, (2, *shape[2:]), generator=generator)
        logits = torch.randn(shape, generator=generator)
        target = example_target(labels, k, overlapping)
        makes = [
            add_schedule(instantiate(s, nn.Module, where)) for s in (spec, _other_weights(spec))
        ]
        try:
            before, after = (_value(loss, logits, target) for loss in makes)
        except Exception:  # `check` reports it, or the loss is for the other dimensions
            continue
        return torch.equal(before, after)
    return False


def _value(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return loss(logits, target)


def _other_weights(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Every weight times a factor of its own, such that a normalised one changes too."""
    changed = dict(spec)
    for key, value in spec.items():
        if isinstance(value, Mapping):
            changed[key] = _other_weights(value)
        elif isinstance(value, Tensor):
            changed[key] = value * torch.arange(2.0, len(value) + 2)
        elif _is_weight(key, value):
            changed[key] = value * 2
    return changed


def _why_ignored(spec: Mapping[str, Any], classes: Sequence[str]) -> str:
    if len(classes) == 1:
        return ", since there is one region"
    if len(classes) == 2 and not spec.get("include_background", True):
        return ", since one class is left without the background"
    return ""
