"""What a person sees in MLflow: notes, columns and links."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd

from lossbench.config import Experiment

if TYPE_CHECKING:
    from lossbench.stages.track.records import Record

CELL = ["verdict", "difference", "ci_low", "ci_high"]
MODE = "workflowType=machine_learning"  # else the UI opens for language models
# The key of a shared view, in links.
VIEWS = {"runs": "lossbench_runs", "losses": "lossbench"}


def clean(name: str) -> str:
    """Turn a name into one that MLflow takes: class names may hold anything."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def verdict_table(comparisons: pd.DataFrame, classes: Sequence[str], reference: str) -> str:
    """Markdown: a table per dataset, model and metric; a row per loss, a column per class.

    Parameters
    ----------
    comparisons
        comparisons.csv.
    classes
        Names in order; 0 is background.
    reference
        The loss that the others are compared with.
    """
    text = []
    groups = ["dataset", "model", "metric"]
    for (dataset, model, metric), table in comparisons.groupby(groups, sort=False):
        cells = [_cell(*values) for values in table[CELL].itertuples(index=False)]
        wide = table.assign(cell=cells).pivot(index="loss", columns="class", values="cell")
        shown = [name for name in classes if name in wide]
        wide = wide.reindex(index=table["loss"].unique(), columns=shown).fillna("")
        text += [
            f"{metric} of {model} on {dataset}, against **{reference}**: {_sentence(table)}.",
            wide.reset_index().to_markdown(index=False),
        ]
    return "\n\n".join(text) or f"{reference} is the only loss: nothing to compare."


def _cell(verdict: str, difference: float, low: float, high: float) -> str:
    if pd.isna(low):  # a single block has none
        return f"**{verdict}** {difference:+.4f} (no interval)"
    return f"**{verdict}** {difference:+.4f} [{low:+.4f}, {high:+.4f}]"


def _sentence(table: pd.DataFrame) -> str:
    """Say each loss's verdicts in words: the UI folds a note to its first line."""
    losses = table.groupby("loss", sort=False)
    return ". ".join(f"**{loss}** {verdicts_in_words(rows)}" for loss, rows in losses)


def verdicts_in_words(comparisons: pd.DataFrame) -> str:
    """Say the verdicts of one loss: better on anterior; undecided on posterior."""
    groups = comparisons.groupby("verdict", sort=False)["class"]
    return "; ".join(f"{verdict} on {', '.join(dict.fromkeys(names))}" for verdict, names in groups)


def experiment_tags(e: Experiment, note: str, classes: Sequence[str]) -> dict[str, str]:
    """Give the tags of the MLflow experiment: its note, and the views behind the links.

    A shared view is a tag that the UI of MLflow 3 writes and reads (undocumented). It
    sorts columns by name, metrics before params before tags, and shows some 14 letters of a name.
    """
    names = [clean(f"{metric}/{name}") for metric in e.comparison.metrics for name in classes]
    means, verdicts = [f"test/{name}" for name in names], [f"tags.`{name}`" for name in names]
    # What a loss is compared within; a column and a level of grouping only where there are several.
    within = [key for key in ("dataset", "model") if len(getattr(e.matrix, key)) > 1]
    columns = [*_metrics("test/dice", *means), *(f"params.`{key}`" for key in within)]
    background, status = _metrics("test/dice_with_background"), "tags.`lossbench.status`"
    views = {
        "losses": _view("loss", [*columns, *verdicts], []),
        "runs": _view("run", [*columns, *background, status], [*within, "loss"]),
    }
    return {
        # Else the UI opens for language models.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": note,
        **{f"mlflow.sharedViewState.{VIEWS[k]}": json.dumps(v) for k, v in views.items()},
    }


def links(
    address: str, experiment_id: str, records: "Sequence[Record]", ids: dict[str, str]
) -> dict[str, str]:
    """Say where to look: a row per loss, all runs by loss, their charts, losses side by side."""
    page = f"{address}/#/experiments/{experiment_id}/runs"
    losses = [record for record in records if record.kind == "loss" and record.key in ids]
    within = [tuple(record.params[key] for key in ("dataset", "model")) for record in losses]
    first = [ids[r.key] for r, place in zip(losses, within, strict=True) if place == within[0]]
    # The runs come first: the compare page loses its first argument otherwise.
    arguments = f"runs={_quoted(first)}&experiments={_quoted([experiment_id])}&{MODE}"
    return {
        "losses": f"{page}?{MODE}&viewStateShareKey={VIEWS['losses']}",
        "runs": f"{page}?{MODE}&viewStateShareKey={VIEWS['runs']}",
        "charts": f"{page}?{MODE}&viewStateShareKey={VIEWS['runs']}&compareRunsMode=CHART",
        "compare": f"{address}/#/compare-runs?{arguments}",
    }


def _quoted(values: list[str]) -> str:
    return quote(json.dumps(values, separators=(",", ":")))


def _metrics(*names: str) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _view(kind: str, columns: list[str], groups: list[str]) -> dict:
    grouping = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": name} for name in groups],
        "aggregateAttempts": False,
    }
    return {
        "searchFilter": f"tags.`lossbench.kind` = '{kind}'",
        "orderByKey": "metrics.`test/dice`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "groupBy": grouping if groups else None,
        "runsExpanded": {},
        "groupsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": False,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }
