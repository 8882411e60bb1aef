"""Try a network on a batch of a dataset, before anything is trained."""

import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from lossbench.common.instantiate import locate, location_of
from lossbench.config import UserError
from lossbench.datasets.batches import MULTIPLE, patch_size, round_up
from lossbench.datasets.prepared import Prepared
from lossbench.losses import are_probabilities
from lossbench.models import build_model, changed_input, first_head, heads_of, logits_of


def check_model(run: dict[str, Any], data: Prepared) -> None:
    """See that a network gives logits of the patch's size from a batch of the patch's size.

    Raises
    ------
    UserError
        Where it fails or gives something else.
    """
    where, patch = f"models.{run['model']['name']}", patch_size(data, run["training"])
    if len(patch) != data.info["spatial_dims"]:
        raise UserError(
            f"training.patch_size: {list(patch)} has {len(patch)} numbers, "
            f"and {data.info['name']} has {data.info['spatial_dims']} dimensions"
        )
    model = build_model(run["model"], data, run["fold"], run["seed"])
    size = run["training"]["batch_size"]
    expected = [size, len(data.classes), *patch]
    try:
        with torch.no_grad():
            images = torch.linspace(-1, 1, size * data.info["channels"] * math.prod(patch))
            images = images.view(size, data.info["channels"], *patch)
            before = images.clone()
            outputs = heads_of(model(images), images)
            if len(outputs) > 1:  # where it is evaluated, others or less may come
                outputs += heads_of(model.eval()(images), images)[:1]
    except Exception as error:
        if _takes_other_dimensions(model, data):
            raise UserError(f"{where}: {_other_dimensions(data)}") from error
        if "more than 1 value per channel" in str(error):
            raise UserError(
                f"{where}: its batch normalisation gets one value per channel, from a batch of "
                f"{size} and a patch of {list(patch)}; raise training.batch_size or "
                "training.patch_size"
            ) from error
        raise UserError(
            f"{where}: cannot take a patch of {list(patch)} of {data.info['name']} "
            f"({type(error).__name__}: {error}; {location_of(error)}){_larger(patch)}"
        ) from error
    if not images.equal(before):
        raise changed_input(run["model"])
    for number, output in enumerate(outputs):
        is_tensor = isinstance(output, torch.Tensor)
        found = list(output.shape) if is_tensor else type(output).__name__
        is_whole = number in (0, len(outputs) - 1)
        if is_whole and found != expected:
            raise UserError(
                f"{where}: gives {found} for a patch of {list(patch)}; expected logits {expected}"
            )
        if not is_whole and not (found[:2] == expected[:2] and len(found) == len(expected)):
            raise UserError(
                f"{where}: gives {found} as output {number + 1} for a patch of {list(patch)}; "
                f"expected logits {expected}, or smaller along the last {len(patch)} axes: several "
                "outputs are heads of deep supervision"
            )
    if are_probabilities(outputs[0]):
        raise UserError(
            f"{where}: gives probabilities, and losses expect logits; remove its softmax"
        )


def _takes_other_dimensions(model: torch.nn.Module, data: Prepared) -> bool:
    """Whether it is a network for images and the data are volumes, or the reverse."""
    size = [2 * MULTIPLE] * (5 - data.info["spatial_dims"])
    with suppress(Exception), torch.no_grad():
        images = torch.zeros(2, data.info["channels"], *size)
        return first_head(logits_of(model, images)).ndim == images.ndim
    return False


def _other_dimensions(data: Prepared) -> str:
    name, dims = data.info["name"], data.info["spatial_dims"]
    text = f"it is a {5 - dims}D network, and {name} is {dims}D; take another model"
    target = data.info["spec"]["_target_"]
    dataset = locate(target, f"datasets.{name}")
    if dims == 3 and "slice_axis" in inspect.signature(dataset).parameters:
        text += f", or cut volumes into slices: datasets.{name}.slice_axis, 0 to 2"
    return text


def _larger(patch: Sequence[int]) -> str:
    suited = list(round_up(patch))
    if suited == list(patch):
        return ""
    return f"; for training.patch_size, multiples of {MULTIPLE} suit most networks: {suited}"
