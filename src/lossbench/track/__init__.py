"""track: make MLflow equal to the results.

Training never talks to MLflow. `track` is one process and the only writer; it reads files
(`records`), makes the store equal to them (`sync`) and leaves views for people (`view`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossbench import config, ui
from lossbench.config import UserError
from lossbench.files import write_json
from lossbench.track.records import read
from lossbench.track.sync import connect, failures, settle_experiment, sync
from lossbench.track.view import experiment_tags, links


def track(experiment: Path, output: Path) -> None:
    """Make MLflow equal to the results of an experiment; a second time, nothing is written.

    The store is $MLFLOW_TRACKING_URI, or mlflow.db in the folder of results.

    Parameters
    ----------
    experiment
        experiment.json; blocks and report lie beside it.
    output
        JSON to write: store, experiment_id, runs (counts), links.

    Raises
    ------
    UserError
        Where results are missing, or the store does not answer or cannot be written.
    """
    e = config.load(experiment)
    results = experiment.resolve().parents[1]
    store = ui.store(results)
    # Results in an embedded store move with it; on a server, each folder of results has its own.
    source = e.experiment if store == ui.embedded(results) else str(experiment.resolve().parent)
    records, classes = read(e, experiment.parent)
    tags = experiment_tags(records[0].tags["mlflow.note.content"], classes, e.comparison.metrics)
    with _explained(store, experiment, output):
        client = connect(store, results)
        # A server has its own place for artifacts.
        place = None if ui.is_server(store) else (results / "mlartifacts" / e.experiment).as_uri()
        experiment_id = settle_experiment(client, e.experiment, place, tags)
        counts, ids = sync(client, experiment_id, source, records)
    where = links(ui.address(store), experiment_id, records, ids)
    write_json(
        output,
        {
            "store": ui.redacted(store),
            "experiment_id": experiment_id,
            "runs": counts,
            "links": where,
        },
    )
    print(f"MLflow: {', '.join(f'{n} runs {what}' for what, n in counts.items() if n)}")
    print(f"  store   {ui.redacted(store)}")
    if not ui.is_server(store):
        print("  start   make ui   (or: python -m lossbench ui)")
    for name, link in where.items():
        print(f"  {name:<8}{link}")


@contextmanager
def _explained(store: str, experiment: Path, output: Path) -> Iterator[None]:
    try:
        yield
    except failures() as error:
        again = f"python -m lossbench track --experiment {experiment} --output {output}"
        raise UserError(
            f"MLflow at {ui.redacted(store)} could not be brought up to date: "
            f"{ui.redacted(str(error).strip())}\n"
            f"The results are complete in files. When the store answers, sync again with: {again}"
        ) from error
