"""The stage `compare`: each loss with the reference, per dataset, model, class and metric."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench.common.files import whole, write_json, write_text
from lossbench.common.tables import CASE_TEXT, RUN
from lossbench.config import Experiment, load
from lossbench.stages.compare import blocks, collapse, comparisons, external, summary
from lossbench.stages.compare.claims import claims
from lossbench.stages.compare.scores import Scores


def compare(experiment: Path, output: Path) -> None:
    """Collect the blocks of an experiment and compare their losses.

    Parameters
    ----------
    experiment
        experiment.json, beside the blocks.
    output
        Folder for the tables (DESIGN: files and columns) and verdict.txt.

    Raises
    ------
    UserError
        Where a file of a block is missing or damaged; nothing is written then.
    """
    settings = load(experiment)
    cases, digests = blocks.read_cases(experiment, settings)
    groups = blocks.complete_scores(experiment, settings, cases)
    runs = blocks.read_runs(experiment, settings)
    blocks.refuse_stale(experiment, settings, runs, digests)
    # Class 0 is the first that a case lists.
    background = {scores.dataset: scores.classes[0] for scores in groups}
    tables = _tables(groups, runs, settings, background, experiment)
    if settings.claims:
        tables["claims"] = claims(settings, experiment.parent, groups)
    _write(output, cases, tables)
    # Not `make ui` alone: a folder of the user's own has no Makefile.
    lines = "MLflow:  python -m lossbench ui   (or: make ui)\n"
    write_text(output / "verdict.txt", _verdicts(settings, tables["comparisons"], output) + lines)


def compare_files(
    cases: Sequence[str],
    reference: str,
    output: Path,
    margin: float | None = None,
    alpha: float | None = None,
    metrics: Sequence[str] = (),
) -> Path:
    """Compare losses by results that other programs measured.

    Parameters
    ----------
    cases
        CSV or Parquet files, and summary.json files of nnU-Net: each a path, or NAME=path, which
        says the loss.
    reference
        The loss that the others are compared with.
    output
        Folder for the tables, experiment.json and source.json.
    margin, alpha
        Of the comparison; None for the defaults of an experiment.
    metrics
        To compare; none for Dice, or the first of METRICS that the files have.

    Returns
    -------
    Path
        experiment.json, which `report` reads.

    Raises
    ------
    UserError
        For what cannot be read or compared; names the file.
    """
    given = external.read(cases)
    numbers = {"margin": margin, "alpha": alpha}
    settings = external.experiment(given, output.resolve().name, reference, metrics, numbers)
    groups = given.to_scores(settings.matrix.loss)
    runs = external.runs(groups)
    tables = _tables(groups, runs, settings, external.background(groups), None)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "source.json", {"files": given.files, "notes": given.notes})
    write_text(output / "experiment.json", settings.experiment_json())
    _write(output, given.table, tables)
    notes = "".join(f"{note}\n" for note in given.notes)
    said = _verdicts(settings, tables["comparisons"], output)
    write_text(output / "verdict.txt", notes + ("\n" if notes else "") + said)
    return output / "experiment.json"


def _tables(
    groups: Sequence[Scores],
    runs: pd.DataFrame,
    settings: Experiment,
    background: dict[str, str],
    experiment: Path | None,
) -> dict[str, pd.DataFrame]:
    """Every table but the cases, by the name of its file."""
    how = settings.comparison
    dice = summary.dice_of_runs(groups, background)
    runs = runs.merge(dice, on=list(RUN), how="left", validate="one_to_one")
    first = [*RUN, "digest", "status", "steps", "dice", "dice_with_background"]
    first = [name for name in first if name in runs]  # results of others have fewer
    return {
        "runs": runs[[*first, *runs.columns.difference(first, sort=False)]],
        "summary": summary.summary(groups, how.alpha),
        "comparisons": comparisons.comparisons(
            groups, settings, comparisons.pairing(runs, how.reference)
        ),
        "pooled": summary.pooled(groups),
        "conventions": summary.conventions(groups),
        "ranks": comparisons.rank_table(groups, settings),
        "collapses": collapse.collapses(groups, experiment),
        "scale": comparisons.scale(groups, how),
    }


def _write(output: Path, cases: pa.Table, tables: dict[str, pd.DataFrame]) -> None:
    with whole(output / "cases.parquet") as part:
        # Without Arrow's own schema, codes are read back as the text that they stand for.
        pq.write_table(
            cases, part, compression="lz4", use_dictionary=list(CASE_TEXT), store_schema=False
        )
    for name in ("scale", "claims"):  # only where there is a scale control, or a claim
        if name not in tables or tables[name].empty:
            tables.pop(name, None)
            (output / f"{name}.csv").unlink(missing_ok=True)
    for name, table in tables.items():
        with whole(output / f"{name}.csv") as part:
            table.to_csv(part, index=False)


def _verdicts(settings: Experiment, comparisons: pd.DataFrame, output: Path) -> str:
    """The verdicts as text, for the terminal, and where the report is."""
    how = settings.comparison
    table = comparisons[["dataset", "model", "class", "metric", "loss"]].copy()
    table["difference"] = comparisons["difference"].map("{:+z.4f}".format)
    table["interval"] = [_interval(row) for row in comparisons.itertuples()]
    table["verdict"] = comparisons["verdict"]
    return (
        f"{settings.experiment}: each loss minus {how.reference}, paired by case within blocks; "
        f"{1 - how.alpha:.0%} intervals, margin {how.said_margins()}\n\n"
        f"{table.to_string(index=False)}\n\n"
        f"report:  {output / 'report.html'}\n"
    )


def _interval(row: Any) -> str:
    """The interval of a comparison, or why it has none."""
    if pd.notna(row.ci_low):
        return f"{row.ci_low:+z.4f} to {row.ci_high:+z.4f}"
    if row.n_cases == 0:
        return "unknown: no case has a value"
    return "unknown: one block" if row.n_blocks < 2 else "unknown: too few cases"
