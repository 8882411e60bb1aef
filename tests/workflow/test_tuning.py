"""Best rates half a decade apart: a study from start to end, killed in a tuning and resumed."""

import os
import shutil
import signal
import subprocess
import time

import pandas as pd
import psutil
import pytest
import yaml

from lossbench.common.files import read_json
from tests.helpers.workflow_runs import REPOSITORY, SNAKEMAKE, jobs, snakemake

pytestmark = pytest.mark.slow  # each starts processes

DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True, "batch": True}
# With SGD, a loss times 3.16 is the loss with a learning rate that is half a decade larger.
STUDY = {
    "experiment": "tuned",
    "matrix": {
        "dataset": ["drawn"], "model": ["tiny"], "loss": ["once", "times"], "fold": [0, 1],
    },
    "rounds": {"budget": 3, "first": 2},
    "tuning": {"learning_rate": {"points": 5, "trainings": 1}},
    "training": {
        "steps": 60, "batch_size": 4, "patch_size": [32, 32], "optimizer": "sgd", "momentum": 0.9,
        "learning_rate": 0.03, "augmentation": None,
    },
    "execution": {"log_every": 20, "validate_every": 60, "ledger": None},
    "comparison": {"reference": "once", "margin": 0.02},
    "datasets": {
        "drawn": {
            "_target_": "lossbench.datasets.Phantom", "fractions": [0.2], "cases": 24,
            "size": [32, 32], "folds": 2,
        }
    },
    "models": {
        "tiny": {
            "_target_": "monai.networks.nets.UNet", "spatial_dims": "$spatial_dims",
            "in_channels": "$in_channels", "out_channels": "$num_classes", "channels": [8, 16],
            "strides": [2],
        }
    },
    "losses": {
        "once": DICE,
        "times": {"_target_": "lossbench.losses.Scaled", "factor": 10.0**0.5, "loss": DICE},
    },
}  # fmt: skip
OPTIONS = ("--configfile", "study.yaml", "--rerun-incomplete")
PAGE = "results/tuned/report/report.html"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    plan = snakemake(folder, PAGE, *OPTIONS, "-n")
    result = snakemake(folder, PAGE, *OPTIONS)
    assert result.returncode == 0, result.stderr
    return folder, plan, result


def test_a_dry_run_says_how_many_trainings_the_tuning_takes(done):
    _, plan, _ = done
    assert (
        "before them, tuning: 20 trainings (5 learning rates, 0.1 to 10 times the common one, "
        "x 1 x 2 folds x 2 losses), more where the best rate is the first or last" in plan.stderr
    )
    assert jobs(plan.stdout + plan.stderr)["tune"] == 2


def test_equivalent_at_the_own_rates_and_not_at_the_common_one(done):
    folder, _, result = done
    table = pd.read_csv(folder / "results/tuned/report/tuning.csv").set_index("class")
    row = table.loc["class_1"]
    assert row["verdict_fixed"] == "better"
    assert row["verdict_tuned"] == "equivalent"
    assert row["explained_by_lr"] > 0
    assert row["ci_low"] > 0
    assert 2 < row["lr_tuned_reference"] / row["lr_tuned"] < 6, "3.16, up to noise"
    assert "at the common learning rate 0.03 better" in result.stderr
    page = (folder / PAGE).read_text()
    assert "By Dice, each loss at its own learning rate" in page
    assert "Nothing to be done" in snakemake(folder, PAGE, *OPTIONS).stderr


def without_times(rates):
    points = [{**point, "started": "", "finished": ""} for point in rates["points"]]
    return {**rates, "points": points}


def tunes(workflow):
    for process in psutil.Process(workflow.pid).children(recursive=True):
        try:
            if "tune" in process.cmdline() and "lossbench" in process.cmdline():
                return True
        except psutil.Error:  # gone meanwhile
            continue
    return False


def test_killed_in_a_tuning_it_ends_as_if_nothing_had_happened(done, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(done[0], folder)
    rates = "results/tuned/drawn/tiny/fold1/rates.json"
    (folder / rates).unlink()
    # One training of the tuning is not in the store, as if it had been killed in there.
    for file in folder.glob("results/runs/*/run.json"):
        run = read_json(file)
        if (run["fold"], run["seed"]) == (1, -1) and run["loss"]["name"] == "times":
            shutil.rmtree(file.parent)
    command = [SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--cores", "2", rates, *OPTIONS]
    with (folder / "log").open("w") as log:
        workflow = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    while not tunes(workflow):
        assert workflow.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait(30)
    assert not (folder / rates).exists()
    snakemake(folder, *OPTIONS, "--unlock")
    result = snakemake(folder, rates, *OPTIONS)
    assert result.returncode == 0, result.stderr
    ours, theirs = (without_times(read_json(root / rates)) for root in (folder, done[0]))
    assert ours == theirs
