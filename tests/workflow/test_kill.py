"""Killed at random points, a workflow ends as if nobody had disturbed it (more: tests/kills.py)."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from lossbench.stages.train import train
from tests.helpers import kills

pytestmark = pytest.mark.slow  # each starts processes


def undisturbed(killed, folder):
    """The same blocks trained by one call each, which nobody kills."""
    for block in sorted(killed.glob("results/killed/drawn/tiny/fold0/seed*/block.json")):
        ours = folder / block.relative_to(killed)
        ours.parent.mkdir(parents=True)
        shutil.copy(block, ours)
        train(ours, killed / "results/datasets/drawn", folder / "results/runs")
    return folder


def test_kills_change_nothing(tmp_path):
    killed = tmp_path / "killed"
    done = kills.disturb(killed, times=6, seed=0)
    assert len(done) >= 3, "too fast to be killed: train longer"
    before = kills.finished_at(killed)
    kills.complete(killed)
    after = kills.finished_at(killed)
    assert before.items() <= after.items(), "a finished run was trained again"
    assert len(after) == 6
    reference = undisturbed(killed, tmp_path / "undisturbed")
    assert kills.finished_at(reference).keys() == after.keys()
    assert kills.differences(reference, killed) == []
    assert not list(killed.rglob("*.part"))
    assert not list(killed.rglob("checkpoint.pt"))


def test_after_a_sigkill_of_snakemake_two_options_of_the_clusters_page_help(tmp_path):
    """Snakemake names both itself; nothing of lossbench can speak before it has the lock."""
    workflow = kills.start(tmp_path)
    end = time.monotonic() + 60
    # `prepare` takes seconds: configure's jobs may end between two looks.
    while not list(tmp_path.glob("results/datasets/drawn/prepare.log")):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait(30)
    assert "--unlock" in snakemake(tmp_path)
    kills.unlock(tmp_path)
    (tmp_path / "results/datasets/drawn/images.npy").touch()  # the first of what it was writing
    assert "--rerun-incomplete" in snakemake(tmp_path)
    snakemake(tmp_path, "--rerun-incomplete")
    assert (tmp_path / "results/datasets/drawn/classes.json").exists()
    page = (kills.REPOSITORY / "docs/clusters.md").read_text()
    assert "--unlock" in page
    assert "--rerun-incomplete" in page


def snakemake(folder, *options):
    command = [kills.SNAKEMAKE, "--snakefile", kills.REPOSITORY / "Snakefile", "--cores", "1"]
    command += ["results/datasets/drawn/classes.json", "--configfile", "study.yaml", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr
