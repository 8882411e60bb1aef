"""Each loss against the reference: difference, interval, verdict, ranks, scale."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.tables import BLOCK
from lossbench.config import MATCHED, Study, outcome
from lossbench.stages.compare.cautions import cautions
from lossbench.stages.compare.failures import missing
from lossbench.stages.compare.family import Result, Tested, difference
from lossbench.stages.compare.scores import Pair, Scores, mean, pair_of, to_rows, with_over_classes
from lossbench.statistics import (
    Decision,
    cases_tests,
    decide,
    holm,
    improvement,
    models_difference,
    needed,
    paired_difference,
    ranks,
)

FEWEST_SUBJECTS = 10  # for a verdict on two models: Student's t is no better with fewer
# What is said of two trained models on new subjects, as figures and not as quality.
OF_MODELS = {"better": "higher", "worse": "lower", "equivalent": "same", "undecided": "unclear"}
NO_VERDICT = ""  # on a metric that is reported only


def looks(tested: Tested) -> pd.DataFrame:
    """A row for each comparison and look of a study in rounds."""
    names = ("dataset", "model", "loss", "reference", "class", "metric")
    rows = [
        {
            **dict(zip(names, key, strict=True)),
            "round": look.round,
            "n_blocks": look.difference.n_blocks,
            "difference": look.difference.mean,
            **look.decision._asdict(),
        }
        for key, result in tested.items()
        for look in result.looks
    ]
    return pd.DataFrame(rows, columns=tables.LOOKS)


def comparisons(
    pairs: Sequence[Pair],
    study: Study,
    tested: Tested,
    paired: dict[tuple[str, str, str], bool],
    flipped: dict[tuple[str, ...], list[str]],
) -> pd.DataFrame:
    """Each loss minus the reference, per dataset, model, class and metric.

    Parameters
    ----------
    pairs
        Of the metrics that are tested, and of those that are reported only.
    study
        Reference, metrics, margins, alpha.
    tested
        Their `family`.
    paired
        Of each (dataset, model, loss): whether all its blocks have the reference's digests.
    flipped
        Conventions for empty classes that say otherwise, by the keys of a comparison.
    """
    settings, alpha = study.comparison, study.comparison.alpha
    n_tests = int(np.isfinite([x.difference.variance for x in tested.values()]).sum())
    p_cases = cases_tests([pair.case_folds for pair in pairs])
    is_tested = [pair.keys["metric"] in settings.metrics for pair in pairs]
    p_cases_holm = holm(np.where(is_tested, p_cases, np.nan))
    models = _compare_models(
        {
            i: pair
            for i, pair in enumerate(pairs)
            if is_tested[i] and tested[pair.key].difference.n_blocks == 1
        },
        study,
    )
    rows = []
    for i, pair in enumerate(pairs):
        scores, metric = pair.scores, pair.keys["metric"]
        n_seeds = scores.n_seeds(*pair.both)
        higher_is_better = not study.metric(metric).lower_is_better
        if is_tested[i]:
            result = tested[pair.key]
        else:
            d = difference(pair.scores, pair.folds)
            decision = Decision(NO_VERDICT, np.nan, np.nan, *d.interval(1 - alpha))
            result = Result(d, decision)
        d, decision = result.difference, result.decision
        lacks, verdict = missing(pair), decision.verdict
        if verdict == "equivalent" and not _learned(pair):
            verdict = "not learned"
        elif lacks.contradicts(verdict, alpha):
            verdict = "undecided"
        n_needed = (np.nan, np.nan)
        if decision.verdict == "undecided":
            n_needed = needed(d, settings.margin_of(metric), alpha, n_tests)
        limit = study.metric(metric).high  # intervals are cut where they are written
        low, high = d.interval(1 - alpha, limit)
        share_higher = improvement(pair.case_folds)
        # What a test over cases alone concludes: it takes one training's luck for the loss.
        verdict_cases = "undecided" if is_tested[i] else NO_VERDICT
        if p_cases_holm[i] < alpha:
            verdict_cases = "better" if (d.mean > 0) == higher_is_better else "worse"
        of_run = (scores.dataset, scores.model, pair.keys["loss"])
        rows.append(
            {
                **pair.keys,
                "n_cases": pair.n_cases,
                "n_subjects": d.n_cases,
                "n_seeds": n_seeds,
                "n_blocks": d.n_blocks,
                "n_missing": pair.n_missing,
                "n_missing_loss": lacks.n_loss,
                "n_missing_reference": lacks.n_reference,
                "p_missing": lacks.p,
                "missing_cases": ", ".join(lacks.cases),
                "difference": d.mean,
                "ci_low": low,
                "ci_high": high,
                "simultaneous_low": max(decision.low, -limit),
                "simultaneous_high": min(decision.high, limit),
                "p": d.p(),
                "p_holm": decision.p_holm,
                "p_equivalent_holm": decision.p_equivalent_holm,
                "verdict": verdict,
                "round": result.round,
                "reason": result.reason,
                "n_cases_needed": np.ceil(n_needed[0] * pair.n_cases / max(d.n_cases, 1)),
                "n_blocks_needed": n_needed[1],
                "improvement": share_higher if higher_is_better else 1 - share_higher,
                "p_cases": p_cases[i],
                "p_cases_holm": p_cases_holm[i],
                "verdict_cases": verdict_cases,
                "convention": ",".join(flipped[pair.key]),
                "paired": paired.get(of_run, False),
                "scope": "models" if i in models else "losses",
                "sd_fold": np.sqrt(d.components.fold),
                "p_fold": d.components.p_fold,
                "caution": "; ".join(
                    cautions(
                        *(pair, d, flipped[pair.key], result.reason),
                        study.is_tuned(pair.keys["loss"]),
                    )
                ),
                **models.get(i, {}),
            }
        )
    return pd.DataFrame(rows, columns=tables.COMPARISONS)


def _compare_models(pairs: Mapping[int, Pair], study: Study) -> dict[int, dict[str, float | str]]:
    """What is known of the two trained models of pairs with one block, by their position."""
    settings = study.comparison
    differences = [models_difference(pair.folds) for pair in pairs.values()]
    margins = [settings.margin_of(pair.keys["metric"]) for pair in pairs.values()]
    decisions = decide(differences, margins, [True] * len(pairs), settings.alpha)
    rows = {}
    for (i, pair), d, decision in zip(pairs.items(), differences, decisions, strict=True):
        limit = study.metric(pair.keys["metric"]).high
        tolerated = np.nan
        if d.variance > 0:
            quantile = d.components.quantile(settings.alpha / 2)
            tolerated = np.sqrt(max(0.0, (d.mean / quantile) ** 2 - d.variance))
        enough = d.n_cases >= FEWEST_SUBJECTS
        rows[i] = {
            "models_low": max(decision.low, -limit),  # agrees with the verdict
            "models_high": min(decision.high, limit),
            "p_models": d.p(),
            "p_models_holm": decision.p_holm,
            "verdict_models": OF_MODELS[decision.verdict] if enough else NO_VERDICT,
            "noise_tolerated": tolerated,
        }
    return rows


def _learned(pair: Pair) -> bool:
    """Whether one of the two has a mean Dice on the class that shows any learning."""
    if "dice" not in pair.scores.values:
        return True
    dice = pair.select(pair.scores.values["dice"])
    return outcome(*mean(dice, axis=(1, 2))) != "not learned"


def pairing(runs: pd.DataFrame, reference: str) -> dict[tuple[str, str, str], bool]:
    """Whether every block of a loss has the initial weights and batches of the reference's."""
    digests = ["init_digest", "batch_digest"]
    if not set(digests) <= set(runs):  # external results
        return {}
    of_reference = runs[runs["loss"] == reference].set_index(list(BLOCK))[digests]
    both = runs.join(of_reference.add_suffix("_reference"), on=list(BLOCK))
    equal = pd.concat([both[name] == both[f"{name}_reference"] for name in digests], axis=1)
    keys = [both["dataset"], both["model"], both["loss"]]
    return equal.all(axis=1).groupby(keys).all().to_dict()


def rank_table(groups: Sequence[Scores], study: Study) -> pd.DataFrame:
    """The rank of each loss with its interval, and how often it is first (see `ranks`)."""
    rows = []
    for scores in with_over_classes(groups):
        for metric in study.comparison.metrics:
            if metric not in scores.values:
                continue
            sign = -1 if study.metric(metric).lower_is_better else 1
            of_classes = []
            for k in range(len(scores.classes)):
                folds = scores.subject_means(sign * scores.compared(metric)[..., k])
                # Without the subjects that have no value in any training.
                folds = [fold[..., ~np.isnan(fold).all(axis=(0, 1))] for fold in folds]
                seeds = [seed for _, seed in scores.trainings] if scores.shared_weights else None
                of_classes.append(ranks(folds, 1 - study.comparison.alpha, units=seeds))
            rank, low, high, first = np.moveaxis(np.array(of_classes), 0, 2)
            figures = {"rank": rank, "rank_low": low, "rank_high": high, "p_first": first}
            rows += to_rows(scores, figures, metric=metric)
    return pd.DataFrame(rows, columns=tables.RANKS)


def scale(pairs: Sequence[Pair], study: Study) -> pd.DataFrame:
    """What gradient scale alone explains: a loss minus itself at the reference's scale."""
    settings, rows = study.comparison, []
    for pair in pairs:
        loss, metric, class_ = (pair.keys[name] for name in ("loss", "metric", "class"))
        matched = loss + MATCHED
        if matched not in pair.scores.losses or metric not in settings.metrics:
            continue
        of_matched = pair_of(pair.scores, metric, matched, settings.reference, class_)
        of_scale = pair_of(pair.scores, metric, loss, matched, class_)
        explained = difference(pair.scores, of_scale.folds)
        limit = study.metric(metric).high
        low, high = explained.interval(1 - settings.alpha, limit)
        rows.append(
            {
                **pair.keys,
                "difference": difference(pair.scores, pair.folds).mean,
                "matched": paired_difference(of_matched.folds).mean,
                "explained": explained.mean,
                "ci_low": low,
                "ci_high": high,
            }
        )
    return pd.DataFrame(rows, columns=tables.SCALE)
