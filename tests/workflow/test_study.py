"""The workflow, run for real, as a user runs it: from a folder of one's own."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.helpers.workflow_runs import (
    MY_LOSSES,
    REPOSITORY,
    STUDY,
    cells,
    jobs,
    snakemake,
    study,
    trained,
)

pytestmark = pytest.mark.slow  # each starts processes


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    cells(folder)
    (folder / "my_losses.py").write_text(MY_LOSSES)
    config = study(folder)
    result = snakemake(folder, "--configfile", str(config))
    assert result.returncode == 0, result.stderr + result.stdout
    return folder, result


def test_a_study_on_unknown_data_with_a_loss_of_ones_own_runs_by_yaml_alone(done):
    folder, result = done
    report = folder / "results/study/report"
    for name in (
        "cases.parquet",
        "runs.csv",
        "summary.csv",
        "comparisons.csv",
        "report.html",
        "mlflow.json",
    ):
        assert (report / name).exists(), name
    block = folder / "results/study/cells/tiny/fold1/seed3"
    names = {p.name for p in block.iterdir()}
    assert {
        "block.json",
        "cases.parquet",
        "train.log",
        "train.benchmark.tsv",
    } <= names
    assert {p.name for p in (block / "my_loss").iterdir()} == {
        "run.json", "model.safetensors", "history.csv", "status.json",
    }  # fmt: skip
    assert (folder / "results/datasets/cells/cases.png").exists()
    assert (folder / "results/mlflow.db").exists()
    assert "each loss minus dice" in result.stderr
    assert "report:  results/study/report/report.html" in result.stderr
    cases = pd.read_parquet(report / "cases.parquet")
    assert set(cases["class"]) == {"background", "nucleus", "wall", "vacuole"}
    voxels = (
        (cases["tp"] + cases["fn"]).groupby([cases["loss"], cases["seed"], cases["case"]]).sum()
    )
    heights = {str(i): 37 * 36 + 4 * i * 36 for i in range(6)}  # without the three ignored rows
    assert all(count == heights[case] for (_, _, case), count in voxels.items())


def test_pairing_holds_in_every_block(done):
    runs = pd.read_csv(done[0] / "results/study/report/runs.csv")
    for _, block in runs.groupby(["fold", "seed"]):
        assert block["init_digest"].nunique() == block["batch_digest"].nunique() == 1
    assert runs["batch_digest"].nunique() == 2
    assert pd.read_csv(done[0] / "results/study/report/comparisons.csv")["paired"].all()


def test_a_second_run_does_nothing_and_neither_do_comments(done):
    folder, _ = done
    config = study(folder)
    assert "Nothing to be done" in snakemake(folder, "--configfile", str(config)).stderr
    config.write_text("# a comment\n" + config.read_text().replace("0.5", "5e-1"))
    assert "Nothing to be done" in snakemake(folder, "--configfile", str(config)).stderr


def test_an_added_loss_trains_alone_and_a_changed_keyword_that_loss_alone(done):
    folder, _ = done

    def specs(after, before):
        files = [folder / f"results/runs/{d}/run.json" for d in after.keys() - before]
        return [json.loads(file.read_text()) for file in files]

    before = trained(folder)
    matrix = {**STUDY["matrix"], "loss": ["dice", "my_loss", "focal"], "fold": [0]}
    losses = {"my_loss": {"_target_": "my_losses.Softened", "smooth": 0.25}}
    config = study(folder, matrix=matrix, losses=losses)
    target = "results/study/cells/tiny/fold0/seed3/cases.parquet"
    result = snakemake(folder, target, "--configfile", str(config))
    assert result.returncode == 0, result.stderr
    after = trained(folder)
    assert after.items() > before.items()
    new = {spec["loss"]["name"]: spec["loss"] for spec in specs(after, before)}
    assert new.keys() == {"focal", "my_loss"}
    assert new["my_loss"]["smooth"] == 0.25


def test_another_experiment_takes_over_what_is_trained(done):
    folder, _ = done
    before = trained(folder)
    config = folder / "other.yaml"
    matrix = {**STUDY["matrix"], "loss": ["my_loss"], "fold": [0]}
    other = {
        **STUDY,
        "experiment": "other",
        "matrix": matrix,
        "comparison": {"reference": "my_loss"},
    }
    config.write_text(yaml.safe_dump(other))
    result = snakemake(
        folder, "results/other/cells/tiny/fold0/seed3/cases.parquet", "--configfile", str(config)
    )
    assert result.returncode == 0, result.stderr
    assert trained(folder) == before
    assert "my_loss: taken from the store" in result.stderr


def test_a_bad_config_fails_at_once_also_where_an_old_report_is(done):
    changes = {
        "matrix": {**STUDY["matrix"], "loss": ["dice", "no_such_loss"]},
        "training": {"stepz": 3},
    }
    result = snakemake(done[0], "--configfile", str(study(done[0], **changes)))
    assert result.returncode != 0
    assert "matrix.loss: no loss 'no_such_loss' in losses" in result.stderr
    assert "my_study.yaml: training.stepz: unknown key; did you mean 'steps'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bad_component_is_refused_before_training_and_nothing_is_lost(done):
    folder, _ = done
    before = trained(folder)
    report = (folder / "results/study/report/report.html").read_bytes()
    matrix = {**STUDY["matrix"], "loss": ["dice", "my_loss", "no_loss"]}
    losses = {
        "my_loss": {"_target_": "my_losses.Softend"},
        "no_loss": {"_target_": "os.system"},
    }
    config = study(folder, matrix=matrix, losses=losses)
    result = snakemake(folder, "--configfile", str(config))
    assert result.returncode != 0
    assert "my_losses has no 'Softend'; did you mean 'Softened'?" in result.stderr
    assert "os.system is not a torch.nn.Module" in result.stderr
    assert "Traceback" not in result.stderr
    assert "rule train:" not in result.stderr
    assert trained(folder) == before
    assert (folder / "results/study/report/report.html").read_bytes() == report


def test_a_bad_mask_is_refused_before_training(tmp_path):
    cells(tmp_path)
    (tmp_path / "my_losses.py").write_text(MY_LOSSES)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "cells/masks/2.png")
    Image.fromarray(np.full((56, 36), 7, np.uint8)).save(tmp_path / "cells/masks/4.png")
    result = snakemake(tmp_path, "--configfile", str(study(tmp_path)))
    assert result.returncode != 0
    assert "masks/2.png" in result.stderr
    assert "masks/4.png" in result.stderr
    assert "Traceback" not in result.stderr
    assert "rule train:" not in result.stderr


def test_a_dry_run_imports_no_torch(done):
    blocker = done[0] / "blocker"
    blocker.mkdir()
    (blocker / "torch.py").write_text("raise ImportError('torch was imported')")
    config = study(done[0], matrix={"seed": [8]})
    folders = os.pathsep.join([str(blocker), str(REPOSITORY / "src")])
    result = snakemake(done[0], "--configfile", str(config), "-n", PYTHONPATH=folders)
    assert result.returncode == 0, result.stderr
    assert jobs(result.stdout + result.stderr)["train"] == 2
