"""Other people's results: tables with key columns and metrics, and nnU-Net's summary.json."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lossbench.common.provenance import sha256
from lossbench.common.tables import CASE, CASE_TEXT, COUNTS, RUN, case_schema, read_csv
from lossbench.config import METRICS, Study, UserError, did_you_mean
from lossbench.stages.compare import nnunet
from lossbench.stages.compare.arrange import DuplicateRowError, to_scores
from lossbench.stages.compare.conventions import QUOTED, ratios
from lossbench.stages.compare.external_checks import (
    check_bounds,
    check_folds,
    check_subjects,
    unmatched_cases,
)
from lossbench.stages.compare.read_blocks import share_initial_weights
from lossbench.stages.compare.scores import Scores

# What a table says when it does not say so.
DEFAULTS = {"dataset": "dataset", "model": "model", "class": "foreground", "fold": 0, "seed": 0}
BACKGROUND = ("background", "0")  # what a background is called, in letters of any case
NO_BACKGROUND = "none"
NOTHING = ("", "nan", "na", "n/a", "none", "null")  # a figure without a value
# Endings of image files, so that p1.nii.gz in one table is p1 in another.
IMAGE_ENDING = r"\.(?:nii|nii\.gz|png|tiff?|jpe?g|bmp|mha|mhd|nrrd|npy|npz)$"
STATISTICS = ("mean", "std", "sd", "average", "avg", "median")  # rows that are no case
FIGURES = (*COUNTS, *METRICS)


@dataclass(frozen=True)
class ExternalResults:
    """What was read.

    Attributes
    ----------
    table
        A row per run x case x class: `CASE` and those of the counts and metrics that are there.
    files
        Path and SHA-256 of each file.
    notes
        What a reader has to know of how they were read.
    background
        Name of the background of each dataset that has one.
    shared_weights
        Whether a runs.csv next to a file says that folds share initial weights.
    """

    table: pa.Table
    files: list[dict[str, str]]
    notes: list[str]
    background: dict[str, str]
    shared_weights: bool = False

    def to_scores(self, losses: Sequence[str]) -> list[Scores]:
        """Arrange the rows; a row that stands twice is the user's to fix."""
        try:
            return to_scores(self.table, losses)
        except DuplicateRowError as error:
            names = ", ".join(file["path"] for file in self.files)
            raise UserError(
                f"{names}: {error} stands in two rows; give each training its own fold or seed"
            ) from None


def read(cases: Sequence[str], background: str | None = None) -> ExternalResults:
    """Read files, each PATH or NAME=PATH, into one table.

    Parameters
    ----------
    cases
        The files.
    background
        The class that is the background, `NO_BACKGROUND` where none is; None: one that is called
        so.

    Raises
    ------
    UserError
        Names the file and column of what cannot be read, and a background that is no class.
    """
    frames, files, notes, shared_weights = [], [], [], False
    places: dict[str, int] = {}
    for text in cases:
        name, path = _split(text)
        places[name] = places.get(name, -1) + 1
        content = _bytes(path)
        if (path.parent / "runs.csv").is_file():
            shared_weights |= _share_weights(path.parent / "runs.csv")
        if path.suffix.lower() == ".json":
            frame = nnunet.read(path, content, name, places[name])
        else:
            frame = _keyed(_table(path), path, name)
            notes += _assumed(frame, path)
        frame = _checked(frame, path)
        is_statistic = frame["case"].str.lower().isin(STATISTICS)
        if is_statistic.any():
            rows = ", ".join(dict.fromkeys(frame.loc[is_statistic, "case"]))
            notes.append(f"{path}: rows that are no case are left out: {rows}.")
            frame = frame[~is_statistic]
        frames.append(frame.assign(**_missing_keys(frame)))
        files.append({"path": str(path), "sha256": sha256(content)})
    table = pd.concat(frames, ignore_index=True)
    table = _with_ratios(table[[c for c in (*CASE, "subject", *FIGURES) if c in table]])
    if "subject" not in table:
        table["subject"] = table["case"]
    table["subject"] = table["subject"].fillna(table["case"])
    if not any(metric in table for metric in METRICS):
        raise UserError(
            f"{files[0]['path']}: no column of a metric; expected: one of {', '.join(METRICS)}, "
            f"or the counts {', '.join(COUNTS)}; available: {', '.join(frames[0].columns)}"
        )
    check_bounds(table, files)
    check_subjects(table, files)
    check_folds(table, files)
    notes += _percent(table)
    notes.append("Whether losses shared initial weights and batches is unknown: paired by case.")
    backgrounds = _background(table, background)
    return ExternalResults(
        _arrow(_ordered(table, backgrounds)), files, notes, backgrounds, shared_weights
    )


def _share_weights(runs: Path) -> bool:
    """Whether the runs of results that lossbench wrote share initial weights across folds."""
    try:
        return share_initial_weights(read_csv(runs))
    except (UserError, KeyError):
        return False  # a runs.csv of another program


def _split(text: str) -> tuple[str, Path]:
    """NAME=PATH, or PATH alone; a path that exists is never taken apart."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and not Path(text).exists() else ("", Path(text))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
        else:
            # Text first: a case may be called 007, a class NA.
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # of pandas and pyarrow, both
        raise UserError(f"{path}: is not a valid CSV or Parquet file ({error})") from None
    return table.rename(columns=lambda c: _column(str(c)))


def _column(name: str) -> str:
    """`Dice` is dice, `Surface Dice` is surface_dice."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    return plain if plain in (*CASE, "subject", *FIGURES) else name


def _keyed(table: pd.DataFrame, path: Path, name: str) -> pd.DataFrame:
    """With the loss from the name of the file where the table does not say it."""
    if twice := table.columns[table.columns.duplicated()].tolist():
        raise UserError(f"{path}: two columns are called {twice[0]!r}")
    if name and "loss" not in table:
        table = table.assign(loss=name)
    for key in ("loss", "case"):
        if key not in table:
            also = "; or name the file: NAME=PATH" if key == "loss" else ""
            found = did_you_mean(key, list(table.columns))
            raise UserError(f"{path}: no column {key!r}{also}; {found}")
    return table


def _missing_keys(frame: pd.DataFrame) -> dict[str, Any]:
    return {key: value for key, value in DEFAULTS.items() if key not in frame}


def _assumed(frame: pd.DataFrame, path: Path) -> list[str]:
    assumed = [f"{key} {value!r}" for key, value in _missing_keys(frame).items()]
    return [f"{path} does not say and is read as {', '.join(assumed)}."] if assumed else []


def _checked(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Keys as text and whole numbers, figures as numbers; empty and infinite is NaN."""
    if frame.empty:
        raise UserError(f"{path}: has no rows")
    frame = frame.copy()
    for name in frame.columns:
        if name in CASE_TEXT:
            empty = frame[name].isna() | (frame[name].astype(str).str.strip() == "")
            _refuse(frame, empty, path, name, "is empty")
            frame[name] = frame[name].astype(str).str.strip()
            if name == "case":
                frame[name] = frame[name].str.replace(IMAGE_ENDING, "", case=False, regex=True)
        elif name in CASE:
            numbers = pd.to_numeric(frame[name], errors="coerce")
            _refuse(frame, ~(numbers % 1 == 0), path, name, "is not a whole number")
            frame[name] = numbers.astype(np.int64)
        elif name in FIGURES:
            text = frame[name].astype(object)
            empty = text.isna() | text.astype(str).str.strip().str.lower().isin(NOTHING)
            numbers = pd.to_numeric(text.where(~empty, np.nan), errors="coerce").astype(float)
            _refuse(frame, numbers.isna() & ~empty, path, name, "is not a number")
            frame[name] = numbers.replace([np.inf, -np.inf], np.nan)
    return frame


def _refuse(frame: pd.DataFrame, wrong: pd.Series, path: Path, name: str, why: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(f"{path}: row {row + 1}: {name} {why} (found {frame[name].iloc[row]!r})")


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """With what the counts give and no column says; Dice as MONAI's DiceMetric."""
    if not set(COUNTS) <= set(table.columns):
        return table
    found = ratios(*(table[name].to_numpy(float) for name in COUNTS), QUOTED)
    return table.assign(**{name: v for name, v in found.items() if name not in table})


def _percent(table: pd.DataFrame) -> list[str]:
    """Dice above 1 is meant in percent, and then a margin is, too."""
    names = [m for m in METRICS if m in table and table[m].max() > METRICS[m].high + 1e-6]
    return [
        f"{name} reaches {table[name].max():g}: in percent? The margin is in the same unit."
        for name in names
    ]


def _background(table: pd.DataFrame, named: str | None) -> dict[str, str]:
    """Name of the background of each dataset that has one: as named, or as it is called."""
    classes = table.groupby("dataset", sort=False)["class"].unique()
    if named == NO_BACKGROUND:
        return {}
    if named is not None:
        if not any(named in names for names in classes):
            known = list(dict.fromkeys([*table["class"], NO_BACKGROUND]))
            raise UserError(f"--background: no class {named!r}; {did_you_mean(named, known)}")
        return {dataset: named for dataset, names in classes.items() if named in names}
    return {
        dataset: name
        for dataset, names in classes.items()
        for name in sorted(names, reverse=True)  # 0 after background
        if name.lower() in BACKGROUND
    }


def _ordered(table: pd.DataFrame, background: Mapping[str, str]) -> pd.DataFrame:
    """Sorted by keys: names in order of appearance, but the background first, and cases by name."""
    table = table.reset_index(drop=True)
    place = table[list(CASE)].copy()
    for name in ("dataset", "model", "loss", "class"):
        place[name] = pd.factorize(table[name])[0]
    place.loc[table["class"] == table["dataset"].map(background), "class"] = -1
    return table.loc[place.sort_values(list(CASE)).index]


def _arrow(table: pd.DataFrame) -> pa.Table:
    ours = case_schema(METRICS)
    fields = [ours.field(name) for name in table.columns if name not in COUNTS]
    fields += [pa.field(name, pa.float64()) for name in COUNTS if name in table]
    return pa.Table.from_pandas(table, schema=pa.schema(fields), preserve_index=False)


def to_study(
    results: ExternalResults,
    name: str,
    reference: str,
    metrics: Sequence[str],
    numbers: dict[str, float | None],
) -> Study:
    """How to compare these results; `numbers` are margin and alpha, None for the default.

    Raises
    ------
    UserError
        For a reference or a metric that they do not have.
    """
    labels = {key: results.table[key].unique().to_pylist() for key in RUN}
    files = ", ".join(file["path"] for file in results.files)
    if reference not in labels["loss"]:
        hint = did_you_mean(reference, labels["loss"])
        raise UserError(f"{files}: no loss {reference!r}; {hint}")
    if len(labels["loss"]) < 2:
        raise UserError(f"{files}: has the loss {reference!r} alone; expected: one more to compare")
    results.notes.extend(unmatched_cases(results.table, reference, files))
    measured = [metric for metric in METRICS if metric in results.table.column_names]
    for metric in metrics:
        if metric not in measured:
            raise UserError(f"{files}: no metric {metric!r}; {did_you_mean(metric, measured)}")
        if list(metrics).count(metric) > 1:
            raise UserError(f"--metrics: {metric} is named twice; each metric is compared once")
    for key, value in numbers.items():
        if value is not None and not (
            1e-6 <= value < 0.5 if key == "alpha" else 0 < value < math.inf
        ):
            expected = "above 0" + (" and below 0.5" if key == "alpha" else "")
            raise UserError(f"--{key} {value:g}: expected: a number {expected}")
    settings = {key: value for key, value in numbers.items() if value is not None}
    settings |= {"reference": reference, "metrics": list(metrics) or measured[:1]}
    plain_name = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "results"
    return Study.model_validate(
        {"experiment": plain_name, "matrix": labels, "comparison": settings},
        context={"any_name": True},  # these names become no folders
    )
