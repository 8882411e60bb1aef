"""How tests train: blocks as the workflow writes them, and what became of them."""

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

import lossbench.stages.train.loop
import lossbench.stages.train.run
from lossbench.common.files import write_text
from lossbench.config import validate
from lossbench.stages.train import train
from tests.helpers.configs import CONFIG

NETS = "monai.networks.nets"

UNET = {
    "_target_": f"{NETS}.UNet", "spatial_dims": "$spatial_dims", "in_channels": "$in_channels",
    "out_channels": "$num_classes", "channels": [4, 8], "strides": [2], "dropout": 0.2,
}  # fmt: skip

DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True}


class Interrupted(BaseException):
    """Stands for a job that is killed."""


EXECUTION = {"log_every", "validate_every", "ledger", "speed"}


def block(root: Path, data, losses: dict, seed: int = 0, model: dict = UNET, **training) -> Path:
    """Write a block.json as the workflow does."""
    settings = {"steps": 20, "batch_size": 3, "patch_size": [16] * data.info["spatial_dims"]}
    execution = {"log_every": 5, "validate_every": 10}
    execution |= {key: training.pop(key) for key in EXECUTION & training.keys()}
    experiment = validate(
        {
            "experiment": "test",
            "matrix": {"dataset": ["d"], "model": ["m"], "loss": list(losses), "seed": [seed]},
            "training": settings | training,
            "execution": execution,
            "comparison": {"reference": next(iter(losses))},
            "datasets": {"d": {"_target_": "x.Y"}},
            "models": {"m": model},
            "losses": losses,
        }
    )
    path = root / f"seed{seed}" / "block.json"
    write_text(path, experiment.block_json(**next(experiment.blocks())))
    return path


def run(path: Path, data) -> Path:
    train(path, data.folder, path.parents[1] / "runs")
    return path.parent


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


LOSSES = {"dice": DICE, "dice_no_background": {**DICE, "include_background": False}}


def killed_at(monkeypatch, step: int):
    real = lossbench.stages.train.loop.take_step

    def interrupted(run):
        if run.step == step:
            raise Interrupted
        real(run)

    monkeypatch.setattr(lossbench.stages.train.loop, "take_step", interrupted)
    # In the minute before the first checkpoint, there would be none to resume from.
    monkeypatch.setattr(lossbench.stages.train.loop, "CHECKPOINT_SECONDS", 0.0)


MODELS = yaml.safe_load((CONFIG / "models.yaml").read_text())["models"]
