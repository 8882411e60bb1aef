"""Measured values as arrays: (loss, training, case, class) of a dataset and model; pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lossbench.common.tables import COUNTS
from lossbench.config import PENALISED, Study


@dataclass(frozen=True, eq=False)
class Scores:
    """What was measured for one dataset and model.

    Attributes
    ----------
    dataset, model
        Its keys.
    losses, cases, classes
        Labels of axes 0, 2 and 3 of every array.
    trainings
        Labels of axis 1: (fold, seed), fold None where the fold is that of the case.
    folds
        Their numbers, in order; [None] where cases are shared by the folds.
    fold
        int (C,): position in `folds` of each case.
    subject
        int (C,): the subject of each case, a number of no meaning.
    rows
        bool (L, S, C, K): whether there is a row.
    values
        A float (L, S, C, K) for each column; NaN where it has no value.
    shared_weights
        Whether the trainings of a seed start from the same weights in all folds.
    over_classes
        The metrics that are of all classes together, where some are compared.

    Notes
    -----
    In a cross-validation a case belongs to one fold. Where the networks of several folds predict
    the same cases (a test set), the folds are further trainings of one set of cases, and stand on
    the axis of the seeds: the effect of a case is shared by them all.
    """

    dataset: str
    model: str
    losses: list[str]
    trainings: list[tuple[int | None, int]]
    cases: list[str]
    classes: list[str]
    folds: list[int | None]
    fold: np.ndarray
    subject: np.ndarray
    rows: np.ndarray
    values: dict[str, np.ndarray]
    shared_weights: bool = False
    over_classes: "Scores | None" = None

    @property
    def keys(self) -> dict[str, str]:
        """Dataset and model."""
        return {"dataset": self.dataset, "model": self.model}

    def trained(self, *losses: str) -> np.ndarray:
        """Trainings that each of these losses has: a mask (S,)."""
        of = [self.losses.index(loss) for loss in losses]
        return self._trained[of].all(axis=0)

    def n_seeds(self, *losses: str) -> int:
        """How many seeds each of these losses was trained with."""
        pairs = zip(self.trainings, self.trained(*losses), strict=True)
        return len({seed for (_, seed), trained in pairs if trained})

    def foreground(self, background: Mapping[str, str]) -> list[int]:
        """Positions of the classes that are not the background, by its name in each dataset."""
        return [k for k, x in enumerate(self.classes) if x != background.get(self.dataset)]

    def until(self, seed: int) -> "Scores":
        """The trainings of the seeds before one."""
        kept = np.array([s < seed for _, s in self.trainings], dtype=bool)
        if kept.all():
            return self
        return replace(
            self,
            trainings=[training for training, k in zip(self.trainings, kept, strict=True) if k],
            rows=self.rows[:, kept],
            values={name: values[:, kept] for name, values in self.values.items()},
            over_classes=self.over_classes and self.over_classes.until(seed),
        )

    def compared(self, metric: str) -> np.ndarray:
        """The values of a metric by which losses are compared: penalised ones where it has some."""
        return self.values.get(metric + PENALISED, self.values[metric])

    def select(self, values: np.ndarray, losses: Sequence[str], class_: str) -> np.ndarray:
        """(L, ..., K) -> (losses, ...): what there is of some losses on one class."""
        at = [self.losses.index(loss) for loss in losses]
        return values[at, ..., self.classes.index(class_)]

    def blocks(self) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Fold, seed, position on axis 1, and mask (C,) of its cases, for every block."""
        for f, fold in enumerate(self.folds):
            of_fold = self.fold == f
            for s, (of_training, seed) in enumerate(self.trainings):
                yield fold if of_training is None else of_training, seed, s, of_fold

    def subject_means(self, values: np.ndarray) -> list[np.ndarray]:
        """(..., C) -> for each fold (..., its subjects): the mean over the cases of a subject."""
        return [self.average_cases(values[..., of], of) for of in self.cases_of_folds()]

    def shown(self, metric: str, class_: str) -> np.ndarray:
        """Cases whose label shows a class: a mask (C,).

        By the counts; without them, those of which some loss has a value of the metric.
        """
        k = self.classes.index(class_)
        if set(COUNTS) <= self.values.keys():
            return self._in_labels[:, k]
        return np.isfinite(self.compared(metric)[..., k]).any(axis=(0, 1))

    def average_cases(self, values: np.ndarray, cases: np.ndarray) -> np.ndarray:
        """(..., cases) -> (..., subjects): mean of what is finite; in the order of the cases."""
        if self._one_case_each:
            return values
        position, subjects = pd.factorize(self.subject[cases])
        finite = np.isfinite(values)
        sums, n = np.zeros((2, *values.shape[:-1], len(subjects)))
        np.add.at(sums, (..., position), np.where(finite, values, 0))
        np.add.at(n, (..., position), finite)
        return np.where(n > 0, sums / np.maximum(n, 1), np.nan)

    @cached_property
    def _one_case_each(self) -> bool:
        return len(np.unique(self.subject)) == len(self.subject)

    @cached_property
    def _trained(self) -> np.ndarray:
        return self.rows.any(axis=(2, 3))

    @cached_property
    def _in_labels(self) -> np.ndarray:
        """By the counts, whether the label of a case shows a class: bool (C, K)."""
        return (self.values["tp"] + self.values["fn"] > 0).any(axis=(0, 1))

    def cases_of_folds(self, kept: np.ndarray | bool = True) -> list[np.ndarray]:
        """Positions of the cases of each fold, of those alone that are kept: a mask (C,)."""
        return [np.flatnonzero((self.fold == f) & kept) for f in range(len(self.folds))]


class Pair(NamedTuple):
    """A loss and the reference, on one class by one metric.

    Attributes
    ----------
    keys
        dataset, model, loss, reference, class, metric.
    scores
        Where the values are from.
    folds
        Loss minus reference: a matrix (seeds, subjects) for each fold, NaN where it is missing.
        The cases of a subject are averaged: subjects are the units that are independent.
    case_folds
        The same, (seeds, cases).
    """

    keys: dict[str, str]
    scores: Scores
    folds: list[np.ndarray]
    case_folds: list[np.ndarray]

    @property
    def key(self) -> tuple[str, ...]:
        """The values of `keys`."""
        return tuple(self.keys.values())

    @property
    def both(self) -> tuple[str, str]:
        """The loss and the reference."""
        return self.keys["loss"], self.keys["reference"]

    def select(self, values: np.ndarray) -> np.ndarray:
        """(L, ..., K) -> (2, ...): of the loss and of the reference, on the class."""
        return self.scores.select(values, self.both, self.keys["class"])

    @property
    def n_cases(self) -> int:
        """Cases with a pair in any training."""
        return sum(int(np.isfinite(d).any(axis=0).sum()) for d in self.case_folds)

    @property
    def n_missing(self) -> int:
        """Pairs that are missing though the class is there and both losses were trained."""
        trained = self.scores.trained(*self.both)
        return sum(int((~np.isfinite(d[trained])).sum()) for d in self.case_folds)


def with_over_classes(groups: Sequence[Scores]) -> Iterator[Scores]:
    """The scores of each dataset and model, and those of all classes together where there are."""
    for scores in groups:
        yield scores
        if scores.over_classes:
            yield scores.over_classes


def pair_of(scores: Scores, metric: str, loss: str, reference: str, class_: str) -> Pair:
    """Two losses on one class by one metric.

    A case that does not show the class and for which neither loss has a value is no missing pair;
    it is left out.
    """
    keys = {**scores.keys, "loss": loss, "reference": reference, "class": class_, "metric": metric}
    d = np.subtract(*scores.select(scores.compared(metric), (loss, reference), class_))
    kept = np.isfinite(d).any(axis=0) | scores.shown(metric, class_)
    cases = scores.cases_of_folds(kept)
    folds = [scores.average_cases(d[:, of], of) for of in cases]
    return Pair(keys, scores, folds, [d[:, of] for of in cases])


def iterate_pairs(groups: Sequence[Scores], metrics: Sequence[str], study: Study) -> Iterator[Pair]:
    """Every comparison: dataset and model x class x metric x loss with a reference.

    Where neither has any value (a class that no label shows) nothing is compared.
    """
    for scores in with_over_classes(groups):
        measured = [metric for metric in metrics if metric in scores.values]
        for class_, metric, loss in product(scores.classes, measured, study.compared):
            reference = study.reference_of(loss)
            values = scores.select(scores.compared(metric), (loss, reference), class_)
            if np.isfinite(values).any():
                yield pair_of(scores, metric, loss, reference, class_)


def to_rows(
    scores: Scores, figures: dict[str, np.ndarray], **keys: Any
) -> Iterator[dict[str, Any]]:
    """A row for each class x loss, from arrays (L, K)."""
    for (k, class_), (i, loss) in product(enumerate(scores.classes), enumerate(scores.losses)):
        values = {name: array[i, k] for name, array in figures.items()}
        yield {**scores.keys, "loss": loss, "class": class_, **keys, **values}


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean of what is not NaN; NaN, without a warning, where nothing is."""
    finite = ~np.isnan(values)
    n = finite.sum(axis=axis)
    return np.where(n > 0, np.where(finite, values, 0).sum(axis=axis) / np.maximum(n, 1), np.nan)


def deviation(values: np.ndarray, axis: int) -> np.ndarray:
    """Standard deviation (n - 1) of what is not NaN; NaN for fewer than two."""
    n = (~np.isnan(values)).sum(axis=axis)
    off = values - np.expand_dims(mean(values, axis), axis)
    square = np.where(np.isnan(off), 0, off**2).sum(axis=axis)
    return np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1)), np.nan)
