"""Other people's results: tables with key columns and metrics, and nnU-Net's summary.json."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lossbench.common.files import reading
from lossbench.common.provenance import sha256
from lossbench.common.tables import CASE, COUNTS, case_schema, read_csv
from lossbench.config import METRICS, UserError, did_you_mean
from lossbench.stages.compare.arrange import DuplicateRowError, to_scores
from lossbench.stages.compare.conventions import QUOTED, ratios
from lossbench.stages.compare.external import nnunet
from lossbench.stages.compare.external.checks import (
    check_bounds,
    check_folds,
    check_subjects,
    distances_of_nothing,
    slices_hint,
)
from lossbench.stages.compare.external.tables import FIGURES, is_summary, read_table
from lossbench.stages.compare.external.values import IMAGE_END, checked, shares
from lossbench.stages.compare.read_blocks import share_initial_weights
from lossbench.stages.compare.scores import Scores

# What a table says when it does not say so.
DEFAULTS = {"dataset": "dataset", "model": "model", "class": "foreground", "fold": 0, "seed": 0}
BACKGROUND = ("background", "0")  # what a background is called, in letters of any case
NO_BACKGROUND = "none"
CROSSVAL = ("crossval_results", "cv_niftis")  # begin nnU-Net's folders of all folds together


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


def read(
    cases: Sequence[str],
    background: str | None = None,
    percent: Sequence[str] | None = None,
    splits: Path | None = None,
) -> ExternalResults:
    """Read files, each PATH or NAME=PATH, into one table.

    Parameters
    ----------
    cases
        The files.
    background
        The class that is the background, `NO_BACKGROUND` where none is; None: one that is called
        so.
    percent
        The losses whose figures are in percent; empty: all of them.
    splits
        splits_final.json of nnU-Net, which says the folds of files that do not.

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
        if is_json := path.suffix.lower() == ".json":
            frame, found = nnunet.read(path, content, name), []
        else:
            frame, found = read_table(path, content, bool(name))
            frame = _named(frame, path, name)
        notes += found
        frame = checked(frame, path)
        for key in ("case", "class"):
            if key in frame and (summary := frame[key].map(is_summary)).any():
                rows = ", ".join(dict.fromkeys(frame.loc[summary, key]))
                notes.append(f"{path}: rows that are no {key} are left out: {rows}.")
                frame = frame[~summary]
        frame = shares(frame, path, percent, notes)
        if "fold" not in frame:
            found = [splits] if splits else [path.parent / "splits_final.json"]
            found += [Path(x) for x in frame.attrs.get("splits", [])]
            file = next((x for x in found if splits or x.is_file()), None)
            if file:
                frame = frame.assign(fold=_folds(frame["case"], file, path))
                notes.append(f"{path}: the folds are those of {file}.")
            elif any(part.startswith(CROSSVAL) for part in path.resolve().parts):
                notes.append(
                    f"{path}: has the cases of all folds and is read as one training; "
                    "--splits splits_final.json tells the folds."
                )
            elif is_json:  # files of a loss are its folds, in their order
                frame = frame.assign(fold=places[name])
        notes += [] if is_json else _assumed(frame, path)
        frames.append(frame.assign(**_missing_keys(frame)))
        files.append({"path": str(path), "sha256": sha256(content)})
    if unknown := set(percent or ()) - {x for frame in frames for x in frame["loss"]}:
        known = list(dict.fromkeys(x for frame in frames for x in frame["loss"]))
        loss = sorted(unknown)[0]
        raise UserError(f"--percent: no loss {loss!r}; {did_you_mean(loss, known)}")
    table = _together(frames)
    table = _with_ratios(table[[c for c in (*CASE, "subject", *FIGURES) if c in table]])
    if not any(metric in table for metric in METRICS):
        raise UserError(
            f"{files[0]['path']}: no column of a metric; expected: one of {', '.join(METRICS)}, "
            f"or the counts {', '.join(COUNTS)}. " + " ".join(notes)
        )
    keys = [key for key in ("case", "class", "subject") if key in table]
    notes += [note for key in keys for note in _spelled_alike(table, key)]
    notes += [] if "subject" in keys else slices_hint(table["case"])
    table["subject"] = (
        table["subject"].fillna(table["case"]) if "subject" in keys else table["case"]
    )
    check_bounds(table, files)
    notes += distances_of_nothing(table)
    check_subjects(table, files)
    check_folds(table, files)
    notes.append("Whether losses shared initial weights and batches is unknown: paired by case.")
    backgrounds = _background(table, background)
    if background is None and not backgrounds:
        first = next((x for x in table["class"].unique() if re.search(r"^\D+0$", x)), None)
        if first:
            notes.append(f"{first} counts as foreground; --background {first} makes it background.")
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


def _named(table: pd.DataFrame, path: Path, name: str) -> pd.DataFrame:
    """With the loss that the command line gives the file."""
    if not name:
        return table
    if "loss" in table and table["loss"].nunique() > 1:
        raise UserError(
            f"{path}: has several losses in a column of its own; give it without {name}="
        )
    return table.assign(loss=name)


def _together(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows in one table; files that have other metrics of the same cases are joined."""
    alike: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for frame in frames:
        alike.setdefault(tuple(c for c in FIGURES if c in frame), []).append(frame)
    tables = [pd.concat(same, ignore_index=True) for same in alike.values()]
    names = [name for figures in alike for name in figures]
    if len(names) > len(set(names)):  # a figure in several: rows beside rows
        return pd.concat(tables, ignore_index=True)
    table = tables[0]
    for other in tables[1:]:
        keys = [*CASE, *({"subject"} & set(table) & set(other))]
        table = table.merge(other, on=keys, how="outer")
    return table


def _spelled_alike(table: pd.DataFrame, key: str) -> list[str]:
    """Give names that differ between losses in the case of letters alone one spelling."""
    lower = table[key].str.lower()
    if (table.groupby([table["loss"], lower], sort=False)[key].nunique() > 1).any():
        return []  # a loss tells them apart
    first = table.groupby(lower, sort=False)[key].transform("first")
    differs = first.notna() & (first != table[key])  # a file may lack the column
    if not differs.any():
        return []
    example = f"{table.loc[differs, key].iloc[0]} is {first[differs].iloc[0]}"
    table[key] = first
    return [f"Names of a {key} that differ in capital letters alone are one ({example})."]


def _folds(cases: pd.Series, splits: Path, path: Path) -> pd.Series:
    """The fold that validates each case, by splits_final.json."""
    with reading(splits):
        found = [[IMAGE_END.sub("", case) for case in split["val"]]
                 for split in json.loads(splits.read_bytes())]  # fmt: skip
    fold_of = {case: fold for fold, names in enumerate(found) for case in names}
    folds = cases.map(fold_of)
    if folds.isna().any():
        raise UserError(f"{path}: case {cases[folds.isna()].iloc[0]} is in no fold of {splits}")
    return folds.astype(np.int64)


def _missing_keys(frame: pd.DataFrame) -> dict[str, Any]:
    return {key: value for key, value in DEFAULTS.items() if key not in frame}


def _assumed(frame: pd.DataFrame, path: Path) -> list[str]:
    assumed = [f"{key} {value!r}" for key, value in _missing_keys(frame).items()]
    return [f"{path} does not say and is read as {', '.join(assumed)}."] if assumed else []


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """With what the counts give and no column says; Dice as MONAI's DiceMetric."""
    if not set(COUNTS) <= set(table.columns):
        return table
    found = ratios(*(table[name].to_numpy(float) for name in COUNTS), QUOTED)
    return table.assign(**{name: v for name, v in found.items() if name not in table})


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
