"""How long `compare` takes for 10,000 runs of 52 cases and 3 classes.

    python -m benchmarks.ten_thousand_runs --output DIR [--runs 10000] [--losses 10] [--folder PATH]

Writes a study as block files. Measures seconds and peak memory of reading it (pandas, one file after the
other, for comparison) and of `compare`, which reads, compares and writes. Aims: 2 s, 10 s, 1 GB.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import ratio, write
from lossbench import config
from lossbench.common.files import block_folder, write_json, write_text
from lossbench.common.provenance import run_digest, sha256
from lossbench.common.rounds import planned_blocks
from lossbench.common.tables import CASE_TEXT, case_schema
from lossbench.stages.compare import compare, read_blocks

CASES, CLASSES = 52, ("background", "anterior", "posterior")
FOLDS, SEEDS, DATASETS = 5, 5, 2
TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--losses", type=int, default=10, help="in a block (10)")
    parser.add_argument("--folder", type=Path, help="to keep the study in; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        study = write_study(options.folder or Path(temporary), options.runs, options.losses)
        # A process that has imported no more than it needs, for its memory.
        with ProcessPoolExecutor(1, get_context("spawn")) as processes:
            rows = processes.submit(measure, study).result()
    write("ten_thousand_runs", rows, options.output)


def write_study(root: Path, runs: int, losses: int) -> Path:
    """Write the files that `compare` reads of a study of so many runs; experiment.json."""
    per_model = losses * FOLDS * SEEDS * DATASETS
    models = max(1, round(runs / per_model))
    settings = experiment(f"runs{models * per_model}", losses, models)
    path = root / settings.experiment / "experiment.json"
    if not path.exists():
        for keys in settings.blocks():
            write_block(path, settings, keys)
        write_text(path, settings.experiment_json())
    return path


def experiment(name: str, losses: int, models: int) -> config.Experiment:
    names = {
        "dataset": [f"dataset_{i}" for i in range(DATASETS)],
        "model": [f"model_{i}" for i in range(models)],
        "loss": [f"loss_{i}" for i in range(losses)],
    }
    entry = {"_target_": "never.made"}
    return config.validate(
        {
            "experiment": name,
            "matrix": {**names, "fold": list(range(FOLDS)), "seed": list(range(SEEDS))},
            "comparison": {"reference": "loss_0"},
            "datasets": dict.fromkeys(names["dataset"], entry),
            "models": dict.fromkeys(names["model"], entry),
            "losses": dict.fromkeys(names["loss"], entry),
        }
    )


def write_block(path: Path, settings: config.Experiment, keys: dict) -> None:
    """Case effects that all losses share, a small advantage of each, noise of the training."""
    folder, losses = block_folder(path.parent, **keys), settings.matrix.loss
    rng = np.random.default_rng(int(sha256(str(keys))[:8], 16))
    shape = (len(losses), CASES, len(CLASSES))
    hard = np.random.default_rng(keys["fold"]).normal(0, 0.03, shape[1:])
    recall = 0.9 + hard + 0.002 * np.arange(len(losses))[:, None, None]
    recall = np.clip(
        recall + rng.normal(0, 0.003, (shape[0], 1, 1)) + rng.normal(0, 0.01, shape), 0, 1
    )
    tp = (10_000 * recall).astype(int).ravel()
    fn, fp = 10_000 - tp, rng.integers(200, 1_000, tp.size)
    table = pd.DataFrame(
        {
            **keys,
            "loss": np.repeat(losses, CASES * len(CLASSES)),
            "case": np.tile(
                np.repeat([f"case_{keys['fold'] * CASES + i:03d}" for i in range(CASES)], 3),
                len(losses),
            ),
            "class": list(CLASSES) * (CASES * len(losses)),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "dice": 2 * tp / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn),
            "precision": tp / (tp + fp),
            "recall": tp / 10_000,
            "hd95": rng.gamma(2, 1, tp.size),
            "surface_dice": rng.beta(9, 1, tp.size),
        }
    )
    table["subject"] = table["case"]
    folder.mkdir(parents=True)
    arrow = pa.Table.from_pandas(table, case_schema(config.METRICS), preserve_index=False)
    pq.write_table(
        arrow, folder / "cases.parquet", compression="lz4", use_dictionary=list(CASE_TEXT),
        write_page_checksum=True,
    )  # fmt: skip
    for loss in losses:
        run = settings.run(**keys, loss=loss)
        write_json(folder / loss / "status.json", status(keys, run))


def status(keys: dict, run: dict) -> dict:
    start = "2026-01-02T03:04:05.000+00:00"
    data_digest = sha256(keys["dataset"])
    return {
        "digest": run_digest(run, data_digest),
        "status": "finished",
        "steps": 300,
        "train_seconds": 12.5,
        "images_per_second": 192.0,
        "peak_memory_bytes": 123_456_789,
        "data_digest": data_digest,
        "init_digest": sha256(keys["model"], str(keys["fold"]), str(keys["seed"])),
        "batch_digest": sha256(str(keys["fold"]), str(keys["seed"]))[:16],
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.7", "torch": "2.15.0", "monai": "1.6.1", "numpy": "2.4.0"},
        "device": "cpu",
        "started": start,
        "finished": start,
    }


def measure(path: Path) -> list[dict]:
    """Reading and comparing a study; imports are not counted."""
    settings = config.load(path)

    def ours() -> None:
        planned = list(planned_blocks(settings, path.parent))
        read_blocks.read_cases(path, settings, planned)
        read_blocks.read_runs(path, planned)

    def by_pandas() -> None:
        pd.concat(map(pd.read_parquet, path.parent.rglob("cases.parquet")))
        pd.DataFrame([json.loads(file.read_text()) for file in path.parent.rglob("status.json")])

    compared = [cpu_seconds(lambda: compare(path, path.parent / "report")) for _ in range(TURNS)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    runs = sum(len(settings.matrix.loss) for _ in settings.blocks())
    times = [(seconds(by_pandas), seconds(ours)) for _ in range(TURNS)]
    return [
        ratio(f"reading {runs:,} runs: pandas, a file after the other, over ours", times),
        {
            "what": f"comparing {runs:,} runs, reading and writing included; CPU time",
            "median_s": statistics.median(compared),
            "low_s": min(compared),
            "high_s": max(compared),
            "peak_mb": peak,
        },
    ]


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of a call, all threads."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
