"""track: make MLflow equal to the results.

Training never talks to MLflow. `track` is the only writer, one process at a time; it reads files
(`records`, `growing`), makes the `store` equal to them (`sync`) and leaves views for people
(`view`, `ui`).
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lossbench import config
from lossbench.common.files import write_json
from lossbench.config import Experiment, UserError
from lossbench.stages.track import ui
from lossbench.stages.track.growing import is_current, read_growing
from lossbench.stages.track.records import Record, read
from lossbench.stages.track.store import connect, failures, locked
from lossbench.stages.track.sync import settle_experiment, sync
from lossbench.stages.track.view import experiment_tags, links

Reader = Callable[[], tuple[list[Record], list[str]]]

log = logging.getLogger(__name__)
PATIENCE = 600.0  # s to wait for another sync of these results
INTERVAL = 2.0  # s between two looks at what grows
BEGINNING = 60.0  # s that a workflow has to begin in


def track(
    experiment: Path,
    output: Path | None = None,
    follow: bool = False,
    restore: bool = False,
    models: bool = False,
) -> None:
    """Make MLflow equal to the results of an experiment; a second time, nothing is written.

    The store is $MLFLOW_TRACKING_URI, or mlflow.db in the folder of results.

    Parameters
    ----------
    experiment
        experiment.json; blocks and report lie beside it.
    output
        JSON to write: store, experiment_id, runs (counts), links. None: report/mlflow.json.
    follow
        Whether to do so again and again while the workflow runs: curves grow.
    restore
        Whether what a person deleted in MLflow comes back.
    models
        Whether a run gets its weights as an artifact.

    Raises
    ------
    UserError
        Where results are missing, the store does not answer or cannot be written, or another
        process follows this experiment.
    """
    if follow:
        _follow(experiment, restore, models)
        return
    e = config.load(experiment)
    said = _sync(experiment, e, lambda: read(e, experiment.parent, models), restore)
    write_json(output or experiment.parent / "report" / "mlflow.json", said)
    _say(said)


def _follow(experiment: Path, restore: bool, models: bool) -> None:
    folder, until = experiment.parent, time.monotonic() + BEGINNING
    if not _is_running(folder):
        log.info("no workflow makes %s; waiting %.0f s for one", folder, BEGINNING)
    while not experiment.exists():
        if time.monotonic() > until:
            raise UserError(f"{experiment}: no such file; start the workflow, then follow it")
        time.sleep(INTERVAL / 4)
    refusal = "process {process} follows this experiment already; end it first"
    with locked(folder / ".follow.lock", refusal):
        log.info("following %s; Ctrl-C ends this and harms nothing", folder)
        try:
            _look_until_the_end(experiment, until, restore)
        except KeyboardInterrupt:
            log.info("stopped; the last step of the workflow completes MLflow")
            return
        if is_current(config.load(experiment), folder):
            track(experiment, restore=restore, models=models)
        else:
            log.info("the workflow ended before its last step; run it again to go on")
            _look(experiment, "interrupted", restore)


def _look_until_the_end(experiment: Path, until: float, restore: bool) -> None:
    """Sync what grows, until the workflow has ended, or has not begun in time."""
    told = False
    while (running := _is_running(experiment.parent)) or time.monotonic() < until:
        if running:
            until = 0.0  # it has begun: when none is running any more, it has ended
        began = time.monotonic()
        said = _look(experiment, "training", restore)
        if said and not told:
            _say(said)
            told = True
        # A look at a large experiment takes long: it may have a fifth of a core.
        time.sleep(max(INTERVAL, 4 * (time.monotonic() - began)))


def _look(experiment: Path, status: str, restore: bool) -> dict[str, Any] | None:
    """Sync what there is; None where there is nothing, or the store does not answer now."""
    try:
        e = config.load(experiment)
        reader = partial(read_growing, e, experiment.parent, status)
        return _sync(experiment, e, reader, restore)
    except UserError as error:
        log.warning("%s\nNext try soon.", error)
        return None


def _is_running(folder: Path) -> bool:
    """Whether a Snakemake holds the lock on files of an experiment."""
    results = folder.resolve().parent
    ours = f"{results.name}/{folder.name}/"
    for lock in (results.parent / ".snakemake" / "locks").glob("*.output.lock"):
        with suppress(FileNotFoundError):  # gone since; another may be there
            if ours in lock.read_text():
                return True
    return False


def _sync(experiment: Path, e: Experiment, reader: Reader, restore: bool) -> dict[str, Any] | None:
    """Sync what a reader gives; what there is to say about it. None: there is nothing yet."""
    results = experiment.resolve().parents[1]
    store = ui.store(results)
    # Results in an embedded store move with it; on a server, each folder of results has its own.
    source = e.experiment if store == ui.embedded(results) else str(experiment.resolve().parent)
    busy = "process {process} is writing to MLflow; run this again when it has ended"
    with locked(results / ".mlflow.lock", busy, PATIENCE):
        records, classes = reader()
        if not records:
            return None
        tags = experiment_tags(e, records[0].tags["mlflow.note.content"], classes)
        with _explained(store, experiment):
            client = connect(store, results)
            artifacts = (results / "mlartifacts" / e.experiment).as_uri()
            place = None if ui.is_server(store) else artifacts  # a server has its own
            number = settle_experiment(client, e.experiment, place, tags, restore)
            counts, ids = sync(client, number, source, records, restore)
    where = links(ui.address(store), number, records, ids)
    return {"store": ui.redacted(store), "experiment_id": number, "runs": counts, "links": where}


def _say(said: dict[str, Any]) -> None:
    print(f"MLflow: {', '.join(f'{n} runs {what}' for what, n in said['runs'].items() if n)}")
    print(f"  store   {said['store']}")
    if not ui.is_server(said["store"]):
        print("  look    python -m lossbench ui   (or: make ui), which prints the links")
        return
    for name, link in said["links"].items():
        print(f"  {name:<8}{link}")


@contextmanager
def _explained(store: str, experiment: Path) -> Iterator[None]:
    try:
        yield
    except failures() as error:
        raise UserError(
            f"MLflow at {ui.redacted(store)} could not be brought up to date: "
            f"{ui.redacted(str(error).strip())}\n"
            "The results are complete in files. When the store answers, sync again with: "
            f"python -m lossbench track --experiment {experiment}"
        ) from error
