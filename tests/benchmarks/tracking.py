"""What tracking costs: python -m tests.benchmarks.tracking [--runs 1000]

Writes results of many runs (10 metrics x 100 steps each), syncs them to SQLite, and compares with
one log_metric a value, measured on a sample of values. Prints a Markdown table.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from lossbench.track import track, ui
from tests.fake_results import write_experiment, write_report
from tests.stores import empty_store

STEPS, METRICS = 100, 10
SINGLE = 300  # values that are logged one by one


def write(root: Path, runs: int) -> Path:
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
    client = MlflowClient(ui.embedded(root / "results"))
    run = client.create_run(client.create_experiment("one by one")).info.run_id

    def log() -> None:
        for i in range(SINGLE):
            client.log_metric(run, f"m{i % METRICS}", i, 1000 + i, i // METRICS)

    wall, cpu = seconds(log)
    return wall / SINGLE, cpu / SINGLE


def main(runs: int) -> None:
    """Print the table."""
    print(
        "| runs | first sync s (CPU) | per run ms | second sync s (CPU) | one log_metric a value |"
    )
    print("| --- | --- | --- | --- | --- |")
    for n in (runs // 4, runs):
        root = Path(tempfile.mkdtemp())
        experiment = write(root, n)
        first = seconds(lambda: track(experiment))  # noqa: B023
        again = seconds(lambda: track(experiment))  # noqa: B023
        single = one_by_one(root)
        ratio = [single[i] * n * STEPS * METRICS / first[i] for i in (0, 1)]
        print(
            f"| {n} | {first[0]:.1f} ({first[1]:.1f}) | {1000 * first[0] / n:.0f} "
            f"| {again[0]:.1f} ({again[1]:.1f}) | {1000 * single[0]:.1f} ms a value: "
            f"{ratio[0]:.0f} times the sync (CPU {ratio[1]:.0f}) |",
            flush=True,
        )
        shutil.rmtree(root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    main(parser.parse_args().runs)
