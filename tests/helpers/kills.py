"""Kill a workflow, or the training in it, at random points, until it has had enough.

    python -m tests.helpers.kills FOLDER --times 24 --seed 1

runs a study in FOLDER that is killed, restarted and compared with one that nobody disturbed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from safetensors.numpy import load_file

from lossbench.common.files import read_json

REPOSITORY = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("workflow", "training")
STUDY = {
    "experiment": "killed",
    "matrix": {
        "dataset": ["drawn"], "model": ["tiny"], "loss": ["dice", "dice_ce", "tversky"],
        "fold": [0], "seed": [0, 1],
    },
    "training": {
        "steps": 200, "batch_size": 4, "patch_size": [32, 32],
    },
    "execution": {"log_every": 20, "validate_every": 100},
    "comparison": {"reference": "dice"},
    "datasets": {
        "drawn": {"_target_": "lossbench.datasets.Phantom", "cases": 12, "size": [32, 32], "folds": 2}
    },
    "models": {
        "tiny": {
            "_target_": "monai.networks.nets.UNet", "spatial_dims": "$spatial_dims",
            "in_channels": "$in_channels", "out_channels": "$num_classes",
            "channels": [8, 16], "strides": [2],
        }
    },
}  # fmt: skip


def start(folder: Path) -> subprocess.Popen:
    """The workflow up to its trainings, in a process group of its own, as on a terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    log = (folder / "workflow.log").open("a")
    command = [SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--configfile", "study.yaml"]
    command += ["--cores", "2", "--rerun-incomplete", "--until", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log:
        return subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def trainings(workflow: subprocess.Popen) -> list[psutil.Process]:
    """Processes that train, below a workflow."""
    found = []
    for process in psutil.Process(workflow.pid).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:  # gone meanwhile
            continue
        if "train" in words and "python" in Path(words[0]).name:
            found.append(process)
    return found


def kill(
    workflow: subprocess.Popen, target: str, number: signal.Signals, generator: random.Random
) -> None:
    """Send a signal: to a training, or to all of the workflow, as Ctrl-C and a lost machine do."""
    try:
        if target == "workflow":
            os.killpg(workflow.pid, number)
        else:
            generator.choice(trainings(workflow)).send_signal(number)
    except (ProcessLookupError, psutil.NoSuchProcess, IndexError):  # it has just ended
        pass


def disturb(folder: Path, times: int, seed: int) -> list[str]:
    """Kill the workflow so many times, as long as it has something to do; what was done."""
    generator, done = random.Random(seed), []
    while len(done) < times:
        workflow = start(folder)
        while workflow.poll() is None and not trainings(workflow):
            time.sleep(0.05)
        if workflow.poll() is not None:
            break
        end = time.monotonic() + generator.uniform(0, 6)
        # Not so late that nothing would be left to kill: the runs of a block end together.
        while time.monotonic() < end and len(finished_at(folder)) < len(STUDY["matrix"]["loss"]):
            time.sleep(0.05)
        target = TARGETS[len(done) % 2]
        number = SIGNALS[len(done) // 2 % 3]
        kill(workflow, target, number, generator)
        done.append(f"{number.name} to the {target}")
        workflow.wait(300)
        unlock(folder)
    return done


def unlock(folder: Path) -> None:
    """What Snakemake asks for where it was killed itself; a start of it that is spared elsewhere."""
    if not any((folder / ".snakemake/locks").glob("*")):
        return
    command = [SNAKEMAKE, "--snakefile", REPOSITORY / "Snakefile", "--configfile", "study.yaml"]
    subprocess.run([*command, "--unlock"], cwd=folder, check=True, capture_output=True)


def complete(folder: Path) -> None:
    """Let the workflow end."""
    if start(folder).wait(600):
        raise RuntimeError((folder / "workflow.log").read_text()[-3000:])


def finished_at(folder: Path) -> dict[str, str]:
    """Digest of each finished run, and when it was finished."""
    stored = (folder / "results" / "runs").glob("*/status.json")
    return {path.parent.name: read_json(path)["finished"] for path in stored}


def differences(one: Path, other: Path) -> list[str]:
    """Runs of two folders that differ in a digest or in a bit of their weights."""
    found = []
    for path in sorted((one / "results" / "runs").glob("*/status.json")):
        twin = other / path.relative_to(one)
        if not twin.exists():
            found.append(f"{path.parent.name} is missing")
            continue
        ours, theirs = read_json(path), read_json(twin)
        found += [
            f"{path.parent.name}: {key} differs"
            for key in ("init_digest", "batch_digest", "steps", "status")
            if ours[key] != theirs[key]
        ]
        left, right = (load_file(p.with_name("model.safetensors")) for p in (path, twin))
        if not all((left[name] == right[name]).all() for name in left):
            found.append(f"{path.parent.name}: weights differ")
    return found


def main() -> None:
    """Kill a study, and compare it with one that nobody disturbed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    undisturbed, killed = options.folder / "undisturbed", options.folder / "killed"
    complete(undisturbed)
    done, round_ = 0, 0
    while done < options.times:
        folder = killed / str(round_)
        kills = disturb(folder, options.times - done, options.seed + round_)
        before = finished_at(folder)
        complete(folder)
        again = [d for d, when in finished_at(folder).items() if before.get(d, when) != when]
        print(f"round {round_}: {len(kills)} kills; {len(before)} runs were finished, {len(again)} "
              f"of them trained again; differences: {differences(undisturbed, folder) or 'none'}")  # fmt: skip
        done, round_ = done + len(kills), round_ + 1


if __name__ == "__main__":
    main()
