"""Evaluate the runs of a block on the cases of its fold, or on the test cases of a split."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lossbench.common.device import pick_device
from lossbench.common.files import read_json, whole
from lossbench.common.progress import progress
from lossbench.common.provenance import run_digest
from lossbench.common.tables import (
    BACKGROUND,
    CASE_TEXT,
    COUNTS,
    DIGESTS,
    MEASURED,
    PREDICTIONS,
    case_schema,
)
from lossbench.common.tuning import read_block
from lossbench.common.user_code import changed_files, refuse_other_code
from lossbench.config import METRICS, UserError
from lossbench.datasets.batches import patch_size
from lossbench.datasets.prepared import Prepared
from lossbench.datasets.slices import shown_of, shown_slice
from lossbench.metrics import OwnMetric, build_metric, measure_case
from lossbench.models import load_run
from lossbench.predictions import predict


def evaluate(block: Path, data: Path, output: Path, threads: int = 1) -> None:
    """Measure the runs of a block on the cases of its fold, or on the test cases of a split.

    Parameters
    ----------
    block
        block.json, next to the folders of its runs.
    data
        Folder of the prepared dataset.
    output
        cases.parquet to write, a row per run x case x class: dataset, model, loss, fold, seed,
        case, subject, class, the counts, the metrics, and a column for each metric of the user's.
        Next to it predictions.npz: what the report shows of each prediction, LOSS/ROW by the rows
        of cases.csv.
    threads
        CPU threads.

    Raises
    ------
    UserError
        Where the dataset or a run is not as it was written.
    """
    torch.set_num_threads(threads)
    spec, prepared = read_block(block), Prepared(data)
    prepared.verify()
    for name, code in spec.get("metrics_code", {}).items():
        refuse_other_code(code, block.name, spec["metrics"][name])
    own = {
        name: build_metric(name, metric, prepared)
        for name, metric in spec.get("metrics", {}).items()
    }
    tables, digests = [], {}
    slices = {row: shown_slice(prepared, row) for row in prepared.evaluation(spec["fold"])}
    shown: dict[str, np.ndarray] = {}
    for loss, run in spec["runs"].items():
        digests[loss] = run_digest(run, prepared.digest)
        _check_digest(block, loss, run, digests[loss])
        keys = {"dataset": spec["dataset"], "model": spec["model"], "loss": loss}
        keys |= {"fold": spec["fold"], "seed": spec["seed"]}
        measured_cases, pictures = _cases(block.parent / loss, run, prepared, own, slices)
        tables.append(measured_cases.assign(**keys))
        shown |= pictures
    table = pd.concat(tables, ignore_index=True)
    measured = {key: spec.get(key, {}) for key in ("metrics", "metrics_code")}
    measured["surface_tolerance"] = prepared.info["surface_tolerance"]
    facts = {DIGESTS: digests, BACKGROUND: prepared.background, MEASURED: measured}
    schema = case_schema([*METRICS, *own]).with_metadata(
        {key: json.dumps(value) for key, value in facts.items()}
    )
    arrow = pa.Table.from_pandas(table[schema.names], schema, preserve_index=False)
    with whole(output.with_name(PREDICTIONS)) as part, part.open("wb") as file:
        np.savez_compressed(file, **shown)
    with whole(output) as part:
        # Dictionaries of figures would only be read more slowly.
        pq.write_table(
            arrow,
            part,
            compression="lz4",
            use_dictionary=list(CASE_TEXT),
            write_page_checksum=True,
        )


def _check_digest(block: Path, loss: str, run: dict, expected: str) -> None:
    """Refuse a run of other settings, data or code than the block's.

    There is one where a clock jumped, and Snakemake took an old training for a new one.
    """
    status = block.parent / loss / "status.json"
    if read_json(status).get("digest") != expected:
        trained = read_json(status.with_name("run.json"))
        files = changed_files(trained.get("code", {}), run.get("code", {}))
        why = f" ({', '.join(f'{file} has changed' for file in files)})" if files else ""
        raise UserError(
            f"{status}: not of the settings in {block.name} and of its data{why}; delete it and "
            "run the workflow again"
        )


def _cases(
    folder: Path,
    run: dict,
    data: Prepared,
    own: dict[str, OwnMetric],
    slices: dict[int, int | None],
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Measure a run on the cases of its fold, and keep what pictures show of its predictions.

    `slices`: the slice of each case that a picture shows, by its row.
    """
    device = pick_device()
    model = load_run(folder, data).to(device)
    rows = data.evaluation(run["fold"])
    patch, name = patch_size(data, run["training"]), folder.name
    found = predict(model, data, rows, patch, device, f"{name}: predicted")
    measured, shown = [], {}
    cases = zip(found, rows, strict=True)
    for prediction, row in progress(cases, len(rows), f"{name}: measured"):
        figures = measure_case(prediction, row, data)
        if own:
            label, spacing = np.asarray(data.original_label(row)), data.original_spacing(row)
            figures |= {key: metric(prediction, label, spacing) for key, metric in own.items()}
        measured.append(figures)
        shown[f"{name}/{row}"] = shown_of(prediction, slices[row], data)
    names = np.repeat(data.cases["case"].iloc[rows].to_numpy(), len(data.classes))
    subjects = np.repeat(data.cases["subject"].iloc[rows].to_numpy(), len(data.classes))
    table = pd.DataFrame({"case": names, "subject": subjects, "class": data.classes * len(rows)})
    for column in (*COUNTS, *METRICS, *own):
        table[column] = np.concatenate([figures[column] for figures in measured])
    return table, shown
