"""What is refused in results of other programs before anything is compared, and a hint."""

import numpy as np
import pandas as pd
import pyarrow as pa

from lossbench.common.case_names import common_beginnings
from lossbench.common.tables import CASE
from lossbench.config import METRICS, UserError, abridged


def check_bounds(table: pd.DataFrame, files: list[dict[str, str]]) -> None:
    """Values lie within the bounds of their metric; an infinite distance is no value."""
    names = ", ".join(file["path"] for file in files)
    for metric in [m for m in METRICS if m in table]:
        low, high = METRICS[metric].low, METRICS[metric].high
        outside = (table[metric] < low - 1e-6) | (table[metric] > high + 1e-6)
        if outside.any():
            loss, case, value = table.loc[outside, ["loss", "case", metric]].iloc[0]
            to = f"to {high:g}" if np.isfinite(high) else "on"
            hint = ""
            if high == 1 and 1 < table.loc[outside, metric].max() <= 100:
                losses = " ".join(table.loc[outside, "loss"].unique())
                hint = f"; in percent? Then say so: --percent {losses}"
            raise UserError(
                f"{names}: {metric} of case {case} of {loss} is {value:g}; expected: from {low:g} "
                f"{to}{hint}"
            )
        table[metric] = table[metric].replace(np.inf, np.nan)


def check_subjects(table: pd.DataFrame, files: list[dict[str, str]]) -> None:
    """A case has one subject; the cases of a subject are in one fold, or each is in several."""
    keys = ["dataset", "model"]
    n_subjects = table.groupby([*keys, "case"])["subject"].nunique()
    if (n_subjects > 1).any():
        case = n_subjects[n_subjects > 1].index[0][-1]
        raise UserError(f"{files[0]['path']}: case {case} has several subjects; expected one")
    folds = table.drop_duplicates([*keys, "case", "fold"]).groupby([*keys, "subject"])
    split = (folds["fold"].nunique() > 1) & (folds["case"].nunique() == folds.size())
    if split.any():
        subject = split[split].index[0][-1]
        raise UserError(
            f"{files[0]['path']}: the cases of subject {subject} are in several folds, so that it "
            "is in the training and in the validation cases; split by subject"
        )


def check_folds(table: pd.DataFrame, files: list[dict[str, str]]) -> None:
    """A case is in one fold for all losses, or in several for each (a test set)."""
    keys = ["dataset", "model", "case"]
    if table.groupby([*keys, "loss"])["fold"].nunique().max() > 1:
        return
    folds = table.groupby(keys)["fold"].nunique()
    if (folds > 1).any():
        case = folds[folds > 1].index[0][-1]
        rows = table[table["case"] == case].drop_duplicates("loss")
        found = ", ".join(f"{f} for {x}" for x, f in zip(rows["loss"], rows["fold"], strict=True))
        raise UserError(
            f"{files[0]['path']}: case {case} is in fold {found}; give the files of every loss in "
            "the order of folds, or in folders that are called fold_0, fold_1, ..."
        )


def unmatched(table: pa.Table, reference: str, files: str) -> list[str]:
    """Say of each loss which cases, classes and trainings it has alone; refuse one without any."""
    rows = table.select(list(CASE)).to_pandas()
    notes = []
    for key, plural in (("case", "cases"), ("class", "classes"), ("training", "trainings")):
        columns = ["fold", "seed"] if key == "training" else [key]
        few = rows[["dataset", "model", "loss", *columns]].drop_duplicates()
        if key == "training":
            few[key] = "fold " + few["fold"].astype(str) + ", seed " + few["seed"].astype(str)
        of = {
            loss: set(zip(some["dataset"], some["model"], some[key], strict=True))
            for loss, some in few.groupby("loss", sort=False, observed=True)
        }
        for loss, found in of.items():
            alone, lacks = sorted(found - of[reference]), sorted(of[reference] - found)
            names = [f"{x[0][-1]} of {who}" for x, who in ((alone, loss), (lacks, reference)) if x]
            if not found & of[reference]:
                raise UserError(
                    f"{files}: {loss} and {reference} have no {key} in common "
                    f"({' and '.join(names)}, for example); use the same names of {plural}, data "
                    "sets and models for both"
                )
            if names:
                notes.append(
                    f"{len(alone) + len(lacks)} {plural} have no partner between {loss} and "
                    f"{reference} ({' and '.join(names)}, for example)."
                )
    return notes


def slices_hint(cases: pd.Series) -> list[str]:
    """A hint where names look like slices of one thing, as `check` gives for a dataset."""
    groups = common_beginnings(sorted(cases.unique()))
    if not groups:
        return []
    sizes = [f"{name}* ({len(rows)} cases)" for name, rows in groups.items()]
    return [
        f"Names look like slices, tiles or frames of {len(groups)} subjects, and there is no "
        f"column subject: {abridged(sizes)}; if so, add one, or cases that are alike count as "
        "independent."
    ]
