"""Networks: made from a catalogue entry, with weights of (model, seed); their predictions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from safetensors.torch import load_file

from lossbench.common.files import altered, read_json
from lossbench.common.instantiate import instantiate
from lossbench.common.provenance import seed_of
from lossbench.config import UserError, unnamed
from lossbench.datasets.prepared import Prepared

OVERLAP = 0.5  # of neighbouring windows
VOXELS_PER_BATCH = 2**20  # that the network sees at once, or one window where that is larger
NEEDED = ("run.json", "model.safetensors")  # to have a trained network again


def build_model(spec: Mapping[str, Any], data: Prepared, seed: int) -> torch.nn.Module:
    """Make a network for a dataset.

    Parameters
    ----------
    spec
        `name`, `_target_` and keyword arguments; `$in_channels`, `$num_classes` and
        `$spatial_dims` are filled from the dataset.
    data
        The dataset that it is for.
    seed
        Seed of the initial weights.

    Returns
    -------
    torch.nn.Module
        (B, C, *S) -> logits (B, K, *S), on the CPU.
    """
    torch.manual_seed(seed_of("weights", seed))
    fill = {
        "in_channels": data.info["channels"],
        "num_classes": len(data.classes),
        "spatial_dims": data.info["spatial_dims"],
    }
    return instantiate(unnamed(spec), torch.nn.Module, f"models.{spec['name']}", fill)


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
        Where a file is missing or altered, or the weights belong to another network.
    """
    expected = read_json(folder / "status.json").get("sha256", {})
    for path in altered(folder, {name: expected.get(name, "") for name in NEEDED}):
        raise UserError(
            f"{path}: missing, or not as train wrote it; delete it and run the workflow again"
        )
    run = read_json(folder / "run.json")
    model = build_model(run["model"], data, run["seed"])
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{folder / 'model.safetensors'}: not of this network: {error}") from error
    return model.eval()


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    data: Prepared,
    rows: Sequence[int],
    patch_size: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[np.ndarray]:
    """Class of every voxel of some cases.

    Parameters
    ----------
    model
        (B, C, *patch_size) -> logits (B, K, *patch_size); put into evaluation mode and back.
    data, rows
        The dataset, and rows of its table of cases.
    patch_size
        What the model sees at a time: smaller cases are padded, larger ones get a window that
        slides with an overlap of a half and Gaussian weights.
    device
        Where the model is.

    Returns
    -------
    list of np.ndarray
        uint8 (*S) for each row, in the order of `rows`.
    """
    was_training = model.training
    model.eval()
    found: dict[int, np.ndarray] = {}
    for group in _same_shape(data, rows, max(1, VOXELS_PER_BATCH // int(np.prod(patch_size)))):
        images = torch.from_numpy(np.stack([data.image(row) for row in group])).to(device)
        logits = sliding_window_inference(
            images, tuple(patch_size), len(group), model, overlap=OVERLAP, mode="gaussian"
        )
        # argmax finds the same, in nine times the time on a CPU.
        classes = logits.max(dim=1).indices.to(torch.uint8)
        found.update(zip(group, classes.cpu().numpy(), strict=True))
    model.train(was_training)
    return [found[row] for row in rows]


def _same_shape(data: Prepared, rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """The rows in groups of cases of one shape, at most `size` in a group."""
    shapes = data.cases["shape"]
    for shape in dict.fromkeys(shapes.iloc[list(rows)]):
        same = [row for row in rows if shapes.iloc[row] == shape]
        for start in range(0, len(same), size):
            yield same[start : start + size]
