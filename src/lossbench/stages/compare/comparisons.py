"""Each loss against the reference: difference, interval, verdict, ranks, scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import BLOCK, COUNTS
from lossbench.config import MATCHED, METRICS, Comparison, Experiment
from lossbench.stages.compare.conventions import CONVENTIONS, QUOTED
from lossbench.stages.compare.scores import Scores, mean
from lossbench.stages.compare.summary import TIE, convention_values
from lossbench.statistics import (
    Difference,
    cases_tests,
    holm,
    improvement,
    needed,
    paired_difference,
    ranks,
    verdict,
)


@dataclass(frozen=True)
class _Pair:
    """A comparison: its keys and its differences."""

    keys: dict[str, Any]
    folds: list[np.ndarray]
    difference: Difference
    sign_reversals: str  # conventions under which the other loss wins
    higher_is_better: bool
    max_difference: float  # of the metric


def max_difference(scores: Scores, metric: str) -> float:
    """The largest difference that there can be: 1 of a metric between 0 and 1, else infinite.

    Intervals are cut there where they are written; verdicts are from whole ones. Dice in percent
    is not cut.
    """
    largest = METRICS[metric].high if metric in METRICS else np.inf
    return np.inf if (scores.values[metric] > largest + 1e-6).any() else largest


def comparisons(
    groups: Sequence[Scores], settings: Experiment, paired: dict[tuple[str, str, str], bool]
) -> pd.DataFrame:
    """Each loss minus the reference, per dataset, model, class and metric.

    Parameters
    ----------
    groups
        Of the experiment.
    settings
        Reference, metrics, margins, alpha.
    paired
        Of each (dataset, model, loss): whether all its blocks have the reference's digests.
    """
    how = settings.comparison
    found = [pair for scores in groups for pair in _pairs(scores, settings)]
    p = np.array([pair.difference.p() for pair in found])
    tests = int(np.isfinite(p).sum())  # as `holm` counts them
    p_cases = cases_tests([pair.folds for pair in found])
    rows = [
        {
            **pair.keys,
            **_verdict(pair, how, corrected, tests),
            "p_cases": alone,
            "p_cases_holm": alone_corrected,
            "verdict_cases": _usual_verdict(pair, alone_corrected, how.alpha),
            "paired": paired.get(tuple(pair.keys[k] for k in ("dataset", "model", "loss")), False),
        }
        for pair, corrected, alone, alone_corrected in zip(
            found, holm(p), p_cases, holm(p_cases), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=tables.COMPARISONS)


def _pairs(scores: Scores, settings: Experiment) -> Iterator[_Pair]:
    reference = settings.comparison.reference
    metrics = settings.comparison.metrics
    means = {metric: _convention_means(scores, metric) for metric in metrics}
    limits = {metric: max_difference(scores, metric) for metric in metrics}
    for (k, name), metric, loss in product(enumerate(scores.classes), metrics, scores.losses):
        if loss == reference:
            continue
        keys = {**scores.keys, "loss": loss, "reference": reference}
        keys |= {"class": name, "metric": metric, "n_seeds": scores.n_seeds}
        folds = scores.pairs(metric, loss, reference, k)
        mine, other = scores.losses.index(loss), scores.losses.index(reference)
        sign_reversals = _sign_reversals(
            {c: m[mine, k] - m[other, k] for c, m in means[metric].items()}
        )
        higher_is_better = not settings.metric(metric).lower_is_better
        difference = paired_difference(folds)
        yield _Pair(keys, folds, difference, sign_reversals, higher_is_better, limits[metric])


def _convention_means(scores: Scores, metric: str) -> dict[str, np.ndarray]:
    """(L, K) by convention: mean over cases, the seeds of a case averaged first.

    Empty for a metric that has no conventions, and for results without counts.
    """
    if metric not in ("dice", "iou") or not set(COUNTS) <= scores.values.keys():
        return {}
    return {
        convention: mean(mean(convention_values(scores, convention, metric), axis=1), axis=1)
        for convention in CONVENTIONS
    }


def _sign_reversals(differences: dict[str, float]) -> str:
    """The conventions under which the other loss has the higher mean."""
    if not differences:
        return ""
    quoted = differences[QUOTED]
    flipped = [
        c for c, d in differences.items() if quoted * d < 0 and min(abs(quoted), abs(d)) > TIE
    ]
    return ",".join(flipped)


def _verdict(pair: _Pair, how: Comparison, p_holm: float, tests: int) -> dict[str, Any]:
    d, margin = pair.difference, how.margin_of(pair.keys["metric"])
    said = verdict(d, p_holm, margin, how.alpha, pair.higher_is_better)
    cases, blocks = np.nan, np.nan
    if said == "undecided":
        cases, blocks = needed(d, margin, how.alpha, tests)
    low, high = d.interval(1 - how.alpha, pair.max_difference)
    chance = improvement(pair.folds)
    return {
        "n_cases": d.n_cases,
        "n_blocks": d.n_blocks,
        "n_missing": d.n_missing,
        "difference": d.mean,
        "ci_low": low,
        "ci_high": high,
        "p": d.p(),
        "p_holm": p_holm,
        "verdict": said,
        "n_cases_needed": cases,
        "n_blocks_needed": blocks,
        # Of a distance, less is an improvement.
        "improvement": chance if pair.higher_is_better else 1 - chance,
        "convention": pair.sign_reversals,
    }


def _usual_verdict(pair: _Pair, p: float, alpha: float) -> str:
    """What a test over cases alone concludes: it takes one training's luck for the loss."""
    if not p < alpha:
        return "undecided"
    return "better" if (pair.difference.mean > 0) == pair.higher_is_better else "worse"


def pairing(runs: pd.DataFrame, reference: str) -> dict[tuple[str, str, str], bool]:
    """Whether every block of a loss has the initial weights and batches of the reference's."""
    digests = ["init_digest", "batch_digest"]
    if not set(digests) <= set(runs):  # results of others
        return {}
    of_reference = runs[runs["loss"] == reference].set_index(list(BLOCK))[digests]
    both = runs.join(of_reference.add_suffix("_reference"), on=list(BLOCK))
    equal = pd.concat([both[name] == both[f"{name}_reference"] for name in digests], axis=1)
    keys = [both["dataset"], both["model"], both["loss"]]
    return equal.all(axis=1).groupby(keys).all().to_dict()


def rank_table(groups: Sequence[Scores], settings: Experiment) -> pd.DataFrame:
    """The rank of each loss with its interval, and how often it is first (see `ranks`)."""
    rows = []
    for scores in groups:
        for metric, (k, name) in product(settings.comparison.metrics, enumerate(scores.classes)):
            sign = -1 if settings.metric(metric).lower_is_better else 1
            folds = scores.of_folds(sign * scores.values[metric][..., k])
            # Without the cases that have no value in any training.
            folds = [fold[..., ~np.isnan(fold).all(axis=(0, 1))] for fold in folds]
            found = ranks(folds, confidence=1 - settings.comparison.alpha)
            for i, loss in enumerate(scores.losses):
                keys = {**scores.keys, "class": name, "metric": metric, "loss": loss}
                figures = {"rank": found.rank[i], "rank_low": found.low[i]}
                figures |= {"rank_high": found.high[i], "p_first": found.p_first[i]}
                rows.append(keys | figures)
    return pd.DataFrame(rows, columns=tables.RANKS)


def scale(groups: Sequence[Scores], how: Comparison) -> pd.DataFrame:
    """What gradient scale alone explains: a loss minus itself at the reference's scale."""
    rows = []
    for scores in groups:
        controlled = [loss for loss in scores.losses if loss + MATCHED in scores.losses]
        limits = {metric: max_difference(scores, metric) for metric in how.metrics}
        for (k, name), metric, loss in product(enumerate(scores.classes), how.metrics, controlled):
            matched = loss + MATCHED
            own = paired_difference(scores.pairs(metric, loss, how.reference, k))
            other = paired_difference(scores.pairs(metric, matched, how.reference, k))
            explained = paired_difference(scores.pairs(metric, loss, matched, k))
            low, high = explained.interval(1 - how.alpha, limits[metric])
            keys = {**scores.keys, "loss": loss, "class": name, "metric": metric}
            figures = {"difference": own.mean, "matched": other.mean}
            figures |= {"explained": explained.mean, "ci_low": low, "ci_high": high}
            rows.append(keys | figures)
    return pd.DataFrame(rows, columns=tables.SCALE)
