"""The fold of each case: the dataset's own, or k-fold with a seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossbench.config import UserError
from lossbench.datasets.contract import listed

DEFAULT_FOLDS = 5


def assign_folds(
    cases: pd.DataFrame,
    own: Sequence[Sequence[str]] | None,
    number: int | None,
    seed: int,
    where: str,
) -> np.ndarray:
    """Fold of each case: int (n_cases,), -1 for a case in no fold.

    Parameters
    ----------
    cases
        Columns case and subject; the cases of a subject share a fold.
    own
        The dataset's own folds, as names of validation cases.
    number
        Folds of a shuffled k-fold, which takes the place of the dataset's own; None: the
        dataset's own, else five.
    seed
        Of the shuffle; the order of the cases plays no part.
    where
        The entry, for messages.

    Raises
    ------
    UserError
        Too few cases or subjects; own folds that name unknown cases or a case twice.
    """
    if own is not None and number is None:
        return _own_folds(list(cases["case"]), own, where)
    groups, group_of_case = np.unique(cases["subject"].astype(str), return_inverse=True)
    count = number or DEFAULT_FOLDS
    if len(groups) < count:
        kind = "cases" if len(groups) == len(cases) else "subjects"
        raise UserError(f"{where}: {len(groups)} {kind} are too few for {count} folds; lower folds")
    from sklearn.model_selection import KFold  # a second that datasets with folds do not pay

    fold_of_group = np.empty(len(groups), dtype=int)
    splits = KFold(count, shuffle=True, random_state=seed).split(groups)
    for fold, (_, validation) in enumerate(splits):
        fold_of_group[validation] = fold
    return fold_of_group[group_of_case]


def _own_folds(names: Sequence[str], own: Sequence[Sequence[str]], where: str) -> np.ndarray:
    row_of = {name: row for row, name in enumerate(names)}
    folds, problems = np.full(len(names), -1), []
    for fold, members in enumerate(own):
        if not members:
            problems.append(f"fold {fold} is empty")
        for name in members:
            if name not in row_of:
                problems.append(f"fold {fold} names {name!r}, and there is no such case")
            elif folds[row_of[name]] >= 0:
                problems.append(f"case {name} is in fold {folds[row_of[name]]} and in fold {fold}")
            else:
                folds[row_of[name]] = fold
    if len(own) < 2:
        problems.append(f"{len(own)} fold: a fold is trained on the others, so 2 are needed")
    if problems:
        heading = (
            f"{where}: the dataset's folds cannot be used; mend them, or set folds to a number"
        )
        raise listed(heading, problems)
    return folds
