"""The stage `report`: one self-contained page, its figures and its tables."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lossbench.common.files import write_text
from lossbench.stages.report import (
    checks,
    curves,
    examples,
    figures,
    plotting,
    provenance,
    sensitivity,
    tables,
    wording,
)
from lossbench.stages.report.results import Results

FEW, SHORT = 4, 8  # columns and rows of a verdict table whose cells say everything


def report(experiment: Path, output: Path) -> None:
    """Write figures/, tables/ and, last, report.html.

    Parameters
    ----------
    experiment
        experiment.json of a finished experiment.
    output
        The folder with the tables of `compare`: cases.parquet, runs.csv, summary.csv,
        comparisons.csv, and any of those that only some experiments have.

    Raises
    ------
    UserError
        Where one of these tables is missing or damaged.
    """
    results = Results.read(Path(experiment), Path(output))
    for folder in ("figures", "tables"):  # those of classes or losses that are gone
        shutil.rmtree(Path(output) / folder, ignore_errors=True)
    frames = tables.all_tables(results)
    tables.write(frames, Path(output) / "tables")
    page = _page(results, frames, Path(output) / "figures")
    write_text(Path(output) / "report.html", page)


def _page(results: Results, frames: dict[str, pd.DataFrame], folder: Path) -> str:
    environment = Environment(
        loader=PackageLoader("lossbench.stages.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn, cards, pairing = (
        _drawn(results, folder),
        checks.cards(results),
        provenance.pairing(results),
    )
    sections = {  # each is on the page where its value is true
        "claims": "claims" in frames,
        "learning curves": drawn["curves"],
        "ranks": "ranks" in frames,
        "empty classes": results.extra("conventions") is not None,
        "collapses": results.extra("collapses") is not None,
        "pooled figures": "pooled" in frames,
        "what each loss computes": cards,
        "gradient ledger": drawn["gradients"],
        "scale": "scale" in frames,
        "size of a class": drawn["fractions"],
        "cost": "cost" in frames,
        "pairing and provenance": pairing,
    }
    return environment.get_template("report.html.jinja").render(
        drawn=drawn,
        results=results,
        frames={name: _lean(results, frame) for name, frame in frames.items()},
        has=sections,
        left_out=provenance.left_out(sections),
        metric_name=wording.metric_name,
        comparison=results.experiment.comparison,
        symbols=wording.SYMBOLS,
        percent=wording.percent,
        answers=[(d, m, _answers(results, d, m)) for d, m in results.groups],
        metrics=[wording.metric_name(x) for x in results.experiment.comparison.metrics],
        listing=wording.listing,
        verdicts=[_verdicts(results, d, m) for d, m in results.groups],
        usual=sensitivity.usual_test(results),
        flips=sensitivity.flips(results),
        missing_pairs=sensitivity.missing_pairs(results),
        lean=lambda frame: _lean(results, frame),
        cards=cards,
        preflights=checks.preflights(results),
        pairing=pairing,
        overrides=provenance.overrides(results),
        diverged=provenance.diverged(results),
        missing=provenance.missing(results),
        demonstrations=provenance.demonstrations(results),
        provenance=provenance.provenance(results),
        source=provenance.source(results),
        settings=provenance.settings(results),
    )


def _answers(results: Results, dataset: str, model: str) -> list[tuple[str, str]]:
    """Each metric that is compared, and the answer by it; the first is that of the page."""
    return [
        (wording.metric_name(x), wording.answer(results, dataset, model, x))
        for x in results.experiment.comparison.metrics
    ]


def _drawn(results: Results, folder: Path) -> dict[str, Any]:
    """All figures, and why there are no examples for some datasets and models."""
    of_classes = {
        "differences": figures.differences,
        "cases": figures.distributions,
        "pairs": figures.pairs,
        "curves": curves.curves,
        "shares": curves.shares,
    }
    with plotting.style():
        found: dict[str, Any] = {
            kind: plotting.per_class(results, folder, kind, draw)
            for kind, draw in of_classes.items()
        }
        found["gradients"] = curves.gradients(results, folder)
        found["fractions"] = curves.fractions(results, folder)
        found["examples"], found["no_examples"] = examples.examples(results, folder)
    return found


def _verdicts(results: Results, dataset: str, model: str) -> dict[str, Any]:
    """The verdict table of the first screen, the longer of losses and classes downwards.

    Returns
    -------
    dict
        title, corner (what a row is), few (whether cells say everything), columns and heads
        (names of columns and rows), rows (of cells, None where nothing was compared), sentences
        (class to text), background (its name or None) and levels (the reference's mean by class).
    """
    found = tables.cells(results, dataset, model)
    table = results.of(results.comparisons, dataset, model, metric=results.metric)
    table = table[table["loss"].isin(results.compared)]
    classes = results.classes(dataset)
    losses = results.compared if len(results.compared) <= FEW else wording.by_gains(table)
    rows = [[found.get((name, loss)) for loss in losses] for name in classes]
    corner, heads, columns = "class", classes, losses
    if len(losses) > len(classes):
        rows = list(zip(*rows, strict=True))
        corner, heads, columns = "loss", losses, classes
    said = {
        name: wording.sentence(table[table["class"] == name], results.margin) for name in classes
    }
    return {
        "title": plotting.heading(dataset, model),
        "corner": corner,
        "few": len(columns) <= FEW and len(heads) <= SHORT,
        "columns": columns,
        "heads": heads,
        "rows": rows,
        "sentences": said,
        "background": results.background(dataset),
        "levels": tables.levels(results, dataset, model),
    }


def _lean(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """A table without dataset and model where the page is about one of each."""
    if len(results.groups) > 1 or "dataset" not in table:
        return table
    return table.drop(columns=tables.GROUP)
