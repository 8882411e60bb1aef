"""Networks: made from an entry, on their device, with their optimiser; from a run's folder."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format

from lossbench.common.files import altered, read_json
from lossbench.common.instantiate import instantiate
from lossbench.common.provenance import run_digest, seed_of
from lossbench.common.user_code import refuse_other_code, weights_file
from lossbench.config import UserError, unnamed
from lossbench.datasets.prepared import Prepared
from lossbench.encoder_weights import load_encoder

Logits = Tensor | tuple[Tensor, ...]  # (B, K, *S), or those of several heads, the first that size
NEEDED = ("run.json", "model.safetensors")  # to have a trained network again


def build_model(
    spec: Mapping[str, Any], data: Prepared, fold: int, seed: int, pretrained: bool = True
) -> torch.nn.Module:
    """Make a network for a dataset.

    Parameters
    ----------
    spec
        `name`, `_target_` and keyword arguments; `$in_channels`, `$num_classes` and
        `$spatial_dims` are filled from the dataset.
    data
        The dataset that it is for.
    fold, seed
        Of the run. The initial weights are a function of the data, the model's name, fold and seed:
        folds share none, so that blocks are independent draws of training noise.
    pretrained
        Whether its encoder gets the weights that `encoder_weights` names, which a network that is
        filled from a run does without.

    Returns
    -------
    torch.nn.Module
        (B, C, *S) -> logits (B, K, *S), or several (`logits_of`), on the CPU.
    """
    weights_seed = seed_of("weights", data.digest, spec["name"], fold, seed)
    seed_everything(weights_seed, torch.device("cpu"))
    fill = {
        "in_channels": data.info["channels"],
        "num_classes": len(data.classes),
        "spatial_dims": data.info["spatial_dims"],
    }
    where, arguments, file = f"models.{spec['name']}", unnamed(spec), weights_file(spec)
    if "encoder_weights" in arguments and (file or not pretrained):
        arguments["encoder_weights"] = None
    model = instantiate(arguments, torch.nn.Module, where, fill)
    if file and pretrained:
        load_encoder(model, file, where)
    return model


def changed_input(spec: Mapping[str, Any]) -> UserError:
    """Refuse a network that changes the batch, which the other losses of the block get as well."""
    return UserError(
        f"models.{spec['name']}: {spec['_target_']} changes its input in place, and the other "
        "losses get the same batch; let its forward work on a copy (x = x.clone())"
    )


@contextmanager
def preserve_buffers(model: nn.Module) -> Iterator[None]:
    """Restore what passes in training mode change: the running statistics of normalisation."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(old)


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, with convolutions in the memory layout that is fastest there.

    Channels last, the same up to rounding, but not where a normalisation knows no such layout and
    would copy at every layer: InstanceNorm, and in 3D on a GPU all of them
    (https://github.com/pytorch/pytorch/pull/194616).
    """
    model = model.to(device)
    instance_norms = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    if not any(isinstance(module, instance_norms) for module in model.modules()):
        convert_conv2d_weight_memory_format(model, torch.channels_last)
        if device.type == "cpu":
            convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    return model


def logits_of(model: nn.Module, images: Tensor) -> Logits:
    """Logits of a network in float32; of each of its heads, where it is deeply supervised.

    Parameters
    ----------
    model
        Gives (B, K, *S), or a list or tuple of such outputs, the first of the size of the images
        and further ones perhaps smaller, or its heads stacked as MONAI's DynUNet stacks them:
        (B, heads, K, *S).
    images
        (B, C, *S).
    """
    heads = tuple(head.float() for head in heads_of(model(images), images))
    return heads if len(heads) > 1 else heads[0]


def heads_of(output: Any, images: Tensor) -> list[Any]:
    """Outputs of a network: one, or those of its heads, where it is deeply supervised."""
    if isinstance(output, Tensor) and output.ndim == images.ndim + 1:
        return [*output.unbind(dim=1)]
    return [*output] if isinstance(output, list | tuple) and output else [output]


def first_head(logits: Logits) -> Tensor:
    """The logits that are evaluated, of the size of the images."""
    return logits if isinstance(logits, Tensor) else logits[0]


def make_optimizer(
    parameters: Sequence[nn.Parameter], training: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, as one fused kernel for all parameters.

    On a GPU the learning rate is a tensor there, since a CUDA graph reads it from the device.
    """
    device, rate = parameters[0].device, training["learning_rate"]
    on_gpu = device.type == "cuda"
    options = {
        "lr": torch.tensor(rate, device=device) if on_gpu else rate,
        "weight_decay": training["weight_decay"],
        "fused": device.type in ("cpu", "cuda"),
    }
    if training["optimizer"] == "adamw":
        return torch.optim.AdamW(parameters, capturable=on_gpu, **options)
    momentum = training["momentum"]
    return torch.optim.SGD(parameters, momentum=momentum, nesterov=momentum > 0, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the generators of torch, on the host and on the device, of numpy and of Python.

    Like torch.manual_seed, which takes a trace of the stack (5 ms) where there is no GPU.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what a user's loss or a library draws from
    random.seed(seed)


def precision_used(training: Mapping[str, Any], device: torch.device) -> str:
    """Precision in which a network runs here: bf16 only on a GPU that computes in it."""
    precision = training["precision"]
    if precision == "bf16" and device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "float32"


def load_run(folder: Path, data: Prepared) -> torch.nn.Module:
    """The trained network of a run, in evaluation mode, on the CPU.

    Parameters
    ----------
    folder
        Holds run.json, model.safetensors and status.json, which has their checksums.
    data
        The dataset of the run.

    Raises
    ------
    UserError
        Where a file is missing or altered, the weights belong to another network, or the run was
        trained on other data or with other code of the user's.
    """
    status = read_json(folder / "status.json")
    expected = status.get("sha256", {})
    for path in altered(folder, {name: expected.get(name, "") for name in NEEDED}):
        raise UserError(
            f"{path}: missing, or not as train wrote it; delete it and run the workflow again"
        )
    run = read_json(folder / "run.json")
    if (digest := run_digest(run, data.digest)) != status.get("digest"):
        raise UserError(
            f"{folder}: was trained on other data, or by another version of lossbench (its digest "
            f"is {status.get('digest', '')[:8]}, and {digest[:8]} with the data in {data.folder}); "
            "run the workflow again"
        )
    refuse_other_code(run.get("code", {}), str(folder / "run.json"), run["model"])
    model = build_model(run["model"], data, run["fold"], run["seed"], pretrained=False)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{folder / 'model.safetensors'}: not of this network: {error}") from error
    return model.eval()
