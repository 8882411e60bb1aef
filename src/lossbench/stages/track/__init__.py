"""track: make MLflow equal to the results.

Training never talks to MLflow. `track` is the only writer, one process at a time; it reads files
(`read_runs`), makes the store equal to them (`write_runs`) and leaves views for people (`view`,
`ui`).
"""

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbench import config
from lossbench.common.files import write_json
from lossbench.config import UserError
from lossbench.stages.track import mlflow_store
from lossbench.stages.track.read_runs import Study
from lossbench.stages.track.view import experiment_tags, links
from lossbench.stages.track.write_runs import get_or_create_experiment, sync

log = logging.getLogger(__name__)
LOCK_SECONDS = 600.0  # how long to wait for another sync of these results
INTERVAL_SECONDS = 2.0  # between two syncs of what grows
START_SECONDS = 60.0  # how long a workflow has to start


def track(
    experiment: Path,
    output: Path | None = None,
    follow: bool = False,
    restore: bool = False,
    models: bool = False,
) -> None:
    """Make MLflow equal to the results of an experiment.

    The store is $MLFLOW_TRACKING_URI, or mlflow.db in the folder of results.

    Parameters
    ----------
    experiment
        experiment.json; blocks and report lie next to it.
    output
        JSON to write: store, experiment_id, runs (counts), links. None: report/mlflow.json.
    follow
        Do so again and again while the workflow runs, so that curves grow.
    restore
        Bring back runs that somebody deleted in MLflow.
    models
        Give each run its weights as an artifact.

    Raises
    ------
    UserError
        Where results are missing, the store does not answer or cannot be written, or another
        process follows this experiment.
    """
    if follow:
        _follow(experiment, restore, models)
        return
    summary = _sync(experiment, restore, models)
    if summary:
        write_json(output or experiment.parent / "report" / "mlflow.json", summary)
        _print(summary)


def _follow(experiment: Path, restore: bool, models: bool) -> None:
    """Sync what grows, until the workflow has ended, or has not started in time."""
    folder, deadline = experiment.parent, time.monotonic() + START_SECONDS
    if not _is_running(folder):
        log.info("no workflow makes %s; waiting %.0f s for one", folder, START_SECONDS)
    while not experiment.exists():
        if time.monotonic() > deadline:
            raise UserError(f"{experiment}: no such file; start the workflow, then follow it")
        time.sleep(INTERVAL_SECONDS / 4)
    refusal = "process {process} follows this experiment already; end it first"
    with mlflow_store.locked(folder / ".follow.lock", refusal):
        log.info("following %s; Ctrl-C ends this and harms nothing", folder)
        try:
            printed = False
            while (running := _is_running(folder)) or time.monotonic() < deadline:
                if running:
                    deadline = 0.0  # it has started: when none is running any more, it has ended
                started = time.monotonic()
                summary = _sync_growing(experiment, "training", restore)
                if summary and not printed:
                    _print(summary)
                    printed = True
                # A sync of a large experiment takes long: it may have a fifth of a core.
                time.sleep(max(INTERVAL_SECONDS, 4 * (time.monotonic() - started)))
        except KeyboardInterrupt:
            log.info("stopped; the last step of the workflow completes MLflow")
            return
        if Study(config.load(experiment), folder).is_compared():
            track(experiment, restore=restore, models=models)
        else:
            log.info("the workflow ended before its last step; run it again to resume")
            _sync_growing(experiment, "interrupted", restore)


def _sync_growing(experiment: Path, status: str, restore: bool) -> dict[str, Any] | None:
    try:
        return _sync(experiment, restore, status=status)
    except UserError as error:
        log.warning("%s\nNext try soon.", error)
        return None


def _is_running(folder: Path) -> bool:
    """Whether a Snakemake holds the lock on files of an experiment."""
    results = folder.resolve().parent
    ours = f"{results.name}/{folder.name}/"
    for lock in (results.parent / ".snakemake" / "locks").glob("*.output.lock"):
        with suppress(FileNotFoundError):  # removed since; there may be another
            if ours in lock.read_text():
                return True
    return False


def _sync(
    experiment: Path, restore: bool, models: bool = False, status: str = ""
) -> dict[str, Any] | None:
    """Sync an experiment, finished or with a status; a summary. None: there is nothing yet."""
    e, results = config.load(experiment), experiment.resolve().parents[1]
    uri = mlflow_store.tracking_uri(results)
    # Results in an embedded store move with it; on a server, each folder of results has its own.
    source = (
        e.experiment if uri == mlflow_store.embedded(results) else str(experiment.resolve().parent)
    )
    busy = "process {process} is writing to MLflow; run this again when it has ended"
    with mlflow_store.locked(results / ".mlflow.lock", busy, LOCK_SECONDS):
        study = Study(e, experiment.parent)
        records = study.under_way(status) if status else study.finished(models)
        if not records:
            return None
        tags = experiment_tags(e, records[0].tags["mlflow.note.content"], study.classes)
        location = (
            None
            if mlflow_store.is_server(uri)
            else (results / "mlartifacts" / e.experiment).as_uri()
        )
        with mlflow_store.explained(uri, experiment):
            client = mlflow_store.connect(uri, results)
            number = get_or_create_experiment(client, e.experiment, location, tags, restore)
            counts = sync(client, number, source, records, restore)
    # Without the password that a server's URI may carry: links are printed and written down.
    address = mlflow_store.redacted(uri, "").rstrip("/") if mlflow_store.is_server(uri) else ""
    return {
        "store": mlflow_store.redacted(uri),
        "experiment_id": number,
        "runs": counts,
        "links": links(address, number),
    }


def _print(summary: dict[str, Any]) -> None:
    print(f"MLflow: {', '.join(f'{n} runs {what}' for what, n in summary['runs'].items() if n)}")
    print(f"  store   {summary['store']}")
    if not mlflow_store.is_server(summary["store"]):
        print("  look    python -m lossbench ui   (or: make ui), which prints the links")
        return
    for name, link in summary["links"].items():
        print(f"  {name:<8}{link}")
