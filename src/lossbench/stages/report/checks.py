"""What `check` found before the training: the losses' cards, and their gradients."""

from typing import Any

import pandas as pd

from lossbench.common.files import read_json
from lossbench.stages.report import words
from lossbench.stages.report.results import Results


def cards(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """What each loss computes, a row per property: datasets and table, once for equal cards."""
    found = _read(results)
    groups: list[tuple[list[str], dict]] = []
    for dataset, of_losses in found["cards"].items():
        alike = [names for names, other in groups if other == of_losses]
        if alike:
            alike[0].append(dataset)
        else:
            groups.append(([dataset], of_losses))
    return [(words.listing(names), _cards(found, of_losses)) for names, of_losses in groups]


def _read(results: Results) -> dict[str, Any]:
    """check.json; without cards and preflight where it is not there or older than these."""
    path = results.folder / "check.json"
    found = read_json(path) if path.exists() else {}
    return {"losses": [], "properties": [], "cards": {}, "preflight": []} | found


def _cards(found: dict[str, Any], of_losses: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for name, meaning in found["properties"]:
        values = {loss: _text(of_losses[loss][name]) for loss in found["losses"]}
        rows.append({"property": name.replace("_", " "), **values, "meaning": meaning})
    return pd.DataFrame(rows)


def preflights(results: Results) -> list[dict[str, Any]]:
    """For each dataset and model: dataset, model, words, and a heading and table for each look."""
    found = _read(results)
    return [
        {
            **{key: flight[key] for key in ("dataset", "model", "words")},
            "looks": [(_heading(x, flight), _look(found, x, flight)) for x in flight["looks"]],
        }
        for flight in found["preflight"]
    ]


def _heading(look: dict[str, Any], flight: dict[str, Any]) -> str:
    if not look["step"]:
        return "At the start"
    return f"After {look['step']} steps of training with {flight['reference']}"


def _look(found: dict[str, Any], look: dict[str, Any], flight: dict[str, Any]) -> pd.DataFrame:
    """A row per loss: its gradient against the reference's, and each class's share of it."""
    rows = []
    for name in found["losses"]:
        loss = look["losses"][name]
        row = {"loss": name, "gradient norm": _text(loss["gradient_norm"])}
        row[f"{words.TIMES} {flight['reference']}"] = _text(loss["scale"])
        row |= {f"cosine to {x}": _text(look["cosines"][name][x]) for x in found["losses"]}
        for key, title in (("share_value", "value"), ("share_l1", "L1"), ("share_l2", "L2")):
            shares = zip(flight["classes"], loss[key], strict=True)
            row |= {f"{title}: {c}": _percent(share) for c, share in shares}
        rows.append(row)
    return pd.DataFrame(rows)


def _text(value: str | float | None) -> str:
    if value is None:
        return words.NOTHING
    return value if isinstance(value, str) else f"{value:.3g}".replace("-", words.MINUS)


def _percent(share: float | None) -> str:
    return words.NOTHING if share is None else f"{share:.1%}"
