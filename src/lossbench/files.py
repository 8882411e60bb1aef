"""Where files lie; they are written whole: to a temporary name in the same folder, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lossbench.config import UserError


def block_folder(experiment: Path, dataset: str, model: str, fold: int, seed: int) -> Path:
    """Folder of a block, below the folder of its experiment."""
    return experiment / dataset / model / f"fold{fold}" / f"seed{seed}"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write JSON for people and programs: indented, sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises
    ------
    UserError
        Where the file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the workflow, which writes it") from None
    except ValueError as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it and run the workflow again"
        ) from None
