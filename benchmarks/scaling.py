"""How time and memory grow with the size of a study: python -m benchmarks.scaling --output DIR

CPU seconds and peak memory against the number of losses in a block, cases to evaluate, pixels in an image, seeds
and runs to compare, each measured in its own process without the imports. Writes scaling.json and scaling.png, in
which a line of slope 1 is linear growth.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.table import once, write
from benchmarks.ten_thousand_runs import write_study
from lossbench.common.files import write_json
from lossbench.datasets.prepared import Prepared
from lossbench.stages.compare import compare
from lossbench.stages.evaluate import evaluate
from lossbench.stages.prepare import prepare
from lossbench.stages.train import train
from tests.helpers.trainings import DICE, block

VALUES = {
    "losses in a block": (1, 2, 4, 8, 16),
    "cases to evaluate": (50, 100, 200, 400, 800),
    "pixels in an image": (64**2, 128**2, 256**2, 512**2),
    "seeds, three losses each": (1, 2, 4, 8),
    "runs to compare": (1_000, 3_000, 10_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "VALUE"), help="a single measurement")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], int(options.one[1]))))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    again = [sys.executable, "-m", "benchmarks.scaling", "--output", options.output, "--one"]
    rows = []
    for what, values in VALUES.items():
        for value in values:
            done = subprocess.run([*again, what, str(value)], check=True, capture_output=True)
            rows.append({"what": what, "value": value, **json.loads(done.stdout)})
            print(rows[-1], flush=True)
    slopes = [
        once(f"slope of time against {what}, at the end", slope(rows, what)) for what in VALUES
    ]
    write("scaling", [*rows, *slopes], options.output)
    draw(rows, options.output / "scaling.png")


def measured(what: str, value: int) -> dict[str, float]:
    """CPU seconds of `train`, `evaluate` or `compare`, and the memory that this process has had."""
    with tempfile.TemporaryDirectory() as folder:
        spent = _comparing if what == "runs to compare" else _training
        seconds = spent(Path(folder), what, value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "peak_mb": round(peak)}


def _comparing(folder: Path, what: str, runs: int) -> float:
    # Written by another process, whose memory is not counted.
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        study = processes.submit(write_study, folder, runs, losses=10).result()
    begin = time.process_time()
    compare(study, folder / "report")
    return time.process_time() - begin


def _training(folder: Path, what: str, value: int) -> float:
    torch.set_num_threads(1)
    cases = 2 * value if what == "cases to evaluate" else 40
    side = round(value**0.5) if what == "pixels in an image" else 64
    losses = {"losses in a block": value, "seeds, three losses each": 3}.get(what, 1)
    seeds = value if what == "seeds, three losses each" else 1
    steps = 1 if what == "cases to evaluate" else 20
    spec = {"_target_": "lossbench.datasets.Phantom", "cases": cases, "size": [side, side]}
    dataset = {"name": "d", "spec": spec, "folds": 2, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(folder / "dataset.json", dataset)
    prepare(folder / "dataset.json", folder / "d")
    names = {f"dice_{n}": DICE for n in range(losses)}
    settings = {"steps": steps, "patch_size": [side, side], "validate_every": 1000}
    data = Prepared(folder / "d")
    paths = [block(folder, data, names, seed=seed, **settings) for seed in range(seeds)]
    begin = time.process_time()
    for path in paths:
        train(path, folder / "d", folder / "runs")
    if what == "cases to evaluate":
        begin = time.process_time()
        evaluate(path, folder / "d", path.with_name("cases.parquet"))
    return time.process_time() - begin


def slope(rows: list[dict], what: str) -> float:
    """1 where time grows in proportion: of the last two measurements, on logarithmic axes."""
    (x, seconds), (more, longer) = [
        (row["value"], row["seconds"]) for row in rows if row["what"] == what
    ][-2:]
    return math.log(longer / seconds) / math.log(more / x)


def draw(rows: list[dict], file: Path) -> None:
    """A panel for each quantity: seconds and memory, with the slope of the seconds' upper half."""
    figure, axes = plt.subplots(1, len(VALUES), figsize=(16, 3.2), layout="constrained")
    for axis, what in zip(axes, VALUES, strict=True):
        x, seconds, peak = np.array(
            [[r["value"], r["seconds"], r["peak_mb"]] for r in rows if r["what"] == what]
        ).T
        axis.loglog(x, seconds, "o-", color="#0072b2", label="CPU seconds")
        axis.loglog(x, peak / 1000, "s--", color="#d55e00", label="peak memory, GB")
        axis.set(xlabel=what, title=f"slope at the end {slope(rows, what):.2f}")
        axis.minorticks_off()
        axis.set_xticks(x, [f"{value:,.0f}" for value in x])
        axis.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
