"""Networks: made from an entry, on their device, with their optimiser; their predictions."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format

from lossbench.common.files import altered, read_json
from lossbench.common.instantiate import instantiate
from lossbench.common.progress import progress
from lossbench.common.provenance import run_digest, seed_of
from lossbench.common.user_code import refuse_other_code
from lossbench.config import UserError, unnamed
from lossbench.datasets.batches import pad_mirrored
from lossbench.datasets.prepared import Prepared
from lossbench.datasets.resampling import resample_label

OVERLAP = 0.5  # of neighbouring windows
# Voxels that the network sees at once, or one window where that is larger: on a CPU as many as its
# cache holds.
VOXELS_PER_BATCH, VOXELS_PER_BATCH_CPU = 2**20, 2**17
Logits = Tensor | tuple[Tensor, ...]  # (B, K, *S), or those of several heads, the first that size
NEEDED = ("run.json", "model.safetensors")  # to have a trained network again


def build_model(spec: Mapping[str, Any], data: Prepared, fold: int, seed: int) -> torch.nn.Module:
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
    return instantiate(unnamed(spec), torch.nn.Module, f"models.{spec['name']}", fill)


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
    output = model(images)
    if isinstance(output, Tensor):
        if output.ndim == images.ndim:
            return output.float()
        output = output.unbind(dim=1)
    return tuple(head.float() for head in output)


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
    model = build_model(run["model"], data, run["fold"], run["seed"])
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{folder / 'model.safetensors'}: not of this network: {error}") from error
    return model.eval()


def predict(
    model: torch.nn.Module,
    data: Prepared,
    rows: Sequence[int],
    patch_size: Sequence[int],
    device: torch.device | str = "cpu",
    what: str = "predicted",
) -> list[np.ndarray]:
    """Class of every voxel of some cases, on the grids of their files.

    uint8 (*S) for each row, in the order of `rows`.

    Parameters
    ----------
    data, rows
        The dataset, and rows of its table of cases.
    model, patch_size, device
        As in `predict_images`.
    what
        Begins the lines of the log on how far it is.
    """
    found: dict[int, np.ndarray] = {}
    groups = list(_same_shape(data, rows, _batch_size(patch_size, device)))
    for group in progress(groups, len(rows), what, size=len):
        images = np.stack([data.image(row) for row in group])
        classes = predict_images(model, images, patch_size, data.background is None, device)
        found.update(zip(group, classes, strict=True))
    return [resample_label(found[row], data.original_label(row).shape) for row in rows]


@torch.no_grad()
def predict_images(
    model: torch.nn.Module,
    images: np.ndarray,
    patch_size: Sequence[int],
    mirrored: bool,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Class of every voxel of normalised images of one size.

    Parameters
    ----------
    model
        (B, C, *patch_size) -> logits (B, K, *patch_size), or several, of which the first count;
        put into evaluation mode and back.
    images
        float32 (N, C, *S).
    patch_size
        What the model sees at a time: smaller images are padded, larger ones get a window that
        slides with an overlap of a half and Gaussian weights.
    mirrored
        Whether smaller images are mirrored at their borders, as in training without a background.
    device
        Where the model is.

    Returns
    -------
    np.ndarray
        uint8 (N, *S).
    """
    was_training = model.training
    model.eval()
    found = []
    shape, batch_size = images.shape[2:], _batch_size(patch_size, device)
    for batch in torch.from_numpy(images).split(batch_size):
        batch = pad_mirrored(batch, patch_size) if mirrored else batch
        logits = sliding_window_inference(
            *(batch.to(device), tuple(patch_size), batch_size),
            lambda windows: first_head(logits_of(model, windows)),
            overlap=OVERLAP,
            mode="gaussian",
        )
        # argmax finds the same, in nine times the time on a CPU.
        classes = logits.max(dim=1).indices.to(torch.uint8).cpu()
        starts = [(p - n) // 2 for p, n in zip(batch.shape[2:], shape, strict=True)]
        inside = [slice(start, start + n) for start, n in zip(starts, shape, strict=True)]
        found.append(classes[(slice(None), *inside)])
    model.train(was_training)
    return torch.cat(found).numpy()


def _batch_size(patch_size: Sequence[int], device: torch.device | str) -> int:
    """Windows that the network sees at once."""
    on_cpu = torch.device(device).type == "cpu"
    voxels = VOXELS_PER_BATCH_CPU if on_cpu else VOXELS_PER_BATCH
    return max(1, voxels // int(np.prod(patch_size)))


def _same_shape(data: Prepared, rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """The rows in groups of cases of one shape, at most `size` in a group."""
    shapes = data.cases["shape"]
    for shape in dict.fromkeys(shapes.iloc[list(rows)]):
        same = [row for row in rows if shapes.iloc[row] == shape]
        for start in range(0, len(same), size):
            yield same[start : start + size]
