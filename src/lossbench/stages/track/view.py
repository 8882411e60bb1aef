"""What a person sees in MLflow: notes, columns and links."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd

from lossbench.config import Experiment

if TYPE_CHECKING:
    from lossbench.stages.track.record import Record

MODE = "workflowType=machine_learning"  # else the UI opens for language models
# Shared views: the kind of runs each shows. The UI of MLflow 3 writes and reads them as tags of an
# experiment (undocumented), and needs every key.
VIEWS = {"lossbench": "loss", "lossbench_runs": "run"}
DEFAULT_VIEW = """{
"orderByKey": "metrics.`test/dice`", "orderByAsc": false, "startTime": "ALL", "groupBy": null,
"lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
"runsExpanded": {}, "groupsExpanded": {}, "runsPinned": [], "runsHidden": [],
"runsVisibilityMap": {}, "runsHiddenMode": "SHOWALL", "viewMaximized": false,
"runListHidden": false, "isAccordionReordered": false, "useGroupedValuesInCharts": true,
"hideEmptyCharts": true, "autoRefreshEnabled": false, "globalLineChartConfig":
{"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""}}"""


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
        Names in order.
    reference
        The loss that the others are compared with.
    """
    text = []
    groups = ["dataset", "model", "metric"]
    for (dataset, model, metric), table in comparisons.groupby(groups, sort=False):
        rows = table[["verdict", "difference", "ci_low", "ci_high"]].itertuples(index=False)
        cells = [
            f"**{verdict}** {difference:+.4f} "
            # A single block has no interval.
            + ("(no interval)" if pd.isna(low) else f"[{low:+.4f}, {high:+.4f}]")
            for verdict, difference, low, high in rows
        ]
        wide = table.assign(cell=cells).pivot(index="loss", columns="class", values="cell")
        columns = [name for name in classes if name in wide]
        wide = wide.reindex(index=table["loss"].unique(), columns=columns).fillna("")
        # The UI folds a note to its first line: the verdicts in words.
        losses = table.groupby("loss", sort=False)
        sentence = ". ".join(f"**{loss}** {verdicts_in_words(rows)}" for loss, rows in losses)
        text += [
            f"{metric} of {model} on {dataset}, against **{reference}**: {sentence}.",
            wide.reset_index().to_markdown(index=False),
        ]
    return "\n\n".join(text) or f"{reference} is the only loss: nothing to compare."


def verdicts_in_words(comparisons: pd.DataFrame) -> str:
    """Say the verdicts of one loss: better on anterior; undecided on posterior."""
    groups = comparisons.groupby("verdict", sort=False)["class"]
    return "; ".join(f"{verdict} on {', '.join(dict.fromkeys(names))}" for verdict, names in groups)


def experiment_tags(e: Experiment, note: str, classes: Sequence[str]) -> dict[str, str]:
    """Give the tags of the MLflow experiment: its note, and the views behind the links.

    The UI sorts columns by name, metrics before params before tags, and shows some 14 letters of
    a name.
    """
    names = [clean(f"{metric}/{name}") for metric in e.comparison.metrics for name in classes]
    # A column and a level of grouping only for what there is several of.
    several = [key for key in ("dataset", "model") if len(getattr(e.matrix, key)) > 1]
    columns = [f"metrics.`test/{name}`" for name in ["dice", *names]]
    columns += [f"params.`{key}`" for key in several]
    extra = {
        "loss": [f"tags.`{name}`" for name in names],
        "run": ["metrics.`test/dice_with_background`", "tags.`lossbench.status`"],
    }
    grouping = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": name} for name in [*several, "loss"]],
        "aggregateAttempts": False,
    }
    tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
    for view, kind in VIEWS.items():
        state = json.loads(DEFAULT_VIEW) | {
            "searchFilter": f"tags.`lossbench.kind` = '{kind}'",
            "selectedColumns": columns + extra[kind],
            "groupBy": grouping if kind == "run" else None,
        }
        tags[f"mlflow.sharedViewState.{view}"] = json.dumps(state)
    return tags


def links(
    address: str, experiment_id: str, records: "Sequence[Record]", ids: dict[str, str]
) -> dict[str, str]:
    """Links to a row per loss, all runs by loss, their charts, and the losses next to each other.

    Parameters
    ----------
    address
        The server's; empty where it depends on the port that `ui` chooses.
    ids
        Key of a record -> id of its run.
    """
    page = f"{address}/#/experiments/{experiment_id}/runs?{MODE}"
    losses = [record for record in records if record.kind == "loss" and record.key in ids]
    groups = [(record.params["dataset"], record.params["model"]) for record in losses]
    first = [ids[r.key] for r, group in zip(losses, groups, strict=True) if group == groups[0]]
    runs, experiments = (
        quote(json.dumps(values, separators=(",", ":"))) for values in (first, [experiment_id])
    )
    return {
        "losses": f"{page}&viewStateShareKey=lossbench",
        "runs": f"{page}&viewStateShareKey=lossbench_runs",
        "charts": f"{page}&viewStateShareKey=lossbench_runs&compareRunsMode=CHART",
        # The runs come first: the compare page loses its first argument otherwise.
        "compare": f"{address}/#/compare-runs?runs={runs}&experiments={experiments}&{MODE}",
    }
