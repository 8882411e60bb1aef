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

from lossbench.common.files import block_folder, read_json
from lossbench.common.tables import BLOCK, CASE, CASE_TEXT, DIGESTS, STATUS, case_schema
from lossbench.config import Experiment, UserError
from lossbench.stages.compare.scores import DuplicateRowError, Scores, to_scores

AGAIN = "delete it and run the workflow again"


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
    wanted = case_schema(settings.all_metrics)
    # No threads, which would wait for each other.
    tables = [_read(file, keys, wanted) for file, keys in zip(files, blocks, strict=True)]
    digests = [json.loads((table.schema.metadata or {}).get(DIGESTS, "{}")) for table in tables]
    cases = pa.concat_tables([t.replace_schema_metadata(None) for t in tables])
    lengths = [table.num_rows for table in tables]
    cases = _with_blocks(cases.unify_dictionaries(), blocks, lengths).select(wanted.names)
    # A block keeps the results of a loss that has left the matrix.
    of_matrix = pc.is_in(cases["loss"], value_set=pa.array(settings.matrix.loss))
    return cases if pc.all(of_matrix).as_py() else cases.filter(of_matrix), digests


def _read(file: Path, keys: dict[str, Any], wanted: pa.Schema) -> pa.Table:
    """The columns but the keys of the block, which are only looked at: a third of the time."""
    try:
        parquet = pq.ParquetFile(
            file, read_dictionary=CASE_TEXT, pre_buffer=False, page_checksum_verification=True
        )
        stored = parquet.schema_arrow
        names = stored.names
        if lacks := [name for name in wanted.names if name not in names]:
            raise UserError(f"{file}: lacks the column {lacks[0]!r}; {AGAIN}")
        if not parquet.metadata.num_rows:
            raise UserError(f"{file}: has no rows; {AGAIN}")
        for name in BLOCK:
            if others := _values(parquet, name, names.index(name)) - {keys[name]}:
                raise UserError(f"{file}: {name} is {others.pop()!r}, not {keys[name]!r}; {AGAIN}")
        fields = [field for field in wanted if field.name not in BLOCK]
        rest = pa.schema(fields, stored.metadata)
        table = parquet.read(rest.names, use_threads=False).select(rest.names)
        table = table if table.schema == rest else table.cast(rest)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: damaged ({error}); {AGAIN}") from None
    for name in CASE:
        if name not in BLOCK and table[name].null_count:
            raise UserError(f"{file}: {name} is None, not a name; {AGAIN}")
    return table


def _values(parquet: pq.ParquetFile, name: str, at: int) -> set:
    """What a column holds, or only the ends of it, by the statistics of its parts."""
    groups = range(parquet.num_row_groups)
    parts = [parquet.metadata.row_group(group).column(at).statistics for group in groups]
    if all(part and part.has_min_max and part.null_count == 0 for part in parts):
        return {end for part in parts for end in (part.min, part.max)}
    return set(parquet.read([name])[name].to_pylist())


def _with_blocks(
    cases: pa.Table, blocks: Sequence[dict[str, Any]], lengths: Sequence[int]
) -> pa.Table:
    """With the keys of the block of each row."""
    for name in BLOCK:
        labels, codes = np.unique([keys[name] for keys in blocks], return_inverse=True)
        codes = np.repeat(codes.astype(np.int32), lengths)
        if name in CASE_TEXT:
            column = pa.DictionaryArray.from_arrays(codes, pa.array(labels.tolist()))
        else:
            column = pa.array(labels[codes])
        cases = cases.append_column(name, column)
    return cases


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
    return pd.DataFrame(rows)


def _status(file: str) -> dict[str, Any]:
    status = read_json(file)
    for key in ("digest", "status"):  # newer keys may be missing in what is stored
        if not isinstance(status, dict) or key not in status:
            raise UserError(f"{file}: lacks {key!r}; {AGAIN}")
    if status["status"] not in ("finished", "diverged"):
        found = f"status is {status['status']!r}, not 'finished' or 'diverged'"
        raise UserError(f"{file}: {found}; run the workflow again")
    status["versions"] = json.dumps(status.get("versions"))  # its keys are sorted in the file
    return {key: status.get(key) for key in STATUS}


def refuse_stale(
    experiment: Path, settings: Experiment, runs: pd.DataFrame, digests: Sequence[dict[str, str]]
) -> None:
    """See that the runs that were evaluated are those that are there.

    Raises
    ------
    UserError
        Names the cases.parquet of others: where a clock jumped, Snakemake may take it for new.
    """
    # A row per block, a column per loss: the order of `read_runs`.
    trained = runs["digest"].to_numpy().reshape(-1, len(settings.matrix.loss))
    for keys, evaluated, row in zip(settings.blocks(), digests, trained, strict=True):
        for loss, digest in zip(settings.matrix.loss, row, strict=True):
            if evaluated.get(loss, digest) != digest:
                file = block_folder(experiment.parent, **keys) / "cases.parquet"
                raise UserError(f"{file}: of another training of {loss} than is there; {AGAIN}")


def complete_scores(experiment: Path, settings: Experiment, cases: pa.Table) -> list[Scores]:
    """Arrange the rows of the blocks, and see that none is missing or there twice.

    Raises
    ------
    UserError
        That names the file of such a row.
    """
    try:
        found = to_scores(cases, settings.matrix.loss)
    except DuplicateRowError as error:
        file = _file(experiment, error.keys)
        raise UserError(f"{file}: {error} stands in two rows; {AGAIN}") from None
    for scores in found:
        _check_folds(experiment, scores)
        _check_rows(experiment, scores)
    return found


def _check_folds(experiment: Path, scores: Scores) -> None:
    """A case belongs to one fold; a block in which it has another was evaluated on other data."""
    if scores.folds == [None]:
        raise UserError(
            f"{experiment.parent / scores.dataset / scores.model}: a case stands in the "
            "cases.parquet of several folds; delete these files and run the workflow again"
        )


def _check_rows(experiment: Path, scores: Scores) -> None:
    missing = (~scores.rows).nonzero()
    if len(missing[0]):
        loss, training, case, class_ = (axis[0] for axis in missing)
        keys = {**scores.keys, "fold": scores.folds[scores.fold[case]]}
        file = _file(experiment, {**keys, "seed": scores.trainings[training][1]})
        raise UserError(
            f"{file}: has no row of {scores.losses[loss]}, case {scores.cases[case]}, class "
            f"{scores.classes[class_]}, which others have ({len(missing[0])} missing); {AGAIN}"
        )


def _file(experiment: Path, keys: dict[str, Any]) -> Path:
    folder = block_folder(experiment.parent, **{name: keys[name] for name in BLOCK})
    return folder / "cases.parquet"
