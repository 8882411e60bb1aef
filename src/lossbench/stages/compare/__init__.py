"""The stage `compare`: each loss with the reference, per dataset, model, class and metric."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench.common.check_tables import read_check
from lossbench.common.files import whole, write_json, write_text
from lossbench.common.rounds import last_look
from lossbench.common.tables import CASE_TEXT, RUN
from lossbench.config import Study, UserError, load
from lossbench.stages.compare import read_blocks
from lossbench.stages.compare.claims import claims
from lossbench.stages.compare.collapses import collapses
from lossbench.stages.compare.comparisons import comparisons, looks, pairing, rank_table, scale
from lossbench.stages.compare.conventions import conventions, flips
from lossbench.stages.compare.external.read import ExternalResults, read
from lossbench.stages.compare.external.study import check_free, to_study
from lossbench.stages.compare.failures import failures
from lossbench.stages.compare.family import family
from lossbench.stages.compare.look import record_look
from lossbench.stages.compare.over_datasets import over_datasets
from lossbench.stages.compare.pooled import figures_of_runs, pooled, with_pooled
from lossbench.stages.compare.scores import Scores, iterate_pairs, with_over_classes
from lossbench.stages.compare.summary import summary
from lossbench.stages.compare.tuned import read_rates, tuning, tuning_runs
from lossbench.stages.compare.verdict_text import verdict_text

# Tables that some studies have.
OPTIONAL = ("scale", "claims", "looks", "datasets", "over_datasets", "tuning", "tuning_runs")


def compare(
    experiment: Path | None,
    output: Path,
    cases: Sequence[str] = (),
    reference: str | None = None,
    margin: float | None = None,
    alpha: float | None = None,
    metrics: Sequence[str] = (),
    background: str | None = None,
    percent: Sequence[str] | None = None,
    splits: Path | None = None,
    shared_initial_weights: bool = False,
) -> None:
    """Compare each loss with the reference, per class: of an experiment, or of --cases FILES.

    Parameters
    ----------
    experiment
        experiment.json, next to the blocks.
    output
        Folder for the tables and verdict.txt; for results of other
        programs also experiment.json, which `report` reads, and source.json.
    cases
        Instead of an experiment: CSV, TSV or Parquet files with columns loss, case and a metric
        (and class, fold, seed, dataset, model), also by the names that other programs give them
        and with a column per class, or summary.json files of nnU-Net. Each is a path, or NAME=path,
        where NAME is the loss.
    reference
        The loss to compare with, for --cases.
    margin
        Differences within it are equivalent (0.01), for --cases.
    alpha
        Error rate over all comparisons (0.05), for --cases.
    metrics
        Metrics to compare, for --cases: Dice, or the first of METRICS that the files have.
    background
        Class that is the background, for --cases: one called background or 0; none: no class is.
    percent
        Losses whose figures are in percent, for --cases; no name: all. They are divided by 100.
    splits
        splits_final.json of nnU-Net, for --cases: the folds of files that do not say them.
    shared_initial_weights
        The trainings of a seed start from the same weights in all folds, for --cases. It is found
        where a runs.csv with init_digest lies next to a file.

    Raises
    ------
    UserError
        Where a file is missing, damaged or cannot be compared: names it; nothing is written then.
    """
    if experiment is None:
        if not (cases and reference):
            raise UserError("expected: --experiment PATH, or --cases FILE... and --reference NAME")
        results = read(cases, background, percent, splits)
        numbers = {"margin": margin, "alpha": alpha}
        _compare_files(output, results, reference, metrics, numbers, shared_initial_weights)
        return
    if cases:
        raise UserError("expected: --experiment or --cases, not both")
    options = {"reference": reference, "margin": margin, "alpha": alpha, "metrics": metrics}
    options |= {"background": background, "percent": percent, "splits": splits}
    options["shared-initial-weights"] = shared_initial_weights
    for name, value in options.items():
        if value not in (None, (), False):
            raise UserError(f"--{name} goes with --cases: experiment.json says how to compare")
    settings = load(experiment)
    n_rounds = last_look(settings, experiment.parent) if settings.rounds else None
    if n_rounds == 0:
        raise UserError(f"{experiment.parent}: no look was taken yet; run the workflow")
    table, runs, groups, backgrounds = read_blocks.read_study(experiment, settings)
    read_check(experiment.parent, runs)  # of which claims may be
    exploratory = record_look(settings, experiment.parent, runs, n_rounds)
    figures = figures_of_runs(groups, backgrounds)
    runs = runs.merge(figures, on=list(RUN), how="left", validate="one_to_one")
    tables = _tables(groups, runs, settings, experiment, backgrounds, n_rounds or 0)
    _write(output, table, tables)
    write_json(output / "looks.json", {"exploratory": exploratory, "round": n_rounds})
    # Not `make ui` alone: a folder of the user's own has no Makefile.
    ui = "MLflow:  python -m lossbench ui   (or: make ui)\n"
    verdicts = verdict_text(settings, tables, output)
    if exploratory:
        verdicts += (
            f"exploratory: these trainings were looked at outside the plan, "
            f"{' and '.join(exploratory)}: the error rate does not hold\n"
        )
    write_text(output / "verdict.txt", verdicts + ui)


def _compare_files(
    output: Path,
    results: ExternalResults,
    reference: str,
    metrics: Sequence[str],
    numbers: dict[str, float | None],
    shared_weights: bool,
) -> None:
    """Compare losses by results that other programs measured."""
    check_free(output, [Path(file["path"]) for file in results.files])
    shared_weights |= results.shared_weights
    study = to_study(results, output.resolve().name, reference, metrics, numbers)
    groups = results.to_scores(study.matrix.loss)
    groups = [replace(scores, shared_weights=shared_weights) for scores in groups]
    groups = [with_pooled(scores, metrics, results.background) for scores in groups]
    runs = figures_of_runs(groups, results.background)
    tables = _tables(groups, runs, study, None, results.background)
    output.mkdir(parents=True, exist_ok=True)
    source = {"files": results.files, "notes": results.notes}
    write_json(output / "source.json", source | {"shared_initial_weights": shared_weights})
    write_text(output / "experiment.json", study.experiment_json())
    _write(output, results.table, tables)
    notes = "".join(f"{note}\n" for note in results.notes)
    verdicts = verdict_text(study, tables, output)
    write_text(output / "verdict.txt", notes + ("\n" if notes else "") + verdicts)


def _tables(
    groups: Sequence[Scores],
    runs: pd.DataFrame,
    study: Study,
    experiment: Path | None,
    background: dict[str, str],
    after: int = 0,
) -> dict[str, pd.DataFrame]:
    """Every table but the cases, by the name of its file; in rounds, after the last look."""
    settings = study.comparison
    first = [*RUN, "digest", "status", "steps", "dice", "dice_with_background"]
    first = [name for name in first if name in runs]  # external results have fewer
    collapsed, shared = collapses(groups, experiment), groups
    pairs = list(iterate_pairs(groups, [*settings.metrics, *settings.also], study))
    tested = family(pairs, groups, study, after)
    if study.rounds:  # means of losses are ranked over the rounds that all of them have
        n_shared = [min(map(scores.n_seeds, scores.losses)) for scores in groups]
        shared = [scores.until(n) for scores, n in zip(groups, n_shared, strict=True)]
    tables = {
        "runs": runs[[*first, *runs.columns.difference(first, sort=False)]],
        "summary": summary(list(with_over_classes(groups)), background, settings.alpha),
        "comparisons": comparisons(
            pairs,
            study,
            tested,
            pairing(runs, settings.reference),
            flips(pairs, groups, tested, study, after),
        ),
        "pooled": pooled(groups, background),
        "conventions": conventions(shared),
        "ranks": rank_table(shared, study),
        "collapses": collapsed,
        "failures": failures(groups, collapsed, study),
        "scale": scale(pairs, study),
        "looks": looks(tested),
    }
    tables["datasets"], tables["over_datasets"] = over_datasets(groups, study, background)
    if study.tuning:
        rates = read_rates(study, experiment.parent)
        tables["tuning"] = tuning(shared, study, rates, tables["comparisons"])
        tables["tuning_runs"] = tuning_runs(rates)
    if experiment and study.claims:
        tables["claims"] = claims(study, experiment.parent, groups, tested)
    return tables


def _write(output: Path, cases: pa.Table, tables: dict[str, pd.DataFrame]) -> None:
    with whole(output / "cases.parquet") as part:
        # Without Arrow's own schema, codes are read back as the text that they stand for.
        pq.write_table(
            cases, part, compression="lz4", use_dictionary=list(CASE_TEXT), store_schema=False
        )
    for name in OPTIONAL:
        if name not in tables or tables[name].empty:
            tables.pop(name, None)
            (output / f"{name}.csv").unlink(missing_ok=True)
    for name, table in tables.items():
        with whole(output / f"{name}.csv") as part:
            table.to_csv(part, index=False)
