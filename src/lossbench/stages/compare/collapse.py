"""Collapses: runs that never start a class."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.files import block_folder
from lossbench.config import UserError
from lossbench.stages.compare.blocks import AGAIN
from lossbench.stages.compare.scores import Scores, mean

STARTED = 0.1  # Dice that a class limits once a network has begun to learn it


def collapses(groups: Sequence[Scores], experiment: Path | None) -> pd.DataFrame:
    """Runs whose Dice on a class is under `STARTED` at the end and at every validation before.

    Parameters
    ----------
    groups
        Of the experiment.
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
        blocks = list(scores.blocks())
        # (blocks, L, K): mean over the cases of a block.
        ends = np.stack([mean(scores.values["dice"][:, s, of], axis=1) for _, _, s, of in blocks])
        low = ends < STARTED
        for b, i in np.argwhere(low.any(axis=2)):
            fold, seed = blocks[b][:2]
            if experiment is not None:
                block = block_folder(experiment.parent, **scores.keys, fold=fold, seed=seed)
                best = _best(block / scores.losses[i] / "history.csv", scores.classes)
                low[b, i] &= ~(best >= STARTED)  # a class without a validation stays low
        n_runs = (~np.isnan(ends)).sum(axis=0)
        for (i, loss), (k, name) in product(enumerate(scores.losses), enumerate(scores.classes)):
            which = [blocks[b][:2] for b in np.flatnonzero(low[:, i, k])]
            seeds = ", ".join(f"fold {fold} seed {seed}" for fold, seed in which)
            keys = {**scores.keys, "loss": loss, "class": name, "n_runs": n_runs[i, k]}
            rows.append({**keys, "n_collapsed": len(which), "seeds": seeds})
    return pd.DataFrame(rows, columns=tables.COLLAPSES)


def _best(file: Path, classes: Sequence[str]) -> np.ndarray:
    """(K,): best validation Dice of each class along a training, NaN where it has none."""
    try:
        history = pd.read_csv(file)
        columns = [history.get(f"val/dice/{name}") for name in classes]
        return np.array([np.nan if c is None else c.astype(float).max() for c in columns])
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; run the workflow again") from None
    except ValueError as error:  # what pandas raises for text that is no table is one, too
        raise UserError(f"{file}: damaged ({error}); {AGAIN}") from None
