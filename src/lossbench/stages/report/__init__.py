"""The stage `report`: one self-contained page, its figures and its tables."""

import shutil
from pathlib import Path

import pandas as pd

from lossbench.common.files import write_text
from lossbench.stages.report import figure_style, first_screen, provenance, tables, wording
from lossbench.stages.report.methods import environment
from lossbench.stages.report.results import Results
from lossbench.stages.report.sections import SECTIONS

PAPER = ("claims", "comparisons", "means", "cost")  # the tables that a paper prints, and verdict


def report(experiment: Path, output: Path) -> None:
    """Write the report page, its figures and its tables, and methods.md for a paper.

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
    for folder in ("figures", "tables"):  # remove those of classes or losses that are gone
        shutil.rmtree(results.output / folder, ignore_errors=True)
    with figure_style.style():
        data = {section.anchor: section.data(results) for section in SECTIONS}
    frames = {"verdict": first_screen.verdict_frame(results)}
    frames |= {name: data[name] for name in PAPER if len(data[name])}
    if data["over_datasets"]:
        frames["over_datasets"] = data["over_datasets"]["table"]
    tables.write(frames, results.output / "tables")

    comparison = results.experiment.comparison
    metric, *further = [results.title(name) for name in comparison.metrics]

    def without_group(table: pd.DataFrame) -> pd.DataFrame:
        """Dataset and model say nothing where the page is about one of each."""
        single = len(results.groups) == 1 and set(tables.GROUP) <= set(table)
        return table.drop(columns=tables.GROUP) if single else table

    templates = environment(autoescape=True)
    templates.filters["without_group"] = without_group
    templates.globals |= {
        "results": results,
        "comparison": comparison,
        "metric": metric,
        "further": further,
        "confidence": wording.percent(1 - comparison.alpha),
        "symbols": wording.SYMBOLS,
    }
    groups = [
        {
            "name": figure_style.heading(dataset, model),
            "answers": list(wording.answers(results, dataset, model)),
            "lost": wording.lost_classes(results, dataset, model),
            "table": first_screen.verdict_table(results, dataset, model),
        }
        for dataset, model in results.groups
    ]
    page = templates.get_template("report.html.jinja").render(
        groups=groups,
        sections=[section for section in SECTIONS if len(data[section.anchor])],
        left_out=[
            f"{section.title} (from {section.source})"
            for section in SECTIONS
            if section.source and not len(data[section.anchor])
        ],
        data=data,
        warnings=first_screen.warnings(results, data),
        nearest=wording.nearest_to_a_verdict(results),
        demonstrations=provenance.demonstrations(results),
        colours={name: colour for name, (colour, _) in figure_style.VERDICTS.items()}
        | {"lost": figure_style.LOST},
    )
    write_text(results.output / "methods.md", data["methods"])
    write_text(results.output / "report.html", page)
