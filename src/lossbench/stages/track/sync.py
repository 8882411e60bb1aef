"""Make an MLflow experiment equal to records. Every write can be repeated without a trace.

A run of ours carries the tags lossbench.source and lossbench.key; no other run is touched. Its
lossbench.sync is `writing`, with the plan of what is being written, until it is `complete`. A run
that only lacks something is added to; one that holds something else is `replaced` and deleted. So
a run that was deleted without being `replaced` was deleted by a person, and stays so.
"""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.common.provenance import sha256
from lossbench.config import UserError
from lossbench.stages.track.records import Fact, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COUNTS = ("written", "unchanged", "removed", "left deleted")
# What log_batch takes at once: 1000 together.
METRICS, PARAMS, TAGS = 900, 100, 100
VERDICTS = ("better", "worse", "equivalent", "undecided", "reference")


def settle_experiment(
    client: "MlflowClient", name: str, place: str | None, tags: dict[str, str], restore: bool
) -> str:
    """Make the MLflow experiment where it is missing, and its tags; its id.

    Parameters
    ----------
    name
        Of the experiment.
    place
        URI for artifacts; None: the server's own.
    tags
        Of the experiment.
    restore
        Whether one that a person deleted comes back.

    Raises
    ------
    UserError
        Where a person deleted it.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        found = client.get_experiment(client.create_experiment(name, place))
    if found.lifecycle_stage == "deleted":
        if not restore:
            raise UserError(
                f"the experiment {name!r} was deleted in MLflow; to have it back, add --restore"
            )
        client.restore_experiment(found.experiment_id)
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def sync(
    client: "MlflowClient",
    experiment_id: str,
    source: str,
    records: Sequence[Record],
    restore: bool = False,
) -> tuple[dict[str, int], dict[str, str]]:
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
    counts
        Runs that were written, unchanged, removed, left deleted (by a person).
    ids
        Key of a record -> id of its run, of those that are not deleted.
    """
    present = _present(client, experiment_id, source)
    counts, ids = dict.fromkeys(COUNTS, 0), {}
    for record in records:
        active, deleted = present.pop(record.key, ([], []))
        if deleted and not active:
            if not restore:
                counts["left deleted"] += 1
                continue
            client.restore_run(deleted[0].info.run_id)
            active = deleted[:1]
        run = next((run for run in active if _can_become(run, record)), None)
        for other in active:
            if other is not run:
                _remove(client, other)
        parent = {"mlflow.parentRunId": ids[record.parent]} if record.parent in ids else {}
        if run and _stays(run, record):
            counts["unchanged"] += 1
            ids[record.key] = run.info.run_id
            _retag(client, run, parent)
        else:
            counts["written"] += 1
            ids[record.key] = _write(client, experiment_id, source, run, record, parent)
    if not any(record.provisional for record in records):
        for active, _ in present.values():  # results that are no longer there
            for run in active:
                _remove(client, run)
                counts["removed"] += 1
    return counts, ids


def _present(
    client: "MlflowClient", experiment_id: str, source: str
) -> dict[str, tuple[list["Run"], list["Run"]]]:
    """Key -> our active runs, and those that a person deleted."""
    from mlflow.entities import ViewType

    present: dict[str, tuple[list[Run], list[Run]]] = {}
    quote = '"' if "'" in source else "'"  # a folder may have one in its name; there is no escape
    ours, token = f"tags.`lossbench.source` = {quote}{source}{quote}", None
    while True:
        page = client.search_runs([experiment_id], ours, ViewType.ALL, page_token=token)
        for run in page:
            active, deleted = present.setdefault(run.data.tags["lossbench.key"], ([], []))
            if run.info.lifecycle_stage == "active":
                active.append(run)
            elif run.data.tags["lossbench.sync"] != "replaced":
                deleted.append(run)
        token = page.token
        if not token:
            return present


def _stays(run: "Run", record: Record) -> bool:
    """Whether there is nothing to write."""
    tags = run.data.tags
    if tags["lossbench.sync"] != "complete":
        return False
    if tags["lossbench.content"] == record.content:
        return True
    ended = run.info.status == "FINISHED" and record.end in (None, run.info.end_time)
    return record.provisional and ended


def _can_become(run: "Run", record: Record) -> bool:
    """Whether a run holds what the record says, or a beginning of it."""
    if run.data.tags["lossbench.sync"] == "replaced":  # and not deleted any more: killed between
        return False
    if _stays(run, record):
        return True
    count, digest = run.data.tags.get("lossbench.plan", "0 none").split()
    return _plan(record.facts[: int(count)]) == f"{count} {digest}"


def _plan(facts: Sequence[Fact]) -> str:
    return f"{len(facts)} {sha256(repr(facts))}"


def _write(
    client: "MlflowClient",
    experiment_id: str,
    source: str,
    run: "Run | None",
    record: Record,
    parent: dict[str, str],
) -> str:
    """Write what a run lacks; all of it again where a sync was killed while it wrote. Its id."""
    state = {
        "lossbench.sync": "writing",
        "lossbench.plan": _plan(record.facts),
        "lossbench.content": record.content,
        "lossbench.source": source,
        "lossbench.key": record.key,
        "lossbench.kind": record.kind,
        "mlflow.source.name": "lossbench",
    }
    tags, done, status = {**state, **record.tags, **parent}, 0, "RUNNING"
    if run is None:
        run_id = client.create_run(experiment_id, record.start, tags, record.name).info.run_id
    else:
        run_id, status, held = run.info.run_id, run.info.status, run.data.tags
        if held["lossbench.sync"] == "complete":
            done = int(held["lossbench.plan"].split()[0])
        _tag(client, run_id, tags)
        for key in held.keys() - tags.keys():
            if "/" in key and held[key] in VERDICTS:  # the verdict on something no longer compared
                client.delete_tag(run_id, key)
    _add(client, run_id, record, done)
    if record.end is not None:
        client.set_terminated(run_id, "FINISHED", record.end)
    elif status != _going(record):
        client.update_run(run_id, _going(record))
    client.set_tag(run_id, "lossbench.sync", "complete")
    return run_id


def _going(record: Record) -> str:
    """Status of a run without an end."""
    return "KILLED" if record.tags["lossbench.status"] == "interrupted" else "RUNNING"


def _tag(client: "MlflowClient", run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    for some in _chunks([RunTag(key, value) for key, value in tags.items()], TAGS):
        client.log_batch(run_id, tags=some)


def _add(client: "MlflowClient", run_id: str, record: Record, done: int) -> None:
    """Write the facts of a record but those that are done."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    facts: dict[str, list] = {"start": [], "param": [], "dataset": [], "metric": [], "file": []}
    for kind, *values in record.facts[done:]:
        facts[kind].append(values)
    params = _chunks([Param(*values) for values in facts["param"]], PARAMS)
    metrics = _chunks([Metric(*values) for values in facts["metric"]], METRICS)
    for some_params, some_metrics in zip_longest(params, metrics, fillvalue=()):
        client.log_batch(run_id, metrics=some_metrics, params=some_params)
    if facts["dataset"] and record.dataset:
        data = record.dataset
        source, profile = json.dumps({"sha256": data.digest}), json.dumps({"num_rows": data.cases})
        entity = Dataset(data.name, data.digest[:12], "lossbench", source, None, profile)
        context = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(run_id, [DatasetInput(entity, context)])
    for name, _ in facts["file"]:
        folder = Path(name).parent
        where = None if folder == Path() else str(folder)
        client.log_artifact(run_id, str(record.files[name]), where)


def _chunks(values: list, size: int) -> list[list]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _retag(client: "MlflowClient", run: "Run", tags: dict[str, str]) -> None:
    """Point an unchanged child to its parent, which may have been written anew."""
    for key, value in tags.items():
        if run.data.tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)


def _remove(client: "MlflowClient", run: "Run") -> None:
    client.set_tag(run.info.run_id, "lossbench.sync", "replaced")
    client.delete_run(run.info.run_id)
