"""MLflow stores for tests: what they hold, row by row; servers over SQLite and PostgreSQL."""

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from mlflow import MlflowClient

from lossbench.stages.track import mlflow_store, track

QUERIES = {
    "r.name, r.status, r.start_time, r.end_time": "",
    "r.name, t.key, t.value, t.timestamp, t.step": "join metrics t using (run_uuid)",
    "r.name, t.key, t.value, t.step": "join latest_metrics t using (run_uuid)",
    "r.name, t.key, t.value": "join params t using (run_uuid)",
    "r.name, d.name, d.digest, d.dataset_profile": (
        "join inputs i on i.destination_id = r.run_uuid join datasets d on dataset_uuid = source_id"
    ),
    "r.name, t.key, coalesce(p.name, t.value)": (
        "join tags t using (run_uuid) left join runs p on p.run_uuid = t.value"
    ),
}


def sync(experiment: Path, **options: bool) -> dict:
    """Sync; what the sync said."""
    track(experiment, experiment.parent / "track.json", **options)
    return json.loads((experiment.parent / "track.json").read_text())


@functools.cache
def _template() -> Path:
    """An empty store: MLflow takes seconds to make one."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    mlflow_store.connect(mlflow_store.embedded(folder), folder)
    return folder / "mlflow.db"


def empty_store(results: Path) -> Path:
    """Lay an empty store into a folder of results; its file."""
    return Path(shutil.copy(_template(), results / "mlflow.db"))


def client(experiment: Path) -> MlflowClient:
    """A client of the embedded store of an experiment."""
    return MlflowClient(mlflow_store.embedded(experiment.parents[1]))


def runs(experiment: Path, kind: str, uri: str | None = None) -> pd.DataFrame:
    """What a user gets from mlflow.search_runs."""
    import mlflow

    ours = f"tags.`lossbench.kind` = '{kind}'"
    with pytest.MonkeyPatch.context() as patch:  # mlflow.set_tracking_uri would set it for good
        patch.setenv("MLFLOW_TRACKING_URI", uri or mlflow_store.embedded(experiment.parents[1]))
        found = mlflow.search_runs(experiment_names=["fake"], filter_string=ours)
    assert isinstance(found, pd.DataFrame)
    return found


def content(experiment: Path, experiment_id: str = "1", database: str | None = None) -> list[str]:
    """Every row of the active runs, with the names of runs in place of ids that MLflow draws."""
    engine = sa.create_engine(
        database or mlflow_store.embedded(experiment.parents[1]), poolclass=sa.pool.NullPool
    )
    where = "where r.lifecycle_stage = 'active' and r.experiment_id = :id"
    rows = []
    with engine.connect() as connection:
        for columns, join in QUERIES.items():
            query = sa.text(f"select {columns} from runs r {join} {where}")
            found = connection.execute(query, {"id": int(experiment_id)})
            # The source differs between an embedded store and a server.
            rows += [
                str((columns, *(None if v is None else str(v) for v in row)))
                for row in found
                if "lossbench.source" not in row
            ]
    return sorted(rows)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`mlflow server` on 127.0.0.1 over a store; it can be killed and started again."""

    def __init__(self, store: str, folder: Path) -> None:
        self.store, self.folder, self.port = store, folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, patience: float = 120) -> None:
        """Start it and wait until it answers."""
        options = ["--backend-store-uri", self.store, "--host", "127.0.0.1"]
        options += ["--port", str(self.port), "--workers", "1"]
        options += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                env=environment | mlflow_store.SETTINGS,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + patience
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=1) as answer:
                    answer.read()
                return
            except OSError:
                time.sleep(0.2)
        self.kill()
        raise RuntimeError((self.folder / "server.log").read_text()[-3000:])

    def signal(self, number: int) -> None:
        """Send a signal to it and its workers, if it is there."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL cluster of its own on 127.0.0.1; the URI of its empty database."""
    pytest.importorskip("psycopg2", reason="psycopg2-binary is not installed")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not places:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    # The server refuses to run as root, and its user must reach the folder.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as data:
        if user:
            shutil.chown(data, "postgres")
        port, binaries = free_port(), places[-1].parent

        def call(name: str, *arguments: str) -> None:
            command = [*user, str(binaries / name), "-D", data, *arguments]
            log = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run(command, cwd="/", check=True, **log)

        call("initdb", "-U", "tester", "-A", "trust", "-N")
        options = f"-h 127.0.0.1 -p {port} -k {data} -F"
        call("pg_ctl", "-w", "-l", f"{data}/log", "-o", options, "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
