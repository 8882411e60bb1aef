"""What MLflow should hold while the workflow runs: curves of what has begun, no figures yet."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lossbench.config import Experiment, UserError
from lossbench.files import block_folder, read_json
from lossbench.provenance import run_digest
from lossbench.track.records import (
    GROUP,
    Dataset,
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
        found = _begun(folder.parent / "runs" / digest)
        if found:
            row = {"status": status, **found[0], **keys, "digest": digest}
            runs.append(run_record(row, params, data, found[1]))
    if not runs:
        return [], []
    starts: dict[tuple, int] = {}
    for run in runs:
        group = tuple(run.params[key] for key in GROUP)
        starts[group] = min(run.start, starts.get(group, run.start))
    parents = [
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
    ended = sum(run.end is not None for run in runs)
    note = f"{ended} of {len(expected)} runs are trained; the comparison follows."
    classes = read_json(prepared(folder, next(iter(data))) / "classes.json")["classes"]
    whole = comparison_record(e, status, min(starts.values()), None, note, {})
    return [whole, *parents, *runs], classes


def is_current(e: Experiment, folder: Path) -> bool:
    """Whether the workflow came to its end, so that its tables are those of its runs."""
    report = folder / "report"
    try:
        table = read_table(report / "runs.csv")
        tables, end = (report / name for name in ("comparisons.csv", "mlflow.json"))
        compared = set(zip(table["digest"], table["finished"], strict=True))
        stored = {
            (digest, read_json(folder.parent / "runs" / digest / "status.json")["finished"])
            for _, digest in _expected(e, folder, datasets(e, folder))
        }
        return compared == stored and tables.stat().st_mtime <= end.stat().st_mtime
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
    # Without the time that it began, points would have other times at the end than now.
    return ({"started": first["started"]}, progress) if first and "started" in first else None
