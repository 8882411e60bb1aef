"""Distances of what a loss did not find: the image's diagonal, so that a miss costs and is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.common.tables import COUNTS
from lossbench.config import METRICS, PENALISED
from lossbench.datasets.prepared import Prepared
from lossbench.stages.compare.scores import Scores


def penalise_distances(scores: Scores, folder: Path) -> Scores:
    """Add the penalised values of distances, which are compared, where something was missed.

    A class that is in the label and not in the prediction has no distance. Left out, a loss gains
    by finding nothing on hard cases; so it gets the largest one that there can be. A prediction of
    a class that is not in the label is no miss and stays without a value.

    Parameters
    ----------
    scores
        Of one dataset and model, with counts.
    folder
        Of the prepared dataset, which has shape and spacing of each case as the files have them.
    """
    if not set(COUNTS) <= scores.values.keys() or not (folder / "cases.csv").is_file():
        return scores
    tp, fp, fn = (scores.values[name] for name in COUNTS)
    missed = (tp + fn > 0) & (tp + fp == 0)
    if not missed.any():
        return scores
    table = Prepared(folder).cases.set_index("case")
    first = "original_" if "original_shape" in table else ""
    sizes = zip(table[f"{first}shape"], table[f"{first}spacing"], strict=True)
    diagonals = pd.Series([np.linalg.norm(np.multiply(*size)) for size in sizes], table.index)
    diagonal = diagonals.reindex(scores.cases).to_numpy()[:, None]
    penalised = {
        name + PENALISED: np.where(missed & np.isnan(values), diagonal, values)
        for name, values in scores.values.items()
        if name in METRICS and METRICS[name].penalised
    }
    return replace(scores, values=scores.values | penalised)
