"""The stage `report`: one self-contained page, its figures and its tables."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lossbench.files import write_text
from lossbench.report import checks, examples, facts, figures, tables, words
from lossbench.report.results import Results


def report(experiment: Path, output: Path) -> None:
    """Write figures/, tables/ and, last, report.html.

    Parameters
    ----------
    experiment
        experiment.json of a finished experiment.
    output
        The folder with cases.parquet, runs.csv, summary.csv and comparisons.csv.

    Raises
    ------
    UserError
        Where one of these tables is missing or damaged.
    """
    results = Results.read(Path(experiment), Path(output))
    for folder in ("figures", "tables"):  # those of classes or losses that are gone
        shutil.rmtree(Path(output) / folder, ignore_errors=True)
    tables.write(results, Path(output) / "tables")
    page = _page(results, Path(output) / "figures")
    write_text(Path(output) / "report.html", page)


def _page(results: Results, folder: Path) -> str:
    with figures.style():
        pictures, absent = examples.examples(results, folder)
        drawn: dict[str, Any] = {
            "differences": figures.differences(results, folder),
            "distributions": figures.distributions(results, folder),
            "curves": figures.curves(results, folder),
            "examples": pictures,
        }
    environment = Environment(
        loader=PackageLoader("lossbench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        **drawn,
        no_examples=absent,
        results=results,
        metric_name=words.metric_name,
        comparison=results.experiment.comparison,
        symbols=words.SYMBOLS,
        percent=words.percent,
        answers=[(d, m, words.answer(results, d, m)) for d, m in results.groups],
        verdicts=tables.verdicts(results),
        means={x: _lean(results, tables.means(results, x)) for x in _metrics(results)},
        comparisons=_lean(results, tables.comparisons(results)),
        cost=_lean(results, tables.cost(results)),
        cards=checks.cards(results),
        preflights=checks.preflights(results),
        pairing=facts.pairing(results),
        overrides=facts.overrides(results),
        diverged=facts.diverged(results),
        missing=facts.missing(results),
        demonstrations=facts.demonstrations(results),
        provenance=facts.provenance(results),
        settings=facts.settings(results),
    )


def _metrics(results: Results) -> list[str]:
    """The metrics of summary.csv, the one of the verdicts first."""
    return list(dict.fromkeys([results.metric, *results.summary["metric"]]))


def _lean(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that would say the same in every row of the page."""
    return table if len(results.groups) > 1 else table.drop(columns=tables.GROUP)
