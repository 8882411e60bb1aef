"""Networks: made from a catalogue entry, with weights that are a function of (model, seed)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lossbench.config import UserError, unnamed
from lossbench.files import altered, read_json
from lossbench.instantiate import instantiate
from lossbench.prepared import Prepared
from lossbench.provenance import seed_of

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
