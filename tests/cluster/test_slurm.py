"""The Slurm profile on a real Slurm: GPU, memory, time, logs, retries; a killed job loses nothing.

One study, in which everything happens that happens on a cluster, and what can be seen afterwards.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lossbench.common.files import read_json
from lossbench.stages.train import loop, train

from .slurm.cluster import NoClusterError, cluster, slurm, why_not

pytestmark = pytest.mark.slow  # each starts processes

REPOSITORY = Path(__file__).parents[2]
BLOCK = "results/study/shapes/tiny/fold{}/seed3"
COMMAND = [
    *(sys.executable, REPOSITORY / "tests/cluster/slurm/impatient.py"),
    # Up to the evaluation: what follows asks for nothing else of Slurm.
    *(BLOCK.format(fold) + "/cases.parquet" for fold in range(2)),
    *("--configfile", "study.yaml"),
    *("--snakefile", REPOSITORY / "Snakefile"),
    *("--workflow-profile", REPOSITORY / "workflow/profiles/slurm"),
]
GRACE = 10  # seconds from SIGTERM to SIGKILL
PATIENCE = 300  # seconds for what takes a tenth of that on an idle machine

STUDY = {
    "experiment": "study",
    "matrix": {
        "dataset": ["shapes"], "model": ["tiny"], "loss": ["dice", "slow"], "fold": [0, 1], "seed": [3],
    },
    "training": {
        "steps": 300, "batch_size": 2, "patch_size": [16, 16],
    },
    "execution": {"log_every": 20, "validate_every": 20},
    "comparison": {"reference": "dice"},
    "datasets": {
        "shapes": {
            "_target_": "lossbench.datasets.Phantom",
            "fractions": [0.2],
            "cases": 4,
            "size": [16, 16],
            "folds": 2,
        }
    },
    "models": {
        "tiny": {
            "_target_": "torch.nn.Conv2d",
            "in_channels": "$in_channels",
            "out_channels": "$num_classes",
            "kernel_size": 3,
            "padding": 1,
        }
    },
    "losses": {"slow": {"_target_": "my_study.Slow"}},
}  # fmt: skip

# A loss that takes its time while a file says so, once there is a checkpoint.
MY_STUDY = """
import time
from pathlib import Path

import lossbench.stages.train.loop
from torch import nn

lossbench.stages.train.loop.CHECKPOINT_SECONDS = 0.0  # this study is over within a minute


class Slow(nn.Module):
    def forward(self, logits, target):
        if Path("slow").exists() and any(Path("results/runs").glob("*/checkpoint*")):
            time.sleep(0.2)
        return (logits.softmax(1) - target).square().mean()
"""


@dataclass
class Story:
    """The study's folder, its jobs as Slurm remembers them, and three of them when they ran."""

    folder: Path
    jobs: list[dict[str, str]]
    cancelled: dict[str, str]
    too_long: dict[str, str]
    killed: dict[str, str]

    def of(self, rule: str) -> list[dict[str, str]]:
        """The jobs of a rule, in order of submission."""
        return [job for job in self.jobs if rule_of(job) == rule]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("study")
    (folder / "my_study.py").write_text(MY_STUDY)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (folder / "slow").touch()
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster(tmp_path_factory.mktemp("cluster"), GRACE))
        except NoClusterError as error:
            pytest.skip(str(error))
        process, until = stack.enter_context(workflow(folder))
        hurt = cancel_kill_and_exhaust(folder, until)
        (folder / "slow").unlink()
        assert process.wait(PATIENCE) == 0, (folder / "output").read_text()
        yield Story(folder, jobs(), *hurt)


@contextmanager
def workflow(folder: Path) -> Iterator[tuple[subprocess.Popen, Callable]]:
    """Run the study; also gives a function that waits, while it runs, for a true answer."""
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(COMMAND, cwd=folder, stdout=output, stderr=output)

    def until(what: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (found := what()):
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < end, (folder / "output").read_text()
            time.sleep(0.2)
        return found

    try:
        yield process, until
    finally:
        process.kill()
        process.wait()


def cancel_kill_and_exhaust(folder: Path, until: Callable) -> tuple[dict[str, str], ...]:
    """Cancel a block's first job and kill its second; let the other block's run out of time."""

    def running() -> list[dict[str, str]]:
        return [job for job in jobs() if rule_of(job) == "train" and job["JobState"] == "RUNNING"]

    def two_checkpoints_each() -> bool:
        return len(list(folder.glob("results/runs/*/checkpoint.pt"))) == 4

    until(two_checkpoints_each)
    cancelled, too_long = until(lambda: found if len(found := running()) == 2 else None)
    slurm("scontrol", "update", f"jobid={too_long['JobId']}", "EndTime=now+1")
    slurm("scancel", cancelled["JobId"])
    seen = (cancelled["JobId"], too_long["JobId"])
    killed = until(lambda: next((job for job in running() if job["JobId"] not in seen), None))
    until(lambda: "validation Dice" in log_of(killed).partition("resumes from")[2])
    # At once, as cgroups do it to what a job's own Snakemake has started.
    for line in slurm("scontrol", "listpids", killed["JobId"]).splitlines()[1:]:
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    until(lambda: state_of(too_long) == "TIMEOUT" and state_of(killed) == "FAILED")
    return cancelled, too_long, killed


def jobs() -> list[dict[str, str]]:
    """What Slurm knows of the jobs, in order of submission."""
    lines = slurm("scontrol", "show", "job", "-d", "-o").splitlines()
    found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "Comment=" in line]
    return sorted(found, key=lambda job: int(job["JobId"]))


def state_of(job: dict[str, str]) -> str:
    return next(j["JobState"] for j in jobs() if j["JobId"] == job["JobId"])


def rule_of(job: dict[str, str]) -> str:
    """The rule of a job: the Slurm plugin writes it into the comment."""
    return job["Comment"].split("_")[1]


def log_of(job: dict[str, str]) -> str:
    """What Slurm has kept of a job; it deletes that of a job that ended well."""
    path = Path(job["StdOut"])
    return path.read_text() if path.exists() else ""


def test_a_job_asks_for_what_its_rule_says(story):
    for job in (story.cancelled, story.too_long):
        assert job["TresPerJob"] == "gres:gpu:1"
        assert job["TimeLimit"] == "1-00:00:00"
        assert "mem=16000M" in job["TRES"]
        assert job["Partition"] == "gpu"
    assert {job["GRES"] for job in (story.cancelled, story.too_long)} == {
        "gpu:1(IDX:0)",
        "gpu:1(IDX:1)",
    }
    assert "TresPerJob" not in story.of("check")[0]
    assert story.of("check")[0]["Partition"] == "cpu"


def test_a_block_is_one_job(story):
    """It waits in the queue once: the job that has trained it also evaluates it."""
    assert {rule_of(job) for job in story.jobs} == {"prepare", "check", "train"}
    assert [job["JobState"] for job in story.of("train")].count("COMPLETED") == 2
    for fold in range(2):
        assert (story.folder / BLOCK.format(fold) / "cases.parquet").exists()


def test_the_log_of_a_job_that_failed_is_kept_among_the_results(story):
    for job in story.of("train"):
        kept = Path(job["StdOut"])
        assert story.folder / "results/slurm-logs" in kept.parents
        assert kept.exists() == (job["JobState"] != "COMPLETED")
    assert "validation Dice" in log_of(story.killed)


def test_a_cancelled_a_killed_and_an_overdue_job_go_on_from_their_checkpoints(story):
    states = sorted(job["JobState"] for job in story.of("train"))
    assert states == ["CANCELLED", "COMPLETED", "COMPLETED", "FAILED", "TIMEOUT"]
    for fold in range(2):
        log = story.folder / BLOCK.format(fold) / "train.log"
        steps = dict(re.findall(r"(\w+): resumes from step (\d+)", log.read_text()))
        assert steps.keys() == {"dice", "slow"}
        assert min(map(int, steps.values())) > 0
    # Slurm's SIGTERM is answered with a checkpoint, in time.
    for job in (story.cancelled, story.too_long):
        assert "stopped by SIGTERM" in log_of(job)
    assert "stopped by SIGTERM" not in log_of(story.killed)


def test_the_result_is_that_of_an_uninterrupted_training(story, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(story.folder)
    seconds = loop.CHECKPOINT_SECONDS  # which the study's loss sets: put back at the end
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
    for fold in range(2):
        block = story.folder / BLOCK.format(fold)
        shutil.copy(block / "block.json", tmp_path)
        train(tmp_path / "block.json", story.folder / "results/datasets/shapes", tmp_path / "store")
        for loss in ("dice", "slow"):
            weights = (tmp_path / loss / "model.safetensors").read_bytes()
            assert weights == (block / loss / "model.safetensors").read_bytes()
            ours, theirs = (read_json(f / loss / "status.json") for f in (tmp_path, block))
            for key in ("digest", "steps", "init_digest", "batch_digest", "status"):
                assert ours[key] == theirs[key], key
