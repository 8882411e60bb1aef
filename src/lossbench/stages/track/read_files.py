"""Read the files that records are made of."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.files import read_json
from lossbench.common.tables import TEXT, read_csv
from lossbench.config import UserError

LOOKS = ["p_holm", "p_equivalent_holm", "difference", "low", "high"]  # columns of looks.csv


def artifacts(folder: Path) -> dict[str, Path]:
    """Page, figures and tables of an experiment's report, and its experiment.json, by name.

    Raises
    ------
    UserError
        Where the page is missing.
    """
    report = folder / "report"
    page = report / "report.html"
    if not page.exists():
        raise UserError(f"{page}: no such file; run the workflow, which writes it")
    paths = [page, *sorted(report.glob("methods.md")), *sorted(report.glob("*.csv"))]
    for sub in ("figures", "tables"):
        paths += sorted(path for path in (report / sub).rglob("*") if path.is_file())
    names = {str(path.relative_to(report)): path for path in paths}
    return {"experiment.json": folder / "experiment.json", **names}


def curves_of_looks(report: Path) -> bytes:
    """Read p, difference and interval of every comparison as curves: the step is the round."""
    path = report / "looks.csv"
    if not path.exists():
        return b""
    looks = read_table(path)
    several = len(looks[["dataset", "model"]].drop_duplicates()) > 1
    keys = [*(("dataset", "model") if several else ()), "loss", "metric", "class"]
    looks["name"] = ["/".join(names) for names in zip(*(looks[k] for k in keys), strict=True)]
    curves = looks.pivot_table(index="round", columns="name", values=LOOKS, dropna=False)
    curves.columns = [f"rounds/{name}/{value}" for value, name in curves.columns]
    curves.insert(0, "seconds", 0.0)
    return curves.rename_axis("step").to_csv().encode()


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table; missing text is empty."""
    return read_csv(path, columns).fillna(dict.fromkeys(TEXT, ""))


def read_begun(stored: Path) -> tuple[dict[str, Any], bytes] | None:
    """Read what is known of a run, and its curves; None before the first row."""
    try:
        if (stored / "status.json").exists():
            status = read_json(stored / "status.json")
            status["versions"] = json.dumps(status["versions"])
            return status, (stored / "history.csv").read_bytes()
        progress = (stored / "progress.csv").read_bytes()
    except (FileNotFoundError, UserError):  # it has not begun, or is being finished right now
        return None
    first = next(csv.DictReader(io.StringIO(progress.decode())), None)
    if first is None or "started" not in first:
        return None  # without it, points would have other times now than at the end
    return {"started": first["started"]}, progress
