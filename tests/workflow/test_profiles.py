"""Every profile is read by a dry run; the script of one does its work on a pretended scheduler."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow  # each starts processes

REPOSITORY = Path(__file__).parents[2]
PROFILES = REPOSITORY / "workflow/profiles"
NAMES = sorted(path.name for path in PROFILES.iterdir())


def settings(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def snakemake(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def with_profile(name: str) -> list[str]:
    """Arguments that name a profile, where the plugin that it needs is installed."""
    executor = settings(name).get("executor", "local")
    plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    if executor != "local" and not find_spec(plugin):
        pytest.skip(f"{plugin} is not installed")
    return ["--workflow-profile", str(PROFILES / name), "--cores", "1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_reads_the_profile(name, tmp_path):
    tuning = ("--config", "tuning={learning_rate: {}}")
    output = snakemake(tmp_path, "--dry-run", *tuning, *with_profile(name))
    found = dict(re.findall(r"rule (\w+):\n(?: +.*\n)*? +resources: (.*)", output))
    for rule, minutes in {"tune": 1200, "train": 1440}.items():
        resources = settings(name).get("set-resources", {}).get(rule, {})
        for key, value in {"gpu": 1, "runtime": minutes, "mem_mb": 16000, **resources}.items():
            assert f"{key}={str(value).strip(chr(39))}" in found[rule]
    for key, value in settings(name).get("default-resources", {}).items():
        assert f"{key}={str(value).strip(chr(39))}" in found["compare"]


@pytest.mark.parametrize("name", sorted({*NAMES} - {"local"}))
def test_retries_live_in_the_profile_and_what_failed_is_done_again(name):
    found = settings(name)
    assert found["retries"] >= 1
    assert found["rerun-incomplete"]
    assert found["keep-going"]
    for rules in (REPOSITORY / "workflow/rules").glob("*.smk"):
        assert "retries" not in rules.read_text()


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ({"qstat": "exit 0"}, "running"),
        ({"qstat": "exit 1", "qacct": "echo 'failed 0'; echo 'exit_status 0'"}, "success"),
        ({"qstat": "exit 1", "qacct": "echo 'failed 0'; echo 'exit_status 1'"}, "failed"),
        ({"qstat": "exit 1", "qacct": "echo 'failed 100 : assumedly after job'; echo 'exit_status 137'"}, "failed"),
    ],
)  # fmt: skip
def test_what_became_of_an_sge_job(commands, status, tmp_path):
    for name, text in commands.items():
        write_program(tmp_path / name, f"#!/bin/sh\n{text}\n")
    answer = subprocess.run(
        [PROFILES / "sge/status.sh", "7"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split() == [status]


def test_the_jobs_run_in_the_image_that_the_recipe_makes(tmp_path, monkeypatch):
    """With a pretended apptainer: what it is asked to run, in which image."""
    asked = tmp_path / "asked"
    command = tmp_path / "bin" / "apptainer"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "apptainer version 1.3.4"\necho "$@" >> {asked}\n'
        '[ "$1" = exec ] || exit 0\nfor last; do :; done\nexec /bin/bash -c "$last"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv(
        "PATH", f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    image = REPOSITORY / "workflow/envs/lossbench.sif"
    made_here = not image.exists()
    image.touch()
    try:
        snakemake(tmp_path, "--sdm", "apptainer", "--cores", "1", "--until", "prepare")
    finally:
        if made_here:
            image.unlink()
    runs = [line for line in asked.read_text().splitlines() if line.startswith("exec")]
    assert any("workflow/envs/lossbench.sif bash" in line for line in runs)
    assert "prepare --dataset" in asked.read_text()
    recipe = image.with_suffix(".def").read_text()
    assert "requirements.lock" in recipe
    assert re.search(r"^From: python:3\.1[1-9]", recipe, flags=re.MULTILINE)
