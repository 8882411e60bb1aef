"""Where files lie; they are written whole: to a temporary name in the same folder, then renamed."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from filelock import FileLock, Timeout

from lossbench.config import UserError


def block_folder(experiment: Path, dataset: str, model: str, fold: int, seed: int) -> Path:
    """Folder of a block, below the folder of its experiment."""
    return experiment / dataset / model / f"fold{fold}" / f"seed{seed}"


# Errors that a user can fix where a file cannot be written.
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an error.

    Raises
    ------
    UserError
        Where the disk is full, or the folder may not be written to.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if path.is_dir():
            raise UserError(f"{path}: is a folder, and a file is to be written there; rename it")
        part.replace(path)
    except UserError:
        raise
    except Exception as error:
        why = _write_problem(error, path.parent)
        if not why:
            raise
        raise UserError(
            f"{path}: cannot be written: {why}; fix that, and run the workflow again: what is "
            "finished stays"
        ) from error
    finally:
        with suppress(OSError):  # nothing can be removed either, where nothing may be written
            part.unlink(missing_ok=True)


def _write_problem(error: Exception, folder: Path) -> str:
    """Reason why nothing can be written to a folder; empty where the error has another cause."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in NOT_WRITABLE else ""
    # torch and safetensors have errors of their own, which do not all say it.
    file_system = os.statvfs(folder)
    if file_system.f_flag & os.ST_RDONLY:
        return os.strerror(errno.EROFS)
    if not file_system.f_bavail or os.strerror(errno.ENOSPC) in str(error):
        return os.strerror(errno.ENOSPC)
    return "" if os.access(folder, os.W_OK) else os.strerror(errno.EACCES)


# A file system without locks, as Lustre is on some clusters.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def try_lock(path: Path) -> FileLock | None:
    """Lock a file without waiting; None where another process holds it.

    It is free again when the lock is released, also where the process is killed. Where the file
    system has no locks, it is always free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return lock


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a folder, by name."""
    return {name: digest_of(folder / name) for name in names}


def digest_of(path: Path) -> str:
    """SHA-256 of the content of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def altered(folder: Path, expected: Mapping[str, str]) -> list[Path]:
    """Files of a folder that are missing, or have other checksums than expected."""
    return [
        folder / name
        for name, sha256 in expected.items()
        if not (folder / name).is_file() or checksums(folder, [name])[name] != sha256
    ]


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write JSON for people and programs: indented, sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


NOTHING = "no such file"


def no_file(path: Path) -> str:
    """What is in the place of a file of the user's, and what to do; empty where it is a file."""
    if path.is_file():
        return ""
    if path.is_dir():
        return "is a folder, and no file; rename or move it"
    if path.is_symlink():
        return f"is a link to {path.readlink()}, which is not there; fix or remove the link"
    return "is no regular file; put a file in its place" if path.exists() else NOTHING


def read_text(path: Path, where: str) -> str:
    """Read a text file of the user's.

    Raises
    ------
    UserError
        Where it is missing, empty or not in UTF-8; with `where`, the argument that names it.
    """
    try:
        if problem := no_file(path):
            raise UserError(f"{where}: {path}: {problem}")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}: {path}: line {line} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"{where}: {path}: cannot be read: {error.strerror}; fix that, and run it again"
        ) from None
    if not text.strip():
        raise UserError(f"{where}: {path}: is empty")
    return text


# What readers of JSON, tables and arrays raise where a file is damaged.
READ_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, RecursionError),
    *(BadZipFile, zlib.error),
)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Name a file of the results where what reads it fails.

    Raises
    ------
    UserError
        Where the file is missing, cannot be read, or does not hold what it should.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the workflow, which writes it") from None
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(
                f"{path}: cannot be read: {error.strerror}; fix that, and run it again"
            ) from None
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: damaged ({what}); delete it and run the workflow again") from None


class _Content(dict):
    """What a JSON file holds; a key that it lacks is a fault of the file, which is named."""

    path: str | Path

    def __missing__(self, key: str) -> Any:
        """Called by dict for a key that is not there."""
        with reading(self.path):
            raise KeyError(key)


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file of the results, which holds keys and values.

    Raises
    ------
    UserError
        Where the file is missing or damaged; also later, where a key is asked for that it lacks.
    """
    with reading(path):
        with open(path, "rb") as file:  # noqa: PTH123 (twice as fast; 10,000 are read)
            content = json.loads(file.read())
        if not isinstance(content, dict):
            raise ValueError("expected keys and values in { }")
    content = _Content(content)
    content.path = path
    return content


def read_json_once(path: Path) -> dict[str, Any]:
    """`read_json`, again only where the file has changed: Snakemake asks for each block."""
    return _read_json_at(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=128)
def _read_json_at(path: Path, _mtime_ns: int) -> dict[str, Any]:
    return read_json(path)


def refuse_mlflow_path(path: Path) -> None:
    """Refuse a path that MLflow's SQLite store cannot lie in.

    Its URI ends at a question mark, its queries have no escape for a quote, and where it is made,
    a blank and a colon begin a parameter of SQL.
    """
    found = next((sign for sign in ("?", " :") if sign in str(path)), None)
    if {"'", '"'} <= {*str(path)}:
        found = "' beside a \""
    if found:
        raise UserError(
            f"{path}: MLflow's store cannot have a {found} in its path; rename the folder"
        )
