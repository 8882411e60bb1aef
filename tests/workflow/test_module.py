"""lossbench from other programs: another workflow, a user's own components, a notebook."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.helpers.fake_results import write_experiment

pytestmark = pytest.mark.slow  # each starts processes

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
SNAKEFILE = (EXAMPLES / "other_workflow/Snakefile").read_text()

OWN = '''
import numpy as np
from torch import nn


class Squares:
    """A dataset."""

    classes = ["background", "square"]

    def __len__(self):
        return 6

    def __getitem__(self, i):
        label = np.zeros((24, 24), int)
        label[i : i + 12, 4:16] = 1
        image = label[None] + np.random.default_rng(i).normal(0, 0.3, (1, 24, 24))
        return {"image": image, "label": label, "spacing": (1.0, 1.0), "case": f"square{i}"}


class Net(nn.Sequential):
    """A model."""

    def __init__(self, channels, classes, width=4):
        layers = nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, classes, 1)
        super().__init__(*layers)


class SquaredError(nn.Module):
    """A loss."""

    def forward(self, logits, target):
        return (logits.softmax(1) - target).square().mean()
'''

STUDY = {
    "experiment": "my_study",
    "matrix": {
        "dataset": ["squares"], "model": ["net"], "loss": ["dice", "squared"], "fold": [0],
        "seed": [0],
    },
    "training": {"steps": 4, "batch_size": 2, "patch_size": [24, 24]},
    "execution": {"log_every": 4, "ledger": None},
    "datasets": {"squares": {"_target_": "own.Squares", "folds": 2}},
    "models": {"net": {"_target_": "own.Net", "channels": "$in_channels", "classes": "$num_classes"}},
    "losses": {"squared": {"_target_": "own.SquaredError"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As snakedeploy lays it out: workflow/Snakefile, config/, and nothing of lossbench."""
    root = tmp_path_factory.mktemp("deployed")
    for path, text in {
        "workflow/Snakefile": SNAKEFILE.replace("/path/to/lossbench", str(REPOSITORY)),
        "config/config.yaml": yaml.safe_dump(STUDY),
        "config/own.py": OWN,
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    return root


def snakemake(folder, *arguments):
    return subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "--cores", "2", *arguments],
        cwd=folder, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")},
    )  # fmt: skip


def test_a_dry_run_of_the_module(folder):
    result = snakemake(folder, "-n")
    assert result.returncode == 0, result.stderr
    plan = result.stderr[result.stderr.index("my_study: ") :]
    assert plan.startswith("my_study: 2 runs in 1 block: dice, squared on folds 0, seeds 0;")
    assert "squares, net: not prepared yet" in plan
    assert not (folder / "results").exists()


def test_a_mistake_in_the_config_of_a_module_is_named(folder, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("training: {stepz: 3}\n")
    result = snakemake(folder, "-n", "--configfile", str(wrong))
    assert result.returncode != 0
    assert (
        "wrong.yaml: training.stepz: unknown key; did you mean 'steps'?"
        in result.stdout + result.stderr
    )


def test_the_module_runs_with_a_dataset_a_model_and_a_loss_of_ones_own(folder):
    result = snakemake(folder)
    assert result.returncode == 0, result.stderr
    assert (folder / "results/best.csv").exists()
    report = folder / "results/my_study/report"
    assert pd.read_csv(report / "comparisons.csv")["loss"].unique().tolist() == ["squared"]
    assert set(pd.read_parquet(report / "cases.parquet")["class"]) == {"background", "square"}
    plan = snakemake(folder, "-n", "--forcerun", "compare").stderr
    assert "squares, net: 2 of 2 runs are taken from the store" in plan


def test_a_notebook_compares_two_results_folders_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for study in ("before", "after"):
        write_experiment(
            tmp_path, losses=("dice", "focal"), experiment=study, classes=("background", "nucleus"),
            datasets=("cells",), seeds=(0, 1) if study == "before" else (0, 1, 2),
        )  # fmt: skip
    names: dict = {}
    for cell in json.loads((EXAMPLES / "two_studies.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["table"]["class"].tolist() == ["background", "nucleus"]
    assert (tmp_path / "results/both/nucleus.svg").read_text().count("<path") > 5
