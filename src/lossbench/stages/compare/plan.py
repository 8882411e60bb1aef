"""Plan a study from a pilot: the cases, seeds and hours that would show a difference."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench.common.files import whole
from lossbench.common.tables import CASE, CASE_TEXT, COMPARISON, PLAN, read_csv
from lossbench.config import Experiment, UserError, counted, load
from lossbench.stages.compare.scores import Scores, to_scores
from lossbench.statistics import Plan, paired_difference, pairing_gain, planned

LARGEST_GAIN = 1_000  # by pairing; what is above differs by chance


def plan(results: Path, difference: float, power: float = 0.8, output: Path | None = None) -> None:
    """Print what a study needs to show a true difference, for every loss and class of a pilot.

    Parameters
    ----------
    results
        Folder of an experiment, or of its report.
    difference
        To be shown, in the unit of the metric.
    power
        Probability of showing it.
    output
        CSV (`tables.PLAN`) with a row per comparison and number of seeds: the cases needed.

    Raises
    ------
    UserError
        Where there are no results, or the numbers make no sense.
    """
    if not 0 < difference < np.inf:
        raise UserError(f"--difference {difference:g}: wanted: a number above 0")
    if not 0 < power < 1:
        raise UserError(f"--power {power:g}: wanted: a number above 0 and below 1")
    settings, found, hours = _pilot(results)
    table = pd.DataFrame(list(_rows(settings, found, hours, difference, power)), columns=PLAN)
    if table.empty:
        raise UserError(f"{results}: one loss alone; a plan wants two or more to compare")
    if output:
        with whole(output) as part:
            table.to_csv(part, index=False)
    print(_text(settings, table, difference, power))
    if any(scores.folds == [None] for scores in found):
        print("Where folds have the same cases (a test set), each fold x seed counts as a seed.")


def _pilot(results: Path) -> tuple[Experiment, list[Scores], dict[tuple[str, str, str], float]]:
    """The experiment, its groups, and hours of a training by dataset, model and loss."""
    report = results if (results / "cases.parquet").exists() else results / "report"
    experiment = results / "experiment.json"
    if not experiment.exists() and (results.parent / "experiment.json").exists():
        experiment = results.parent / "experiment.json"
    for file in (experiment, report / "cases.parquet", report / "runs.csv"):
        if not file.exists():
            raise UserError(f"{file}: no such file; wanted: the folder of an experiment, compared")
    settings = load(experiment)
    wanted = [*CASE, *settings.comparison.metrics]
    try:
        cases = pq.read_table(report / "cases.parquet", columns=wanted, read_dictionary=CASE_TEXT)
        runs = read_csv(report / "runs.csv")
        found = to_scores(cases.select(wanted), settings.matrix.loss)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"{report}: damaged ({error}); run compare again") from None
    seconds = runs["train_seconds"] if "train_seconds" in runs else pd.Series(np.nan, runs.index)
    by_loss = seconds.groupby([runs["dataset"], runs["model"], runs["loss"]]).mean() / 3600
    return settings, found, by_loss.to_dict()


def _rows(
    settings: Experiment,
    found: list[Scores],
    hours: dict[tuple[str, str, str], float],
    goal: float,
    power: float,
) -> Iterator[dict[str, Any]]:
    """A row per comparison and study; one without a study where nothing can be planned."""
    how = settings.comparison
    others = [loss for loss in settings.matrix.loss if loss != how.reference]
    tests = len(others) * len(how.metrics) * sum(len(scores.classes) for scores in found)
    for scores in found:
        of_training = {
            x: hours.get((scores.dataset, scores.model, x), np.nan) for x in scores.losses
        }
        for (k, name), metric, loss in product(enumerate(scores.classes), how.metrics, others):
            d = paired_difference(scores.pairs(metric, loss, how.reference, k))
            mine, other = (
                scores.of_folds(scores.values[metric][scores.losses.index(x), ..., k])
                for x in (loss, how.reference)
            )
            pilot = {
                **scores.keys,
                "loss": loss,
                "class": name,
                "metric": metric,
                "pilot_cases": d.n_cases,
                # Of each fold; folds of the same cases are further seeds, as in `planned`.
                "pilot_seeds": len(scores.trainings),
                "pilot_blocks": d.n_blocks,
                "sd_case": np.sqrt(d.components.case),
                "sd_block": np.sqrt(d.components.block),
                "sd_residual": np.sqrt(d.components.residual),
                "pairing_gain": pairing_gain(mine, other),
            }
            per_block = of_training[loss] + of_training[how.reference]
            for study in planned(d, goal, power, how.alpha, tests) or [None]:
                yield pilot | _study(study, per_block)


def _study(study: Plan | None, hours: float) -> dict[str, Any]:
    if study is None:  # one block: training noise cannot be told from the loss
        return dict.fromkeys(("n_seeds", "n_blocks", "n_cases", "power", "hours"), np.nan)
    return {
        "n_seeds": study.n_seeds,
        "n_blocks": study.n_blocks,
        "n_cases": study.n_cases,
        "power": study.power,
        "hours": study.n_blocks * hours,
    }


def _text(settings: Experiment, table: pd.DataFrame, goal: float, power: float) -> str:
    """What people read: a line per comparison, and what all of them together need."""
    lines, chosen = [], []
    for _, studies in table.groupby(list(COMPARISON), sort=False):
        line, study = _line(studies)
        lines.append(line)
        chosen.append(study)
    shown = pd.DataFrame(lines)
    alike = [name for name in ("dataset", "model", "metric") if shown[name].nunique() == 1]
    shown = shown.drop(columns=alike)
    how = settings.comparison
    return (
        f"To show a true difference of {goal:g} to {how.reference} with probability {power:g}, "
        f"all {len(lines)} comparisons at {how.alpha:g} together:\n\n"
        f"{shown.to_string(index=False)}\n\n{_together(table, chosen)}\n"
    )


def _line(studies: pd.DataFrame) -> tuple[dict[str, str], pd.Series | None]:
    """The line of a comparison, and the smallest study with the cases that the pilot has."""
    first = studies.iloc[0]
    line = {key: first[key] for key in COMPARISON}
    line["pilot"] = ", ".join(counted(first[f"pilot_{x}s"], x) for x in ("seed", "case"))
    line["pairing saves"] = _times(first["pairing_gain"])
    if studies["n_seeds"].isna().all():
        line["seeds (blocks), same cases"] = f"unknown: {_unknown(first)}"
        return line | {"hours": "", "cases, same seeds": ""}, None
    enough = studies[studies["n_cases"] <= first["pilot_cases"]]
    study = enough.iloc[0] if len(enough) else None
    line["seeds (blocks), same cases"], line["hours"] = "none: more cases", ""
    if study is not None:
        line["seeds (blocks), same cases"] = f"{study['n_seeds']:.0f} ({study['n_blocks']:.0f})"
        line["hours"] = "" if np.isnan(study["hours"]) else f"{study['hours']:.2f}"
    same = studies[studies["n_seeds"] <= first["pilot_seeds"]]
    cases = same["n_cases"].iloc[-1] if len(same) else np.inf
    line["cases, same seeds"] = f"{cases:.0f}" if np.isfinite(cases) else "none: more seeds"
    return line, study


def _times(gain: float) -> str:
    if np.isnan(gain):
        return "unknown"
    return f"{gain:.1f} x" if gain <= LARGEST_GAIN else f"> {LARGEST_GAIN:,} x"


def _unknown(pilot: pd.Series) -> str:
    if pilot["pilot_cases"] == 0:
        return "no case has a value"
    if pilot["pilot_blocks"] < 2:
        return "one block, where training noise cannot be told from the loss (train another seed)"
    return "too few cases"


def _together(table: pd.DataFrame, chosen: list[pd.Series | None]) -> str:
    """What decides all comparisons at once, in words."""
    unknown = table[table["n_seeds"].isna()]
    if len(unknown):
        why = " or ".join(sorted({_unknown(row) for _, row in unknown.iterrows()}))
        return f"Of {len(unknown)} comparisons nothing can be said: {why}."
    if without := sum(study is None for study in chosen):
        return (
            f"{without} of {len(chosen)} comparisons: no number of seeds is enough with the cases "
            "that there are. More cases, or a larger difference; --output writes every choice."
        )
    seeds = max(study["n_seeds"] for study in chosen)
    where = " in every fold" if any(x["n_blocks"] > x["n_seeds"] for x in chosen) else ""
    return f"All of them, with the cases that there are: {counted(seeds, 'seed')}{where}."
