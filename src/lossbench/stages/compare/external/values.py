"""The cells of other programs' tables: names and numbers as people write them."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.common.tables import CASE, CASE_TEXT, COUNTS
from lossbench.config import METRICS, UserError
from lossbench.stages.compare.external.tables import FIGURES

NOTHING = (  # a figure without a value
    *("", "nan", "na", "n/a", "none", "null", "<na>", "#n/a", "#na", "#div/0!"),
    *("missing", "-", "--", "\N{EN DASH}", "—", "."),
)
# Endings of image files, so that p1.nii.gz in one table is p1 in another.
IMAGE_END = re.compile(
    r"\.(?:nii|nii\.gz|png|tiff?|jpe?g|bmp|mha|mhd|nrrd|npy|npz)$", re.IGNORECASE
)
WHOLE = re.compile(r"^(\d+)\.0$")


def checked(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Keys as text and whole numbers, figures as numbers; an empty one is NaN."""
    if frame.empty:
        raise UserError(f"{path}: has no rows")
    attrs, frame = frame.attrs, _decimal_points(path, frame)
    for name in frame.columns:
        if name in CASE_TEXT:
            empty = frame[name].isna() | (frame[name].astype(str).str.strip() == "")
            _refuse(frame, empty, path, name, "is empty")
            # 12.0 is a number that went through a column of floats.
            text = frame[name].astype(str).str.strip().str.normalize("NFC")
            frame[name] = text.str.replace(WHOLE, r"\1", regex=True)
            if name == "case":
                of_loss = frame.groupby("loss", sort=False)[name]
                frame[name] = of_loss.transform(_without_folders)
                frame[name] = frame[name].str.replace(IMAGE_END, "", regex=True)
        elif name in CASE:
            text = (
                frame[name]
                .astype(str)
                .str.replace(rf"^\s*{name}[\W_]*", "", case=False, regex=True)
            )
            numbers = pd.to_numeric(text, errors="coerce")
            _refuse(
                frame, ~((numbers % 1 == 0) & (numbers >= 0) & (numbers < 2**31)), path, name,
                "is not a whole number from 0 on",
            )  # fmt: skip
            frame[name] = numbers.astype(np.int64)
        elif name in FIGURES:
            text = frame[name].astype(object)
            empty = text.isna() | text.astype(str).str.strip().str.lower().isin(NOTHING)
            numbers = pd.to_numeric(text.where(~empty, np.nan), errors="coerce").astype(float)
            _refuse(frame, numbers.isna() & ~empty, path, name, "is not a number")
            if name in COUNTS:
                wrong = (numbers % 1 != 0) & ~empty | (numbers < 0)
                _refuse(frame, wrong, path, name, "is not a count")
            frame[name] = numbers
    frame.attrs = attrs
    return frame


def _without_folders(cases: pd.Series) -> pd.Series:
    """p1.nii.gz of /data/p1.nii.gz; where file names repeat, without the folders of all."""
    paths = cases.str.replace("\\", "/", regex=False)
    names = paths.str.rpartition("/")[2]
    if names.nunique() == paths.nunique():
        return names
    folders = [path.split("/") for path in paths.unique()]
    shared = next(i for i, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1)
    return paths.map(lambda path: "/".join(path.split("/")[shared:]))


def _refuse(frame: pd.DataFrame, wrong: pd.Series, path: Path, name: str, why: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = frame[name].tolist()[row]  # as Python writes it
        raise UserError(f"{path}: row {row + 1}: {name} {why} (found {found!r})")


def shares(
    frame: pd.DataFrame, path: Path, percent: Sequence[str] | None, notes: list[str]
) -> pd.DataFrame:
    """Divide by 100 what --percent says is in percent, of the metrics that end at 1."""
    metrics = [m for m in METRICS if m in frame and METRICS[m].high == 1]
    if percent is None or not metrics:
        return frame
    frame = frame.copy()
    for loss in frame["loss"].unique():
        rows = frame["loss"] == loss
        largest = np.nanmax(frame.loc[rows, metrics].to_numpy(), initial=-np.inf)
        if not (loss in percent or not percent) or largest == -np.inf:
            continue
        if largest <= 1:
            raise UserError(
                f"{path}: {', '.join(metrics)} of {loss} reach {largest:g} at most, which is no "
                "percentage; name the losses that are in percent: --percent LOSS"
            )
        frame.loc[rows, metrics] /= 100
        notes.append(f"{path}: {', '.join(metrics)} of {loss} are in percent and divided by 100.")
    return frame


def _decimal_points(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Figures with a decimal point, where the file has a decimal comma; never both."""
    columns = [c for c in FIGURES if c in table and not pd.api.types.is_numeric_dtype(table[c])]
    cells = pd.concat([table[c].dropna().astype(str) for c in columns]) if columns else []
    commas = cells[cells.str.contains(",")] if columns else []
    if not len(commas):
        return table.copy()
    points = cells[cells.str.contains(".", regex=False) & ~cells.isin(NOTHING)]
    if len(points):
        raise UserError(
            f"{path}: has numbers with a comma and with a point ({commas.iloc[0]!r}, "
            f"{points.iloc[0]!r}); write them with one decimal sign and without "
            "thousands separators"
        )
    text = {c: table[c].str.replace(",", ".", n=1, regex=False) for c in columns}
    return table.assign(**text)
