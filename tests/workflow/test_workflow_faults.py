"""The workflow where it was killed, where two run in one folder, and where results move."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lossbench.common.files import read_json
from tests.helpers.workflow_runs import (
    MY_LOSSES,
    REPOSITORY,
    SNAKEMAKE,
    STUDY,
    cells,
    jobs,
    snakemake,
    study,
    trained,
)

pytestmark = pytest.mark.slow  # each starts processes

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


def test_a_workflow_killed_before_its_check_hides_no_change(folder):
    """Snakemake sees no reason to train behind an old check.json that is made again."""
    changed = {"training": {**STUDY["training"], "steps": 13}}
    assert run(folder, "--until", "configure_block", **changed).returncode == 0
    result = run(folder, "--until", "train", **changed)
    assert result.returncode == 0, result.stderr
    for loss in ("dice", "my_loss"):
        assert read_json(folder / BLOCK / loss / "status.json")["steps"] == 13


def test_a_clock_that_was_ahead_hides_no_change(folder):
    """What changed is older than what was made from it before, and the first try was killed."""
    tomorrow = time.time() + 86400
    for file in (folder / "results").rglob("*"):
        os.utime(file, (tomorrow, tomorrow))
    changed = {"training": {**STUDY["training"], "steps": 13}}
    assert run(folder, "--until", "configure_block", **changed).returncode == 0
    for file in (folder / "results").rglob("*"):
        os.utime(file)  # what its user does: Snakemake refuses files of the future
    status = folder / BLOCK / "dice/status.json"
    assert read_json(status)["steps"] == 12
    result = run(folder, "--until", "train", **changed)
    assert result.returncode == 0, result.stderr
    assert read_json(status)["steps"] == 13
    metadata = pq.read_schema(folder / BLOCK / "cases.parquet").metadata
    assert json.loads(metadata[b"digests"])["dice"] == read_json(status)["digest"]


def test_two_workflows_in_one_folder(folder):
    """On the same files, the second is refused; two experiments train what they share once."""
    shutil.rmtree(folder / "results/study")
    shutil.rmtree(folder / "results/runs")
    study(folder, matrix={**MATRIX, "loss": ["dice", "focal"]}).rename(folder / "other.yaml")
    text = (folder / "other.yaml").read_text()
    (folder / "other.yaml").write_text(text.replace("experiment: study", "experiment: other"))
    study(folder, matrix=MATRIX)
    both = [start(folder, "my_study.yaml"), start(folder, "other.yaml")]
    while len([*(folder / ".snakemake/locks").glob("*.output.lock")]) < 2:
        assert [process.poll() for process in both] == [None, None]
        time.sleep(0.2)
    second = run(folder, "--until", "train")
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stderr + second.stdout
    assert [process.wait() for process in both] == [0, 0]
    mine = folder / BLOCK / "dice/status.json"
    assert mine.samefile(folder / BLOCK.replace("study", "other") / "dice/status.json")
    assert len(trained(folder)) == 3
    assert not list(folder.glob("results/runs/*/lock"))


def test_results_can_be_moved(folder):
    """To another machine, without Snakemake's own records."""
    shutil.rmtree(folder / ".snakemake")
    result = run(folder, "--until", "compare")
    assert result.returncode == 0
    assert jobs(result.stderr).get("total", 0) == 0
    assert "Finished jobid" not in result.stderr


def start(folder: Path, config: str) -> subprocess.Popen:
    """The workflow up to its trainings, in the background."""
    with (folder / f"{config}.log").open("w") as log:
        return subprocess.Popen(
            [
                *(SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--configfile", config),
                *("--cores", "1", "--until", "train"),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


def test_the_package_need_not_be_installed(tmp_path):
    """As where a copy of the repository is used with the packages of requirements.lock."""
    program = (
        "import os, sys; from snakemake.cli import main; "
        "sys.path[:] = [p for p in sys.path if not os.path.isdir(os.path.join(p, 'lossbench'))]; "
        "import importlib.util as u; assert not u.find_spec('lossbench'); main()"
    )
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [*(sys.executable, "-P", "-c", program), "--snakefile", str(REPOSITORY / "Snakefile"),
         *("-n", "--cores", "1")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "24 runs in 8 blocks" in result.stderr
