"""Read the blocks of an experiment: cases.parquet and each run's status.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lossbench.config import Experiment, UserError
from lossbench.cubes import COUNTS, DIGESTS, KEYS, TEXT, Cube, DuplicateRowError, cubes, encode
from lossbench.files import block_folder, read_json

BLOCK = ("dataset", "model", "fold", "seed")
RUN = ("dataset", "model", "loss", "fold", "seed")
STATUS = (
    *("digest", "status", "steps", "train_seconds", "images_per_second", "peak_memory_bytes"),
    *("init_digest", "batch_digest", "commit", "versions", "device", "started", "finished"),
)
AGAIN = "delete it and run the workflow again"


def schema(metrics: Sequence[str]) -> pa.Schema:
    """Of a table of cases. Text as codes: 10,000 runs have a million rows and a thousand names."""
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [(name, text if name in TEXT else pa.int64()) for name in KEYS]
        + [(name, pa.int64()) for name in COUNTS]
        + [(name, pa.float64()) for name in metrics]
    )


def read_cases(experiment: Path, settings: Experiment) -> tuple[pa.Table, list[dict[str, str]]]:
    """Read cases.parquet of every block: a row per run x case x class, in the order of blocks.

    And for each block the digests of the runs that were evaluated, by loss; empty where its file
    does not say them.

    Raises
    ------
    UserError
        Where a file is missing, damaged, lacks a column, or is that of another block.
    """
    blocks = list(settings.blocks())
    files = [block_folder(experiment.parent, **keys) / "cases.parquet" for keys in blocks]
    if missing := [file for file in files if not file.exists()]:
        raise UserError(
            f"{missing[0]}: no such file ({len(missing)} missing); run the workflow again"
        )
    wanted = schema(settings.all_metrics)
    tables = [_read(wanted, file) for file in files]  # threads would wait for each other
    lengths = [table.num_rows for table in tables]
    digests = [json.loads((table.schema.metadata or {}).get(DIGESTS, "{}")) for table in tables]
    tables = [table.replace_schema_metadata(None) for table in tables]
    cases = pa.concat_tables(tables).unify_dictionaries()
    _check_keys(cases, files, blocks, lengths)
    # A block keeps the results of a loss that has left the matrix.
    of_matrix = pc.is_in(cases["loss"], value_set=pa.array(settings.matrix.loss))
    return cases if pc.all(of_matrix).as_py() else cases.filter(of_matrix), digests


def _read(wanted: pa.Schema, file: Path) -> pa.Table:
    try:
        parquet = pq.ParquetFile(
            file, read_dictionary=TEXT, pre_buffer=False, page_checksum_verification=True
        )
        names = parquet.schema_arrow.names
        if lacks := [name for name in wanted.names if name not in names]:
            raise UserError(f"{file}: lacks the column {lacks[0]!r}; {AGAIN}")
        table = parquet.read(wanted.names, use_threads=False).select(wanted.names)
        if table.schema != wanted:
            table = table.cast(wanted.with_metadata(table.schema.metadata))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: damaged ({error}); {AGAIN}") from None
    if not table.num_rows:
        raise UserError(f"{file}: has no rows; {AGAIN}")
    return table


def _check_keys(
    cases: pa.Table, files: Sequence[Path], blocks: Sequence[dict[str, Any]], lengths: Sequence[int]
) -> None:
    """Every row has its keys, and those of the block that its file lies in."""
    file_of_row = np.repeat(np.arange(len(files)), lengths)

    def refuse(wrong: np.ndarray, name: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            file, found = file_of_row[row], cases[name][row].as_py()
            wanted = repr(blocks[file][name]) if name in BLOCK else "a name"
            raise UserError(f"{files[file]}: {name} is {found!r}, not {wanted}; {AGAIN}")

    for name in KEYS:
        if cases[name].null_count:
            refuse(pc.is_null(cases[name]).to_numpy(), name)
    for name in BLOCK:
        codes, labels = encode(cases[name])
        wanted = {label: code for code, label in enumerate(labels)}
        refuse(codes != np.array([wanted.get(k[name], -1) for k in blocks])[file_of_row], name)


def read_runs(experiment: Path, settings: Experiment) -> pd.DataFrame:
    """Read status.json of every run: a row per run.

    Raises
    ------
    UserError
        Where a file is missing, damaged or lacks a key.
    """
    rows = []
    for keys in settings.blocks():
        folder = block_folder(experiment.parent, **keys)
        for loss in settings.matrix.loss:
            rows.append({**keys, "loss": loss, **_status(f"{folder}/{loss}/status.json")})
    runs = pd.DataFrame(rows)
    first = [*RUN, "digest", "status", "steps"]
    return runs[[*first, *runs.columns.difference(first, sort=False)]]


def _status(file: str) -> dict[str, Any]:
    status = read_json(file)
    if lacks := set(STATUS).difference(status if isinstance(status, dict) else ()):
        raise UserError(f"{file}: lacks {min(lacks, key=STATUS.index)!r}; {AGAIN}")
    if status["status"] not in ("finished", "diverged"):
        found = f"status is {status['status']!r}, not 'finished' or 'diverged'"
        raise UserError(f"{file}: {found}; run the workflow again")
    status["versions"] = json.dumps(status["versions"])  # its keys are sorted in the file
    return {key: value for key, value in status.items() if key != "sha256"}


def refuse_stale(
    experiment: Path, settings: Experiment, runs: pd.DataFrame, digests: Sequence[dict[str, str]]
) -> None:
    """See that the runs that were evaluated are those that are there.

    Raises
    ------
    UserError
        Names the cases.parquet of others: where a clock jumped, Snakemake may take it for new.
    """
    trained = runs["digest"].to_numpy().reshape(-1, len(settings.matrix.loss))
    for keys, evaluated, row in zip(settings.blocks(), digests, trained, strict=True):
        for loss, digest in zip(settings.matrix.loss, row, strict=True):
            if evaluated.get(loss, digest) != digest:
                file = block_folder(experiment.parent, **keys) / "cases.parquet"
                raise UserError(f"{file}: of another training of {loss} than is there; {AGAIN}")


def complete_cubes(experiment: Path, settings: Experiment, cases: pa.Table) -> list[Cube]:
    """Arrange the rows of the blocks, and see that none is missing or there twice.

    Raises
    ------
    UserError
        That names the file of such a row.
    """
    try:
        found = cubes(cases, settings.matrix.loss)
    except DuplicateRowError as error:
        file = _file(experiment, error.keys)
        raise UserError(f"{file}: {error} stands in two rows; {AGAIN}") from None
    for cube in found:
        _check_folds(experiment, cube)
        _check_rows(experiment, cube)
    return found


def _check_folds(experiment: Path, cube: Cube) -> None:
    """A case belongs to one fold; a block in which it has another was evaluated on other data."""
    if cube.folds == [None]:
        raise UserError(
            f"{experiment.parent / cube.dataset / cube.model}: a case stands in the cases.parquet "
            "of several folds; delete these files and run the workflow again"
        )


def _check_rows(experiment: Path, cube: Cube) -> None:
    missing = (~cube.rows).nonzero()
    if len(missing[0]):
        loss, training, case, class_ = (axis[0] for axis in missing)
        keys = {**cube.keys, "fold": cube.folds[cube.fold[case]]}
        file = _file(experiment, {**keys, "seed": cube.trainings[training][1]})
        raise UserError(
            f"{file}: has no row of {cube.losses[loss]}, case {cube.cases[case]}, class "
            f"{cube.classes[class_]}, which others have ({len(missing[0])} missing); {AGAIN}"
        )


def _file(experiment: Path, keys: dict[str, Any]) -> Path:
    folder = block_folder(experiment.parent, **{name: keys[name] for name in BLOCK})
    return folder / "cases.parquet"
