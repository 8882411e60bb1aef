"""A study in rounds, from start to end by one command, and killed in the middle of a round."""

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

TINY = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": "$spatial_dims",
    "in_channels": "$in_channels", "out_channels": "$num_classes", "channels": [8, 16],
    "strides": [2],
}  # fmt: skip
# AdamW divides gradients by their size: a loss times a constant trains alike, and is settled first.
TWICE = {
    "_target_": "lossbench.losses.Scaled", "factor": 2.0,
    "loss": {"_target_": "monai.losses.DiceLoss", "softmax": True, "batch": True},
}  # fmt: skip
STUDY = {
    "experiment": "rounds",
    "matrix": {
        "dataset": ["drawn"], "model": ["tiny"], "loss": ["once", "twice", "dice_ce"], "fold": [0, 1],
    },
    "rounds": {"budget": 3, "first": 2},
    "training": {"steps": 60, "batch_size": 4, "patch_size": [32, 32]},
    "execution": {"log_every": 20, "validate_every": 60, "ledger": None},
    "comparison": {"reference": "once", "margin": 0.005},
    "datasets": {
        "drawn": {"_target_": "lossbench.datasets.Phantom", "cases": 16, "size": [32, 32], "folds": 2}
    },
    "models": {"tiny": TINY},
    "losses": {"once": TWICE["loss"], "twice": TWICE},
}  # fmt: skip
OPTIONS = ("--configfile", "study.yaml", "--rerun-incomplete")
TABLE = "results/rounds/report/comparisons.csv"  # the page of a study in rounds: test_tuning.py


def write_study(folder):
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("rounds"))
    plan = snakemake(folder, TABLE, *OPTIONS, "-n")
    result = snakemake(folder, TABLE, *OPTIONS)
    assert result.returncode == 0, result.stderr
    return folder, plan, result


def test_a_dry_run_says_how_many_blocks_at_most(done):
    _, plan, _ = done
    assert "rounds: at most 18 runs in at most 6 blocks" in plan.stderr
    assert "2 rounds so far of at most 3, with a look after each" in plan.stderr
    assert jobs(plan.stdout + plan.stderr)["train"] == 4


def test_one_command_trains_until_all_is_decided(done):
    folder, _, result = done
    root = folder / "results/rounds"
    assert read_json(root / "looks/round2.json")["rounds"] == {
        "drawn": {"tiny": {"once": 3, "twice": 2, "dice_ce": 3}}
    }
    block = root / "drawn/tiny/fold1/seed2"
    assert {file.name for file in block.iterdir() if file.is_dir()} == {"once", "dice_ce"}
    runs = pd.read_csv(root / "report/runs.csv")
    assert runs.groupby("loss").size().to_dict() == {"once": 6, "twice": 4, "dice_ce": 6}
    table = pd.read_csv(root / "report/comparisons.csv").set_index("loss")
    assert (table.loc["twice", "round"] == 2).all()
    assert "settled after 2 of at most 3 rounds; 4 of 6 trainings" in result.stderr
    again = snakemake(folder, TABLE, *OPTIONS, "-n")
    assert "Nothing to be done" in again.stderr + again.stdout
    assert "3 rounds of at most 3: nothing is open" in again.stderr


def trains_round_3(workflow):
    for process in psutil.Process(workflow.pid).children(recursive=True):
        try:
            if "train" in process.cmdline() and "seed2" in " ".join(process.cmdline()):
                return True
        except psutil.Error:  # gone meanwhile
            continue
    return False


def test_killed_in_the_middle_of_a_round_it_ends_as_if_nothing_had_happened(done, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(done[0], folder)
    study = folder / "results/rounds"
    for name in ("report", *(f"drawn/tiny/fold{fold}/seed2" for fold in (0, 1))):
        shutil.rmtree(study / name)
    for file in ("round2.json", "round3.json", "record.json"):
        (study / "looks" / file).unlink()
    # The first two rounds are there; the third is trained, and killed.
    for file in folder.glob("results/runs/*/run.json"):
        if read_json(file)["seed"] == 2:
            shutil.rmtree(file.parent)
    command = [SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--cores", "2", TABLE, *OPTIONS]
    with (folder / "log").open("w") as log:
        workflow = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    while not trains_round_3(workflow):
        assert workflow.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait(30)
    assert not (folder / TABLE).exists()
    snakemake(folder, *OPTIONS, "--unlock")
    result = snakemake(folder, TABLE, *OPTIONS)
    assert result.returncode == 0, result.stderr
    ours, theirs = study, done[0] / "results/rounds"
    for name in ("comparisons.csv", "looks.csv"):
        assert (ours / "report" / name).read_text() == (theirs / "report" / name).read_text()
    for look in ("round2", "round3", "record"):
        assert read_json(ours / f"looks/{look}.json") == read_json(theirs / f"looks/{look}.json")
    assert read_json(ours / "report/looks.json")["exploratory"] == []
