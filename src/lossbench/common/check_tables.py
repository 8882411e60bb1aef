"""Tables of check.json: what each loss computes and its gradients, for the terminal and the report.

Cells are text: "-" where there is no value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.files import read_json
from lossbench.common.tables import RUN
from lossbench.config import UserError

SHARES = {"share_value": "value", "share_l1": "L1", "share_l2": "L2"}


def read_check(folder: Path, runs: pd.DataFrame) -> dict[str, Any]:
    """Read check.json of an experiment; empty where it was never checked.

    Parameters
    ----------
    folder
        Of the experiment.
    runs
        The columns of `RUN`, and digest: what was trained.

    Raises
    ------
    UserError
        Where other settings, code or data were checked than were trained.
    """
    path = folder / "check.json"
    if not path.exists():
        return {}
    check = read_json(path)
    trained = dict(zip(zip(*(runs[key] for key in RUN), strict=True), runs["digest"], strict=True))
    for row in check.get("digests", []):
        digest = trained.get(tuple(row[key] for key in RUN), row["digest"])
        if digest != row["digest"]:
            raise UserError(
                f"{path}: other settings, code or data were checked than were trained (digest "
                f"{row['digest'][:8]} of {row['loss']}, not {digest[:8]}); run the workflow again"
            )
    return check


def card_table(check: Mapping[str, Any], dataset: str) -> pd.DataFrame:
    """What each loss computes on a dataset: a row per property, a column per loss, the meaning."""
    cards, rows = check["cards"][dataset], []
    for name, meaning in check["properties"]:
        values = {loss: number(cards[loss][name]) for loss in check["losses"]}
        rows.append({"property": name.replace("_", " "), **values, "meaning": meaning})
    return pd.DataFrame(rows)


def snapshot_heading(snapshot: Mapping[str, Any], probe: Mapping[str, Any]) -> str:
    """When a snapshot of the gradients was taken."""
    if not snapshot["step"]:
        return "At the start"
    return f"After {snapshot['step']} steps of training with {probe['reference']}"


def snapshot_table(snapshot: Mapping[str, Any], probe: Mapping[str, Any]) -> pd.DataFrame:
    """A row per loss: its gradient against those of the others, and each class's share of it.

    Parameters
    ----------
    snapshot, probe
        An entry of check.json's `gradients`, and one of its `snapshots`.
    """
    rows = []
    for name, loss in snapshot["losses"].items():
        row = {"loss": name, "gradient norm": number(loss["gradient_norm"])}
        row[f"times {probe['reference']}"] = number(loss["scale"])
        cosines = snapshot["cosines"][name].items()
        row |= {f"cosine to {other}": number(cosine) for other, cosine in cosines}
        for key, title in SHARES.items():
            shares = zip(probe["classes"], loss[key], strict=True)
            row |= {f"{title}: {c}": percent(share) for c, share in shares}
        rows.append(row)
    return pd.DataFrame(rows)


def number(value: str | float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share with a digit behind the point, more where it would read as 0."""
    if share is None:
        return "-"
    return f"{share:.3%}" if 0 < share < 0.001 else f"{share:.1%}"
