"""Collapses: runs that never start a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.files import block_folder, reading
from lossbench.config import STARTED
from lossbench.stages.compare.scores import Scores, mean, to_rows


def collapses(groups: Sequence[Scores], experiment: Path | None) -> pd.DataFrame:
    """Runs whose Dice on a class is under `STARTED` at the end and at every validation before.

    Parameters
    ----------
    groups
        What was measured, for each dataset and model.
    experiment
        experiment.json, beside the blocks with their histories; None where there are none, and
        the end alone decides.

    Raises
    ------
    UserError
        Where the history of a run that ended low is missing or damaged.
    """
    rows = []
    for scores in groups:
        if "dice" not in scores.values:
            continue
        shape = (len(scores.losses), len(scores.classes))
        n_runs, n_collapsed = np.zeros(shape, int), np.zeros(shape, int)
        names = np.full(shape, "", dtype=object)
        for fold, seed, s, of_fold in scores.blocks():
            ends = mean(scores.values["dice"][:, s, of_fold], axis=1)  # (L, K)
            n_runs += ~np.isnan(ends)
            low = ends < STARTED
            for i in np.flatnonzero(low.any(axis=1)):
                if experiment is not None:
                    block = block_folder(experiment.parent, **scores.keys, fold=fold, seed=seed)
                    best = _best(block / scores.losses[i] / "history.csv", scores.classes)
                    low[i] &= ~(best >= STARTED)  # a class without a validation stays low
                names[i, low[i]] += f", fold {fold} seed {seed}"
            n_collapsed += low
        for row in to_rows(scores, {"n_runs": n_runs, "n_collapsed": n_collapsed, "seeds": names}):
            rows.append(row | {"seeds": row["seeds"].removeprefix(", ")})
    return pd.DataFrame(rows, columns=tables.COLLAPSES)


def _best(file: Path, classes: Sequence[str]) -> np.ndarray:
    """(K,): best validation Dice of each class along a training, NaN where it has none."""
    with reading(file):
        history = pd.read_csv(file)
        columns = [history.get(f"val/dice/{name}") for name in classes]
        return np.array([np.nan if c is None else c.astype(float).max() for c in columns])
