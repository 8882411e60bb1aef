"""What MLflow should hold while the workflow runs: curves of what has begun, no figures yet."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lossbench.common.files import block_folder, read_json
from lossbench.common.provenance import run_digest
from lossbench.config import Experiment, UserError
from lossbench.stages.track.records import (
    GROUP,
    Dataset,
    Params,
    Record,
    cards,
    comparison_record,
    datasets,
    loss_key,
    loss_name,
    params_of,
    prepared,
    read_table,
    run_record,
)


def read_growing(
    e: Experiment, folder: Path, status: str = "training"
) -> tuple[list[Record], list[str]]:
    """Read what there is of an experiment: parents without figures, runs with growing curves.

    Parameters
    ----------
    e
        The experiment.
    folder
        That of experiment.json.
    status
        Of runs that have begun and not ended: training, or interrupted.
    """
    data, params = datasets(e, folder), partial(params_of, e, cards(folder))
    expected = list(_expected(e, folder, data))
    runs = []
    for keys, digest in expected:
        begun = _begun(folder.parent / "runs" / digest)
        if begun:
            known, history = begun
            row = {"status": status, **known, **keys, "digest": digest}
            runs.append(run_record(row, params, data, history))
    if not runs:
        return [], []
    ended = sum(run.end is not None for run in runs)
    note = f"{ended} of {len(expected)} runs are trained; the comparison follows."
    classes = read_json(prepared(folder, next(iter(data))) / "classes.json")["classes"]
    whole = comparison_record(e, status, min(run.start for run in runs), None, note, {})
    return [whole, *_parents(runs, params, data, status), *runs], classes


def is_current(e: Experiment, folder: Path) -> bool:
    """Whether the workflow came to its end, so that its tables are those of its runs."""
    report = folder / "report"
    try:
        table = read_table(report / "runs.csv")
        compared = set(zip(table["digest"], table["finished"], strict=True))
        stored = {
            (digest, read_json(folder.parent / "runs" / digest / "status.json")["finished"])
            for _, digest in _expected(e, folder, datasets(e, folder))
        }
        tables, end = (report / "comparisons.csv").stat(), (report / "mlflow.json").stat()
        return compared == stored and tables.st_mtime <= end.st_mtime
    except (OSError, UserError):
        return False


def _expected(
    e: Experiment, folder: Path, data: dict[str, Dataset]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Keys and digest of every run that can be known: its block is written, its data prepared."""
    for keys in e.blocks():
        block = block_folder(folder, **keys) / "block.json"
        if keys["dataset"] in data and block.exists():
            for loss, spec in read_json(block)["runs"].items():
                yield {**keys, "loss": loss}, run_digest(spec, data[keys["dataset"]].digest)


def _begun(stored: Path) -> tuple[dict[str, Any], bytes] | None:
    """What is known of a run, and its curves; None before the first row."""
    try:
        if (stored / "status.json").exists():
            status = read_json(stored / "status.json")
            status["versions"] = json.dumps(status["versions"])
            return status, (stored / "history.csv").read_bytes()
        progress = (stored / "progress.csv").read_bytes()
    except (FileNotFoundError, UserError):  # it has not begun, or is being finished right now
        return None
    first = next(csv.DictReader(io.StringIO(progress.decode())), None)
    if first is None or "started" not in first:
        return None  # without it, points would have other times now than at the end
    return {"started": first["started"]}, progress


def _parents(
    runs: list[Record], params: Params, data: dict[str, Dataset], status: str
) -> list[Record]:
    """A record per dataset x model x loss that has a run; it began with the first of them."""
    starts: dict[tuple, int] = {}
    for run in runs:
        group = tuple(run.params[key] for key in GROUP)
        starts[group] = min(run.start, starts.get(group, run.start))
    return [
        Record(
            key=loss_key(*group),
            kind="loss",
            name=loss_name(*group),
            start=start,
            end=None,
            params=params(*group),
            tags={"lossbench.status": status},
            dataset=data[group[0]],
            provisional=True,
        )
        for group, start in starts.items()
    ]
