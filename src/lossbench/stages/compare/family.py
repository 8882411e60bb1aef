"""All that an experiment tests, decided together: at once, or look by look."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lossbench.config import Study
from lossbench.stages.compare.scores import Pair, Scores, iterate_pairs, mean, pair_of
from lossbench.statistics import (
    Decision,
    Difference,
    Looks,
    crossed_difference,
    decide,
    decide_rounds,
    more_rounds_lack,
    on_same_cases,
    paired_difference,
    share_training_sets,
)

Key = tuple[str, ...]  # dataset, model, loss, reference, class, metric
MORE_CASES = "more cases, not more seeds"
MORE_FOLDS = "more folds, not more seeds"


class Look(NamedTuple):
    """What was decided of a comparison after a round."""

    round: int
    difference: Difference
    decision: Decision


class Result(NamedTuple):
    """What was found of a comparison.

    Attributes
    ----------
    difference, decision
        Of all that was trained.
    looks
        One for each look of a study in rounds.
    reason
        Why a comparison is undecided: for lack of folds, where it would be decided if the training
        sets of the folds were alike; in rounds also at the budget, or for lack of cases. In
        rounds it ends the comparison's training, and is empty while that goes on.
    """

    difference: Difference
    decision: Decision
    looks: Sequence[Look] = ()
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether further rounds are to decide it."""
        return self.decision.verdict == "undecided" and not self.reason

    @property
    def round(self) -> float:
        """The round after which it was decided; NaN where it was not, or without rounds."""
        decided = [look.round for look in self.looks if look.decision.verdict != "undecided"]
        return decided[0] if decided else np.nan


Tested = dict[Key, Result]


def difference(scores: Scores, folds: Sequence[np.ndarray]) -> Difference:
    """The difference of a comparison that is looked at alone, by what its trainings share."""
    return share_training_sets([by_blocks(scores, folds)])[0]


def by_blocks(scores: Scores, folds: Sequence[np.ndarray]) -> Difference:
    """The difference without what training sets add, which several comparisons tell together.

    Where folds that share their initial weights predict the same cases (a test set), a seed is one
    training: the mean over its folds.
    """
    if not scores.shared_weights:
        d = paired_difference(folds)
        if scores.folds != [None]:
            return d
        fold_of = np.array([-1 if fold is None else fold for fold, _ in scores.trainings])
        return on_same_cases(d, folds[0], fold_of)
    if scores.folds != [None]:
        return crossed_difference(folds)
    seeds = np.array([seed for _, seed in scores.trainings])
    return paired_difference([np.stack([mean(folds[0][seeds == s], 0) for s in np.unique(seeds)])])


def rules(metrics: Iterable[str], study: Study) -> tuple[list[float], list[bool]]:
    """The margin of each of these metrics, and whether more of it is better."""
    margins = [study.comparison.margin_of(metric) for metric in metrics]
    return margins, [not study.metric(metric).lower_is_better for metric in metrics]


def family(
    pairs: Sequence[Pair], groups: Sequence[Scores], study: Study, last_look: int = 0
) -> Tested:
    """All that is tested, decided together: the comparisons and what the claims compare.

    A claim that is one of the comparisons is no further test.

    Parameters
    ----------
    pairs, groups
        What was measured, of each comparison, and for each dataset and model.
    study
        What is compared, with margins and alpha, and perhaps in rounds.
    last_look
        The round of the last look. All looks up to it are taken again, from the rounds that each
        had: what was decided then does not depend on who asks, nor how often.
    """
    found = differences(pairs, groups, study)
    margins, higher = rules([metric for *_, metric in found], study)
    alpha = study.comparison.alpha
    if study.rounds is None:
        decisions = decide(list(found.values()), margins, higher, alpha)
        return {
            key: Result(d, decision, reason=_lacks_folds(d, decision, margin))
            for (key, d), decision, margin in zip(found.items(), decisions, margins, strict=True)
        }
    looks = Looks(study.rounds.first, study.rounds.budget)
    rounds = range(looks.first, last_look + 1)
    history = _history(groups, study, rounds, found)
    decided = decide_rounds(history, margins, higher, alpha, looks)
    results: Tested = {}
    for (key, d), of_looks, of_rounds, margin in zip(
        found.items(), decided, history, margins, strict=True
    ):
        # One whose loss is trained no more has its last look again.
        known = [of_rounds[min(j, len(of_rounds) - 1)] for j in range(len(rounds))]
        reason = ""
        if of_looks[-1].verdict == "undecided":
            lack = more_rounds_lack(d, margin, alpha, looks)
            if lack:
                reason = MORE_CASES if lack == "cases" else MORE_FOLDS
            elif last_look == looks.budget:
                reason = "at the budget"
        taken = [Look(*look) for look in zip(rounds, known, of_looks, strict=True)]
        results[key] = Result(d, of_looks[-1], taken, reason)
    return results


def _lacks_folds(d: Difference, decision: Decision, margin: float) -> str:
    """`MORE_FOLDS` where an undecided comparison would be decided if training sets were alike."""
    part = d.components.training_sets
    if decision.verdict != "undecided" or not part:
        return ""
    half = (decision.high - decision.low) / 2 * np.sqrt(1 - part / d.variance)
    decided = abs(d.mean) > half or abs(d.mean) + half < margin
    return MORE_FOLDS if decided else ""


def differences(
    pairs: Iterable[Pair], groups: Sequence[Scores], study: Study
) -> dict[Key, Difference]:
    """Of every comparison, and of what claims compare beside these.

    What training sets add is estimated from all comparisons of a dataset, model and metric that
    share it; those at own learning rates by themselves, since a fold's choice of a rate is luck
    that its seeds share, and that comparisons at the common rate do not have.
    """
    found: dict[Key, Difference] = {}
    for pair in pairs:
        if pair.keys["metric"] in study.comparison.metrics:
            found[pair.key] = by_blocks(pair.scores, pair.folds)
    for claim in getattr(study, "claims", []):
        for scores in groups if claim.comparison else ():
            c = claim.comparison
            pair = pair_of(scores, c.metric, c.loss, c.against, c.of_class)
            if pair.key not in found:
                found[pair.key] = by_blocks(scores, pair.folds)
    together: dict[tuple[Any, ...], list[Key]] = {}
    for key in found:
        together.setdefault((*key[:2], key[-1], study.is_tuned(key[2])), []).append(key)
    for keys in together.values():
        of_group = share_training_sets([found[key] for key in keys])
        found.update(zip(keys, of_group, strict=True))
    return found


def _history(
    groups: Sequence[Scores],
    study: Study,
    rounds: Sequence[int],
    comparisons: Mapping[Key, Difference],
) -> list[list[Difference]]:
    """The difference of each comparison at each look that its losses were trained for."""
    history: dict[Key, list[Difference]] = {key: [] for key in comparisons}
    for round_ in rounds:
        until = [scores.until(round_) for scores in groups]
        of_group = {tuple(scores.keys.values()): scores for scores in until}
        pairs = iterate_pairs(until, study.comparison.metrics, study)
        at_look = differences(pairs, until, study)
        for key, of_rounds in history.items():
            if of_group[key[:2]].n_seeds(*key[2:4]) == round_:
                of_rounds.append(at_look.get(key) or paired_difference([]))
    return list(history.values())
