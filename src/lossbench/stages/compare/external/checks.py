"""What is refused in results of other programs before anything is compared, and a hint."""

import numpy as np
import pandas as pd
import pyarrow as pa

from lossbench.common.case_names import common_beginnings
from lossbench.common.tables import CASE
from lossbench.config import METRICS, UserError, abridged

# HD95 of a region that is not predicted, by BraTS: the diagonal of its 240 x 240 x 155 voxels, and
# what its evaluation by lesions takes for it.
PENALTIES = [np.linalg.norm([240, 240, 155]), 374.0]


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


def distances_of_nothing(table: pd.DataFrame) -> list[str]:
    """Name what stands in the place of an HD95 that there is not, where the prediction is empty.

    Programs write 0, which would be the best distance that there is: no value then. Others write a
    penalty, which stays, as the diagonal does in a study: one of BraTS's, or the largest distance,
    where it repeats and Dice is 0.
    """
    if "hd95" not in table:
        return []
    notes, distance = [], table["hd95"]
    nothing = table["dice"] == 0 if "dice" in table else pd.Series(False, table.index)
    if (zero := nothing & (distance == 0)).any():
        loss, case = table.loc[zero, ["loss", "case"]].iloc[0]
        notes.append(
            f"hd95 is 0 where dice is 0 in {zero.sum()} rows ({case} of {loss}, for example): no "
            "distance, and read as missing."
        )
        table.loc[zero, "hd95"] = np.nan
    penalties = np.isclose(distance.to_numpy()[:, None], PENALTIES, rtol=0, atol=0.01).any(axis=1)
    largest = nothing & (distance == distance.groupby(table["loss"]).transform("max"))
    penalties |= largest & (largest.groupby(table["loss"]).transform("sum") > 1)
    for (loss, value), rows in table[penalties].groupby(["loss", "hd95"], sort=False):
        notes.append(
            f"hd95 of {loss} is {value:g} in {len(rows)} rows ({rows['case'].iloc[0]}, for "
            "example): it looks like a penalty for a prediction that is missing, and counts as a "
            "distance."
        )
    return notes


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
