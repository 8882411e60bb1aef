"""How results of other programs are compared: a study of what they have, by the command line."""

import re
from collections.abc import Sequence
from pathlib import Path

from lossbench.common.tables import COUNTS, RUN
from lossbench.config import LARGEST, METRICS, POOLED, SMALLEST, Study, UserError, did_you_mean
from lossbench.stages.compare.external.checks import unmatched
from lossbench.stages.compare.external.read import ExternalResults


def to_study(
    results: ExternalResults,
    name: str,
    reference: str,
    metrics: Sequence[str],
    numbers: dict[str, float | None],
) -> Study:
    """How to compare these results; `numbers` are margin and alpha, None for the default.

    Raises
    ------
    UserError
        For a reference or a metric that they do not have.
    """
    labels = {key: results.table[key].unique().to_pylist() for key in RUN}
    files = ", ".join(file["path"] for file in results.files)
    if reference not in labels["loss"]:
        hint = did_you_mean(reference, labels["loss"])
        raise UserError(f"{files}: no loss {reference!r}; {hint}")
    if len(labels["loss"]) < 2:
        raise UserError(f"{files}: has the loss {reference!r} alone; expected: one more to compare")
    results.notes.extend(unmatched(results.table, reference, files))
    columns = results.table.column_names
    measured = [metric for metric in METRICS if metric in columns]
    measured += POOLED if set(COUNTS) <= set(columns) else []
    for metric in metrics:
        if metric not in measured:
            raise UserError(f"{files}: no metric {metric!r}; {did_you_mean(metric, measured)}")
        if list(metrics).count(metric) > 1:
            raise UserError(f"--metrics: {metric} is named twice; each metric is compared once")
    for key, value in numbers.items():
        if value is not None and not (
            1e-6 <= value < 0.5 if key == "alpha" else SMALLEST <= value <= LARGEST
        ):
            expected = (
                "from 1e-6 to below 0.5" if key == "alpha" else f"from {SMALLEST:g} to {LARGEST:g}"
            )
            raise UserError(f"--{key} {value:g}: expected: a number {expected}")
    settings = {key: value for key, value in numbers.items() if value is not None}
    settings |= {"reference": reference, "metrics": list(metrics) or measured[:1]}
    plain_name = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "results"
    return Study.model_validate(
        {"experiment": plain_name, "matrix": labels, "comparison": settings},
        context={"any_name": True},  # these names become no folders
    )


def check_free(output: Path, files: Sequence[Path]) -> None:
    """Nothing is written over a study, nor over the files that are compared."""
    names = ("experiment.json", "block.json", "run.json", "cases.parquet", "comparisons.csv")
    written = (output / "source.json").exists()  # by a comparison of files, which may be repeated
    is_study = not written and any((output / name).exists() for name in names)
    if is_study or next(output.glob("*/*/fold*/seed*"), None):
        raise UserError(f"{output}: is the folder of a study; give --output another one")
    if within := [file for file in files if file.resolve().parent == output.resolve()]:
        raise UserError(
            f"{within[0]}: lies in --output {output}, where tables are written; give another one"
        )
