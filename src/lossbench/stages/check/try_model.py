"""Try a network on a batch of a dataset, before anything is trained."""

import copy
import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from lossbench.common.instantiate import locate, location_of
from lossbench.config import UserError
from lossbench.datasets.batches import MULTIPLE, patch_size, round_up
from lossbench.datasets.prepared import Prepared
from lossbench.losses import are_probabilities
from lossbench.models import (
    build_model,
    changed_input,
    first_head,
    heads_of,
    logits_of,
    seed_everything,
)


def check_model(run: dict[str, Any], data: Prepared) -> None:
    """See that a network gives logits of the patch's size from a batch of the patch's size.

    They are to be a function of its weights, the batch and the seeds, with a gradient; where it is
    evaluated, those of an image are to depend on no other.

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
    model, state = _built(run, data)
    size = run["training"]["batch_size"]
    expected = [size, len(data.classes), *patch]
    try:
        images = torch.linspace(-1, 1, size * data.info["channels"] * math.prod(patch))
        images = images.view(size, data.info["channels"], *patch)
        before = images.clone()
        outputs = _outputs(model, images)
        model.load_state_dict(state)
        again = _outputs(model, images)
        with torch.no_grad():  # where it is evaluated, others or less may come
            evaluated = _outputs(model.eval(), torch.cat([images, -images])[: max(2, size)])[0]
            alone, drawn = (_outputs(model, images[:1], seed)[0] for seed in (0, 1))
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
    outputs.append(evaluated[:size] if isinstance(evaluated, torch.Tensor) else evaluated)
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
    if problem := _value_problem(outputs, again, alone, drawn):
        raise UserError(f"{where}: {problem}")


def _built(run: dict[str, Any], data: Prepared) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network, and a copy of its state; UserError where this is another one each time."""
    model, other = (build_model(run["model"], data, run["fold"], run["seed"]) for _ in range(2))
    where = f"models.{run['model']['name']}"
    if any(map(is_lazy, model.parameters())):
        raise UserError(f"{where}: has lazy layers; give them their numbers of channels")
    state, others = copy.deepcopy(model.state_dict()), other.state_dict()
    if not all(torch.allclose(state[k], others[k], equal_nan=True) for k in state):
        raise UserError(
            f"{where}: has other initial weights each time, and the losses of a block share them; "
            "draw them from torch, numpy or random, which are seeded"
        )
    return model, state


def _outputs(model: torch.nn.Module, images: torch.Tensor, seed: int = 0) -> list[Any]:
    seed_everything(seed, torch.device("cpu"))
    return heads_of(model(images), images)


def _value_problem(
    outputs: list[torch.Tensor],
    again: list[torch.Tensor],
    alone: torch.Tensor,
    drawn: torch.Tensor,
) -> str | None:
    """What is wrong with the values of a network's outputs: of a training step, and evaluated.

    `again` are those of the same step, `alone` that of the first image by itself, and `drawn` with
    other random numbers, which a network may draw there, too.
    """
    for output in outputs:
        if not output.is_floating_point():
            return f"gives {output.dtype}; expected real numbers"
        if not output.isfinite().all():
            return "gives NaN or infinite numbers before any training"
    activation = type(outputs[0].grad_fn).__name__
    names = [name for name in ("softmax", "sigmoid") if activation.lower().startswith(name)]
    if names or any(map(are_probabilities, (outputs[0], outputs[-1]))):
        return (
            f"gives probabilities, and losses expect logits; remove its {(names or ['softmax'])[0]}"
        )
    if not outputs[0].requires_grad:
        return "gives logits without a gradient; are its weights frozen, or the logits detached?"
    if not all(map(_near, outputs, again)):
        return (
            "gives other logits for the same weights, batch and seeds, so that a training that is "
            "resumed would differ; keep what changes from call to call in a buffer"
        )
    if _near(alone, drawn) and not _near(outputs[-1][:1], alone):
        return (
            "predicts an image otherwise alone than in a batch; are there batch statistics where "
            "it is evaluated? Take running ones, or instance normalisation"
        )
    return None


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two outputs are the same up to rounding, which libraries change with the memory."""
    largest = one.detach().abs().max()
    return one.shape == other.shape and bool((one - other).detach().abs().max() <= 1e-4 * largest)


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
