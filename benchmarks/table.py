"""The tables that benchmarks write: rows as JSON and Markdown, with machine and versions.

python -m benchmarks.table DIR prints the ratios of all benchmarks in DIR, as in docs/speed.md, and puts their rows
into DIR/benchmarks.json.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.provenance import commit, versions

# In the order of the table.
BENCHMARKS = (
    *("training", "startup", "hours_per_verdict", "scaling", "ten_thousand_runs"),
    *("tracking", "nnunet"),
)


def ratio(what: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A row: seconds above over seconds below, turn by turn, and the medians of both."""
    ratios = [above / below for above, below in times]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    above, below = (statistics.median(side) for side in zip(*times, strict=True))
    row = {"what": what, "ratio": median, "low": low, "high": high, "turns": len(ratios)}
    return row | {"above_s": above, "below_s": below}


def once(what: str, value: float) -> dict[str, Any]:
    """A row of a figure that was measured once."""
    return {"what": what, "ratio": value, "low": value, "high": value, "turns": 1}


def write(name: str, rows: list[dict[str, Any]], output: Path) -> None:
    """Write NAME.json and NAME.md into a folder, and print the table."""
    # Imports torch, which would count in the memory that somebody measures before.
    from lossbench.common.device import device_name, pick_device

    machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    machine |= {"device": device_name(pick_device()), "load": round(os.getloadavg()[0], 1)}
    machine |= {"commit": commit(), **versions()}
    output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "rows": rows}
    (output / f"{name}.json").write_text(json.dumps(report, indent=1))
    table = pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f")
    text = f"{table}\n\n{', '.join(f'{key} {value}' for key, value in machine.items())}\n"
    (output / f"{name}.md").write_text(text)
    print(text)


def ratios(folder: Path) -> str:
    """The ratios that benchmarks have left in a folder, as Markdown; benchmarks.json holds all."""
    reports = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    reports = {name: report for name, report in reports.items() if name in BENCHMARKS}
    (folder / "benchmarks.json").write_text(json.dumps(reports, indent=1))
    rows = [row for name in BENCHMARKS if name in reports for row in reports[name]["rows"]]
    table = pd.DataFrame([row for row in rows if "ratio" in row])
    table["ratio"] = [_said(row) for row in table.to_dict("records")]
    return table[["what", "ratio"]].to_markdown(index=False, colalign=("left", "left"))


def _said(row: dict[str, Any]) -> str:
    """The median, and the quartiles behind it."""
    median, low, high = (
        f"{row[key]:.2f}" if row["ratio"] < 10 else f"{row[key]:.0f}"
        for key in ("ratio", "low", "high")
    )
    return f"{median} ({low} to {high})" if row["turns"] > 1 else median


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where benchmarks wrote their rows")
    print(ratios(parser.parse_args().folder))
