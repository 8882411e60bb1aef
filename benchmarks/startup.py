"""What starting costs, in CPU time: python -m benchmarks.startup --output DIR

- the start of a training job over an import of torch, monai, mlflow and segmentation_models_pytorch
- three losses of 20 steps: one process each over one process for their block
- three losses of 120 steps with three validations: three MONAI scripts over one process for their block
- a dry run of 1,000 blocks over one of a Snakefile with as many jobs that do nothing

The two sides of each ratio alternate.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import monai_loop
from benchmarks.table import ratio, write
from benchmarks.training import LOSSES, arrays, drawn, settings
from lossbench.common.files import write_text
from lossbench.datasets.prepared import Prepared

BLOCKS, TURNS = 1_000, 5
ROOT = Path(__file__).parents[1]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "1"]
EMPTY = """\
rule all:
    input:
        expand("{{stage}}/{{block}}", stage=list("bc"), block=range({blocks})),

rule configure:
    output: "a/{{block}}"
    shell: "touch {{output}}"

rule train:
    input: "a/{{block}}"
    output: "b/{{block}}"
    shell: "touch {{output}}"

rule rest:
    input: "b/{{block}}"
    output: "c/{{block}}"
    shell: "touch {{output}}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "Empty").write_text(EMPTY.format(blocks=BLOCKS))
        study = {"matrix": {"fold": [0], "seed": list(range(BLOCKS))}}
        data = drawn(folder, "images", [96, 96])
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        ours = [*SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.yaml"]
        pairs = {
            "start of a training job over `import torch, monai, mlflow, "
            "segmentation_models_pytorch`": (
                python("from lossbench.__main__ import _function; _function('train')"),
                python("import torch, monai, mlflow, segmentation_models_pytorch"),
            ),
            f"{len(LOSSES)} losses, 20 steps each: a process each over one for their block": (
                trainings(data, *([loss] for loss in LOSSES), steps=20),
                trainings(data, LOSSES, steps=20),
            ),
            f"{len(LOSSES)} losses, 120 steps each: MONAI scripts over one block, start to end": (
                scripts(data, folder, steps=120),
                trainings(data, LOSSES, steps=120, validate_every=monai_loop.EVERY),
            ),
            f"`snakemake -n` of {BLOCKS:,} blocks over one of jobs that do nothing": (
                ours,
                [*SNAKEMAKE, "--snakefile", "Empty"],
            ),
        }
        rows = []
        for what, commands in pairs.items():
            rows.append(compared(what, *commands, folder))
            print(rows[-1], flush=True)
    write("startup", rows, options.output)


def compared(
    what: str, above: Sequence[str], below: Sequence[str], folder: Path
) -> dict[str, str | float]:
    """The ratio of the times of two commands, turn by turn."""
    times = [(seconds(above, folder), seconds(below, folder)) for _ in range(TURNS)]
    return ratio(what, times)


def scripts(data: Prepared, folder: Path, steps: int) -> list[str]:
    """A MONAI script for each loss; the same one, since they cost the same."""
    rows = {"t": data.training(0, 0.0), "v": data.validation(0)}
    found = {key: arrays(data, row) for key, row in rows.items()}
    names = {
        f"{key}_{n}": a for key, (i, y) in found.items() for n, a in (("images", i), ("labels", y))
    }
    np.savez(folder / "data.npz", **names)
    script = f"{sys.executable} -m benchmarks.monai_loop {folder / 'data.npz'} {steps}"
    return ["bash", "-c", f"cd {ROOT} && " + " && ".join([script] * len(LOSSES))]


def trainings(data: Prepared, *blocks: Sequence[str], **changes: Any) -> list[str]:
    """A process for each block of losses, which trains them from the start."""
    commands = ["rm -rf store"]
    for losses in blocks:
        experiment = settings(**changes)
        matrix = experiment.matrix.model_copy(update={"loss": list(losses)})
        experiment = experiment.model_copy(update={"matrix": matrix})
        block = data.folder.parent / f"{'-'.join(losses)}-{changes['steps']}" / "block.json"
        write_text(block, experiment.block_json(**next(experiment.blocks())))
        commands.append(
            f"{sys.executable} -m lossbench train --block {block} --data {data.folder} --store store"
        )
    return ["bash", "-c", " && ".join(commands)]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def seconds(command: Sequence[str], folder: Path) -> float:
    """CPU time of a command and of what it starts."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    assert code == 0, command
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
