"""What tracking costs: python -m benchmarks.tracking --output DIR [--runs 1000]

Writes results of many runs (10 metrics x 100 steps each), syncs them to SQLite, and compares the time with one
log_metric call per value, measured on a sample of values.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from benchmarks.table import write
from lossbench.stages.track import mlflow_store, track
from tests.helpers.fake_results import write_experiment, write_report
from tests.helpers.stores import empty_store

STEPS, METRICS = 100, 10
SINGLE = 300  # values that are logged one by one


def write_runs(root: Path, runs: int) -> Path:
    """Write an experiment of `runs` runs, with histories of METRICS x STEPS values."""
    losses, seeds = ("dice", "dice_no_background"), range(runs // 4)
    experiment = write_experiment(root, losses, folds=(0, 1), seeds=seeds, n_cases=2)
    rng = np.random.default_rng(0)
    for path in experiment.parent.rglob("history.csv"):
        table = pd.DataFrame(rng.random((STEPS, METRICS))).add_prefix("train/")
        table.insert(0, "step", range(1, STEPS + 1))
        table.insert(1, "seconds", np.arange(1, STEPS + 1) / 10)
        table.to_csv(path, index=False)
    write_report(experiment)
    empty_store(root / "results")
    return experiment


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def one_by_one(root: Path) -> tuple[float, float]:
    """Seconds per value of log_metric, wall and CPU."""
    client = MlflowClient(mlflow_store.embedded(root / "results"))
    run = client.create_run(client.create_experiment("one by one")).info.run_id

    def log() -> None:
        for i in range(SINGLE):
            client.log_metric(run, f"m{i % METRICS}", i, 1000 + i, i // METRICS)

    wall, cpu = seconds(log)
    return wall / SINGLE, cpu / SINGLE


def measure(runs: int) -> dict[str, float]:
    """Seconds (and those of CPU) of a first sync and of one that finds nothing to do."""
    with tempfile.TemporaryDirectory() as temporary:
        experiment = write_runs(Path(temporary), runs)
        first, again = (seconds(lambda: track(experiment)) for _ in range(2))
        wall, cpu = one_by_one(Path(temporary))
    values = runs * STEPS * METRICS
    return {
        "runs": runs,
        "first_s": first[0],
        "first_cpu_s": first[1],
        "second_s": again[0],
        "second_cpu_s": again[1],
        "log_metric_ms": 1000 * wall,
        "log_metric_over_sync_cpu": cpu * values / first[1],
        "log_metric_over_sync": wall * values / first[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    rows = [measure(runs) for runs in (options.runs // 4, options.runs)]
    what = f"MLflow, {options.runs:,} runs of {STEPS * METRICS:,} values: a log_metric each over a sync"
    rows[-1] |= {"what": what, "ratio": rows[-1]["log_metric_over_sync"], "turns": 1}
    write("tracking", rows, options.output)


if __name__ == "__main__":
    main()
