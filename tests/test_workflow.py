"""What a dry run says of the runs: where they come from."""

import json
import shutil
import subprocess
import sys

from lossbench.common.files import read_json, write_json
from lossbench.common.provenance import run_digest
from lossbench.config import load
from lossbench.workflow import overview
from tests.helpers.configs import CONFIG
from tests.helpers.fake_results import write_experiment


def stored(path):
    """Digests of the runs of an experiment, by loss."""
    settings, root = load(path), path.parents[1]
    digest = read_json(root / "datasets/hippocampus/classes.json")["digest"]
    found = {loss: [] for loss in settings.matrix.loss}
    for keys in settings.blocks():
        for loss in found:
            found[loss].append(run_digest(settings.run(loss=loss, **keys), digest))
    return found


def test_runs_are_stored_begun_or_new(tmp_path):
    path = write_experiment(tmp_path, losses=("dice", "focal"), folds=(0, 1, 3), seeds=(0, 1))
    store = tmp_path / "results/runs"
    shutil.rmtree(store, ignore_errors=True)
    digests = stored(path)
    for digest in [*digests["dice"], digests["focal"][0]]:
        write_json(store / digest / "status.json", {})
    (store / digests["focal"][3]).mkdir()
    (store / digests["focal"][3] / "checkpoint.pt").touch()
    assert overview(load(path), tmp_path / "results").splitlines() == [
        "fake: 12 runs in 6 blocks: dice, focal on folds 0-1, 3, seeds 0-1; compared with dice",
        "  40 steps of 8 images of the largest size, adamw from learning rate 0.001, "
        "validated every 20 steps",
        "  hippocampus, unet: 7 of 12 runs are taken from the store",
        "    focal: 5 to train, 1 from a checkpoint",
    ]


def test_the_digests_are_those_of_the_workflow(tmp_path):
    """As block.json gives them to `train`, whose store it is."""
    path = write_experiment(tmp_path, losses=("dice", "focal"), folds=(0,), seeds=(1,))
    runs = json.loads(load(path).block_json("hippocampus", "unet", 0, 1))["runs"]
    digest = read_json(tmp_path / "results/datasets/hippocampus/classes.json")["digest"]
    assert {x: [run_digest(run, digest)] for x, run in runs.items()} == stored(path)


def test_a_dataset_that_is_not_prepared(tmp_path):
    path = write_experiment(tmp_path, losses=("dice", "focal"))
    shutil.rmtree(tmp_path / "results/datasets")
    line = overview(load(path), tmp_path / "results").splitlines()[-1]
    assert line.startswith("  hippocampus, unet: not prepared yet")


def test_a_workflow_that_stops_says_how_to_go_on(tmp_path):
    """After an error, as after Ctrl-C: Snakemake has one hook for both."""
    datasets = {"none": {"_target_": "lossbench.datasets.ImageFolder", "images": "a", "masks": "b"}}
    study = {"experiment": "stops", "matrix": {"dataset": ["none"]}, "datasets": datasets}
    (tmp_path / "stops.yaml").write_text(json.dumps(study))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CONFIG.parent / "Snakefile")]
    command += ["--configfile", "stops.yaml", "--cores", "1", "results/datasets/none/classes.json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "and run the same command again" in result.stderr
