"""The first screen: the verdict table, what a reader has to be warned of, the verdicts as text."""

from typing import Any

import pandas as pd

from lossbench.common.tables import cautions_of
from lossbench.stages.report import figure_style, wording
from lossbench.stages.report.results import Results
from lossbench.stages.report.wording import MAX_NAMES, NOTHING, SYMBOLS

MAX_FULL = (6, 4)  # classes and losses of a table whose cells have several lines
LOST = "✗"


def verdict_table(results: Results, dataset: str, model: str) -> dict[str, Any]:
    """The verdicts of a dataset and model, a row per class and a column per loss.

    Returns
    -------
    dict
        title; mode: "full" (several lines in a cell), "line" (difference and interval) or "short"
        (the difference alone); losses; not_learned (whether a class is, somewhere); rows: a
        dict of name, mean (of the reference), background (whether it is) and cells (None where
        nothing was compared). Classes that a loss lost come first, the background last.
    """
    table = results.of(results.comparisons, dataset, model, metric=results.metric)
    table = table[table["loss"].isin(results.compared)]
    means = results.of(
        results.summary, dataset, model, loss=results.reference, metric=results.metric
    ).set_index("class")["mean"]
    outcomes = results.not_found(dataset, model)
    cells = {
        (row["class"], row["loss"]): _cell(row, results, outcomes.get((row["class"], row["loss"])))
        for _, row in table.iterrows()
    }
    classes = results.compared_classes(dataset)
    lost = {name for (name, _), outcome in outcomes.items() if outcome == "lost"}
    max_classes, max_losses = MAX_FULL
    losses = results.compared
    mode = "full" if len(classes) <= max_classes else "line"
    if len(losses) > max_losses:
        mode, losses = "short", wording.by_gains(table)
    return {
        "title": figure_style.heading(dataset, model),
        "mode": mode,
        "losses": losses,
        "not_learned": any(cell["kind"] == "not-learned" for cell in cells.values()),
        "rows": [
            {
                "name": name,
                "mean": wording.number(means.get(name, float("nan"))),
                "background": name == results.background(dataset),
                "cells": [cells.get((name, loss)) for loss in losses],
            }
            for name in sorted(classes, key=lambda name: name not in lost)
        ],
    }


def _cell(row: pd.Series, results: Results, outcome: str | None = None) -> dict[str, Any]:
    """A comparison: kind (its CSS class), symbol, label, value and texts."""
    verdict, usual = row["verdict"], row["verdict_cases"]
    interval = wording.difference_interval(row)
    notes = []
    if outcome:
        notes.append(f"verdict: {verdict}")
    elif verdict == "undecided" and not results.experiment.rounds:
        notes += [f"{'or' if i else 'needs'} {x}" for i, x in enumerate(wording.needed(row))]
    if rounds := results.experiment.rounds:
        reason = row["reason"] if isinstance(row["reason"], str) else ""
        n_folds = len(results.experiment.matrix.fold)
        notes.append(rounds.text(row["round"], reason, int(row["n_seeds"]), n_folds))
    if row["scope"] == "models":
        models = row["verdict_models"] if isinstance(row["verdict_models"], str) else ""
        of_models = wording.difference_interval(row, "models")
        notes.append(f"this model: {models + ', ' if models else ''}{of_models}")
    failed, failed_reference, n_subjects, bound = results.failed(row)
    if failed or failed_reference:
        both = f"{failed:.0f} of {n_subjects:.0f} subjects, reference {failed_reference:.0f}"
        notes.append(f"no overlap: {both}")
    elif verdict in ("better", "equivalent") and bound == bound:
        notes.append(f"none failed; up to {bound:.1%} of subjects may")
    if usual in ("better", "worse") and usual != verdict:
        notes.append(f"test over cases alone: {usual}")
    if isinstance(row["convention"], str):
        notes.append("depends on empty classes")
    unpaired = results.trained_here and not row["paired"]
    if unpaired:
        notes.append("not paired")
    symbol = {"lost": LOST, "not learned": NOTHING}.get(outcome, SYMBOLS[verdict])
    size = f"{row['n_cases']:,.0f} cases, {row['n_blocks']:,.0f} blocks"
    return {
        "kind": (outcome or verdict).replace(" ", "-"),
        "symbol": symbol,
        "label": outcome or verdict,
        "value": row["difference"],
        "difference": wording.difference(row) + (" ⚠" if unpaired else ""),
        "interval": interval,
        "notes": notes,
        "title": "; ".join([f"{outcome or verdict}, {interval}", size, *notes]),
    }


def verdict_frame(results: Results) -> pd.DataFrame:
    """The verdict table as text, a row per class: symbol, verdict, difference and interval."""
    rows = []
    for dataset, model in results.groups:
        table = results.of(results.comparisons, dataset, model, metric=results.metric)
        texts = {(row["class"], row["loss"]): _text(row, results) for _, row in table.iterrows()}
        for name in results.compared_classes(dataset):
            losses = results.experiment.compared
            verdicts = {loss: texts.get((name, loss), NOTHING) for loss in losses}
            rows.append({"dataset": dataset, "model": model, "class": name, **verdicts})
    return pd.DataFrame(rows)


def _text(row: pd.Series, results: Results) -> str:
    cell = _cell(row, results)
    details = [cell["interval"], *(x for x in cell["notes"] if not x.startswith("test over"))]
    return f"{cell['symbol']} {cell['label']} {wording.difference(row)} ({'; '.join(details)})"


def warnings(results: Results, data: dict[str, Any]) -> list[tuple[str, str]]:
    """What a reader has to know before the verdicts: sentences, each with a section's anchor.

    Parameters
    ----------
    results
        The experiment.
    data
        What the sections of the page show, by anchor.
    """
    fixed, n_runs = data["fixed"], len(results.runs)
    found = []
    if not results.trained_here:
        text = "These runs were not trained by lossbench. Whether the losses had the same initial "
        found.append((f"{text}weights, batches and budget is not known.", "provenance"))
    if results.exploratory:
        text = "Exploratory: these trainings were looked at outside the plan of the study "
        looks = f"({'; '.join(results.exploratory)})"
        found.append((f"{text}{looks}, so that the error rate does not hold.", "verdicts"))
    n_missing = len(fixed["missing"])
    counts = {
        f"{len(fixed['diverged'])} of {n_runs} runs diverged": fixed["diverged"],
        f"{n_missing} of {n_runs + n_missing} runs have no result": fixed["missing"],
    }
    if pairing := fixed["pairing"]:
        broken = pairing["broken"]
        counts[f"{len(broken)} of {pairing['blocks']} blocks are not paired"] = broken
    found += [(_named(text, names), "fixed") for text, names in counts.items() if names]
    if len(data["models"]):
        text = "Each loss was trained once: nothing can be said of the losses, only of the models."
        found.append((text, "models"))
    if data["provenance"] and data["provenance"]["mixed"]:
        found.append(("The runs mix commits, versions or devices.", "provenance"))
    if (collapses := data["collapses"]) and len(collapses["table"]):
        names = _collapsed(**collapses, n_losses=len(results.losses))
        found.append((_named("Some runs never found a class", names), "collapses"))
    for caution, names in cautions_of(results.comparisons):
        found.append((_named(caution[0].upper() + caution[1:], names), "comparisons"))
    empty = data["conventions"]
    if empty and len(empty["winners"]):
        text = "The loss with the highest mean changes with how cases without the class are counted"
        names = list(dict.fromkeys(empty["winners"]["class"]))
        found.append((_named(text, names), "conventions"))
    return found


def _collapsed(table: pd.DataFrame, in_all_runs: pd.Series, n_losses: int) -> list[str]:
    """Runs that never found a class: by loss and class, or once where no run of any loss did."""
    names, by_none = [], []
    for (_, _, name), rows in table.groupby(["dataset", "model", "class"], sort=False):
        if len(rows) == n_losses and in_all_runs[rows.index].all():
            by_none.append(name)
        else:
            names += [f"{r['loss']} on {name}, {r['collapsed']}" for r in rows.to_dict("records")]
    if by_none:
        more = len(by_none) - MAX_NAMES
        listed = [*by_none[:MAX_NAMES], *([f"{more} more"] if more > 0 else [])]
        names.append(f"no loss found {wording.listing(listed)} in any run")
    return names


def _named(text: str, names: list[str]) -> str:
    """A sentence with the first names that it is about."""
    more = f"; and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{text}: {'; '.join(names[:MAX_NAMES])}{more}."
