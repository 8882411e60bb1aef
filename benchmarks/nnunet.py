"""nnU-Net against its plan in lossbench: python -m benchmarks.nnunet --data Task04_Hippocampus --output DIR

Installs nnU-Net from PyPI into a virtual environment of its own, lets it plan and preprocess MSD task 4, and
measures training iterations per second, batches included: of its 3d_fullres plan, and of
config/hippocampus.yaml with DiceCE and the network of that plan. nnU-Net keeps its deep supervision. The two
alternate; while one is measured the other is stopped. On a CPU nearly all time is the network's arithmetic, so
that the ratio is informative on a GPU only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from snakemake.utils import update_config

from benchmarks.table import ratio, write
from lossbench.common.device import pick_device, wait_for
from lossbench.common.files import read_json, write_json, write_text
from lossbench.config import Experiment, validate
from lossbench.datasets.batches import Batches
from lossbench.datasets.prepared import Prepared
from lossbench.stages.prepare import prepare
from lossbench.stages.train.loop import take_step
from lossbench.stages.train.run import Run

VERSION, TURNS = "2.8.1", 5
ROOT = Path(__file__).parents[1]
ON_GPU = torch.cuda.is_available()
STEPS = 200 if ON_GPU else 2
# `execution.speed` of config/hippocampus.yaml. On a CPU, auto is exact in so few steps.
SPEEDS = ["exact", "auto"] if ON_GPU else ["auto"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder Task04_Hippocampus")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"in a turn ({STEPS} here)")
    parser.add_argument("--folder", type=Path, help="to keep everything in; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        theirs = Stock(folder, options.data.resolve())
        data = prepared(folder, options.data.resolve())
        ours = {speed: ours_ready(folder, data, theirs.network, speed) for speed in SPEEDS}
        turns = [
            (theirs.seconds(options.steps), *(seconds(run, options.steps) for run in ours.values()))
            for _ in range(TURNS + 1)
        ][1:]  # the first turn warms up
        theirs.process.stdin.close()
        theirs.process.wait()
    their_times, *our_times = zip(*turns, strict=True)
    rows = []
    for speed, times in zip(ours, our_times, strict=True):
        pairs = [*zip(their_times, times, strict=True)]
        row = ratio(f"iterations per second, ours ({speed}) over nnU-Net {VERSION}", pairs)
        row["nnunet_per_second"] = options.steps / row["above_s"]
        row["ours_per_second"] = options.steps / row["below_s"]
        rows.append(row)
    write("nnunet", rows, options.output)


class Stock:
    """nnU-Net in a process of its own, stopped while it is not its turn: its workers go on."""

    def __init__(self, folder: Path, data: Path) -> None:
        venv, bin_ = folder / "venv", folder / "venv/bin"
        if not (bin_ / "nnUNetv2_train").exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([bin_ / "pip", "install", "-q", f"nnunetv2=={VERSION}"], check=True)
        places = {
            n: str(folder / n) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        here = os.environ | places | {"PATH": f"{bin_}:{os.environ['PATH']}"}
        preprocessed = folder / "nnUNet_preprocessed/Dataset004_Hippocampus"
        plans = preprocessed / "nnUNetPlans.json"
        if not plans.exists():
            shutil.rmtree(folder / "nnUNet_raw", ignore_errors=True)  # of a run that failed
            raw_dataset(data, folder / "nnUNet_raw/Dataset004_Hippocampus")
            plan = [
                bin_ / "nnUNetv2_plan_and_preprocess",
                "-d",
                "4",
                "-c",
                "3d_fullres",
                "-np",
                "2",
            ]
            subprocess.run(plan, env=here, check=True, stdout=sys.stderr)
            shutil.copy(data / "splits_final.json", preprocessed)
        planned = read_json(plans)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        self.network = {
            "filters": planned["features_per_stage"],
            "kernel_size": planned["kernel_sizes"],
            "strides": planned["strides"],
            "upsample_kernel_size": planned["strides"][1:],
        }
        self.process = subprocess.Popen(
            [bin_ / "python", Path(__file__).with_name("nnunet_steps.py"), preprocessed],
            env=here, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.answer("ready")

    def answer(self, word: str) -> str:
        """The next line that begins with a word: nnU-Net writes lines of its own."""
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise RuntimeError("nnU-Net ended; see above")

    def seconds(self, steps: int) -> float:
        print(steps, file=self.process.stdin, flush=True)
        return float(self.answer("seconds"))


def raw_dataset(data: Path, folder: Path) -> None:
    """The layout that nnU-Net wants: its own converter asks for the test images as well."""
    for source, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / source).mkdir(parents=True)
        for path in (data / source).glob("hippocampus_*.nii.gz"):
            (folder / source / (path.name.removesuffix(".nii.gz") + end)).symlink_to(path)
    write_json(folder / "dataset.json", {
        "channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len([*(folder / "labelsTr").iterdir()]), "file_ending": ".nii.gz",
    })  # fmt: skip


def settings() -> Experiment:
    """config/hippocampus.yaml."""
    config: dict = {}
    for name in ("datasets", "models", "losses", "config", "hippocampus"):
        update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    return validate(config)


def prepared(folder: Path, data: Path) -> Prepared:
    """The volumes as arrays."""
    write_text(folder / "dataset.json", settings().dataset_json("hippocampus"))
    os.environ["LOSSBENCH_DATA"] = str(data.parent)
    prepare(folder / "dataset.json", folder / "hippocampus")
    return Prepared(folder / "hippocampus")


def ours_ready(folder: Path, data: Prepared, network: dict, speed: str) -> Run:
    """A run with DiceCE and nnU-Net's network, ready to step."""
    experiment = settings()
    keys = {"dataset": "hippocampus", "model": "dynunet", "fold": 0, "seed": 0}
    spec = experiment.run(loss="dice_ce", **keys)
    spec["model"] |= network
    execution = experiment.execution.model_dump() | {"ledger": None, "speed": speed}
    batches = Batches(data, 0, 0, spec["training"], pick_device())
    batches.users = 1
    return Run(spec, execution, folder / f"run_{speed}", data, batches)


def seconds(run: Run, steps: int) -> float:
    begin = time.perf_counter()
    for _ in range(steps):
        take_step(run)
    wait_for(run.device)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
