"""What tuning found: every training of it, and each verdict at the common rate beside the own."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gmean

from lossbench.common import tables
from lossbench.common.files import read_json
from lossbench.common.tuning import rates_file, tuning_digest
from lossbench.config import TUNED, Experiment, Study, UserError, counted
from lossbench.stages.compare.family import difference
from lossbench.stages.compare.scores import Scores

Rates = dict[tuple[str, str, int], dict[str, Any]]  # of dataset, model and fold: rates.json


def read_rates(settings: Experiment, folder: Path) -> Rates:
    """Read rates.json of every fold of an experiment whose learning rates are tuned.

    Raises
    ------
    UserError
        Where one is missing, damaged, or of other settings or data.
    """
    matrix, found = settings.matrix, {}
    for keys in product(matrix.dataset, matrix.model, matrix.fold):
        file = rates_file(folder, *keys)
        data_digest = read_json(folder.parent / "datasets" / keys[0] / "classes.json")["digest"]
        found[keys] = read_json(file)
        expected = tuning_digest(settings, data_digest, *keys)
        if found[keys]["digest"] != expected:
            raise UserError(f"{file}: of other settings or data; delete it and run the workflow")
    return found


def tuning_runs(rates: Rates) -> pd.DataFrame:
    """A row per training of the tuning."""
    rows = [
        {**dict(zip((*tables.GROUP, "fold"), keys, strict=True)), **point}
        for keys, of_fold in rates.items()
        for point in of_fold["points"]
    ]
    return pd.DataFrame(rows, columns=tables.TUNING_RUNS)


def tuning(
    groups: Sequence[Scores], study: Study, rates: Rates, compared: pd.DataFrame
) -> pd.DataFrame:
    """Each comparison at the common learning rate beside that at each loss's own.

    Parameters
    ----------
    groups
        What was measured, for each dataset and model.
    study
        What is compared.
    rates
        Of every fold.
    compared
        `tables.COMPARISONS`, which has both verdicts.

    Returns
    -------
    pd.DataFrame
        `tables.TUNING`. explained_by_lr is the difference at the common rate minus that at the own
        rates, paired; its interval is of that row alone, and no test.
    """
    rows, at_own = [], compared.set_index(list(tables.COMPARISON))
    of_group = {tuple(scores.keys.values()): scores for scores in groups}
    for row in compared.to_dict("records"):
        loss, reference = row["loss"], row["reference"]
        key = (row["dataset"], row["model"], loss + TUNED, row["class"], row["metric"])
        if key not in at_own.index:
            continue
        own, scores = at_own.loc[key], of_group[key[:2]]
        d = difference(scores, _explained(scores, row))
        low, high = d.interval(1 - study.comparison.alpha, study.metric(row["metric"]).high)
        of_folds = [found for keys, found in rates.items() if keys[:2] == key[:2]]
        rows.append(
            {
                **{name: row[name] for name in (*tables.COMPARISON, "reference")},
                "lr_fixed": study.training_of(row["dataset"], loss).learning_rate,
                "lr_tuned": _mean_rate(of_folds, loss),
                "lr_tuned_reference": _mean_rate(of_folds, reference),
                "difference_fixed": row["difference"],
                "verdict_fixed": row["verdict"],
                "difference_tuned": own["difference"],
                "verdict_tuned": own["verdict"],
                "explained_by_lr": d.mean,
                "ci_low": low,
                "ci_high": high,
                "budget": sum(x["loss"] == loss for found in of_folds for x in found["points"]),
                "at_edge": sum(bool({loss, reference} & {*found["at_edge"]}) for found in of_folds),
            }
        )
    return pd.DataFrame(rows, columns=tables.TUNING)


def _explained(scores: Scores, keys: Mapping[str, str]) -> list[np.ndarray]:
    """Difference at the common rate minus that at the own rates: (seeds, subjects) of each fold."""
    names = [keys["loss"], keys["reference"], keys["loss"] + TUNED, keys["reference"] + TUNED]
    a, b, c, d = scores.select(scores.compared(keys["metric"]), names, keys["class"])
    folds = scores.subject_means((a - b) - (c - d))
    return [fold[:, np.isfinite(fold).any(axis=0)] for fold in folds]


def _mean_rate(of_folds: Sequence[Mapping[str, Any]], loss: str) -> float:
    """Geometric mean over the folds, to three digits."""
    return float(f"{gmean([found['rates'][loss] for found in of_folds]):.3g}")


def tuning_lines(table: pd.DataFrame) -> list[str]:
    """A line for each comparison: what is said at the common rate, and at each loss's own."""
    lines = []
    for row in table.to_dict("records"):
        edge = f"; the best rate is an edge of the grid in {counted(row['at_edge'], 'fold')}"
        lines.append(
            f"{row['metric']} of {row['class']}, {row['loss']}: at the common learning rate "
            f"{row['lr_fixed']:g} {row['verdict_fixed']} ({row['difference_fixed']:+z.4f}); each "
            f"at its own, {row['lr_tuned']:g} and {row['lr_tuned_reference']:g}, "
            f"{row['verdict_tuned']} ({row['difference_tuned']:+z.4f}). The rate explains "
            f"{row['explained_by_lr']:+z.4f} ({row['ci_low']:+z.4f} to {row['ci_high']:+z.4f})"
            f"{edge if row['at_edge'] else ''}"
        )
    return lines
