"""Every profile is read by a dry run; the scripts of two do their work on pretended schedulers."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
PROFILES = REPOSITORY / "workflow/profiles"
NAMES = sorted(path.name for path in PROFILES.iterdir())


def settings(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def snakemake(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
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
    output = snakemake(tmp_path, "--dry-run", *with_profile(name))
    found = dict(re.findall(r"rule (\w+):\n(?: +.*\n)*? +resources: (.*)", output))
    resources = settings(name).get("set-resources", {}).get("train", {})
    for key, value in {"gpu": 1, "runtime": 1200, "mem_mb": 16000, **resources}.items():
        assert f"{key}={str(value).strip(chr(39))}" in found["train"]
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


# Stands in for kubectl: runs a Job at once, keeps it, and says what became of it.
KUBECTL = """#!{python}
import json, pathlib, subprocess, sys
jobs = pathlib.Path({folder!r})
verb, name = sys.argv[1], sys.argv[3]
if verb == "create":
    job = json.load(sys.stdin)
    number = len(list(jobs.glob("*.json")))
    name = job["metadata"]["generateName"] + str(number)
    (jobs / (name + ".json")).write_text(json.dumps(job))
    pod = job["spec"]["template"]["spec"]["containers"][0]
    # The first pod is lost with its node.
    code = subprocess.call(pod["command"], cwd=pod["workingDir"]) if number else 1
    (jobs / name).write_text("Failed" if code else "Complete")
    print(name)
if verb == "get":
    print((jobs / name).read_text())
"""


def test_kubernetes_gets_a_job_for_each_job_and_a_lost_pod_is_tried_again(tmp_path):
    arguments = [*with_profile("kubernetes"), "--seconds-between-status-checks", "1"]
    write_program(tmp_path / "kubectl", KUBECTL.format(python=sys.executable, folder=str(tmp_path)))
    path = f"{tmp_path}:{os.environ['PATH']}"
    target = "results/datasets/phantom/classes.json"
    output = snakemake(tmp_path, target, *arguments, PATH=path)
    assert "Trying to restart job" in output
    assert (tmp_path / target).exists()
    first, second = [json.loads(f.read_text()) for f in sorted(tmp_path.glob("lossbench-*.json"))]
    assert first["spec"]["activeDeadlineSeconds"] == 120 * 60
    pod = second["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "lossbench"}
    [container] = pod["containers"]
    assert container["image"] == "lossbench:latest"
    assert container["resources"]["limits"] == {"cpu": 1, "memory": "8000M"}


def test_kubernetes_grants_a_gpu_where_the_rule_asks_for_one(tmp_path):
    specification = spec_from_file_location("submit", PROFILES / "kubernetes/submit.py")
    submit = module_from_spec(specification)
    specification.loader.exec_module(submit)
    asked = {"mem_mb": 16000, "runtime": 1200, "gpu": 1}
    asked |= {f"kubernetes_{name}": "x" for name in ("image", "claim", "mount")}
    job = submit.manifest(tmp_path / "job.sh", {"rule": "train", "threads": 1, "resources": asked})
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("profile", "commands", "status"),
    [
        ("kubernetes", {"kubectl": "echo Complete"}, "success"),
        ("kubernetes", {"kubectl": "echo SuccessCriteriaMet Complete"}, "success"),
        ("kubernetes", {"kubectl": "echo FailureTarget Failed"}, "failed"),
        ("kubernetes", {"kubectl": "echo"}, "running"),
        ("kubernetes", {"kubectl": "echo 'Error (NotFound): jobs \"7\" not found' >&2; exit 1"}, "failed"),
        ("kubernetes", {"kubectl": "echo 'Unable to connect to the server' >&2; exit 1"}, "running"),
        ("sge", {"qstat": "exit 0"}, "running"),
        ("sge", {"qstat": "exit 1", "qacct": "echo 'failed 0'; echo 'exit_status 0'"}, "success"),
        ("sge", {"qstat": "exit 1", "qacct": "echo 'failed 0'; echo 'exit_status 1'"}, "failed"),
        ("sge", {"qstat": "exit 1", "qacct": "echo 'failed 100 : assumedly after job'; echo 'exit_status 137'"}, "failed"),
    ],
)  # fmt: skip
def test_what_became_of_a_job(profile, commands, status, tmp_path):
    for name, text in commands.items():
        write_program(tmp_path / name, f"#!/bin/sh\n{text}\n")
    answer = subprocess.run(
        [PROFILES / profile / "status.sh", "7"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split() == [status]
