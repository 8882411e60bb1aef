"""The fold of each case: the dataset's own, or k-fold with a seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossbench.config import UserError
from lossbench.datasets.contract import problem_list

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
        Seed of the shuffle; the order of the cases plays no part.
    where
        The entry, for messages.

    Raises
    ------
    UserError
        Too few cases or subjects; own folds that name unknown cases or a case twice, or that split
        a subject.
    """
    if own is not None and number is None:
        return _own_folds(cases, own, where)
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


def _own_folds(cases: pd.DataFrame, own: Sequence[Sequence[str]], where: str) -> np.ndarray:
    row_of = {name: row for row, name in enumerate(cases["case"])}
    folds, problems = np.full(len(cases), -1), []
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
    used = folds >= 0
    for subject, numbers in pd.Series(folds[used]).groupby(cases["subject"].to_numpy()[used]):
        if len(several := sorted(numbers.unique())) > 1:
            text = ", ".join(str(number) for number in several)
            problems.append(f"subject {subject} has cases in the folds {text}; one is expected")
    if len(own) < 2:
        problems.append(f"{len(own)} fold: a fold is trained on the others, so 2 are needed")
    if problems:
        heading = f"{where}: the dataset's folds cannot be used; fix them, or set folds to a number"
        raise problem_list(heading, problems)
    return folds
