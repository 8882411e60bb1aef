"""The store behind MLflow: found, made where it is missing, opened by one process at a time."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.common.files import try_lock, whole
from lossbench.config import UserError
from lossbench.stages.track import ui

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLIENT = {
    **ui.QUIET,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Else a server that is down is tried for 4 minutes, one that hangs for 20.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def connect(store: str, results: Path) -> "MlflowClient":
    """Open the store; the embedded one is made where it is missing.

    Raises
    ------
    UserError
        Where another version of MLflow made it.
    """
    for key, value in CLIENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    database = results / "mlflow.db"
    if store == ui.embedded(results) and not database.exists():
        # Whole or not at all: a store that was killed while it was made is broken for good.
        with whole(database) as part:
            MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
    ui.refuse_other_schema(store)
    return MlflowClient(store)


def failures() -> tuple[type[Exception], ...]:
    """Name the errors of a store that is down, slow, full or damaged."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError  # requests' errors are OSErrors


@contextmanager
def locked(path: Path, refusal: str, patience: float = 0) -> Iterator[None]:
    """Hold a lock; the kernel frees it when the process ends, kill -9 included.

    Parameters
    ----------
    path
        Of the lock file, which stays.
    refusal
        What to say where another process holds it; {process} is its number.
    patience
        Seconds to wait for it.

    Raises
    ------
    UserError
        Where another process still holds it then.
    """
    until = time.monotonic() + patience
    while not (file := try_lock(path)):
        if time.monotonic() > until:
            holder = path.read_text() or "?"
            raise UserError(f"{path}: {refusal.format(process=holder)}")
        time.sleep(0.1)
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
