"""Networks: made from a catalogue entry, with weights that are a function of (model, seed)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lossbench.config import UserError
from lossbench.files import read_json
from lossbench.instantiate import instantiate
from lossbench.prepared import Prepared
from lossbench.provenance import seed_of


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
    return instantiate(spec, torch.nn.Module, f"models.{spec['name']}", fill)


def load_run(folder: Path, data: Prepared) -> torch.nn.Module:
    """The trained network of a run, in evaluation mode, on the CPU.

    Parameters
    ----------
    folder
        Holds run.json and model.safetensors.
    data
        The dataset of the run.

    Raises
    ------
    UserError
        Where the weights are damaged or belong to another network.
    """
    run = read_json(folder / "run.json")
    model = build_model(run["model"], data, run["seed"])
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({error}); delete it and run the workflow again"
        ) from error
    return model.eval()
