"""What a person sees in MLflow: notes, columns and links."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd

if TYPE_CHECKING:
    from lossbench.track.records import Record

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
    losses = []
    for loss, rows in table.groupby("loss", sort=False):
        names = rows.groupby("verdict", sort=False)["class"]
        parts = [f"{verdict} on {', '.join(group)}" for verdict, group in names]
        losses.append(f"**{loss}** {'; '.join(parts)}")
    return ". ".join(losses)


def experiment_tags(note: str, classes: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """Give the tags of the MLflow experiment: its note, and the views behind the links.

    A shared view is a tag that the UI of MLflow 3 writes and reads (undocumented). It
    sorts columns by name, metrics before tags, and shows some 14 letters of a name.
    """
    names = [clean(f"{metric}/{name}") for metric in metrics for name in classes]
    means = [f"test/{name}" for name in names]
    verdicts = [f"tags.`{name}`" for name in names]
    loss, dice = "params.`loss`", ("test/dice", "test/dice_with_background")
    views = {
        "losses": _view("loss", [*verdicts, *_metrics(dice[0], *means)], None),
        "runs": _view("run", [loss, *_metrics(dice[0], *means, dice[1])], "loss"),
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
    losses = [ids[r.key] for r in records if r.kind == "loss" and r.key in ids]
    arguments = f"runs={quote(json.dumps(losses))}&experiments={quote(json.dumps([experiment_id]))}"
    return {
        "losses": f"{page}?{MODE}&viewStateShareKey={VIEWS['losses']}",
        "runs": f"{page}?{MODE}&viewStateShareKey={VIEWS['runs']}",
        "charts": f"{page}?{MODE}&viewStateShareKey={VIEWS['runs']}&compareRunsMode=CHART",
        "compare": f"{address}/#/compare-runs?{MODE}&{arguments}",
    }


def _metrics(*names: str) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _view(kind: str, columns: list[str], group: str | None) -> dict:
    grouping = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": group}],
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
        "groupBy": grouping if group else None,
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
