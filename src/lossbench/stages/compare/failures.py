"""What means hide: values that are missing, and cases on which a loss fails altogether."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import COUNTS, GROUP, class_names
from lossbench.config import Study
from lossbench.stages.compare.scores import Pair, Scores, to_rows
from lossbench.statistics import failure_rate, mcnemar

MOST_LINES = 6  # of losses and classes with failures, in verdict.txt


class Missing(NamedTuple):
    """Values that a comparison lacks though the class is in the label.

    Attributes
    ----------
    n_loss, n_reference
        Cases x trainings without a value of the loss, and of the reference.
    p
        McNemar over subjects that both lack as many. A training without any value (one that
        diverged) says nothing here: it is one event, not one a subject.
    cases
        Names of those that only one of the two lacks.
    """

    n_loss: int
    n_reference: int
    p: float
    cases: list[str]

    def contradicts(self, verdict: str, alpha: float) -> bool:
        """Whether a verdict is by results that miss more: their hard cases may be those."""
        more = self.n_loss - self.n_reference
        favours = {"better": more > 0, "worse": more < 0, "equivalent": more != 0}
        return self.p < alpha and favours.get(verdict, False)


def missing(pair: Pair) -> Missing:
    """Count the values that are missing of the loss and of the reference."""
    scores, metric = pair.scores, pair.keys["metric"]
    if all(np.isfinite(d).all() for d in pair.case_folds):  # as most are
        return Missing(0, 0, 1.0, [])
    shown, trained = scores.shown(metric, pair.keys["class"]), scores.trained(*pair.both)
    values = pair.select(scores.compared(metric))
    lacks = ~np.isfinite(values) & shown & trained[:, None]  # (2, S, C)
    of_subject = np.zeros((2, scores.subject.max(initial=-1) + 1))
    for of in scores.cases_of_folds(shown):
        told = trained & ~lacks[..., of].all(axis=2).any(axis=0)
        for side, lack in zip(of_subject, lacks, strict=True):
            np.add.at(side, scores.subject[of], lack[told][:, of].sum(axis=0))
    names = [scores.cases[i] for i in np.flatnonzero((lacks[0] != lacks[1]).any(axis=0))]
    return Missing(*map(int, lacks.sum(axis=(1, 2))), mcnemar(*of_subject), names)


def failures(groups: Sequence[Scores], collapses: pd.DataFrame, study: Study) -> pd.DataFrame:
    """How often each loss fails: no overlap with a class that is in the label, and collapses.

    Parameters
    ----------
    groups
        What was measured, for each dataset and model.
    collapses
        `tables.COLLAPSES`.
    study
        Its references, and alpha: each bound has the level 1 - alpha.
    """
    alpha = study.comparison.alpha
    rows = []
    for scores in groups:
        if set(COUNTS) <= scores.values.keys():
            tp = scores.values["tp"]
            attempted, failed = tp + scores.values["fn"] > 0, tp == 0
        elif "dice" in scores.values:
            attempted, failed = np.isfinite(scores.values["dice"]), scores.values["dice"] == 0
        else:
            continue
        references = [scores.losses.index(study.reference_of(loss)) for loss in scores.losses]
        failed &= attempted
        both = attempted & attempted[references]
        cases = np.arange(len(scores.cases))
        # How often over the trainings, per case of a subject: (L, K, subjects).
        attempts, lost, lost_of_both, lost_by_reference = (
            scores.average_cases(np.moveaxis(x.sum(axis=1), 1, 2), cases)
            for x in (attempted, failed, failed & both, failed[references] & both)
        )
        n_subjects, n_failed = ((x > 0).sum(axis=2) for x in (attempts, lost))
        shape = n_failed.shape
        high, p = np.full((2, *shape), np.nan)
        for i, k in np.ndindex(shape):
            high[i, k] = failure_rate(int(n_failed[i, k]), int(n_subjects[i, k]), 1 - alpha).high
            if i != references[i]:
                p[i, k] = mcnemar(lost_of_both[i, k], lost_by_reference[i, k])
        figures = {"n_subjects": n_subjects, "n_failed": n_failed, "rate_high": high}
        figures |= {"n_failed_reference": n_failed[references], "p_mcnemar": p}
        rows += to_rows(scores, figures)
    if not rows:
        return pd.DataFrame(columns=tables.FAILURES)
    keys = [*GROUP, "loss", "class"]
    table = pd.DataFrame(rows).merge(collapses.drop(columns="seeds"), on=keys, how="left")
    counted = zip(table["n_collapsed"], table["n_runs"], strict=True)
    table["collapse_high"] = [
        failure_rate(int(n), int(runs), 1 - alpha).high if runs > 0 else np.nan
        for n, runs in counted
    ]
    whole = ["n_subjects", "n_failed", "n_failed_reference"]
    return table.astype(dict.fromkeys(whole, int))[list(tables.FAILURES)]


def failure_lines(table: pd.DataFrame, study: Study, compared: pd.DataFrame) -> list[str]:
    """What verdict.txt says of failures: who failed where, and what nobody can exclude.

    Parameters
    ----------
    table
        Of `failures`.
    study
        What is compared with what.
    compared
        Of `comparisons`: where some verdict was reached, failures that are not in the data matter.
    """
    failed = table[["n_failed", "n_failed_reference"]].gt(0).any(axis=1)
    some = table.assign(where=class_names(table))[table["loss"].isin(study.compared) & failed]
    lines = [
        f"  {row['where']}: {row['loss']} on {row['n_failed']} of {row['n_subjects']}, "
        f"{study.reference_of(row['loss'])} on {row['n_failed_reference']} "
        f"(p {row['p_mcnemar']:.2g})"
        for row in some.sort_values("p_mcnemar", kind="stable").to_dict("records")
    ]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"  and {len(lines) - MOST_LINES} more, in failures.csv"]
    if lines:
        lines.insert(
            0,
            "subjects without any overlap with the class, in one training or more (p: McNemar's "
            "test, by which loss fails in more trainings of a subject)",
        )
    decided = compared["verdict"].isin(["better", "worse", "equivalent"]).any()
    if decided and len(none := table[table["n_failed"] == 0]):
        high = none["rate_high"].max()
        lines.append(
            f"Means hide rare failures: where none was seen, total failures on up to {high:.1%} of "
            "new subjects cannot be excluded, whatever the verdict; they would move a mean Dice of "
            f"0.9 by up to {0.9 * high:.3f}."
        )
    return lines
