"""What a benchmark leaves: its rows as JSON and as a Markdown table, with machine and versions."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.device import device_name, pick_device
from lossbench.provenance import commit, versions


def ratio(what: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A row: seconds above over seconds below, turn by turn, with the medians of both."""
    ratios = [above / below for above, below in times]
    above, below = (statistics.median(side) for side in zip(*times, strict=True))
    row = {"what": what, "ratio": statistics.median(ratios), "lowest": min(ratios)}
    return row | {"highest": max(ratios), "above_s": above, "below_s": below}


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
