"""The MLflow store of a folder of results: where it is, a client of it, one writer at a time."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lossbench.common.files import refuse_mlflow_path, whole
from lossbench.config import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CREDENTIALS = re.compile(r"://[^@/\s]*@")
SETTINGS = {
    # The server starts job runners and reports usage unless told otherwise.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Else a server that is down is tried for 4 minutes, one that hangs for 20.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def embedded(results: Path) -> str:
    """URI of the SQLite store of a folder of results.

    Raises
    ------
    UserError
        Where the path has what MLflow cannot have: the store would be made elsewhere, or not.
    """
    database = results.resolve() / "mlflow.db"
    refuse_mlflow_path(database)
    return f"sqlite:///{database}"


def tracking_uri(results: Path) -> str:
    """URI of the store: $MLFLOW_TRACKING_URI, else the one in the folder of results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded(results)


def is_server(uri: str) -> bool:
    """Whether a store is a server that runs already."""
    return uri.startswith(("http://", "https://"))


def redacted(text: str, replacement: str = "***@") -> str:
    """Text without the user names and passwords of URIs."""
    return CREDENTIALS.sub(f"://{replacement}", text)


def connect(uri: str, results: Path) -> "MlflowClient":
    """Open the store; the embedded one is made where it is missing.

    Raises
    ------
    UserError
        Where another version of MLflow made it.
    """
    set_defaults()
    from mlflow import MlflowClient

    database = results / "mlflow.db"
    if uri == embedded(results) and not database.exists():
        # Whole or not at all: a store that was killed while it was made is broken for good.
        with whole(database) as part:
            MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
    refuse_other_schema(uri)
    return MlflowClient(uri)


def set_defaults() -> None:
    """Set the environment variables that MLflow reads, where the user has not."""
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)


def refuse_other_schema(uri: str) -> None:
    """Refuse a database that another version of MLflow made; this one would migrate it unasked.

    Raises
    ------
    UserError
        With what to do.
    """
    if not uri.startswith(DATABASES):
        return
    from mlflow.store.db.utils import _get_latest_schema_revision
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.pool import NullPool

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        if not inspect(connection).get_table_names():
            return  # new
        schema = "none"
        if inspect(connection).has_table("alembic_version"):
            query = text("select version_num from alembic_version")
            schema = connection.execute(query).scalar()
    expected = _get_latest_schema_revision()
    if schema != expected:
        raise UserError(
            f"{redacted(uri)}: made by another version of MLflow (schema {schema}, expected "
            f"{expected}); nothing was changed. If it is older, keep a copy and migrate it: "
            f"mlflow db upgrade {redacted(uri)}; if it is newer, install that MLflow."
        )


@contextmanager
def explained(uri: str, experiment: Path) -> Iterator[None]:
    """Say what to do where the store is down, slow, full or damaged."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # OSError: those of requests too
        raise UserError(
            f"MLflow at {redacted(uri)} could not be brought up to date: "
            f"{redacted(str(error).strip())}\n"
            "The results are complete in files. When the store answers, sync again with: "
            f"python -m lossbench track --experiment {experiment}"
        ) from error


@contextmanager
def locked(path: Path, refusal: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when the process ends, kill -9 included.

    Raises
    ------
    UserError
        Where another process still holds it after `timeout` seconds: `refusal`, in which {process}
        becomes its number.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout)
    except Timeout:
        raise UserError(f"{path}: {refusal.format(process=path.read_text() or '?')}") from None
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
