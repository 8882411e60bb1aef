"""The tables of the results: keys, columns and types of each, named here and nowhere else."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from lossbench.common.files import read_text, reading
from lossbench.config import UserError

GROUP = ("dataset", "model")
BLOCK = (*GROUP, "fold", "seed")
RUN = (*GROUP, "loss", "fold", "seed")
COUNTS = ("tp", "fp", "fn")
# A row of cases.parquet is a run x case x class; the subject of the case, the counts and the
# metrics follow.
CASE = (*RUN, "case", "class")
CASE_TEXT = ("dataset", "model", "loss", "case", "subject", "class")
# Metadata of a block's cases.parquet: the digest of each loss's run; the name of the background.
DIGESTS, BACKGROUND = b"digests", b"background"
MEASURED = b"measured"  # the same: metrics of the user's, their code, the tolerance of surface Dice
# Beside it, for the pictures of the report: what they show of each prediction, by LOSS/ROW.
PREDICTIONS = "predictions.npz"
# What status.json of a run says. A study that was stored before a key existed lacks that key.
STATUS = (
    *("digest", "status", "steps", "train_seconds", "images_per_second", "peak_memory_bytes"),
    *("data_digest", "init_digest", "batch_digest", "commit", "versions", "device", "engine"),
    *("started", "finished"),
)
COMPARISON = (*GROUP, "loss", "class", "metric")
SUMMARY = (
    *(*COMPARISON, "n_cases", "n_subjects", "n_seeds", "n_empty"),
    *("mean", "ci_low", "ci_high", "sd_case", "sd_seed"),
    "background",  # whether the class is the background
)
COMPARISONS = (
    *(*GROUP, "loss", "reference", "class", "metric"),
    *("n_cases", "n_subjects", "n_seeds", "n_blocks"),
    *("n_missing", "n_missing_loss", "n_missing_reference", "p_missing", "missing_cases"),
    *("difference", "ci_low", "ci_high", "simultaneous_low", "simultaneous_high"),
    *("p", "p_holm", "p_equivalent_holm", "verdict", "round", "reason"),
    *("n_cases_needed", "n_blocks_needed", "improvement"),
    *("p_cases", "p_cases_holm", "verdict_cases", "convention", "paired"),
    *("scope", "models_low", "models_high", "p_models", "p_models_holm", "verdict_models"),
    *("noise_tolerated", "sd_fold", "p_fold", "caution"),
)
# A row per comparison and look of a study in rounds; the interval is the repeated one.
LOOKS = (
    *(*GROUP, "loss", "reference", "class", "metric", "round", "n_blocks"),
    *("difference", "low", "high", "p_holm", "p_equivalent_holm", "verdict"),
)
POOLED = (*GROUP, "loss", "class", "n_cases", *COUNTS, "dice", "iou", "precision", "recall")
CONVENTIONS = (*GROUP, "class", "convention", "loss", "mean", "n_cases", "winner")
RANKS = (*GROUP, "class", "metric", "loss", "rank", "rank_low", "rank_high", "p_first")
COLLAPSES = (*GROUP, "loss", "class", "n_runs", "n_collapsed", "seeds")
# Subjects on which a loss had no overlap with a class that is there, and runs that never had any;
# *_high are exact upper bounds.
FAILURES = (
    *(*GROUP, "loss", "class", "n_subjects", "n_failed", "rate_high", "n_failed_reference"),
    *("p_mcnemar", "n_runs", "n_collapsed", "collapse_high"),
)
SCALE = (*COMPARISON, "difference", "matched", "explained", "ci_low", "ci_high")
# A row per comparison at the common learning rate, beside that at each loss's own; at_edge counts
# folds, budget trainings of the loss.
TUNING = (
    *(*GROUP, "loss", "reference", "class", "metric", "lr_fixed", "lr_tuned", "lr_tuned_reference"),
    *("difference_fixed", "verdict_fixed", "difference_tuned", "verdict_tuned"),
    *("explained_by_lr", "ci_low", "ci_high", "budget", "at_edge"),
)
TUNING_RUNS = (
    *(*GROUP, "loss", "fold", "learning_rate", "seed", "status", "dice"),
    *("digest", "started", "finished"),
)
# One value per data set, the mean over its foreground classes, and what holds over data sets; both
# from three data sets on.
DATASETS = (
    *("dataset", "model", "loss", "reference", "metric", "n_subjects", "n_blocks"),
    *("difference", "standard_error", "ci_low", "ci_high"),
)
OVER_DATASETS = (
    *("model", "loss", "reference", "metric", "n_datasets", "difference", "ci_low", "ci_high"),
    *("p", "p_holm", "verdict", "sd_between", "prediction_low", "prediction_high"),
)
CLAIMS = ("claim", "source", *GROUP, "verdict", "figure", "evidence")
PLAN = (
    *(*GROUP, "loss", "class", "metric", "pilot_cases", "pilot_seeds", "pilot_blocks"),
    *("sd_case", "sd_block", "sd_residual", "sd_fold", "more_seeds_help", "pairing_gain"),
    "shared_weights",
    *("n_seeds", "n_blocks", "n_cases", "power", "hours"),
)
# Columns of text, whatever they look like: a class may be called 007 or NA.
TEXT = (
    *(*GROUP, "loss", "reference", "class", "metric", "case", "convention", "reason"),
    *("verdict", "verdict_cases", "verdict_models", "verdict_fixed", "verdict_tuned"),
    *("missing_cases", "seeds", "claim", "source", "figure", "evidence", "caution"),
    *("commit", "engine"),
)


def case_schema(metrics: Sequence[str]) -> pa.Schema:
    """Types of cases.parquet with these metrics; text as codes, since few names repeat often."""
    text = pa.dictionary(pa.int32(), pa.string())
    keys = [*RUN, "case", "subject", "class"]
    return pa.schema(
        [(name, text if name in CASE_TEXT else pa.int64()) for name in keys]
        + [(name, pa.int64()) for name in COUNTS]
        + [(name, pa.float64()) for name in metrics]
    )


def read_csv(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table of the results; only an empty cell is a missing value.

    Parameters
    ----------
    path
        The file.
    columns
        Those that it must have, and then at least a row.

    Raises
    ------
    UserError
        Where it is missing or damaged.
    """
    with reading(path):
        text = dict.fromkeys(TEXT, str)
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
        if missing := [name for name in columns if name not in table]:
            raise KeyError(missing[0])
        if columns and table.empty:
            raise ValueError("no rows")
        return table


def cautions_of(comparisons: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """Each caution of a table of comparisons, once, and the comparisons that it is about."""
    table = comparisons.assign(where=class_names(comparisons))
    table = table[table["caution"].fillna("") != ""]
    table = table.assign(caution=table["caution"].astype(str).str.split("; ")).explode("caution")
    for caution, rows in table.groupby("caution", sort=False):
        if len(rows) == len(comparisons) > 1:
            yield caution, ["all comparisons"]
        else:
            keys = rows[["metric", "where", "loss"]].itertuples(index=False)
            yield caution, [f"{metric} of {where}, {loss}" for metric, where, loss in keys]


def class_names(table: pd.DataFrame) -> list[str]:
    """The class of each row, with data set and model where the table has several of these."""
    if len(table[[*GROUP]].drop_duplicates()) < 2:
        return table["class"].tolist()
    keys = table[["class", *GROUP]].itertuples(index=False)
    return [f"{name} ({dataset}, {model})" for name, dataset, model in keys]


def read_users_csv(path: Path, columns: Sequence[str], where: str) -> pd.DataFrame:
    """Read a table of the user's that has these columns, or more; all cells as text.

    Raises
    ------
    UserError
        Where it is missing, not in UTF-8, or has other columns or rows of another length; with
        `where`, the argument that names it.
    """
    lines = io.StringIO(read_text(path, where), newline="")
    try:
        rows = [row for row in csv.reader(lines, strict=True) if any(row)]
    except csv.Error as error:
        raise UserError(f"{where}: {path}: is no valid CSV ({error}); fix it") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if wrong := [name for name in columns if header.count(name) != 1]:
        others = [sep for sep in (";", "\t", "|") if any(sep in name for name in header)]
        hint = f"; its separator is {others[0]!r}, save it with commas" if others else ""
        raise UserError(
            f"{where}: {path}: expected one column {' and one '.join(wrong)}; "
            f"found {', '.join(header)}{hint}"
        )
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise UserError(
                f"{where}: {path}: row {number} has {len(row)} cells, the header {len(header)}; "
                "put text with a comma in quotes"
            )
    return pd.DataFrame(rows[1:], columns=header, dtype=str)
