"""A small study on drawn images, run by Snakemake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

REPOSITORY = Path(__file__).parents[2]

SNAKEMAKE = Path(sys.executable).with_name("snakemake")

STUDY = {
    "experiment": "study",
    "matrix": {
        "dataset": ["cells"],
        "model": ["tiny"],
        "loss": ["dice", "my_loss"],
        "fold": [0, 1],
        "seed": [3],
    },
    "training": {
        "steps": 12, "batch_size": 2, "patch_size": [32, 32],
    },
    "execution": {"log_every": 4, "validate_every": 6},
    "comparison": {"reference": "dice"},
    "datasets": {
        "cells": {
            "_target_": "lossbench.datasets.ImageFolder",
            "images": "cells/images",
            "masks": "cells/masks",
            "classes": ["background", "nucleus", "wall", "vacuole"],
            "ignore": 9,
            "folds": 3,
        }
    },
    "models": {
        "tiny": {
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": "$spatial_dims",
            "in_channels": "$in_channels",
            "out_channels": "$num_classes",
            "channels": [4, 8],
            "strides": [2],
        }
    },
    "losses": {"my_loss": {"_target_": "my_losses.Softened", "smooth": 0.5}},
}  # fmt: skip

MY_LOSSES = """
from torch import nn

class Softened(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits, target):
        p = logits.softmax(1)
        return 1 - ((2 * (p * target).sum((2, 3)) + self.smooth)
                    / (p.sum((2, 3)) + target.sum((2, 3)) + self.smooth)).mean()
"""


def study(folder: Path, **changes) -> Path:
    """Write my_study.yaml, with sections changed."""
    content = {
        key: {**v, **changes.get(key, {})} if isinstance(v, dict) else v for key, v in STUDY.items()
    }
    path = folder / "my_study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def cells(folder: Path) -> None:
    """A dataset that nothing here knows: colour images of mixed sizes, four classes, an ignore label."""
    for name in ("images", "masks"):
        (folder / "cells" / name).mkdir(parents=True)
    for i in range(6):
        generator = np.random.default_rng(i)
        label = np.zeros((40 + 4 * i, 36), np.uint8)
        label[6:20, 6:20], label[6:20, 6:9], label[24:30, 10:26] = 1, 2, 3
        colours = np.array([[20, 20, 20], [90, 20, 160], [200, 80, 80], [30, 180, 60]])
        image = colours[label] + generator.normal(0, 8, (*label.shape, 3))
        label[:3] = 9
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"cells/images/{i}.png")
        Image.fromarray(label).save(folder / f"cells/masks/{i}.png")


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--cores", "2", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | environment,
    )


def jobs(output: str) -> dict[str, int]:
    """Jobs by rule, from Snakemake's table."""
    found = {}
    for line in output.partition("Job stats:")[2].splitlines()[3:]:
        if not line.strip():
            break
        rule, count = line.split()
        found[rule] = int(count)
    return found


def trained(folder: Path) -> dict[str, str]:
    """When each stored run was finished, by its own account."""
    files = folder.glob("results/runs/*/status.json")
    return {file.parent.name: json.loads(file.read_text())["finished"] for file in files}
