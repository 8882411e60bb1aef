"""Compare each loss with the reference, per dataset, model, class and metric."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset

from lossbench.config import LOWER_IS_BETTER, METRICS, Experiment, UserError, load
from lossbench.files import block_folder, read_json, whole, write_text
from lossbench.statistics import (
    Difference,
    holm,
    mean_interval,
    needed,
    paired_difference,
    verdict,
)

BLOCK = ["dataset", "model", "fold", "seed"]


def compare(experiment: Path, output: Path) -> None:
    """Collect the blocks of an experiment and compare their losses.

    Parameters
    ----------
    experiment
        experiment.json, beside the blocks.
    output
        Folder for cases.parquet, runs.csv, summary.csv, comparisons.csv and verdict.txt.
    """
    settings = load(experiment)
    folders = [block_folder(experiment.parent, **keys) for keys in settings.blocks()]
    cases = _cases(folders, settings)
    runs = _runs(folders, settings, cases)
    comparisons = _comparisons(cases, runs, settings)
    with whole(output / "cases.parquet") as part:
        cases.to_parquet(part, index=False, compression="zstd")
    for name, table in {
        "runs": runs,
        "summary": _summary(cases, settings.comparison.alpha),
        "comparisons": comparisons,
    }.items():
        with whole(output / f"{name}.csv") as part:
            table.to_csv(part, index=False)
    write_text(output / "verdict.txt", _verdict_text(settings, comparisons, output))


def _cases(folders: list[Path], settings: Experiment) -> pd.DataFrame:
    files = [folder / "cases.parquet" for folder in folders]
    if missing := [str(file) for file in files if not file.exists()]:
        raise UserError(
            f"{missing[0]}: no such file ({len(missing)} missing); run the workflow again"
        )
    table = pyarrow.dataset.dataset(files).to_table().to_pandas()
    return table[table["loss"].isin(settings.matrix.loss)].reset_index(drop=True)


def _runs(folders: list[Path], settings: Experiment, cases: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for folder, keys in zip(folders, settings.blocks(), strict=True):
        for loss in settings.matrix.loss:
            status = read_json(folder / loss / "status.json")
            status["versions"] = json.dumps(status["versions"], sort_keys=True)
            rows.append({**keys, "loss": loss, **status})
    runs = pd.DataFrame(rows)
    keys = ["dataset", "model", "loss", "fold", "seed"]
    foreground = cases[cases["class"] != _background(cases)]
    for name, table in {"dice": foreground, "dice_with_background": cases}.items():
        # As DiceMetric's reduction "mean": over the classes of a case, then over the cases.
        per_case = table.groupby([*keys, "case"], sort=False)["dice"].mean()
        runs = runs.merge(
            per_case.groupby(keys).mean().rename(name).reset_index(), on=keys, how="left"
        )
    first = [*keys, "digest", "status", "steps", "dice", "dice_with_background"]
    return runs[[*first, *runs.columns.difference(first, sort=False)]]


def _background(cases: pd.DataFrame) -> pd.Series:
    """Name of class 0 in each row's dataset: the first that its cases list."""
    return cases.groupby("dataset", sort=False)["class"].transform("first")


def _summary(cases: pd.DataFrame, alpha: float) -> pd.DataFrame:
    rows = []
    keys = ["dataset", "model", "loss", "class"]
    for group, table in cases.groupby(keys, sort=False):
        empty = table.groupby("case")["dice"].apply(lambda dice: dice.isna().all())
        for metric in METRICS:
            per_case = table.groupby("case")[metric].mean().dropna().to_numpy()
            low, high = mean_interval(per_case, 1 - alpha)
            rows.append(
                {
                    **dict(zip(keys, group, strict=True)),
                    "metric": metric,
                    "n_cases": len(per_case),
                    "n_seeds": table["seed"].nunique(),
                    "n_empty": int(empty.sum()),
                    "mean": per_case.mean() if len(per_case) else np.nan,
                    "ci_low": low,
                    "ci_high": high,
                    "sd_case": per_case.std(ddof=1) if len(per_case) > 1 else np.nan,
                    "sd_seed": table.groupby("seed")[metric].mean().std(ddof=1),
                }
            )
    return pd.DataFrame(rows)


def _comparisons(cases: pd.DataFrame, runs: pd.DataFrame, settings: Experiment) -> pd.DataFrame:
    how, paired = settings.comparison, _paired(runs, settings.comparison.reference)
    found = list(_differences(cases, settings))
    corrected = holm([d.p() for _, d in found])
    rows = []
    for (keys, d), p_holm in zip(found, corrected, strict=True):
        low, high = d.interval(1 - how.alpha)
        higher = keys["metric"] not in LOWER_IS_BETTER
        said = verdict(d, p_holm, how.margin, how.alpha, higher)
        decided = (np.nan, np.nan)
        more = needed(d, how.margin, how.alpha, len(found)) if said == "undecided" else decided
        rows.append(
            {
                **keys,
                "n_cases": d.n_cases,
                "n_blocks": d.n_blocks,
                "difference": d.mean,
                "ci_low": low,
                "ci_high": high,
                "p": d.p(),
                "p_holm": p_holm,
                "verdict": said,
                "n_cases_needed": more[0],
                "n_blocks_needed": more[1],
                "paired": paired[keys["dataset"], keys["model"], keys["loss"]],
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def _differences(
    cases: pd.DataFrame, settings: Experiment
) -> Iterator[tuple[dict[str, Any], Difference]]:
    """Each loss minus the reference, per dataset, model, class and metric, with its keys."""
    reference = settings.comparison.reference
    for (dataset, model, name), table in cases.groupby(["dataset", "model", "class"], sort=False):
        for metric in settings.comparison.metrics:
            values = table.pivot(index=["fold", "seed", "case"], columns="loss", values=metric)
            for loss in settings.matrix.loss:
                if loss == reference:
                    continue
                keys = {"dataset": dataset, "model": model, "loss": loss, "reference": reference}
                keys |= {"class": name, "metric": metric, "n_seeds": table["seed"].nunique()}
                yield keys, paired_difference(_matrices(values[loss] - values[reference]))


_COLUMNS = [
    *("dataset", "model", "loss", "reference", "class", "metric", "n_cases", "n_seeds", "n_blocks"),
    *("difference", "ci_low", "ci_high", "p", "p_holm", "verdict"),
    *("n_cases_needed", "n_blocks_needed", "paired"),
]


def _matrices(difference: pd.Series) -> list[np.ndarray]:
    """A matrix (seeds, cases) for each fold."""
    return [
        fold.droplevel("fold").unstack("case").to_numpy()
        for _, fold in difference.groupby(level="fold", sort=True)
    ]


def _paired(runs: pd.DataFrame, reference: str) -> dict[tuple[str, str, str], bool]:
    """Whether every block of a loss has the initial weights and batches of the reference's."""
    digests = runs.set_index([*BLOCK, "loss"])[["init_digest", "batch_digest"]].agg(
        ":".join, axis=1
    )
    table = digests.unstack("loss")
    equal = table.eq(table[reference], axis=0).groupby(["dataset", "model"]).all()
    return equal.stack().to_dict()


def _verdict_text(settings: Experiment, comparisons: pd.DataFrame, output: Path) -> str:
    how = settings.comparison
    table = comparisons[
        ["dataset", "model", "class", "metric", "loss", "difference", "verdict"]
    ].copy()
    table["interval"] = [
        "unknown: one block" if np.isnan(low) else f"{low:+.4f} to {high:+.4f}"
        for low, high in zip(comparisons["ci_low"], comparisons["ci_high"], strict=True)
    ]
    table["difference"] = table["difference"].map("{:+.4f}".format)
    columns = ["dataset", "model", "class", "metric", "loss", "difference", "interval", "verdict"]
    return (
        f"{settings.experiment}: each loss minus {how.reference}, paired by case within blocks; "
        f"{1 - how.alpha:.0%} intervals, margin {how.margin}\n\n"
        f"{table[columns].to_string(index=False)}\n\n"
        f"report:  {output / 'report.html'}\n"
        f"MLflow:  make ui   (python -m lossbench ui)\n"
    )
