"""What is refused in results of other programs, before anything is compared."""

import numpy as np
import pandas as pd
import pyarrow as pa

from lossbench.config import METRICS, UserError


def check_bounds(table: pd.DataFrame, files: list[dict[str, str]]) -> None:
    """Values lie within the bounds of their metric, a share of all losses or percent of all."""
    names = ", ".join(file["path"] for file in files)
    for metric in [m for m in METRICS if m in table]:
        low, high = METRICS[metric].low, METRICS[metric].high
        to = f"to {high:g}, or percent" if np.isfinite(high) else "on"
        outside = (table[metric] < low - 1e-6) | (table[metric] > 100 * high + 1e-6)
        if outside.any():
            case, value = table.loc[outside, ["case", metric]].iloc[0]
            raise UserError(
                f"{names}: {metric} of case {case} is {value:g}; expected: from {low:g} {to}"
            )
        largest = table.groupby("loss", sort=False)[metric].max()
        percent, share = largest[largest > 1.5 * high], largest[(largest > 0) & (largest <= high)]
        if len(percent) and len(share):
            raise UserError(
                f"{names}: {metric} of {percent.index[0]} is in percent (up to "
                f"{percent.iloc[0]:g}), of {share.index[0]} a share (up to {share.iloc[0]:g}); "
                "give both in one unit"
            )


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


def unmatched_cases(cases: pa.Table, reference: str, files: str) -> list[str]:
    """Say of each loss which cases it has alone; refuse a loss that shares none."""
    table = cases.select(["dataset", "model", "loss", "case"]).to_pandas().drop_duplicates()
    of = {
        loss: set(rows[["dataset", "model", "case"]].itertuples(index=False, name=None))
        for loss, rows in table.groupby("loss", sort=False, observed=True)
    }
    notes = []
    for loss, cases in of.items():
        alone, lacks = sorted(cases - of[reference]), sorted(of[reference] - cases)
        names = [f"{x[0][-1]} of {who}" for x, who in ((alone, loss), (lacks, reference)) if x]
        if not cases & of[reference]:
            raise UserError(
                f"{files}: {loss} and {reference} have no case in common ({' and '.join(names)}, "
                "for example); use the same names of cases, data sets and models for both"
            )
        if names:
            notes.append(
                f"{len(alone) + len(lacks)} cases have no partner between {loss} and {reference} "
                f"({' and '.join(names)}, for example)."
            )
    return notes
