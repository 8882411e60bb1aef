"""track --follow: curves grow while a workflow runs. The workflow is played, a scene per look."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lossbench.common.files import read_json, write_json, write_text
from lossbench.common.provenance import run_digest
from lossbench.config import UserError, load
from lossbench.stages import track as package
from lossbench.stages.track import track
from tests.helpers.fake_results import block_folder, write_experiment, write_report
from tests.helpers.stores import client, content, empty_store, runs, sync

LOSSES = ("dice", "dice_no_background")


class Workflow:
    """A workflow of two runs whose files are there already, and come to light step by step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.experiment = write_experiment(root, losses=LOSSES, folds=(0,), seeds=(0,))
        self.results = self.experiment.parents[1]
        empty_store(self.results)
        self.lock = root / ".snakemake/locks/0.output.lock"
        (self.block,) = load(self.experiment).blocks()
        data = read_json(self.results / "datasets/hippocampus/classes.json")["digest"]
        folder = block_folder(self.experiment, self.block)
        self.stored = {}
        for loss, spec in read_json(folder / "block.json")["runs"].items():
            digest = run_digest(spec, data)
            status = read_json(folder / loss / "status.json")
            write_json(folder / loss / "status.json", {**status, "digest": digest})
            self.stored[loss] = self.results / "runs" / digest
        shutil.rmtree(self.experiment.parent / "report")
        self.folder = folder

    def begin(self) -> None:
        write_text(self.lock, f"results/fake/report/mlflow.json\nresults/{self.root}\n")

    def grow(self, loss: str, rows: int, first: int = 0) -> None:
        history = pd.read_csv(self.folder / loss / "history.csv").iloc[first:rows]
        started = read_json(self.folder / loss / "status.json")["started"]
        text = history.assign(started=started).to_csv(index=False)
        write_text(self.stored[loss] / "progress.csv", text)

    def finish(self, loss: str) -> None:
        shutil.copytree(self.folder / loss, self.stored[loss], dirs_exist_ok=True)
        (self.stored[loss] / "progress.csv").unlink()

    def compare(self) -> None:
        write_report(self.experiment)
        sync(self.experiment)  # the workflow's own last rule
        shutil.copy(
            self.experiment.parent / "track.json", self.experiment.parent / "report/mlflow.json"
        )

    def end(self) -> None:
        self.lock.unlink()


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workflow(tmp_path)


@pytest.fixture
def follow(workflow, monkeypatch):
    """Follow the workflow; between two looks, the next scene is played."""

    def play(*scenes: Callable[[], object]) -> None:
        left = iter(scenes)
        monkeypatch.setattr(package.time, "sleep", lambda _: next(left)())
        workflow.begin()
        track(workflow.experiment, follow=True)
        assert next(left, None) is None

    return play


def points(experiment: Path, loss: str, metric: str = "train/loss") -> list[int]:
    """Steps of a curve of the only run of a loss."""
    run = runs(experiment, "run").set_index("params.loss").loc[loss]
    return [point.step for point in client(experiment).get_metric_history(run["run_id"], metric)]


@pytest.mark.slow
def test_curves_grow_and_the_end_is_that_of_one_sync(workflow, follow, tmp_path):
    seen = []

    def look(loss):
        seen.append(points(workflow.experiment, loss))

    follow(
        lambda: workflow.grow("dice", 1),
        lambda: look("dice") or workflow.grow("dice", 3),
        lambda: look("dice") or workflow.grow("dice_no_background", 2),
        lambda: workflow.finish("dice"),
        lambda: look("dice"),
        lambda: workflow.finish("dice_no_background"),
        lambda: look("dice_no_background"),
        workflow.compare,
        workflow.end,
    )
    assert seen == [[10], [10, 20, 30], [10, 20, 30, 40], [10, 20, 30, 40]]
    table = runs(workflow.experiment, "run")
    assert set(table["status"]) == {"FINISHED"}
    assert table["metrics.test/dice"].notna().all()
    deleted = client(workflow.experiment).search_runs(["1"], run_view_type=2)
    assert not deleted  # every run is the one that grew
    grown = content(workflow.experiment)
    client(workflow.experiment).rename_experiment("1", "grown")
    said = sync(workflow.experiment)
    assert content(workflow.experiment, said["experiment_id"]) == grown


@pytest.mark.slow
def test_a_run_that_went_back_to_its_checkpoint_has_no_stale_points(workflow, follow):
    def resumed():
        workflow.grow("dice", 2)
        path = workflow.stored["dice"] / "progress.csv"
        text = pd.read_csv(path).assign(seconds=lambda t: t["seconds"] + 1).to_csv(index=False)
        write_text(path, text)

    follow(lambda: workflow.grow("dice", 3), resumed, lambda: None, workflow.end)
    assert points(workflow.experiment, "dice") == [10, 20]


@pytest.mark.slow
def test_a_workflow_that_was_interrupted_leaves_no_run_running_and_can_go_on(workflow, follow):
    follow(lambda: workflow.grow("dice", 2), lambda: None, workflow.end)
    table = runs(workflow.experiment, "run")
    assert list(table["status"]) == ["KILLED"]
    assert list(table["tags.lossbench.status"]) == ["interrupted"]
    seen = []
    follow(
        lambda: workflow.grow("dice", 3),
        lambda: seen.append(runs(workflow.experiment, "run")["status"].item()),
        workflow.end,
    )
    assert seen == ["RUNNING"]
    assert points(workflow.experiment, "dice") == [10, 20, 30]


@pytest.mark.slow
def test_figures_of_an_earlier_sync_stay_until_there_are_new_ones(workflow, follow):
    for loss in LOSSES:
        workflow.grow(loss, 4)
        workflow.finish(loss)
    workflow.compare()
    before = content(workflow.experiment)
    later = workflow.results.parent / "later"
    shutil.move(workflow.stored["dice"], later)  # is trained again
    seen = []
    follow(
        lambda: workflow.grow("dice", 1),
        lambda: None,
        lambda: seen.append(content(workflow.experiment)),
        workflow.end,
    )
    assert seen == [before]


def test_a_store_that_is_down_for_a_while_ends_no_following(workflow, follow, monkeypatch, caplog):
    def down():
        workflow.grow("dice", 2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    follow(
        lambda: workflow.grow("dice", 1),
        down,
        lambda: monkeypatch.delenv("MLFLOW_TRACKING_URI"),
        workflow.end,
    )
    assert "could not be brought up to date" in caplog.text
    assert points(workflow.experiment, "dice") == [10, 20]


@pytest.mark.slow
def test_a_second_follower_refuses_and_names_the_first(workflow, follow):
    said = []

    def second():
        code = "import sys; from lossbench.__main__ import main; sys.exit(main())"
        command = ["track", "--follow", "--experiment", str(workflow.experiment)]
        done = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True
        )
        said.append((done.returncode, done.stderr))

    follow(second, workflow.end)
    ((code, text),) = said
    assert code == 1
    assert f"process {os.getpid()} follows this experiment already" in text


def test_without_a_workflow_it_ends_by_itself(workflow, monkeypatch):
    monkeypatch.setattr(package, "START_SECONDS", 0.0)
    monkeypatch.setattr(package.time, "sleep", lambda _: None)
    track(workflow.experiment, follow=True)
    workflow.experiment.unlink()
    with pytest.raises(UserError, match="start the workflow, then follow it"):
        track(workflow.experiment, follow=True)


@pytest.mark.slow
def test_two_syncs_wait_for_each_other(workflow, monkeypatch):
    workflow.compare()
    monkeypatch.setattr(package, "LOCK_SECONDS", 0.0)
    with (
        package.mlflow_store.locked(workflow.results / ".mlflow.lock", ""),
        pytest.raises(UserError, match=f"process {os.getpid()} is writing to MLflow"),
    ):
        sync(workflow.experiment)


@pytest.mark.slow
def test_snakemake_locks_the_files_that_the_follower_looks_for(tmp_path):
    rule = 'rule all:\n  output: "results/fake/report/mlflow.json"\n'
    rule += "  shell: 'ls .snakemake/locks > locks.txt; cat .snakemake/locks/*.output.lock > {output}'\n"
    (tmp_path / "Snakefile").write_text(rule)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    folder = tmp_path / "results/fake"
    assert not package._is_running(folder)
    name = next(n for n in (tmp_path / "locks.txt").read_text().split() if "output" in n)
    held = (folder / "report/mlflow.json").read_text()
    write_text(tmp_path / ".snakemake/locks" / name, held)
    assert package._is_running(folder)
