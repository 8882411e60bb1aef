"""The MLflow store of a folder of results, and the MLflow UI over it."""

import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lossbench.common.files import read_json
from lossbench.config import UserError

HOST, PORT = "127.0.0.1", 5000
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CREDENTIALS = re.compile(r"://[^@/\s]*@")
# The server starts job runners and reports usage unless told otherwise.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def embedded(results: Path) -> str:
    """URI of the SQLite store of a folder of results."""
    return f"sqlite:///{results.resolve() / 'mlflow.db'}"


def store(results: Path) -> str:
    """URI of the store: $MLFLOW_TRACKING_URI, else the one in the folder of results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded(results)


def is_server(uri: str) -> bool:
    """Whether a store is a server that runs already."""
    return uri.startswith(("http://", "https://"))


def address(uri: str) -> str:
    """Address of the UI over a store; empty where it depends on the port that `ui` finds."""
    # Without the password that a server's URI may carry: links are printed and written down.
    return CREDENTIALS.sub("://", uri).rstrip("/") if is_server(uri) else ""


def redacted(text: str) -> str:
    """Text without the user names and passwords of URIs."""
    return CREDENTIALS.sub("://***@", text)


def refuse_other_schema(uri: str) -> None:
    """Refuse a database that another version of MLflow made; this one would migrate it unasked.

    Raises
    ------
    UserError
        With what to do.
    """
    if is_server(uri) or not uri.startswith(DATABASES):
        return
    from mlflow.store.db.utils import _get_latest_schema_revision
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.pool import NullPool

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        if not inspect(connection).get_table_names():
            return  # new
        versioned = inspect(connection).has_table("alembic_version")
        query = text("select version_num from alembic_version")
        found = connection.execute(query).scalar() if versioned else "none"
    wanted = _get_latest_schema_revision()
    if found != wanted:
        raise UserError(
            f"{redacted(uri)}: made by another version of MLflow (schema {found}, this one has "
            f"{wanted}); nothing was changed. If it is older, keep a copy and migrate it: "
            f"mlflow db upgrade {redacted(uri)}; if it is newer, install that MLflow."
        )


def ui(results: Path = Path("results"), port: int | None = None) -> None:
    """Become the MLflow UI on 127.0.0.1 over the store that `track` writes.

    Parameters
    ----------
    results
        Folder of results.
    port
        None: 5000, or the next that is free.

    Raises
    ------
    UserError
        Where the store is missing, a server already or of another MLflow, or the port is taken.
    """
    uri = store(results)
    if is_server(uri):
        raise UserError(f"MLFLOW_TRACKING_URI is a server: open {redacted(uri)} in a browser")
    if uri == embedded(results) and not (results / "mlflow.db").exists():
        raise UserError(
            f"{results / 'mlflow.db'}: no such file; run the workflow, which writes it, "
            "or start this beside the folder of results"
        )
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    refuse_other_schema(uri)
    port = _free(range(PORT, PORT + 100)) if port is None else _free([port])
    print(f"MLflow UI: http://{HOST}:{port}   (Ctrl-C ends it)")
    for path in sorted(results.glob("*/report/mlflow.json")):
        print(f"{path.parents[1].name}:")
        for name, link in read_json(path)["links"].items():
            print(f"  {name:<8}http://{HOST}:{port}{link}")
    sys.stdout.flush()
    options = ["--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options])


def _free(ports: Sequence[int]) -> int:
    """First of the ports that nobody listens on."""
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)):
                return port
    raise UserError(f"port {ports[0]} of {HOST} is taken; stop what runs there or use --port")
