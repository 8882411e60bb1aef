#!/usr/bin/env python3
"""Make a Kubernetes Job of a job script of Snakemake's; print the Job's name."""

import json
import os
import subprocess
import sys
from pathlib import Path


def manifest(script: Path, job: dict) -> dict:
    """Give the Job of one pod, with what the rule asks for."""
    asked = job["resources"]
    needs = {"cpu": job["threads"], "memory": f"{asked['mem_mb']}M"}
    if asked.get("gpu"):
        needs["nvidia.com/gpu"] = asked["gpu"]
    # The pod has an environment of its own; the rest of ours is set by the Snakemake in it.
    data = os.environ.get("LOSSBENCH_DATA")
    container = {
        "name": "job",
        "image": asked["kubernetes_image"],
        "workingDir": str(Path.cwd()),
        "command": ["/bin/sh", str(script.resolve())],
        "env": [{"name": "LOSSBENCH_DATA", "value": data}] if data else [],
        "resources": {"requests": needs, "limits": needs},
        "volumeMounts": [{"name": "work", "mountPath": asked["kubernetes_mount"]}],
        # The shell that Kubernetes ends passes no signal on; training wants it, for a checkpoint.
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", "kill -TERM -1"]}}},
    }
    claim = {"claimName": asked["kubernetes_claim"]}
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": [{"name": "work", "persistentVolumeClaim": claim}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"lossbench-{job['rule'].replace('_', '-')}-"},
        "spec": {
            "backoffLimit": 0,  # Snakemake tries again
            "activeDeadlineSeconds": 60 * asked["runtime"],
            "ttlSecondsAfterFinished": 86400,
            "template": {"spec": pod},
        },
    }


def main(script: Path) -> None:
    """Snakemake writes what a job asks for into the second line of its script."""
    properties = script.read_text().splitlines()[1].removeprefix("# properties = ")
    made = subprocess.run(
        ["kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.name}"],
        input=json.dumps(manifest(script, json.loads(properties))),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(made.stdout.strip())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
