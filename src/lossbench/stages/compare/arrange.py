"""Arrange the rows of cases.parquet as arrays: `Scores` for each dataset and model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lossbench.common.tables import CASE
from lossbench.stages.compare.scores import Scores


class DuplicateRowError(Exception):
    """Two rows with the same keys; `keys` names them."""

    def __init__(self, keys: dict[str, Any]) -> None:
        self.keys = keys
        super().__init__(", ".join(f"{name} {value}" for name, value in keys.items()))


def to_scores(table: pa.Table, losses: Sequence[str]) -> list[Scores]:
    """Arrange the rows of cases.parquet: `Scores` for each dataset and model.

    Parameters
    ----------
    table
        The columns `CASE`, and further ones with numbers.
    losses
        The losses to take, in their order.

    Raises
    ------
    DuplicateRowError
        Where two rows have the same keys.
    """
    codes, labels = {}, {}
    for name in CASE:
        codes[name], labels[name] = _encode(table[name])
    subject = "subject" if "subject" in table.column_names else "case"
    codes["subject"], _ = _encode(table[subject])
    # By name, so that what is drawn at random does not depend on the order of rows.
    for name in ("case", "fold", "seed"):
        places = sorted(range(len(labels[name])), key=labels[name].__getitem__)
        codes[name] = np.argsort(places)[codes[name]]
        labels[name] = [labels[name][i] for i in places]
    order = {name: position for position, name in enumerate(losses)}
    codes["loss"] = np.array([order.get(x, -1) for x in labels["loss"]])[codes["loss"]]
    labels["loss"] = list(losses)
    group = codes["dataset"] * len(labels["model"]) + codes["model"]
    group[codes["loss"] < 0] = -1
    positions = _groups(group)
    found, places = [], []
    for rows in positions:
        scores, at = _empty_scores({name: column[rows] for name, column in codes.items()}, labels)
        found.append(scores)
        places.append(at)
    del codes, group
    for name in table.column_names:
        # A column at a time: a large study fits into little memory.
        if name not in (*CASE, "subject"):
            numbers = table[name].to_numpy().astype(float, copy=False)
            for scores, at, rows in zip(found, places, positions, strict=True):
                values = np.full(scores.rows.size, np.nan)
                values[at] = numbers[rows]
                scores.values[name] = values.reshape(scores.rows.shape)
    return found


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list]:
    """Codes of the values, and their labels in order of appearance."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


def _groups(group: np.ndarray) -> list[np.ndarray]:
    """Positions of each group's rows, in order of appearance; -1 is none."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    parts = np.split(order, starts)[1:]  # the first is that of -1
    return sorted(parts, key=lambda rows: rows[0])


def _empty_scores(
    codes: dict[str, np.ndarray], labels: dict[str, list]
) -> tuple[Scores, np.ndarray]:
    """Scores without values, and the place of each row in its flat arrays."""
    case, cases = pd.factorize(codes["case"], sort=True)
    class_, classes = pd.factorize(codes["class"])  # in the order of the table
    fold, folds = pd.factorize(codes["fold"], sort=True)
    fold_of_case = np.zeros(len(cases), dtype=np.int64)
    fold_of_case[case] = fold
    subject_of_case = np.zeros(len(cases), dtype=np.int64)
    subject_of_case[case] = codes["subject"]
    shared = bool((fold_of_case[case] != fold).any())
    # A training is a seed, or a pair of fold and seed in one code.
    n_seeds = len(labels["seed"])
    training_code = codes["seed"] + (fold * n_seeds if shared else 0)
    training, trainings = pd.factorize(training_code, sort=True)
    fold_labels = [labels["fold"][f] for f in folds]
    axes = (len(labels["loss"]), len(trainings), len(cases), len(classes))
    at = np.ravel_multi_index((codes["loss"], training, case, class_), axes)
    n_rows = np.bincount(at, minlength=np.prod(axes))
    if n_rows.max(initial=0) > 1:
        row = np.flatnonzero(n_rows[at] > 1)[0]
        raise DuplicateRowError({name: labels[name][codes[name][row]] for name in CASE})

    scores = Scores(
        dataset=labels["dataset"][codes["dataset"][0]],
        model=labels["model"][codes["model"][0]],
        losses=labels["loss"],
        trainings=[
            (fold_labels[code // n_seeds] if shared else None, labels["seed"][code % n_seeds])
            for code in trainings
        ],
        cases=[labels["case"][c] for c in cases],
        classes=[labels["class"][c] for c in classes],
        folds=[None] if shared else fold_labels,
        fold=np.zeros_like(fold_of_case) if shared else fold_of_case,
        subject=subject_of_case,
        rows=(n_rows > 0).reshape(axes),
        values={},
    )
    return scores, at
