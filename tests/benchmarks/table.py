"""What a benchmark leaves: its rows as JSON and as a Markdown table, with machine and versions."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.device import device_name, pick_device
from lossbench.provenance import commit, versions


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
