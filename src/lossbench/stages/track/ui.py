"""The MLflow UI over the store of a folder of results."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lossbench.common.files import read_json
from lossbench.config import UserError
from lossbench.stages.track import mlflow_store

HOST, PORT, LAST_PORT = "127.0.0.1", 5000, 65535
POLL_SECONDS = 0.2  # between two looks whether the server listens


def ui(results: Path = Path("results"), port: int | None = None) -> None:
    """Run the MLflow UI on 127.0.0.1 over the store that `track` writes, until Ctrl-C.

    Parameters
    ----------
    results
        Folder of results.
    port
        Port on 127.0.0.1; 5000, or the next that is free, where it is not given.

    Raises
    ------
    UserError
        Where the store is missing, a server already or of another MLflow, or the port is taken.
    """
    if port is not None and not 1 <= port <= LAST_PORT:
        raise UserError(f"--port {port}: expected a number from 1 to {LAST_PORT}")
    uri = mlflow_store.tracking_uri(results)
    if mlflow_store.is_server(uri):
        raise UserError(
            f"MLFLOW_TRACKING_URI is a server: open {mlflow_store.redacted(uri)} in a browser"
        )
    if uri == mlflow_store.embedded(results) and not (results / "mlflow.db").exists():
        raise UserError(
            f"{results / 'mlflow.db'}: no such file; run the workflow, which writes it, "
            "or start this next to the folder of results"
        )
    mlflow_store.set_defaults()
    mlflow_store.refuse_other_schema(uri)
    candidates = range(PORT, PORT + 100) if port is None else [port]
    port = next((p for p in candidates if not _listens(p)), None)
    if port is None:
        raise UserError(f"port {candidates[0]} of {HOST} is not free; use another --port")
    options = ["--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    with subprocess.Popen([sys.executable, "-m", "mlflow", "ui", *options]) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            while server.poll() is None and not _listens(port):
                time.sleep(POLL_SECONDS)
            if server.poll() is None:
                _print_links(results, f"http://{HOST}:{port}")
            if server.wait() > 0:
                raise UserError("mlflow ui ended; its messages are above")
        except KeyboardInterrupt:  # the server, in the same terminal, has had it as well
            return


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _print_links(results: Path, address: str) -> None:
    print(f"MLflow UI: {address}   (Ctrl-C ends it)")
    for path in sorted(results.glob("*/report/mlflow.json")):
        print(f"{path.parents[1].name}:")
        for name, link in read_json(path)["links"].items():
            # A store that was a server at the time of the sync has its address in the link.
            print(f"  {name:<8}{link if link.startswith('http') else address + link}")
    sys.stdout.flush()
