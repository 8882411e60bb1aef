"""verdict.txt: the verdicts as text, what a reader has to be warned of, and where the report is."""

from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.tables import cautions_of, class_names
from lossbench.config import TUNED, Study, abridged
from lossbench.stages.compare.failures import failure_lines
from lossbench.stages.compare.tuned import tuning_lines


def verdict_text(study: Study, tables: dict[str, pd.DataFrame], output: Path) -> str:
    """The verdicts as text, for the terminal, and where the report is."""
    settings, compared = study.comparison, tables["comparisons"]
    table = compared[["dataset", "model", "class", "metric", "loss"]].copy()
    table["difference"] = compared["difference"].map("{:+z.4f}".format)
    table["interval"] = [_interval(row) for row in compared.itertuples()]
    table["verdict"] = compared["verdict"]
    if rounds := study.rounds:
        columns = (compared[name] for name in ("round", "reason", "n_seeds"))
        n_folds = len(study.matrix.fold)
        table["rounds"] = [rounds.text(*row, n_folds) for row in zip(*columns, strict=True)]
    references = settings.reference
    if study.tuning:
        references += f" (with its own learning rate minus {study.reference_of(TUNED)})"
    below = [
        tuning_lines(tables["tuning"]) if study.tuning else [],
        _missing(compared, settings.alpha),
        _cautions(compared),
        _models(compared),
        _over_datasets(tables),
        failure_lines(tables["failures"], study, compared),
    ]
    return (
        f"{study.experiment}: each loss minus {references}, paired by case within blocks; "
        f"verdicts and intervals hold together at error rate {settings.alpha:g}, margin "
        f"{settings.margins_text()}\n\n"
        f"{table.to_string(index=False)}\n"
        + "".join("\n" + "\n".join(lines) + "\n" for lines in below if lines)
        + f"\nreport:  {output / 'report.html'}\n"
    )


def _missing(compared: pd.DataFrame, alpha: float) -> list[str]:
    """A line for each comparison that lacks values of one side which the other side has."""
    lines = []
    table = compared.assign(where=class_names(compared))
    for row in table[table["missing_cases"] != ""].to_dict("records"):
        names = abridged(row["missing_cases"].split(", "))
        n_loss, n_reference = row["n_missing_loss"], row["n_missing_reference"]
        line = (
            f"{row['metric']} of {row['where']}: {row['loss']} lacks {n_loss} values, "
            f"{row['reference']} {n_reference}, where the class is there ({names})"
        )
        if row["p_missing"] < alpha:
            line += "; no winner by results that miss more"
        lines.append(line)
    return lines


def _cautions(compared: pd.DataFrame) -> list[str]:
    """A line for each caution, with the comparisons that it is about."""
    return [
        f"caution: {caution} ({abridged(names, separator='; ')})"
        for caution, names in cautions_of(compared)
    ]


def _models(compared: pd.DataFrame) -> list[str]:
    """What one block says of the two trained models."""
    lines = []
    table = compared.assign(where=class_names(compared))
    for row in table[table["scope"] == "models"].to_dict("records"):
        loss, reference, verdict = row["loss"], row["reference"], row["verdict_models"]
        interval = f"({row['models_low']:z.4f} to {row['models_high']:z.4f})"
        where = f"{row['metric']} of {row['where']}"
        if verdict in ("higher", "lower"):
            line = (
                f"{where}: this {loss} model is {verdict} than this {reference} model on new "
                f"subjects: {row['difference']:+z.4f} {interval}. For the losses, only if training "
                f"luck has an SD below {row['noise_tolerated']:.4f}. One more seed of each tells."
            )
        else:
            words = {"same": "the same within the margin", "unclear": "unclear"}
            said = words.get(verdict, "fewer than 10 subjects, no verdict")
            line = (
                f"{where}: this {loss} model minus this {reference} model on new subjects: "
                f"{row['difference']:+z.4f} {interval}: {said}."
            )
        lines.append(line)
    return lines


def _over_datasets(tables: dict[str, pd.DataFrame]) -> list[str]:
    """What holds over data sets, a line for each loss; nothing under three data sets."""
    if "over_datasets" not in tables:
        return []
    return [
        f"over {row['n_datasets']} data sets, mean {row['metric']} of the foreground with "
        f"{row['model']}: {row['loss']} minus {row['reference']} {row['difference']:+z.4f} "
        f"({row['ci_low']:+z.4f} to {row['ci_high']:+z.4f}), {row['verdict']}; expected on a new "
        f"data set: {row['prediction_low']:+z.4f} to {row['prediction_high']:+z.4f}"
        for row in tables["over_datasets"].to_dict("records")
    ]


def _interval(row: Any) -> str:
    """The interval of a comparison, or why it has none."""
    if pd.notna(row.ci_low):
        return f"{row.simultaneous_low:+z.4f} to {row.simultaneous_high:+z.4f}"
    if row.n_cases == 0:
        return "unknown: no case has a value"
    return "unknown: one block" if row.n_blocks < 2 else "unknown: too few cases"
