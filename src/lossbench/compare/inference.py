"""Each loss against the reference: difference, interval, verdict, ranks, scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from lossbench.compare.blocks import BLOCK
from lossbench.compare.empty import CONVENTIONS, QUOTED
from lossbench.compare.summary import TIE, convention_values
from lossbench.config import MATCHED, Comparison, Experiment
from lossbench.cubes import COUNTS, Cube, mean
from lossbench.statistics import (
    Difference,
    bootstrap_interval,
    cases_tests,
    holm,
    improvement,
    needed,
    paired_difference,
    ranks,
    verdict,
)

COMPARISONS = (
    *("dataset", "model", "loss", "reference", "class", "metric"),
    *("n_cases", "n_seeds", "n_blocks", "n_missing", "difference", "ci_low", "ci_high"),
    *("p", "p_holm", "verdict", "n_cases_needed", "n_blocks_needed", "improvement"),
    *("boot_low", "boot_high", "p_cases", "p_cases_holm", "verdict_cases", "convention", "paired"),
)
RANKS = ("dataset", "model", "class", "metric", "loss", "rank", "rank_low", "rank_high", "p_first")
SCALE = (
    *("dataset", "model", "loss", "class", "metric"),
    *("difference", "matched", "explained", "ci_low", "ci_high"),
)


@dataclass(frozen=True)
class _Pair:
    """A comparison: its keys and its differences."""

    keys: dict[str, Any]
    folds: list[np.ndarray]
    difference: Difference
    flips: str
    higher_is_better: bool


def comparisons(
    cubes: Sequence[Cube], settings: Experiment, paired: dict[tuple[str, str, str], bool]
) -> pd.DataFrame:
    """Each loss minus the reference, per dataset, model, class and metric.

    Parameters
    ----------
    cubes
        Of the experiment.
    settings
        Reference, metrics, margin, alpha.
    paired
        Of each (dataset, model, loss): whether all its blocks have the reference's digests.
    """
    how = settings.comparison
    found = [pair for cube in cubes for pair in _pairs(cube, settings)]
    p_holm = holm([pair.difference.p() for pair in found])
    p_cases = cases_tests([pair.folds for pair in found])
    rows = [
        {
            **pair.keys,
            **_verdict(pair, how, corrected, len(found)),
            "p_cases": alone,
            "p_cases_holm": alone_corrected,
            "verdict_cases": _usual_verdict(pair, alone_corrected, how.alpha),
            "paired": paired.get(tuple(pair.keys[k] for k in ("dataset", "model", "loss")), False),
        }
        for pair, corrected, alone, alone_corrected in zip(
            found, p_holm, p_cases, holm(p_cases), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=COMPARISONS)


def _pairs(cube: Cube, settings: Experiment) -> Iterator[_Pair]:
    how = settings.comparison
    convention_means = cache(lambda convention, metric: _means(cube, convention, metric))
    for k, name in enumerate(cube.classes):
        for metric in how.metrics:
            for loss in cube.losses:
                if loss == how.reference or metric not in cube.values:
                    continue
                keys = {**cube.keys, "loss": loss, "reference": how.reference}
                keys |= {"class": name, "metric": metric, "n_seeds": cube.n_seeds}
                folds = cube.pairs(metric, loss, how.reference, k)
                difference = paired_difference(folds)
                flips = ""
                if metric in ("dice", "iou") and set(COUNTS) <= cube.values.keys():
                    at = [cube.losses.index(x) for x in (loss, how.reference)]
                    by = {c: convention_means(c, metric)[at, k] for c in CONVENTIONS}
                    flips = _flips({c: mine - other for c, (mine, other) in by.items()})
                yield _Pair(keys, folds, difference, flips, not settings.lower_is_better(metric))


def _means(cube: Cube, convention: str, metric: str) -> np.ndarray:
    """(L, K): mean over cases under a convention, the seeds of a case averaged first."""
    return mean(mean(convention_values(cube, convention, metric), axis=1), axis=1)


def _flips(differences: dict[str, float]) -> str:
    """The conventions under which the other loss has the higher mean."""
    quoted = differences[QUOTED]
    flipped = [
        c for c, d in differences.items() if quoted * d < 0 and min(abs(quoted), abs(d)) > TIE
    ]
    return ",".join(flipped)


def _verdict(pair: _Pair, how: Comparison, p_holm: float, tests: int) -> dict[str, Any]:
    d = pair.difference
    said = verdict(d, p_holm, how.margin, how.alpha, pair.higher_is_better)
    more = needed(d, how.margin, how.alpha, tests) if said == "undecided" else (np.nan, np.nan)
    low, high = d.interval(1 - how.alpha)
    boot_low, boot_high = bootstrap_interval(d, 1 - how.alpha, seed=0)
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
        "n_cases_needed": more[0],
        "n_blocks_needed": more[1],
        # Of a distance, less is an improvement.
        "improvement": chance if pair.higher_is_better else 1 - chance,
        "boot_low": boot_low,
        "boot_high": boot_high,
        "convention": pair.flips,
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


def rank_table(cubes: Sequence[Cube], settings: Experiment) -> pd.DataFrame:
    """The rank of each loss with its interval, and how often it is first (see `ranks`)."""
    rows = []
    for cube in cubes:
        for metric in settings.comparison.metrics:
            if metric not in cube.values:
                continue
            sign = -1 if settings.lower_is_better(metric) else 1
            for k, name in enumerate(cube.classes):
                values = sign * cube.values[metric][..., k]
                measured = ~np.isnan(values).all(axis=(0, 1))
                parts = zip(cube.of_folds(values), cube.of_folds(measured), strict=True)
                found = ranks([fold[..., keep] for fold, keep in parts])
                columns = (found.rank, found.low, found.high, found.p_first)
                keys = {**cube.keys, "class": name, "metric": metric}
                rows += [
                    {**keys, "loss": loss, **dict(zip(RANKS[5:], figures, strict=True))}
                    for loss, *figures in zip(cube.losses, *columns, strict=True)
                ]
    return pd.DataFrame(rows, columns=RANKS)


def scale(cubes: Sequence[Cube], how: Comparison) -> pd.DataFrame:
    """What gradient scale alone explains: a loss minus itself at the reference's scale."""
    rows = []
    for cube in cubes:
        controlled = [loss for loss in cube.losses if loss + MATCHED in cube.losses]
        for k, name in enumerate(cube.classes):
            for metric in (m for m in how.metrics if m in cube.values):
                for loss in controlled:
                    own = paired_difference(cube.pairs(metric, loss, how.reference, k))
                    matched = loss + MATCHED
                    other = paired_difference(cube.pairs(metric, matched, how.reference, k))
                    explained = paired_difference(cube.pairs(metric, loss, matched, k))
                    low, high = explained.interval(1 - how.alpha)
                    keys = {**cube.keys, "loss": loss, "class": name, "metric": metric}
                    figures = {"difference": own.mean, "matched": other.mean}
                    figures |= {"explained": explained.mean, "ci_low": low, "ci_high": high}
                    rows.append(keys | figures)
    return pd.DataFrame(rows, columns=SCALE)
