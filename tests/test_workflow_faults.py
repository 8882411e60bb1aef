"""The workflow where a clock jumps, where two of them run in one folder, where results move."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from lossbench.files import read_json
from tests.test_workflow import (
    MY_LOSSES,
    REPOSITORY,
    SNAKEMAKE,
    STUDY,
    cells,
    snakemake,
    study,
    trained,
)

MATRIX = {**STUDY["matrix"], "fold": [0]}
BLOCK = "results/study/cells/tiny/fold0/seed3"


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """A study of one fold, up to its tables; copied, never changed."""
    folder = tmp_path_factory.mktemp("user")
    cells(folder)
    (folder / "my_losses.py").write_text(MY_LOSSES)
    config = study(folder, matrix=MATRIX)
    result = snakemake(folder, "--configfile", str(config), "--until", "compare")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def folder(compared, tmp_path) -> Path:
    """A copy of it, with the times of all files."""
    return Path(shutil.copytree(compared, tmp_path / "user"))


def run(folder: Path, *arguments: str, **changes) -> subprocess.CompletedProcess:
    config = study(folder, **{"matrix": MATRIX, **changes})
    return snakemake(folder, "--configfile", str(config), *arguments)


def steps(folder: Path) -> set[int]:
    return set(pd.read_csv(folder / "results/study/report/runs.csv")["steps"])


def test_a_clock_that_was_ahead_hides_no_change(folder):
    """All files are of tomorrow; what is changed today is older, and was killed half-way."""
    tomorrow = time.time() + 86400
    for file in (folder / "results").rglob("*"):
        os.utime(file, (tomorrow, tomorrow))
    changed = {"training": {**STUDY["training"], "steps": 13}}
    assert run(folder, "--until", "configure_block", **changed).returncode == 0
    for until in ("evaluate", "compare"):
        result = run(folder, "--until", until, **changed)
        while result.returncode:  # each message names a file to delete
            assert "Traceback" not in result.stderr
            named = [word for word in result.stderr.split() if word.startswith("results/")]
            file = next(w for w in named if w.endswith((".json:", ".parquet:")))
            (folder / file.removesuffix(":")).unlink()
            result = run(folder, "--until", until, **changed)
    assert steps(folder) == {13}


def test_a_second_workflow_on_the_same_files_is_refused(folder):
    shutil.rmtree(folder / "results/study/cells")
    shutil.rmtree(folder / "results/runs")
    first = start(folder, "my_study.yaml")
    while not any((folder / ".snakemake/locks").glob("*")):
        time.sleep(0.2)
        assert first.poll() is None
    second = run(folder, "--until", "compare")
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stderr + second.stdout
    assert first.wait() == 0
    assert steps(folder) == {12}


def test_two_experiments_in_one_folder_train_what_they_share_once(folder):
    shutil.rmtree(folder / "results/study/cells")
    shutil.rmtree(folder / "results/runs")
    both = [start(folder, "my_study.yaml")]
    changes = {"matrix": {**MATRIX, "loss": ["dice", "focal"]}}
    study(folder, **changes).rename(folder / "other.yaml")
    text = (folder / "other.yaml").read_text()
    (folder / "other.yaml").write_text(text.replace("experiment: study", "experiment: other"))
    study(folder, matrix=MATRIX)
    both.append(start(folder, "other.yaml"))
    assert [process.wait() for process in both] == [0, 0]
    mine, others = (
        folder / BLOCK.replace("study", x) / "dice/status.json" for x in ("study", "other")
    )
    assert mine.samefile(others)
    assert len(trained(folder)) == 3
    assert not list(folder.glob("results/runs/*/lock"))
    assert read_json(mine)["status"] == "finished"


def test_results_can_be_moved(folder):
    """To another machine, without Snakemake's own records."""
    shutil.rmtree(folder / ".snakemake")
    assert "Nothing to be done" in run(folder, "--until", "compare").stderr


def start(folder: Path, config: str) -> subprocess.Popen:
    """The workflow up to its tables, in the background."""
    with (folder / f"{config}.log").open("w") as log:
        return subprocess.Popen(
            [
                *(SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--configfile", config),
                *("--cores", "1", "--until", "compare"),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
