"""The MLflow store of a folder of results, and the MLflow UI over it."""

import os
import re
import socket
import sys
from pathlib import Path

from lossbench.config import UserError

HOST, PORT = "127.0.0.1", 5000
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
    """Address of the UI over a store."""
    # Without the password that a server's URI may carry: links are printed and written down.
    return CREDENTIALS.sub("://", uri).rstrip("/") if is_server(uri) else f"http://{HOST}:{PORT}"


def redacted(text: str) -> str:
    """Text without the user names and passwords of URIs."""
    return CREDENTIALS.sub("://***@", text)


def ui(results: Path = Path("results"), port: int = PORT) -> None:
    """Become the MLflow UI on 127.0.0.1 over the store that `track` writes.

    Raises
    ------
    UserError
        Where the store is missing or a server already, or the port is taken.
    """
    uri = store(results)
    if is_server(uri):
        raise UserError(f"MLFLOW_TRACKING_URI is a server: open {redacted(uri)} in a browser")
    if uri == embedded(results) and not (results / "mlflow.db").exists():
        raise UserError(
            f"{results / 'mlflow.db'}: no such file; run the workflow, which writes it, "
            "or start this beside the folder of results"
        )
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"port {port} of {HOST} is taken; stop what runs there or use --port")
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    print(f"MLflow UI: http://{HOST}:{port}   (Ctrl-C ends it)", flush=True)
    options = ["--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options])
