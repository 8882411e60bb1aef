"""What a benchmark leaves: its rows as JSON and as a Markdown table, with machine and versions.

python -m tests.benchmarks.table DIR prints the ratios of all of them in one table, as in README.md.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.device import device_name, pick_device
from lossbench.provenance import commit, versions


def ratio(what: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A row: seconds above over seconds below, turn by turn, and the medians of both."""
    ratios = [above / below for above, below in times]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    above, below = (statistics.median(side) for side in zip(*times, strict=True))
    row = {"what": what, "ratio": median, "low": low, "high": high, "turns": len(ratios)}
    return row | {"above_s": above, "below_s": below}


def write(name: str, rows: list[dict[str, Any]], output: Path) -> None:
    """Write NAME.json and NAME.md into a folder, and print the table."""
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
    """The ratios that benchmarks have left in a folder, as a Markdown table."""
    lines = ["| what | ratio | middle half of the turns |", "| --- | --- | --- |"]
    for name in ("training", "start", "ten_thousand_runs", "tracking", "nnunet"):
        file = folder / f"{name}.json"
        for row in json.loads(file.read_text())["rows"] if file.exists() else []:
            if "ratio" in row:
                spread = f"{row['low']:.2g} to {row['high']:.2g}" if row["turns"] > 1 else "once"
                lines.append(f"| {row['what']} | {row['ratio']:.2g} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(ratios(Path(sys.argv[1])))
