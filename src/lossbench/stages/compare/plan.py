"""Plan a study from a pilot: the cases, seeds and hours that would show a difference."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench.common.files import read_json, whole
from lossbench.common.tables import CASE, CASE_TEXT, COMPARISON, COUNTS, PLAN, RUN, read_csv
from lossbench.config import POOLED, Rounds, Study, UserError, counted, load_study
from lossbench.stages.compare.arrange import to_scores
from lossbench.stages.compare.cautions import MORE_SEEDS_DO_NOT_HELP
from lossbench.stages.compare.family import by_blocks, differences
from lossbench.stages.compare.read_blocks import complete, share_initial_weights
from lossbench.stages.compare.scores import Pair, Scores, iterate_pairs
from lossbench.statistics import Difference, Looks, pairing_gain, planned, rounds_needed

STUDIES = 100  # that are simulated for what rounds cost
ROUNDS_AT = (0, 0.5, 1, 2)  # true differences, in margins
LARGEST_GAIN = 1_000  # by pairing; what is above differs by chance


def plan(results: Path, difference: float, power: float = 0.8, output: Path | None = None) -> None:
    """Say how many cases, seeds and hours would show a difference, from a pilot; and in rounds.

    Parameters
    ----------
    results
        Folder of an experiment, or of its report.
    difference
        True difference that is to be shown, in the unit of the metric.
    power
        Probability of showing it.
    output
        CSV to write as well, with a row per comparison and number of seeds: the cases needed.

    Raises
    ------
    UserError
        Where there are no results, or the numbers make no sense.
    """
    if not 0 < difference < np.inf:
        raise UserError(f"--difference {difference:g}: expected: a number above 0")
    if not 0 < power < 1:
        raise UserError(f"--power {power:g}: expected: a number above 0 and below 1")
    study, groups, hours = _pilot(results)
    pairs = list(iterate_pairs(groups, study.comparison.metrics, study))
    of_keys = differences(pairs, groups, study)
    found = [(pair, of_keys[pair.key]) for pair in pairs]
    # What claims compare besides is tested, too.
    rows = _rows(study, found, len(of_keys), hours, difference, power)
    table = pd.DataFrame(list(rows), columns=PLAN)
    if table.empty:
        raise UserError(f"{results}: one loss alone; a plan needs two or more to compare")
    if output:
        with whole(output) as part:
            table.to_csv(part, index=False)
    print(_text(study, table, difference, power))
    print(_rounds_text(study, found, hours))
    if any(scores.folds == [None] for scores in groups):
        print("Where folds have the same cases (a test set), each fold x seed counts as a seed.")


def _pilot(results: Path) -> tuple[Study, list[Scores], dict[tuple[str, str, str], float]]:
    """What was compared, the scores, and hours of a training by dataset, model and loss."""
    report = results if (results / "cases.parquet").exists() else results / "report"
    experiment = results / "experiment.json"
    if not experiment.exists() and (results.parent / "experiment.json").exists():
        experiment = results.parent / "experiment.json"
    for file in (experiment, report / "cases.parquet", report / "runs.csv"):
        if not file.exists():
            raise UserError(f"{file}: no such file; expected the folder of a compared experiment")
    study = load_study(experiment)
    path = report / "cases.parquet"
    try:
        columns = [*CASE, *(x for x in study.comparison.metrics if x not in POOLED)]
        columns += [x for x in ("subject", *COUNTS) if x in pq.read_schema(path).names]
        cases = pq.read_table(path, columns=columns, read_dictionary=CASE_TEXT)
        runs = read_csv(report / "runs.csv", RUN)
        means = read_csv(report / "summary.csv", ["class"])
        means = means[means["background"]]
        backgrounds = dict(zip(means["dataset"], means["class"], strict=True))
        shared = share_initial_weights(runs)
        if (source := report / "source.json").exists():  # of results of other programs
            shared |= read_json(source).get("shared_initial_weights", False)
        groups = to_scores(cases.select(columns), study.matrix.loss)
        groups = complete(groups, experiment, study, backgrounds, shared)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"{report}: damaged ({error}); run compare again") from None
    seconds = runs["train_seconds"] if "train_seconds" in runs else pd.Series(np.nan, runs.index)
    by_loss = seconds.groupby([runs["dataset"], runs["model"], runs["loss"]]).mean() / 3600
    return study, groups, by_loss.to_dict()


def _rows(
    study: Study,
    found: Sequence[tuple[Pair, Difference]],
    n_tests: int,
    hours: dict[tuple[str, str, str], float],
    goal: float,
    power: float,
) -> Iterator[dict[str, Any]]:
    """A row per comparison and plan; one without a plan where nothing can be planned."""
    for pair, d in found:
        scores = pair.scores
        of_loss, of_reference = map(
            scores.subject_means, pair.select(scores.compared(pair.keys["metric"]))
        )
        pilot = {
            **pair.keys,
            "pilot_cases": pair.n_cases,
            # Of each fold; folds of the same cases are further seeds, as in `planned`.
            "pilot_seeds": int(scores.trained(*pair.both).sum()),
            "pilot_blocks": d.n_blocks,
            "sd_case": np.sqrt(d.components.case),
            "sd_block": np.sqrt(d.components.block),
            "sd_residual": np.sqrt(d.components.residual),
            "sd_fold": np.sqrt(d.components.fold),
            "more_seeds_help": d.more_seeds_help,
            "pairing_gain": pairing_gain(of_loss, of_reference, partial(by_blocks, scores)),
            "shared_weights": scores.shared_weights,
        }
        per_block = sum(
            hours.get((scores.dataset, scores.model, name), np.nan) for name in pair.both
        )
        plans = planned(d, goal, power, study.comparison.alpha, n_tests)
        for x in plans:
            yield {
                **pilot,
                "n_seeds": x.n_seeds,
                "n_blocks": x.n_blocks,
                "n_cases": np.ceil(x.n_cases * pair.n_cases / max(d.n_cases, 1)),
                "power": x.power,
                "hours": x.n_blocks * per_block,
            }
        if not plans:  # nothing is known of training noise
            yield pilot


def _text(study: Study, table: pd.DataFrame, goal: float, power: float) -> str:
    """What people read: a line per comparison, and what all of them together need."""
    per_comparison = table.groupby(list(COMPARISON), sort=False)
    lines, chosen = zip(*(_line(plans) for _, plans in per_comparison), strict=True)
    shown = pd.DataFrame(lines)
    alike = [name for name in ("dataset", "model", "metric") if shown[name].nunique() == 1]
    shown = shown.drop(columns=alike)
    settings = study.comparison
    doubted = table.loc[~table["more_seeds_help"].astype(bool), ["loss", "class"]].drop_duplicates()
    names = [f"{row['loss']} on {row['class']}" for row in doubted.to_dict("records")]
    note = f"\n{MORE_SEEDS_DO_NOT_HELP}: {'; '.join(names)}." if names else ""
    return (
        f"To show a true difference of {goal:g} to {settings.reference} with probability "
        f"{power:g}, all {len(lines)} comparisons at {settings.alpha:g} together:\n\n"
        f"{shown.to_string(index=False)}\n\n{_together(table, chosen)}{note}\n"
    )


def _line(plans: pd.DataFrame) -> tuple[dict[str, str], pd.Series | None]:
    """The line of a comparison, and the smallest plan with the cases that the pilot has."""
    first = plans.iloc[0]
    line = {key: first[key] for key in COMPARISON}
    line["pilot"] = ", ".join(counted(first[f"pilot_{x}s"], x) for x in ("seed", "case"))
    gain = first["pairing_gain"]
    line["pairing saves"] = f"{gain:.1f} x" if gain <= LARGEST_GAIN else f"> {LARGEST_GAIN:,} x"
    if np.isnan(gain):
        line["pairing saves"] = "unknown"
    if plans["n_seeds"].isna().all():
        line["seeds (blocks), same cases"] = f"unknown: {_unknown(first)}"
        return line | {"hours": "", "cases, same seeds": ""}, None
    enough = plans[plans["n_cases"] <= first["pilot_cases"]]
    smallest = enough.iloc[0] if len(enough) else None
    # Of few folds, training sets can leave more open than seeds and cases together can close.
    folds = "" if np.isfinite(plans["n_cases"]).any() else "none: more folds"
    line["seeds (blocks), same cases"], line["hours"] = folds or "none: more cases", ""
    if smallest is not None:
        n_seeds, n_blocks, hours = smallest[["n_seeds", "n_blocks", "hours"]]
        line["seeds (blocks), same cases"] = f"{n_seeds:.0f} ({n_blocks:.0f})"
        line["hours"] = "" if np.isnan(hours) else f"{hours:.2f}"
    same = plans[plans["n_seeds"] <= first["pilot_seeds"]]
    cases = same["n_cases"].iloc[-1] if len(same) else np.inf
    line["cases, same seeds"] = (
        f"{cases:.0f}" if np.isfinite(cases) else folds or "none: more seeds"
    )
    return line, smallest


def _unknown(pilot: pd.Series) -> str:
    if pilot["pilot_cases"] == 0:
        return "no case has a value"
    if pilot["shared_weights"]:
        return "folds share their initial weights (own ones for each fold need fewer trainings)"
    if pilot["pilot_blocks"] < 2:
        return "one block, where training noise cannot be told from the loss (train another seed)"
    return "too few cases"


def _together(table: pd.DataFrame, chosen: Sequence[pd.Series | None]) -> str:
    """What decides all comparisons at once, in words."""
    unknown = table[table["n_seeds"].isna()]
    if len(unknown):
        why = " or ".join(sorted({_unknown(row) for _, row in unknown.iterrows()}))
        return f"Of {len(unknown)} comparisons nothing can be said: {why}."
    if without := sum(plan is None for plan in chosen):
        return (
            f"{without} of {len(chosen)} comparisons: no number of seeds is enough with the cases "
            "that there are. More cases, more folds, or a larger difference; --output writes every "
            "choice."
        )
    seeds = max(plan["n_seeds"] for plan in chosen)
    where = " in every fold" if any(x["n_blocks"] > x["n_seeds"] for x in chosen) else ""
    return f"All of them, with the cases that there are: {counted(seeds, 'seed')}{where}."


def _rounds_text(
    study: Study,
    found: Sequence[tuple[Pair, Difference]],
    hours: dict[tuple[str, str, str], float],
) -> str:
    """What a study in rounds would cost, at several true differences."""
    settings, rounds = study.comparison, study.rounds or Rounds()
    looks = Looks(rounds.first, rounds.budget)
    pairs, pilot = zip(*found, strict=True)
    if any(pair.scores.shared_weights for pair in pairs):
        return "What rounds would cost cannot be said: the folds share their initial weights."
    if not all(np.isfinite(d.variance) for d in pilot):
        return "What rounds would cost cannot be said: some comparison has too few blocks or cases."
    per_round = [d.n_blocks / pair.scores.n_seeds(*pair.both) for pair, d in found]
    margins = [settings.margin_of(pair.keys["metric"]) for pair in pairs]

    def costs(needed: np.ndarray) -> tuple[float, float, float]:
        """Mean blocks of the reference, trainings and hours, by the rounds of each comparison."""
        blocks: dict[tuple[str, str, str], np.ndarray] = {}  # of each loss, (studies,)
        for pair, of_round, n_rounds in zip(pairs, per_round, needed.T, strict=True):
            # The common reference is trained as long as anything is.
            for name in {*pair.both, settings.reference}:
                key = (pair.scores.dataset, pair.scores.model, name)
                blocks[key] = np.maximum(blocks.get(key, 0), n_rounds * round(of_round))
        means = {key: n.mean() for key, n in blocks.items()}
        of_reference = sum(n for key, n in means.items() if key[2] == settings.reference)
        cost = sum(n * hours.get(key, np.nan) for key, n in means.items())
        return of_reference, sum(means.values()), cost

    lines = []
    for effect in ROUNDS_AT:
        needed = rounds_needed(pilot, per_round, margins, effect, settings.alpha, looks, STUDIES)
        n_blocks, n_trainings, cost = costs(needed)
        lines.append(
            {
                "true difference": f"{effect:g} margins",
                "blocks, expected": f"{n_blocks:.0f}",
                "trainings, expected": f"{n_trainings:.0f}",
                "hours, expected": "unknown" if np.isnan(cost) else f"{cost:.2f}",
            }
        )
    n_blocks, n_trainings, cost = costs(np.full((1, len(pairs)), rounds.budget))
    return (
        f"In rounds ({{budget: {rounds.budget}, first: {rounds.first}}}), with the cases that "
        f"there are, if all true differences are as large (a margin is "
        f"{' or '.join(f'{x:g}' for x in dict.fromkeys(margins))}), in {STUDIES} simulated studies:"
        "\n\n"
        f"{pd.DataFrame(lines).to_string(index=False)}\n\n"
        f"At most {counted(n_blocks, 'block')}, {counted(n_trainings, 'training')}"
        + ("." if np.isnan(cost) else f", {cost:.2f} hours one after another.")
    )
