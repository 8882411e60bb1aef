"""Evaluate the runs of a block on the validation cases of its fold."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lossbench.batches import patch_size
from lossbench.config import UserError
from lossbench.cubes import DIGESTS, TEXT, schema
from lossbench.device import pick_device
from lossbench.files import read_json, whole
from lossbench.inference import predict
from lossbench.metrics import COLUMNS, OwnMetric, build_metric, measure
from lossbench.models import load_run
from lossbench.prepared import Prepared
from lossbench.provenance import run_digest


def evaluate(block: Path, data: Path, output: Path, threads: int = 1) -> None:
    """Write a row per run x case x class.

    Parameters
    ----------
    block
        block.json, beside the folders of its runs.
    data
        Folder of the prepared dataset.
    output
        cases.parquet: dataset, model, loss, fold, seed, case, class, `metrics.COLUMNS`, and a
        column for each metric of the user's.
    threads
        Of the CPU.

    Raises
    ------
    UserError
        Where the dataset or a run is not as it was written.
    """
    torch.set_num_threads(threads)
    spec, prepared = read_json(block), Prepared(data)
    prepared.verify()
    own = {
        name: build_metric(name, metric, prepared)
        for name, metric in spec.get("metrics", {}).items()
    }
    tables, digests = [], {}
    for loss, run in spec["runs"].items():
        digests[loss] = _digest(block, loss, run_digest(run, prepared.digest))
        keys = {"dataset": spec["dataset"], "model": spec["model"], "loss": loss}
        keys |= {"fold": spec["fold"], "seed": spec["seed"]}
        tables.append(_cases(block.parent / loss, run, prepared, own).assign(**keys))
    table = pd.concat(tables, ignore_index=True)
    columns = ["dataset", "model", "loss", "fold", "seed", "case", "class", *COLUMNS, *own]
    wanted = schema(columns[columns.index("dice") :]).with_metadata({DIGESTS: json.dumps(digests)})
    arrow = pa.Table.from_pandas(table[columns], wanted, preserve_index=False)
    with whole(output) as part:
        # Dictionaries of figures would only be read more slowly.
        pq.write_table(
            arrow,
            part,
            compression="lz4",
            use_dictionary=list(TEXT),
            write_page_checksum=True,
        )


def _digest(block: Path, loss: str, expected: str) -> str:
    """The digest of a run, which is that of its specification in the block.

    It is another one where a clock jumped, and Snakemake took an old training for a new one.
    """
    status = block.parent / loss / "status.json"
    if read_json(status).get("digest") != expected:
        raise UserError(
            f"{status}: not of the settings in {block.name} and of its data; delete it and run the "
            "workflow again"
        )
    return expected


def _cases(folder: Path, run: dict, data: Prepared, own: dict[str, OwnMetric]) -> pd.DataFrame:
    device = pick_device()
    model = load_run(folder, data).to(device)
    rows = data.validation(run["fold"])
    found = predict(model, data, rows, patch_size(data, run["training"]), device)
    measured = []
    for prediction, row in zip(found, rows, strict=True):
        case = (prediction, np.asarray(data.label(row)), data.cases["spacing"].iloc[row])
        figures = measure(*case, len(data.classes), data.info["surface_tolerance"])
        figures |= {name: metric(*case) for name, metric in own.items()}
        measured.append(figures)
    names = np.repeat(data.cases["case"].iloc[rows].to_numpy(), len(data.classes))
    table = pd.DataFrame({"case": names, "class": data.classes * len(rows)})
    for column in (*COLUMNS, *own):
        table[column] = np.concatenate([case[column] for case in measured])
    return table
