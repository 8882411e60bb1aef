"""track against real stores: servers over SQLite and PostgreSQL, syncs that are killed, old stores."""

import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from alembic import command
from mlflow import MlflowClient
from mlflow.store.db import utils as mlflow_db
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine

from lossbench.common.files import write_json
from lossbench.config import UserError
from lossbench.stages.track import ui
from tests.helpers.fake_results import write_experiment
from tests.helpers.stores import Server, content, empty_store, free_port, postgres, runs, sync

pytestmark = pytest.mark.slow  # each starts processes

MLFLOW_2_3 = "3500859a5d39"  # its schema


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished experiment and what one sync of it writes; copied, never changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        losses = ("dice", "dice_no_background")
        experiment = write_experiment(tmp_path_factory.mktemp("stores"), losses, folds=(0,))
        empty_store(experiment.parents[1])
        sync(experiment, models=True)
        return experiment, content(experiment)


@pytest.fixture
def finished(made, tmp_path, monkeypatch):
    """A copy of the experiment with an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(made[0].parents[1], tmp_path / "results")
    empty_store(tmp_path / "results")
    return tmp_path / "results/fake/experiment.json"


@pytest.fixture
def expected(made):
    return made[1]


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request, tmp_path):
    """A real `mlflow server` over a database of its own."""
    if request.param == "sqlite":
        with Server(f"sqlite:///{empty_store(tmp_path)}", tmp_path) as running:
            yield running
    else:
        with postgres() as uri, Server(uri, tmp_path) as running:
            yield running


def test_a_server_that_hangs_or_dies_midway_is_completed_later(
    finished, expected, server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    real, calls = MlflowClient.log_batch, []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
            server.signal(signal.SIGSTOP)
        if len(calls) == 5:
            server.kill()
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", fails)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(UserError, match="When the store answers, sync again with"):
                sync(finished, models=True)
            assert time.monotonic() - started < 60
            server.signal(signal.SIGCONT)
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    assert len(calls) == 5
    server.start()
    said = sync(finished, models=True)
    number = said["experiment_id"]
    assert content(finished, number, server.store) == expected
    assert said["links"]["losses"].startswith(f"{server.address}/#/experiments/{number}/")
    assert sync(finished, models=True)["runs"]["unchanged"] == 7
    comparison = runs(finished, "comparison", server.address)["run_id"].item()
    copy = MlflowClient(server.address).download_artifacts(comparison, "report.html")
    assert Path(copy).read_bytes() == (finished.parent / "report/report.html").read_bytes()


def test_a_process_that_is_killed_while_it_syncs_leaves_nothing_behind(finished, expected):
    code = "import sys; from lossbench.__main__ import main; sys.exit(main())"
    arguments = ["track", "--models", "--experiment", str(finished)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    database = finished.parents[1] / "mlflow.db"
    while process.poll() is None and count(database) < 4:
        time.sleep(0.01)
    process.kill()
    process.wait()
    sync(finished, models=True)
    assert content(finished) == expected


def count(database: Path) -> int:
    with sqlite3.connect(database, timeout=20) as db:
        return db.execute("select count(*) from runs").fetchone()[0]


METHODS = ["create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated", "set_tag"]


@pytest.mark.parametrize("method", [*METHODS, "delete_run"])
def test_a_sync_may_be_killed_before_and_after_every_kind_of_call(
    finished, expected, monkeypatch, method
):
    real, deaths = getattr(MlflowClient, method), []

    def interrupted(turn, *, before):
        calls = []

        def call(*args, **kwargs):
            calls.append(1)
            if before and len(calls) == turn:
                raise KeyboardInterrupt
            answer = real(*args, **kwargs)
            if len(calls) == turn:
                raise KeyboardInterrupt
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, call)
            try:
                sync(finished, models=True)
            except KeyboardInterrupt:
                deaths.append(turn)

    # Figures that are replaced later, some of them only half written.
    histories = {path: path.read_text() for path in finished.parent.rglob("history.csv")}
    for path in list(histories)[:2]:
        path.write_text(histories[path].replace("0.", "1."))
    interrupted(2, before=False)
    interrupted(1, before=True)
    if method == "delete_run":
        sync(finished, models=True)
    for path, text in histories.items():
        path.write_text(text)
    for turn in (1, 3):
        interrupted(turn, before=True)
        interrupted(turn, before=False)
    sync(finished, models=True)
    assert content(finished) == expected
    assert len(deaths) >= 2
    assert sync(finished, models=True)["runs"]["unchanged"] == 7


def old_store(results: Path, revision: str) -> Path:
    """A store with the schema of an earlier MLflow."""
    database = results / "mlflow.db"
    database.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    config = mlflow_db._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    return database


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning", "ignore::DeprecationWarning")
def test_a_store_of_an_older_mlflow_is_left_alone(finished):
    database = old_store(finished.parents[1], MLFLOW_2_3)
    before = database.read_bytes()
    for use in (lambda: sync(finished), lambda: ui.ui(finished.parents[1])):
        with pytest.raises(UserError, match=f"another version of MLflow .schema {MLFLOW_2_3}.*"):
            use()
    assert database.read_bytes() == before


def test_a_store_of_a_newer_mlflow_is_left_alone(finished):
    database = finished.parents[1] / "mlflow.db"
    with sqlite3.connect(database) as db:
        db.execute("update alembic_version set version_num = 'of_tomorrow'")
    before = database.read_bytes()
    with pytest.raises(UserError, match=r"schema of_tomorrow.*if it is newer"):
        sync(finished)
    assert database.read_bytes() == before


@pytest.mark.slow
def test_ui_prints_its_links_when_it_listens_and_takes_the_server_with_it(finished):
    summary = sync(finished)
    write_json(finished.parent / "report/mlflow.json", summary)
    port = free_port()
    command = [sys.executable, "-m", "lossbench", "ui", "--port", str(port)]
    root = finished.parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stdout if line.startswith("MLflow UI"))
            assert f"http://127.0.0.1:{port} " in line
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                assert answer.status == 200
            assert process.stdout.readline() == "fake:\n"
            assert summary["links"]["losses"] in process.stdout.readline()
        finally:
            process.terminate()
            process.wait(30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("port", [0, 80000])
def test_a_port_that_is_none_is_refused(finished, port):
    with pytest.raises(UserError, match=f"--port {port}: expected a number from 1 to 65535"):
        ui.ui(finished.parents[1], port)


def test_a_file_store_is_refused_with_mlflows_own_words(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    with pytest.raises(UserError, match="could not be brought up to date"):
        sync(finished)
