"""The files that a dataset was prepared from: whether they have changed on disk since."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json
from lossbench.common.provenance import sha256
from lossbench.common.user_code import texts_of
from lossbench.config import UserError

RECORD = "sources.json"  # next to classes.json
DATA_ROOT = "$data_root"


def data_root() -> Path:
    """Folder of local copies of datasets."""
    return Path(os.environ.get("LOSSBENCH_DATA") or "data")


def source_record(
    dataset: object, spec: Mapping[str, Any], root: Path, version: str
) -> dict[str, Any]:
    """What a dataset is prepared from, to be kept as `RECORD`.

    Parameters
    ----------
    dataset, spec
        An object, and what it was made from. It reads the files and folders of its attribute
        `sources`; where it has none, those that its keywords name.
    root
        The data root. Paths below it begin with ``$data_root``, so that the data may move.
    version
        What `sources_version` gave when the workflow started.
    """
    own = getattr(dataset, "sources", None)
    if own is None:
        sources = [text for text in texts_of(spec) if text and _is_source(_filled(text, root))]
    else:
        sources = [_portable(Path(path), root) for path in own]
    return {"sources": sources, "fingerprint": _fingerprint(sources, root), "version": version}


def add_reads(record: dict[str, Any], reads: Iterable[Path], root: Path) -> None:
    """Add what else the dataset has read, by names that neither it nor its keywords tell.

    Parameters
    ----------
    record
        As `source_record` gave it before the cases were read.
    reads
        Files and folders, as `record_reads` has seen them; not the modules.
    root
        The data root.
    """
    sources = record["sources"]
    known = {_filled(source, root).resolve() for source in sources}
    more = [
        _portable(path, root)
        for path in reads
        if _is_source(path) and known.isdisjoint([(whole := path.resolve()), *whole.parents])
    ]
    if more and _fingerprint(sources, root) == record["fingerprint"]:
        record |= {"sources": sources + more, "fingerprint": _fingerprint(sources + more, root)}


def sources_version(folder: Path) -> str:
    """What changes with the files that a dataset was prepared from, and only with these.

    It is a parameter of the job that prepares, which Snakemake runs again where it has changed. As
    long as the files are those that were read, it is what it was then; before the first time it is
    empty: only the dataset, which may download them, knows what it reads.

    Parameters
    ----------
    folder
        Of the prepared dataset.
    """
    try:
        record = read_json(folder / RECORD)
        sources, before, version = (record[key] for key in ("sources", "fingerprint", "version"))
    except (UserError, KeyError, TypeError):
        return ""
    root = data_root()
    if not any(_filled(source, root).exists() for source in sources):
        return version  # the data are not here, as where only results were copied
    current = _fingerprint(sources, root)
    return version if current == before else current


def _fingerprint(sources: Iterable[str], root: Path) -> str:
    """Digest of path, size and time of change of all files; of no content, so that it is quick.

    Hidden files are left out, and so are the folders that Python and the workflow write.
    """
    parts = []
    for source in sources:
        files = sorted(_files(_filled(source, root)))
        parts += [f"{name} {size} {changed}" for name, size, changed in files]
        parts.append("")
    return sha256(*parts)[:16]


def _filled(path: str, root: Path) -> Path:
    return Path(path.replace(DATA_ROOT, str(root), 1) if path.startswith(DATA_ROOT) else path)


def _portable(path: Path, root: Path) -> str:
    return f"{DATA_ROOT}/{path.relative_to(root)}" if path.is_relative_to(root) else str(path)


def _is_source(path: Path) -> bool:
    """Whether a keyword is the path of data: no ``/`` or ``..``, which hold everything."""
    try:
        return path.exists() and path.resolve() not in Path.cwd().parents
    except (OSError, ValueError):  # a text that is no path
        return False


def _files(source: Path) -> Iterator[tuple[str, int, int]]:
    """Path below a folder, size and time of change of all files in it; or those of a file."""
    if source.is_file():
        status = source.stat()
        yield "", status.st_size, status.st_mtime_ns
    results = Path("results").resolve()
    seen: set[Path] = set()  # links may go round in a circle
    pending = [(source, "")] if source.is_dir() else []
    while pending:
        folder, prefix = pending.pop()
        if folder.resolve() in {*seen, results}:
            continue
        seen.add(folder.resolve())
        with suppress(OSError), os.scandir(folder) as entries:  # reading the case says why
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__pycache__":
                    continue
                if entry.is_dir():
                    pending.append((Path(entry.path), f"{prefix}{entry.name}/"))
                else:
                    status = entry.stat(follow_symlinks=entry.is_file())
                    yield f"{prefix}{entry.name}", status.st_size, status.st_mtime_ns
