"""Make an MLflow experiment equal to records. Every write can be repeated without a trace.

A run of ours carries the tags lossbench.source and lossbench.key; no other run is touched. It is
created with lossbench.sync = writing and the digest of its content, and ends as complete. A run
that is to be replaced turns into replaced before it is deleted: a run that was deleted while
complete was deleted by a person, and stays so.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench import ui
from lossbench.config import UserError
from lossbench.files import whole
from lossbench.track.records import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

METRICS_PER_CALL = 1000
CLIENT = {
    **ui.QUIET,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Else a server that is down is tried for 4 minutes, one that hangs for 20.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def connect(store: str, results: Path) -> "MlflowClient":
    """Open the store; the embedded one is made where it is missing."""
    for key, value in CLIENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    database = results / "mlflow.db"
    if store == ui.embedded(results) and not database.exists():
        # Whole or not at all: a store that was killed while it was made is broken for good.
        with whole(database) as part:
            MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
    return MlflowClient(store)


def failures() -> tuple[type[Exception], ...]:
    """Name the errors of a store that is down, slow or damaged."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError


def settle_experiment(
    client: "MlflowClient", name: str, place: str | None, tags: dict[str, str]
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

    Raises
    ------
    UserError
        Where a person deleted it.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        found = client.get_experiment(client.create_experiment(name, place))
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment {name!r} was deleted in MLflow; to have it back: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def sync(
    client: "MlflowClient", experiment_id: str, source: str, records: Sequence[Record]
) -> tuple[dict[str, int], dict[str, str]]:
    """Make our runs of an MLflow experiment equal to the records.

    Parameters
    ----------
    source
        Which results these are: runs of other sources are left alone.
    records
        Parents before their children.

    Returns
    -------
    counts
        Runs that were written, unchanged, removed, left deleted (by a person).
    ids
        Key of a record -> id of its run, of those that are not deleted.
    """
    present = _present(client, experiment_id, source)
    counts = dict.fromkeys(("written", "unchanged", "removed", "left deleted"), 0)
    ids: dict[str, str] = {}
    for record in records:
        parent = {"mlflow.parentRunId": ids[record.parent]} if record.parent in ids else {}
        active, deleted_by_person = present.pop(record.key, ([], False))
        same = [run for run in active if run.data.tags.get("lossbench.content") == record.content]
        if deleted_by_person and not active:
            counts["left deleted"] += 1
            continue
        for run in active:
            if run not in same[:1]:
                _remove(client, run)
        done = bool(same) and same[0].data.tags["lossbench.sync"] == "complete"
        counts["unchanged" if done else "written"] += 1
        if done:
            ids[record.key] = same[0].info.run_id
            _retag(client, same[0], parent)
        else:
            ids[record.key] = (
                same[0].info.run_id if same else _create(client, experiment_id, source, record)
            )
            _write(client, ids[record.key], record, parent)
    for active, _ in present.values():  # results that are no longer there
        for run in active:
            _remove(client, run)
            counts["removed"] += 1
    return counts, ids


def _present(
    client: "MlflowClient", experiment_id: str, source: str
) -> dict[str, tuple[list["Run"], bool]]:
    """Key -> our active runs, and whether a person deleted one."""
    from mlflow.entities import ViewType

    present: dict[str, tuple[list[Run], bool]] = {}
    ours, token = f"tags.`lossbench.source` = '{source}'", None
    while True:
        page = client.search_runs([experiment_id], ours, ViewType.ALL, page_token=token)
        for run in page:
            key, state = run.data.tags["lossbench.key"], run.data.tags["lossbench.sync"]
            active, deleted = present.get(key, ([], False))
            if run.info.lifecycle_stage == "active":
                present[key] = [*active, run], deleted
            else:
                present[key] = active, deleted or state == "complete"
        token = page.token
        if not token:
            return present


def _create(client: "MlflowClient", experiment_id: str, source: str, record: Record) -> str:
    tags = {
        "lossbench.source": source,
        "lossbench.key": record.key,
        "lossbench.kind": record.kind,
        "lossbench.content": record.content,
        "lossbench.sync": "writing",
        "mlflow.source.name": "lossbench",
    }
    run = client.create_run(experiment_id, record.start, tags, record.name)
    return run.info.run_id


def _write(client: "MlflowClient", run_id: str, record: Record, parent: dict[str, str]) -> None:
    """Write a run; whatever a killed sync wrote of it before is written over."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key, value) for key, value in record.params.items()]
    tags = [RunTag(key, value) for key, value in {**record.tags, **parent}.items()]
    client.log_batch(run_id, params=params, tags=tags)
    metrics = [Metric(*point) for point in record.metrics]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])
    for name, path in record.files.items():
        folder = Path(name).parent
        client.log_artifact(run_id, str(path), None if folder == Path() else str(folder))
    client.set_terminated(run_id, "FINISHED", record.end)
    client.set_tag(run_id, "lossbench.sync", "complete")


def _retag(client: "MlflowClient", run: "Run", tags: dict[str, str]) -> None:
    """Point an unchanged child to its parent, which may have been written anew."""
    for key, value in tags.items():
        if run.data.tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)


def _remove(client: "MlflowClient", run: "Run") -> None:
    client.set_tag(run.info.run_id, "lossbench.sync", "replaced")
    client.delete_run(run.info.run_id)
