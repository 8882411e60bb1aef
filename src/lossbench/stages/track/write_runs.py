"""Make an MLflow experiment equal to records. Every write can be repeated without a trace.

A run of ours carries the tags lossbench.source and lossbench.key; no other run is touched. Its
lossbench.sync is `writing` until it is `complete`. lossbench.written is the number and the digest
of the entries that the run has (while `writing`: will have). MLflow forgets neither a param nor a
point of a curve: a run whose entries are the first ones of its record is added to; any other is
tagged `replaced`, deleted, and written anew. Where a run is deleted but not `replaced`, a person
deleted it, and it stays so.
"""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.common.provenance import sha256
from lossbench.config import UserError
from lossbench.stages.track.record import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COUNTS = ("written", "unchanged", "removed", "left deleted")
# What log_batch takes at once: 1000 together.
METRICS, PARAMS, TAGS = 900, 100, 100
VERDICTS = ("better", "worse", "equivalent", "undecided", "not learned", "reference")


def get_or_create_experiment(
    client: "MlflowClient",
    name: str,
    artifact_location: str | None,
    tags: dict[str, str],
    restore: bool,
) -> str:
    """Get the id of the MLflow experiment of a name, made where it is missing, and set its tags.

    An experiment that a person deleted comes back with `restore`; a UserError says so without it.
    Artifact location None is the server's own.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        experiment = client.get_experiment(client.create_experiment(name, artifact_location))
    if experiment.lifecycle_stage == "deleted":
        if not restore:
            raise UserError(
                f"the experiment {name!r} was deleted in MLflow; to have it back, add --restore"
            )
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment.experiment_id


def sync(
    client: "MlflowClient",
    experiment_id: str,
    source: str,
    records: Sequence[Record],
    restore: bool = False,
) -> dict[str, int]:
    """Make our runs of an MLflow experiment equal to the records.

    Parameters
    ----------
    source
        Which results these are: runs of other sources are left alone.
    records
        Parents before their children. Where one is provisional, no run is removed for good.
    restore
        Whether runs that a person deleted come back.

    Returns
    -------
    dict
        How many runs were written, unchanged, removed, left deleted (by a person).
    """
    existing = _search(client, experiment_id, source)
    counts, ids = dict.fromkeys(COUNTS, 0), {}
    for record in records:
        active, deleted = existing.pop(record.key, ([], []))
        if deleted and not active:
            if not restore:
                counts["left deleted"] += 1
                continue
            client.restore_run(deleted[0].info.run_id)
            active = deleted[:1]
        run = next((run for run in active if _can_be_extended(run, record)), None)
        for other in active:
            if other is not run:
                _delete(client, other)
        parent = {"mlflow.parentRunId": ids[record.parent]} if record.parent in ids else {}
        if run and _is_up_to_date(run, record):
            counts["unchanged"] += 1
            ids[record.key] = run.info.run_id
            for key, value in parent.items():  # it may have been written anew
                if run.data.tags.get(key) != value:
                    client.set_tag(run.info.run_id, key, value)
        else:
            counts["written"] += 1
            ids[record.key] = _write(client, experiment_id, source, run, record, parent)
    if not any(record.provisional for record in records):
        for active, _ in existing.values():  # their results are no longer there
            for run in active:
                _delete(client, run)
                counts["removed"] += 1
    return counts


def _search(
    client: "MlflowClient", experiment_id: str, source: str
) -> dict[str, tuple[list["Run"], list["Run"]]]:
    """Find our runs by key: the active ones, and those that a person deleted."""
    from mlflow.entities import ViewType

    existing: dict[str, tuple[list[Run], list[Run]]] = {}
    quote = '"' if "'" in source else "'"  # a folder may have one in its name; there is no escape
    ours, token = f"tags.`lossbench.source` = {quote}{source}{quote}", None
    while True:
        page = client.search_runs([experiment_id], ours, ViewType.ALL, page_token=token)
        for run in page:
            active, deleted = existing.setdefault(run.data.tags["lossbench.key"], ([], []))
            if run.info.lifecycle_stage == "active":
                active.append(run)
            elif run.data.tags["lossbench.sync"] != "replaced":
                deleted.append(run)
        token = page.token
        if not token:
            return existing


def _is_up_to_date(run: "Run", record: Record) -> bool:
    """Whether there is nothing to write."""
    tags = run.data.tags
    if tags["lossbench.sync"] != "complete":
        return False
    if tags["lossbench.content"] == record.content:
        return True
    # Figures of an earlier sync stay until there are new ones.
    ended = run.info.status == "FINISHED" and record.end in (None, run.info.end_time)
    return record.provisional and ended


def _can_be_extended(run: "Run", record: Record) -> bool:
    """Whether a run holds what the record says, or a beginning of it."""
    if run.data.tags["lossbench.sync"] == "replaced":  # the sync was killed before it was deleted
        return False
    if _is_up_to_date(run, record):
        return True
    written = run.data.tags.get("lossbench.written", "0 none")
    return _digest(record.entries[: int(written.split()[0])]) == written


def _digest(entries: Sequence[tuple]) -> str:
    return f"{len(entries)} {sha256(repr(entries))}"


def _write(
    client: "MlflowClient",
    experiment_id: str,
    source: str,
    run: "Run | None",
    record: Record,
    parent: dict[str, str],
) -> str:
    """Write what a run lacks; all of it again where a sync was killed while it wrote. Its id."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    tags = {
        "lossbench.sync": "writing",
        "lossbench.written": _digest(record.entries),
        "lossbench.content": record.content,
        "lossbench.source": source,
        "lossbench.key": record.key,
        "lossbench.kind": record.kind,
        "mlflow.source.name": "lossbench",
        **record.tags,
        **parent,
    }
    n_written, status = 0, "RUNNING"
    if run is None:
        run_id = client.create_run(experiment_id, record.start, tags, record.name).info.run_id
    else:
        run_id, status, old = run.info.run_id, run.info.status, run.data.tags
        if old["lossbench.sync"] == "complete":
            n_written = int(old["lossbench.written"].split()[0])
        for chunk in _chunks([RunTag(key, value) for key, value in tags.items()], TAGS):
            client.log_batch(run_id, tags=chunk)
        for key in old.keys() - tags.keys():
            if "/" in key and old[key] in VERDICTS:  # the verdict on something no longer compared
                client.delete_tag(run_id, key)

    new: dict[str, list] = {"start": [], "param": [], "dataset": [], "metric": [], "file": []}
    for kind, *values in record.entries[n_written:]:
        new[kind].append(values)
    params = _chunks([Param(*values) for values in new["param"]], PARAMS)
    metrics = _chunks([Metric(*values) for values in new["metric"]], METRICS)
    for some_params, some_metrics in zip_longest(params, metrics, fillvalue=()):
        client.log_batch(run_id, metrics=some_metrics, params=some_params)
    for name, digest, n_cases in new["dataset"]:
        origin, profile = json.dumps({"sha256": digest}), json.dumps({"num_rows": n_cases})
        dataset = Dataset(name, digest[:12], "lossbench", origin, None, profile)
        context = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(run_id, [DatasetInput(dataset, context)])
    for name, _ in new["file"]:
        folder = Path(name).parent
        path = None if folder == Path() else str(folder)
        client.log_artifact(run_id, str(record.files[name]), path)

    is_open = "KILLED" if record.tags["lossbench.status"] == "interrupted" else "RUNNING"
    if record.end is not None:
        client.set_terminated(run_id, "FINISHED", record.end)
    elif status != is_open:
        client.update_run(run_id, is_open)
    client.set_tag(run_id, "lossbench.sync", "complete")
    return run_id


def _chunks(values: list, size: int) -> list[list]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _delete(client: "MlflowClient", run: "Run") -> None:
    client.set_tag(run.info.run_id, "lossbench.sync", "replaced")
    client.delete_run(run.info.run_id)
