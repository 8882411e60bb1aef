"""What a person sees in MLflow: notes, columns and links."""

import json
import re
from collections.abc import Sequence

import pandas as pd

from lossbench.config import ALL_CLASSES, OF_ALL_CLASSES, Experiment

MODE = "workflowType=machine_learning"  # else the UI opens for language models
# Shared views: the kind of runs each shows. The UI of MLflow 3 writes and reads them as tags of an
# experiment (undocumented), and needs every key.
VIEWS = {"lossbench": "loss", "lossbench_runs": "run", "lossbench_compare": "run"}
# Pixels: with these, eleven verdicts and the mean stand side by side on a screen 1600 wide.
FIXED_WIDTHS = {"attributes.`Run Name`": 170, "runDateAndNestInfo": 36}  # the latter: created
VERDICT_WIDTH, FIGURE_WIDTH = 88, 96
# Sections of charts, the first ones open; without a list MLflow sorts by name, ledger first.
SECTIONS = ("val/dice", "test/dice", "test")
LEDGER_SECTIONS = ("ledger", "ledger/value", "ledger/l1", "ledger/l2")
DEFAULT_VIEW = """{
"orderByKey": "metrics.`test/dice`", "orderByAsc": false, "startTime": "ALL", "groupBy": null,
"lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
"runsExpanded": {}, "groupsExpanded": {}, "runsPinned": [], "runsHidden": [],
"runsVisibilityMap": {}, "runsHiddenMode": "SHOWALL", "viewMaximized": false,
"runListHidden": false, "isAccordionReordered": true, "compareRunCharts": [],
"useGroupedValuesInCharts": true, "hideEmptyCharts": true,
"autoRefreshEnabled": false, "globalLineChartConfig":
{"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""}}"""


def clean(name: str) -> str:
    """Turn a name into one that MLflow takes: class names may hold anything."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def verdict_table(comparisons: pd.DataFrame, classes: Sequence[str]) -> str:
    """Markdown: a table per dataset, model and metric; a row per loss, a column per class.

    Parameters
    ----------
    comparisons
        comparisons.csv.
    classes
        Names in order.
    """
    text = []
    groups = ["dataset", "model", "metric", "reference"]
    comparisons = comparisons.sort_values("verdict", key=lambda v: v == "", kind="stable")
    for (dataset, model, metric, reference), table in comparisons.groupby(groups, sort=False):
        rows = table[["verdict", "difference", "ci_low", "ci_high"]].itertuples(index=False)
        cells = [
            (f"**{verdict}** " if verdict else "")  # none on a metric that is reported only
            + f"{difference:+.4f} "
            # A single block has no interval.
            + ("(no interval)" if pd.isna(low) else f"[{low:+.4f}, {high:+.4f}]")
            for verdict, difference, low, high in rows
        ]
        wide = table.assign(cell=cells).pivot(index="loss", columns="class", values="cell")
        columns = [name for name in (*classes, ALL_CLASSES) if name in wide]
        wide = wide.reindex(index=table["loss"].unique(), columns=columns).fillna("")
        # The UI folds a note to its first line: the verdicts in words.
        losses = table[table["verdict"] != ""].groupby("loss", sort=False)
        sentence = ". ".join(f"**{loss}** {verdicts_in_words(rows)}" for loss, rows in losses)
        text += [
            f"{metric} of {model} on {dataset}, against **{reference}**: "
            f"{sentence or 'reported without a verdict'}.",
            wide.reset_index().to_markdown(index=False),
        ]
    return "\n\n".join(text) or "There is one loss: nothing to compare."


def verdicts_in_words(comparisons: pd.DataFrame) -> str:
    """Say the verdicts of one loss: better on anterior; undecided on posterior."""
    groups = comparisons[comparisons["verdict"] != ""].groupby("verdict", sort=False)["class"]
    return "; ".join(f"{verdict} on {', '.join(dict.fromkeys(names))}" for verdict, names in groups)


def experiment_tags(e: Experiment, note: str, classes: Sequence[str]) -> dict[str, str]:
    """Give the tags of the MLflow experiment: its note, and the views behind the links.

    Without an order of columns the UI sorts them by name, metrics before params before tags.
    """
    pairs = [
        (metric, name)
        for metric in e.comparison.metrics
        for name in ([ALL_CLASSES] if metric in OF_ALL_CLASSES else classes)
    ]
    # A column and a level of grouping only for what there is several of.
    several = [key for key in ("dataset", "model") if len(getattr(e.matrix, key)) > 1]
    figures = [f"test/{metric}/{name}" for metric, name in pairs]
    columns = [f"metrics.`{clean(name)}`" for name in ["test/dice", *figures]]
    verdicts = [f"tags.`{verdict_tag(metric, name)}`" for metric, name in pairs]
    runs = ["metrics.`test/dice_with_background`", "tags.`lossbench.status`"]
    params = [f"params.`{key}`" for key in several]
    ordered = {"loss": [*params, *verdicts, *columns], "run": [*params, *columns, *runs]}
    widths = dict.fromkeys(verdicts, VERDICT_WIDTH) | dict.fromkeys(columns, FIGURE_WIDTH)
    grouping = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": name} for name in [*several, "loss"]],
        "aggregateAttempts": False,
    }
    tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
    for view, kind in VIEWS.items():
        state = json.loads(DEFAULT_VIEW) | {
            "searchFilter": f"tags.`lossbench.kind` = '{kind}'",
            "selectedColumns": ordered[kind],
            "columnOrder": [*FIXED_WIDTHS, *ordered[kind]],
            "columnWidths": FIXED_WIDTHS | widths,
            "groupBy": grouping if kind == "run" else None,
            "compareRunSections": _sections(e, "test/dice" if "compare" in view else "val/dice"),
        }
        tags[f"mlflow.sharedViewState.{view}"] = json.dumps(state)
    return tags


def verdict_tag(metric: str, name: str) -> str:
    """The tag of a loss with its verdict on a class: the class first, as columns cut names."""
    return clean(f"{name}/{metric}")


def _sections(e: Experiment, first: str) -> list[dict[str, str | bool]]:
    """Sections of charts, which MLflow fills itself: each metric goes where its name begins."""
    is_open = dict.fromkeys([first, *SECTIONS], True)
    others = [f"test/{metric}" for metric in e.all_metrics if metric != "dice"]
    ledger = LEDGER_SECTIONS if e.execution.ledger else ()
    is_open |= dict.fromkeys([*others, "train", *ledger, "System metrics"], False)
    state = {"isReordered": False, "deleted": False, "isGenerated": True}
    return [
        {"uuid": name, "name": name, "display": display, **state}
        for name, display in is_open.items()
    ]


def links(address: str, experiment_id: str) -> dict[str, str]:
    """Links to a row per loss, all runs by loss, their charts, and the losses next to each other.

    `address` is the server's; empty where it depends on the port that `ui` chooses.
    """
    page = f"{address}/#/experiments/{experiment_id}/runs?{MODE}"
    return {
        "losses": f"{page}&viewStateShareKey=lossbench",
        "runs": f"{page}&viewStateShareKey=lossbench_runs",
        "charts": f"{page}&viewStateShareKey=lossbench_runs&compareRunsMode=CHART",
        # Not MLflow's page for comparing runs: nobody can say which axes that opens with.
        "compare": f"{page}&viewStateShareKey=lossbench_compare&compareRunsMode=CHART",
    }
