"""What a check found, as text for a terminal: what to look at first, then data, time, losses."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

SHARES = {
    "share_value": "share of value",
    "share_l1": "of gradient, L1",
    "share_l2": "of gradient, L2",
}


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
        Of the doubtful cases of each dataset, where there are any.
    """
    total = sum(cost["total_seconds"] for cost in costs)
    parts = [
        f"{plan}\nFrom nothing, one block after another: about {_time(total)} on "
        f"{', '.join(dict.fromkeys(cost['device'] for cost in costs))}",
        "\n  ".join(["Look at first", *_first(found, pictures)]),
    ]
    for name, data in found["data"].items():
        parts += [f"Data: {name}", *_data(data)]
    for cost in costs:
        parts += [f"A block of {cost['dataset']}, {cost['model']}", *_cost(cost, found["losses"])]
    order = [name for name, _ in found["properties"]]
    for dataset, cards in found["cards"].items():
        parts += [f"What each loss computes, on batches like those of {dataset}"]
        parts += [_shown(pd.DataFrame(cards).loc[order, found["losses"]])]
    if found["cards"]:
        parts += ["What the rows mean", _legend(found["properties"])]
    for flight in found["preflight"]:
        parts += [f"Gradients on {flight['dataset']}, {flight['model']}"]
        for look in flight["looks"]:
            parts += [_when(look, flight)]
            parts += [_shown(table) for table in _tables(look, flight, found["losses"])]
    return "\n\n".join(parts)


def _first(found: Mapping[str, Any], pictures: Mapping[str, Path | None]) -> list[str]:
    lines = []
    for name, data in found["data"].items():
        lines += [f"{name}: {doubt['text']}" for doubt in data["doubts"]]
        if pictures[name]:
            lines += [f"{name}: such cases are drawn in {pictures[name]}"]
    for flight in found["preflight"]:
        lines += [f"{flight['dataset']}, {flight['model']}: {words}" for words in flight["words"]]
    return lines or ["nothing: no case is suspicious, and no two losses are the same up to scale"]


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    yield f"{data['cases']} cases; size {_range(data['sizes'])}; spacing {_range(data['spacing'])}"
    classes = pd.DataFrame(data["classes"])
    columns = ["share", "low", "median", "high"]
    classes[columns] = classes[columns].map(_percent)
    titles = {"share": "of all voxels", "low": "least in a case", "high": "most in a case"}
    yield _shown(classes.rename(columns=titles), index=False)
    folds = []
    for fold in data["folds"]:
        shares = dict(zip(classes["class"], map(_percent, fold["shares"]), strict=True))
        folds.append({"fold": fold["fold"], "cases": fold["cases"], **shares})
    yield _shown(pd.DataFrame(folds), index=False)


def _range(values: Mapping[str, Sequence[float]]) -> str:
    low, middle, high = ("x".join(f"{x:g}" for x in values[k]) for k in ("min", "median", "max"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _cost(cost: Mapping[str, Any], losses: Sequence[str]) -> Iterator[str]:
    yield (
        f"About {_time(cost['block_seconds'])} and {cost['memory_bytes'] / 1e9:.1f} GB on "
        f"{cost['device']}; {cost['blocks']} blocks: {_time(cost['total_seconds'])}. Making a "
        f"batch: {1000 * cost['batch_seconds']:.3g} ms, once for all losses."
    )
    columns = {name: f"{name}_seconds" for name in ("train", "validate", "evaluate")}
    rows = {
        name: {"ms per step": f"{1000 * cost['losses'][name]['step_seconds']:.3g}"}
        | {title: _time(cost["losses"][name][key]) for title, key in columns.items()}
        for name in losses
    }
    yield _shown(pd.DataFrame.from_dict(rows, orient="index"))


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _shown(table: pd.DataFrame, index: bool = True) -> str:
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    return table.to_string(line_width=width, index=index)


def _legend(properties: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in properties)
    return "\n".join(f"{name:<{width}}  {meaning}" for name, meaning in properties)


def _when(look: Mapping[str, Any], flight: Mapping[str, Any]) -> str:
    """The heading of a look."""
    if not look["step"]:
        return "At the start"
    return f"After {look['step']} steps of training with {flight['reference']}"


def _tables(
    look: Mapping[str, Any], flight: Mapping[str, Any], losses: Sequence[str]
) -> list[pd.DataFrame]:
    """A look as tables: norms, cosines between losses, and the share of each class."""
    found = look["losses"]
    columns = {"gradient norm": "gradient_norm", f"times {flight['reference']}": "scale"}
    norms = {c: {n: _number(found[n][key]) for n in losses} for c, key in columns.items()}
    cosines = {a: {b: _number(look["cosines"][a][b]) for b in losses} for a in losses}
    shares = {
        (name, title): [_percent(share) for share in found[name][key]]
        for name in losses
        for key, title in SHARES.items()
    }
    index = pd.MultiIndex.from_tuples(shares)
    return [
        pd.DataFrame(norms),
        pd.DataFrame(cosines).rename_axis(columns="cosine"),
        pd.DataFrame(list(shares.values()), index, flight["classes"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share:.3%}" if 0 < share < 0.001 else f"{share:.1%}"
