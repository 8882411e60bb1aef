"""Comparisons whose sign or verdict changes with the convention for cases without the class."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lossbench.common.tables import COUNTS
from lossbench.config import Study
from lossbench.stages.compare.conventions import CONVENTIONS, QUOTED, overlap
from lossbench.stages.compare.family import Tested, family
from lossbench.stages.compare.scores import Pair, Scores, iterate_pairs
from lossbench.stages.compare.summary import TIE, has_conventions, means_by_convention


def flips(
    pairs: Sequence[Pair],
    groups: Sequence[Scores],
    tested: Tested,
    study: Study,
    last_look: int = 0,
) -> dict[tuple[str, ...], list[str]]:
    """The conventions that say otherwise of a comparison than the quoted one, by its keys."""
    concerned = [pair for pair in pairs if _has_empty(pair)]
    found = {}
    for pair in pairs:
        scores = pair.scores
        if study.rounds:  # one of the two may have been trained no more
            scores = _until(scores, scores.n_seeds(*pair.both))
        found[pair.key] = _sign_reversals(pair._replace(scores=scores))
    of_metrics = {pair.keys["metric"] for pair in concerned}
    for convention in CONVENTIONS if concerned else ():
        if convention == QUOTED:
            continue
        under = [_under(scores, convention, of_metrics) for scores in groups]
        of_groups = list(iterate_pairs(under, study.comparison.metrics, study))
        decided = family(of_groups, under, study, last_look)
        for pair in concerned:
            key = pair.key
            if key in tested and decided[key].decision.verdict != tested[key].decision.verdict:
                found[key] = [x for x in CONVENTIONS if x in {*found[key], convention}]
    return found


def _under(scores: Scores, convention: str, metrics: Iterable[str]) -> Scores:
    """The scores with the Dice or IoU that they have under a convention."""
    counts = [scores.values[name] for name in COUNTS if name in scores.values]
    changed = {
        metric: overlap(*counts, convention, metric)
        for metric in metrics
        if has_conventions(scores, metric)
    }
    return replace(scores, values=scores.values | changed)


@lru_cache(maxsize=16)
def _until(scores: Scores, seed: int) -> Scores:
    """`Scores.until`, the same object for the same seed, so that its means are computed once."""
    return scores.until(seed)


def _has_empty(pair: Pair) -> bool:
    """Whether a case does not show the class, by its counts, and the metric depends on those."""
    if not has_conventions(pair.scores, pair.keys["metric"]):
        return False
    k = pair.scores.classes.index(pair.keys["class"])
    size = pair.scores.values["tp"][..., k] + pair.scores.values["fn"][..., k]
    return bool((size == 0).any())


def _sign_reversals(pair: Pair) -> list[str]:
    """The conventions for empty classes under which the other loss has the higher mean."""
    if not has_conventions(pair.scores, pair.keys["metric"]):
        return []
    differences = {}
    for convention in CONVENTIONS:
        means, _ = means_by_convention(pair.scores, convention, pair.keys["metric"])
        differences[convention] = np.subtract(*pair.select(means))
    quoted = differences[QUOTED]
    return [
        convention
        for convention, value in differences.items()
        if quoted * value < 0 and min(abs(quoted), abs(value)) > TIE
    ]
