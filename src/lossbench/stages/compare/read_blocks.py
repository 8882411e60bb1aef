"""Read the blocks of an experiment: cases.parquet and each run's status.json."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lossbench.common.files import block_folder, read_json
from lossbench.common.provenance import run_digest
from lossbench.common.rounds import planned_blocks
from lossbench.common.tables import (
    BACKGROUND,
    BLOCK,
    CASE,
    CASE_TEXT,
    DIGESTS,
    GROUP,
    MEASURED,
    RUN,
    STATUS,
    case_schema,
)
from lossbench.common.tuning import rates_file, with_rate
from lossbench.config import Experiment, Study, UserError, canonical
from lossbench.stages.compare.arrange import DuplicateRowError, to_scores
from lossbench.stages.compare.penalty import penalise_distances
from lossbench.stages.compare.pooled import with_pooled
from lossbench.stages.compare.scores import Scores

AGAIN = "delete it and run the workflow again"


# Blocks as `planned_blocks` has them: keys, and the losses that are trained there.
Planned = Sequence[tuple[dict[str, Any], list[str]]]


def read_study(
    experiment: Path, settings: Experiment, round_: int | None = None
) -> tuple[pa.Table, pd.DataFrame, list[Scores], dict[str, str]]:
    """Rows of all cases, a row per run, the scores and the background of each dataset.

    With a round, of the rounds up to it.

    Raises
    ------
    UserError
        Where a file is missing, damaged, stale or of another block.
    """
    planned = list(planned_blocks(settings, experiment.parent, round_))
    cases, digests, backgrounds = read_cases(experiment, settings, planned)
    runs = read_runs(experiment, planned)
    _refuse_others(experiment, settings, runs)
    _refuse_stale(experiment, planned, runs, digests)
    groups = _complete_scores(experiment, settings, planned, cases)
    shared = share_initial_weights(runs)
    return cases, runs, complete(groups, experiment, settings, backgrounds, shared), backgrounds


def complete(
    groups: Sequence[Scores],
    experiment: Path,
    study: Study,
    backgrounds: dict[str, str],
    shared_weights: bool,
) -> list[Scores]:
    """The scores with what is not measured by case: penalties for misses, and pooled figures."""
    datasets = experiment.parents[1] / "datasets"
    asked = [*study.comparison.metrics, *study.comparison.also]
    groups = [replace(x, shared_weights=shared_weights) for x in groups]
    groups = [penalise_distances(x, datasets / x.dataset) for x in groups]
    return [with_pooled(x, asked, backgrounds) for x in groups]


def share_initial_weights(runs: pd.DataFrame) -> bool:
    """Whether trainings of two folds start from the same weights, by their init_digest."""
    if "init_digest" not in runs:
        return False
    folds = runs.dropna(subset="init_digest").groupby([*GROUP, "init_digest"])["fold"].nunique()
    return bool((folds > 1).any())


def read_cases(
    experiment: Path, settings: Experiment, planned: Planned
) -> tuple[pa.Table, list[dict[str, str]], dict[str, str]]:
    """Read cases.parquet of every block: a row per run x case x class, in the order of blocks.

    And for each block the digests of the runs that were evaluated, by loss; empty where its file
    does not say them. And the name of the background of each dataset that has one.

    Raises
    ------
    UserError
        Where a file is missing, damaged, lacks a column, or is that of another block.
    """
    files = {_file(experiment, keys): keys for keys, _ in planned}
    if missing := [file for file in files if not file.exists()]:
        raise UserError(
            f"{missing[0]}: no such file ({len(missing)} missing); run the workflow again"
        )
    schema = case_schema(settings.all_metrics)
    tables, metadata = zip(
        *(_read(file, keys, schema) for file, keys in files.items()), strict=True
    )
    digests = [json.loads(said.get(DIGESTS, "{}")) for said in metadata]
    background = {}
    for (file, keys), table, said in zip(files.items(), tables, metadata, strict=True):
        expected = canonical(settings.measured(keys["dataset"]))
        if MEASURED in said and canonical(json.loads(said[MEASURED])) != expected:
            raise UserError(
                f"{file}: was measured by other metrics, or another version of their code, than "
                f"{experiment.name} names; {AGAIN}"
            )
        # Where a file does not say it, class 0 is, which a case lists first.
        first = json.loads(said[BACKGROUND]) if BACKGROUND in said else table["class"][0].as_py()
        if first is not None:
            background[keys["dataset"]] = first
    cases = pa.concat_tables(tables).replace_schema_metadata(None).unify_dictionaries()
    # A block keeps the results of a loss that has left the matrix.
    of_matrix = pc.is_in(cases["loss"], value_set=pa.array(settings.matrix.loss))
    cases = cases if pc.all(of_matrix).as_py() else cases.filter(of_matrix)
    return cases, digests, background


def _read(
    file: Path, keys: dict[str, Any], schema: pa.Schema
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """One file, and the metadata that it was written with.

    pyarrow.dataset takes as long for many small files, and does not say which one is damaged.
    """
    try:
        parquet = pq.ParquetFile(
            pa.OSFile(str(file)),  # of a path, pyarrow asks first which file system it is on
            read_dictionary=CASE_TEXT,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        metadata = parquet.schema_arrow.metadata or {}
        table = parquet.read(schema.names, use_threads=False)
        columns = table.column_names
        if "subject" not in columns:  # of an earlier version: each case was its own
            table = table.append_column("subject", table["case"])
            columns.append("subject")
        if lacks := [name for name in schema.names if name not in columns]:
            raise UserError(f"{file}: lacks the column {lacks[0]!r}; {AGAIN}")
        if columns != schema.names:
            table = table.select(schema.names)
        if table.schema != schema:
            table = table.cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: damaged ({error}); {AGAIN}") from None
    if not table.num_rows:
        raise UserError(f"{file}: has no rows; {AGAIN}")
    for name in BLOCK:
        if others := set(table[name].unique().to_pylist()) - {keys[name]}:
            raise UserError(f"{file}: {name} is {others.pop()!r}, not {keys[name]!r}; {AGAIN}")
    for name in (*CASE, "subject"):
        if table[name].null_count:
            raise UserError(f"{file}: {name} is None, not a name; {AGAIN}")
    return table, metadata


def read_runs(experiment: Path, planned: Planned) -> pd.DataFrame:
    """Read status.json of every run: a row per run.

    Raises
    ------
    UserError
        Where a file is missing, damaged or lacks a key.
    """
    rows = []
    for keys, losses in planned:
        folder = block_folder(experiment.parent, **keys)
        for loss in losses:
            file = f"{folder}/{loss}/status.json"
            status = read_json(file)
            for key in ("digest", "status"):  # newer keys may be missing in what is stored
                if key not in status:
                    raise UserError(f"{file}: lacks {key!r}; {AGAIN}")
            if status["status"] not in ("finished", "diverged"):
                problem = f"status is {status['status']!r}, not 'finished' or 'diverged'"
                raise UserError(f"{file}: {problem}; run the workflow again")
            status["versions"] = json.dumps(status.get("versions"))  # its keys are sorted
            rows.append({**keys, "loss": loss, **{key: status.get(key) for key in STATUS}})
    return pd.DataFrame(rows)


def _refuse_others(experiment: Path, settings: Experiment, runs: pd.DataFrame) -> None:
    """Refuse a run of other settings, code or data than the experiment and the other runs have."""
    data_digests: dict[str, str] = {}
    specs: dict[tuple[str, ...], dict[str, Any]] = {}  # slow to make; folds and seeds differ alone
    columns = [*RUN, "digest", "data_digest"]
    for *keys, digest, data_digest in runs[columns].itertuples(index=False):
        if not isinstance(data_digest, str):  # of an earlier version
            continue
        dataset, model, loss, fold, seed = keys
        if (group := (dataset, model, loss)) not in specs:
            specs[group] = settings.run(*keys)
        spec = specs[group] | {"fold": fold, "seed": seed}
        if settings.tuning:
            spec = with_rate(spec, rates_file(experiment.parent, dataset, model, fold))
        first, problem = data_digests.setdefault(dataset, data_digest), ""
        if digest != run_digest(spec, data_digest):
            problem = f"not of the settings and the code in {experiment.name}"
        elif first != data_digest:
            problem = (
                f"was trained on other data ({data_digest[:8]}) than other runs ({first[:8]}) of "
                f"{dataset}"
            )
        if problem:
            block = block_folder(experiment.parent, dataset, model, fold, seed)
            file = block / loss / "status.json"
            raise UserError(f"{file}: {problem}; run the workflow again")


def _refuse_stale(
    experiment: Path, planned: Planned, runs: pd.DataFrame, digests: Sequence[dict[str, str]]
) -> None:
    """Refuse cases.parquet of other runs: where a clock jumped, Snakemake may take it for new."""
    trained = iter(runs["digest"])  # in the order of `read_runs`
    for (keys, losses), evaluated in zip(planned, digests, strict=True):
        for loss in losses:
            digest = next(trained)
            if evaluated.get(loss, digest) != digest:
                file = _file(experiment, keys)
                raise UserError(f"{file}: of another training of {loss} than is there; {AGAIN}")


def _complete_scores(
    experiment: Path, settings: Experiment, planned: Planned, cases: pa.Table
) -> list[Scores]:
    """Arrange the rows of the blocks; refuse a file where one is missing or there twice."""
    try:
        groups = to_scores(cases, settings.matrix.loss)
    except DuplicateRowError as error:
        file = _file(experiment, error.keys)
        raise UserError(f"{file}: {error} stands in two rows; {AGAIN}") from None
    for scores in groups:
        # A case belongs to one fold: a block in which it has another saw other data.
        if scores.folds == [None]:
            raise UserError(
                f"{experiment.parent / scores.dataset / scores.model}: a case stands in the "
                "cases.parquet of several folds; delete these files and run the workflow again"
            )
        # Rounds are whole: a seed is trained in all folds or in none.
        of_group = [block for block in planned if scores.keys.items() <= block[0].items()]
        trained = {(loss, keys["seed"]) for keys, losses in of_group for loss in losses}
        expected = [
            [(loss, seed) in trained for _, seed in scores.trainings] for loss in scores.losses
        ]
        missing = np.argwhere(~scores.rows & np.array(expected)[..., None, None])
        if len(missing):
            loss, training, case, class_ = missing[0]
            keys = {**scores.keys, "fold": scores.folds[scores.fold[case]]}
            file = _file(experiment, {**keys, "seed": scores.trainings[training][1]})
            raise UserError(
                f"{file}: has no row of {scores.losses[loss]}, case {scores.cases[case]}, class "
                f"{scores.classes[class_]}, which others have ({len(missing)} missing); {AGAIN}"
            )
    return groups


def _file(experiment: Path, keys: dict[str, Any]) -> Path:
    folder = block_folder(experiment.parent, **{name: keys[name] for name in BLOCK})
    return folder / "cases.parquet"
