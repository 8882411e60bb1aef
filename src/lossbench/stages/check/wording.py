"""What a check found, as text for a terminal: what to look at first, then data, time, losses."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.check_tables import (
    card_table,
    percent,
    snapshot_heading,
    snapshot_table,
)
from lossbench.config import duration


def text(
    found: Mapping[str, Any],
    plan: str,
    costs: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Path | None],
) -> str:
    """Lay out a check.

    Parameters
    ----------
    found
        check.json.
    plan
        Of the runs, in words.
    costs
        Of each dataset and model: `cost.block_cost`.
    pictures
        Of the cases of each dataset's findings, where there are any.
    """
    total = sum(cost["total_seconds"] for cost in costs)
    at_most = "at most " if any(cost["at_most"] for cost in costs) else ""
    parts = [
        f"{plan}\nFrom nothing, one block after another: {at_most}about {duration(total)} on "
        f"{', '.join(dict.fromkeys(cost['device'] for cost in costs))}",
        "\n  ".join(["Look at first", *_first(found, pictures)]),
    ]
    for name, data in found["data"].items():
        parts += [f"Data: {name}", *_data(data)]
    for cost in costs:
        parts += [f"A block of {cost['dataset']}, {cost['model']}", *_cost(cost, found["losses"])]
    for dataset in found["cards"]:
        table = card_table(found, dataset).set_index("property").drop(columns="meaning")
        parts += [f"What each loss computes, on batches like those of {dataset}", _shown(table)]
    if found["cards"]:
        parts += ["What the rows mean", _legend(found["properties"])]
    for probe in found["gradients"]:
        parts += [f"Gradients on {probe['dataset']}, {probe['model']}"]
        for snapshot in probe["snapshots"]:
            table = snapshot_table(snapshot, probe).set_index("loss").rename_axis(None)
            # A terminal is narrow; the report's section Gradients has all of it.
            few = ["gradient norm", *(f"{x} {probe['reference']}" for x in ("times", "cosine to"))]
            few += [column for column in table if column.startswith("L1: ")]
            parts += [snapshot_heading(snapshot, probe), _shown(table[few])]
        parts += ["L1: share of the class in the L1 norm of the logits' gradient"]
    return "\n\n".join(parts)


def _first(found: Mapping[str, Any], pictures: Mapping[str, Path | None]) -> list[str]:
    lines = []
    for name, data in found["data"].items():
        lines += [f"{name}: {finding['text']}" for finding in data["findings"]]
        if pictures[name]:
            lines += [f"{name}: such cases are drawn in {pictures[name]}"]
    for probe in found["gradients"]:
        where = f"{probe['dataset']}, {probe['model']}"
        lines += [f"{where}: {sentence}" for sentence in probe["sentences"]]
    return lines or ["nothing: no case is suspicious, and no two losses are the same up to scale"]


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    line = f"{data['cases']} cases; size {_range(data['sizes'])}; "
    line += f"spacing {_range(data['spacing'])}"
    if ignored := data["ignored"]:
        share, median, high = (percent(ignored[key]) for key in ("share", "median", "high"))
        line += f"; ignored: {share} of all voxels, {median} of the median case, {high} at most"
    yield line
    classes = pd.DataFrame(data["classes"])
    columns = ["share", "low", "median", "high"]
    classes[columns] = classes[columns].map(percent)
    titles = {"share": "of all voxels", "low": "least in a case", "high": "most in a case"}
    yield _shown(classes.rename(columns=titles), index=False)
    parts = []
    for part in data["parts"]:
        shares = dict(zip(classes["class"], map(percent, part["shares"]), strict=True))
        numbers = {key: part[key] for key in ("part", "cases", "subjects")}
        parts.append({**numbers, **shares})
    yield _shown(pd.DataFrame(parts), index=False)


def _range(values: Mapping[str, Sequence[float]]) -> str:
    low, middle, high = ("x".join(f"{x:g}" for x in values[k]) for k in ("min", "median", "max"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _cost(cost: Mapping[str, Any], losses: Sequence[str]) -> Iterator[str]:
    at_most = "at most " if cost["at_most"] else ""
    seconds = cost["tuning_seconds"]
    tuning = f" with {duration(seconds)} of tuning" if seconds else ""
    yield (
        f"About {duration(cost['block_seconds'])} and {cost['memory_bytes'] / 1e9:.1f} GB on "
        f"{cost['device']}; {at_most}{cost['blocks']} blocks: "
        f"{duration(cost['total_seconds'])}{tuning}. Making a "
        f"batch: {1000 * cost['batch_seconds']:.3g} ms, once for all losses."
        + (" Not measured on a GPU." if cost["device"].startswith("cpu") else "")
    )
    columns = {name: f"{name}_seconds" for name in ("train", "validate", "evaluate")}
    rows = {
        name: {"ms per step": f"{1000 * cost['losses'][name]['step_seconds']:.3g}"}
        | {title: duration(cost["losses"][name][key]) for title, key in columns.items()}
        for name in losses
    }
    yield _shown(pd.DataFrame.from_dict(rows, orient="index"))


def _shown(table: pd.DataFrame, index: bool = True) -> str:
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    return table.to_string(line_width=width, index=index)


def _legend(properties: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in properties)
    return "\n".join(f"{name:<{width}}  {meaning}" for name, meaning in properties)
