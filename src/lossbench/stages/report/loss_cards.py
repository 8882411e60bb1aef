"""What `check` found before the training: the losses' cards, and their gradients."""

from typing import Any

import pandas as pd

from lossbench.common.check_tables import card_table, read_check, snapshot_heading, snapshot_table
from lossbench.stages.report import wording
from lossbench.stages.report.results import Results


def cards(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """What each loss computes, a row per property: datasets and table, once for equal cards."""
    check = _read(results)
    groups: list[tuple[list[str], dict]] = []
    for dataset, of_losses in check["cards"].items():
        alike = [names for names, other in groups if other == of_losses]
        if alike:
            alike[0].append(dataset)
        else:
            groups.append(([dataset], of_losses))
    return [
        (wording.listing(names), card_table(check, names[0]).map(_typographic))
        for names, _ in groups
    ]


def preflights(results: Results) -> list[dict[str, Any]]:
    """Dataset, model, sentences, and a heading and table per snapshot, of each pair."""
    return [
        {
            **{key: probe[key] for key in ("dataset", "model", "sentences")},
            "snapshots": [
                (
                    snapshot_heading(snapshot, probe),
                    snapshot_table(snapshot, probe).map(_typographic),
                )
                for snapshot in probe["snapshots"]
            ],
        }
        for probe in _read(results)["gradients"]
    ]


def _read(results: Results) -> dict[str, Any]:
    """check.json; without cards and gradients where it is not there or older than these."""
    check = read_check(results.folder, results.runs)
    return {"losses": [], "properties": [], "cards": {}, "gradients": []} | check


def _typographic(cell: str) -> str:
    """A dash for no value, a minus for a negative number."""
    if cell == "-":
        return wording.NOTHING
    return cell.replace("-", wording.MINUS) if cell[:1] == "-" else cell
