"""Comparisons whose sign or verdict changes with the convention for cases without the class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

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
    concerned = [
        pair
        for pair in pairs
        if has_conventions(pair.scores, pair.keys["metric"]) and _has_empty(pair)
    ]
    found = {
        tuple(pair.keys.values()): _sign_reversals(_shared(pair, study), pair.keys)
        for pair in pairs
    }
    for convention in CONVENTIONS if concerned else ():
        if convention == QUOTED:
            continue
        if study.rounds:  # each look is taken again
            verdicts = _verdicts_after(last_look, groups, convention, study)
        else:
            verdicts = _verdicts(pairs, groups, concerned, convention, study)
        for pair in concerned:
            key = tuple(pair.keys.values())
            if key in tested and verdicts[key] != tested[key].decision.verdict:
                found[key] = [x for x in CONVENTIONS if x in {*found[key], convention}]
    return found


def _verdicts(
    pairs: Sequence[Pair],
    groups: Sequence[Scores],
    concerned: Sequence[Pair],
    convention: str,
    study: Study,
) -> dict[tuple[str, ...], str]:
    """The verdicts under a convention, which changes some of the comparisons.

    What claims compare besides stays as it is.
    """
    changed = {tuple(pair.keys.values()) for pair in concerned}
    under = [
        _pair_under(pair, convention) if tuple(pair.keys.values()) in changed else pair
        for pair in pairs
    ]
    return {key: x.decision.verdict for key, x in family(under, groups, study).items()}


def _pair_under(pair: Pair, convention: str) -> Pair:
    scores = _under(pair.scores, convention, pair.keys["metric"])
    of = (pair.keys[name] for name in ("metric", "loss", "reference", "class"))
    return pair._replace(scores=scores, folds=scores.pairs(*of))


def _verdicts_after(
    last_look: int, groups: Sequence[Scores], convention: str, study: Study
) -> dict[tuple[str, ...], str]:
    """The verdicts of a study in rounds under a convention."""
    settings = study.comparison
    for metric in {"dice", "iou"} & {*settings.metrics}:
        groups = [_under(scores, convention, metric) for scores in groups]
    of_groups = list(iterate_pairs(groups, settings.metrics, study))
    tested = family(of_groups, groups, study, last_look)
    return {key: result.decision.verdict for key, result in tested.items()}


def _shared(pair: Pair, study: Study) -> Scores:
    """The trainings that both losses have: in rounds, one may have been trained no more."""
    scores = pair.scores
    both = pair.keys["loss"], pair.keys["reference"]
    return _until(scores, scores.n_seeds(*both)) if study.rounds else scores


@lru_cache(maxsize=16)
def _until(scores: Scores, seed: int) -> Scores:
    """`Scores.until`, the same object for the same seed, so that its means are computed once."""
    return scores.until(seed)


def _has_empty(pair: Pair) -> bool:
    """Whether a case does not show the class, by its counts."""
    k = pair.scores.classes.index(pair.keys["class"])
    size = pair.scores.values["tp"][..., k] + pair.scores.values["fn"][..., k]
    return bool((size == 0).any())


@lru_cache(maxsize=8)
def _under(scores: Scores, convention: str, metric: str) -> Scores:
    values = overlap(*(scores.values[name] for name in COUNTS), convention, metric)
    return replace(scores, values={**scores.values, metric: values})


def _sign_reversals(scores: Scores, keys: Mapping[str, str]) -> list[str]:
    """The conventions for empty classes under which the other loss has the higher mean."""
    if not has_conventions(scores, keys["metric"]):
        return []
    loss, reference = (scores.losses.index(keys[name]) for name in ("loss", "reference"))
    class_ = scores.classes.index(keys["class"])
    differences = {}
    for convention in CONVENTIONS:
        means, _ = means_by_convention(scores, convention, keys["metric"])
        differences[convention] = means[loss, class_] - means[reference, class_]
    quoted = differences[QUOTED]
    return [
        convention
        for convention, value in differences.items()
        if quoted * value < 0 and min(abs(quoted), abs(value)) > TIE
    ]
