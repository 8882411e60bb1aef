"""What a verdict costs: python -m benchmarks.hours_per_verdict --output DIR

A study of three losses to its verdicts, on the same drawn images, three times in one run: by rounds, in the fixed
design with all blocks of the budget, and as a MONAI script for each loss and block of that design (some are run,
and counted for all). CPU hours of everything, the start of processes and the comparison included; MONAI's scripts
end without one.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.startup import ROOT, scripts, seconds
from benchmarks.table import once, write
from benchmarks.training import NET
from lossbench.datasets.prepared import Prepared

FOLDS, SIZE, SCRIPTS = 2, [48, 48], 3
DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True, "batch": True}
# AdamW divides gradients by their size: a loss times a constant trains alike, and is settled early.
LOSSES = {
    "once": DICE,
    "twice": {"_target_": "lossbench.losses.Scaled", "factor": 2.0, "loss": DICE},
    "squared": {**DICE, "squared_pred": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--budget", type=int, default=6, help="rounds")
    parser.add_argument("--steps", type=int, default=120, help="of each training")
    options = parser.parse_args()
    seeds = list(range(options.budget))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [
            measured("by rounds", folder, options.steps, {"rounds": {"budget": options.budget}}),
            measured("fixed design", folder, options.steps, {"matrix": {"seed": seeds}}),
        ]
        data = Prepared(folder / "fixed_design/results/datasets/drawn")
        trainings = rows[1]["trainings"]
        one = seconds(scripts(data, folder, options.steps), folder) / SCRIPTS
        rows.append(
            {"what": "MONAI scripts", "trainings": trainings, "cpu_hours": one * trainings / 3600}
        )
    for row in rows[1:]:
        what = f"CPU hours to the verdicts of three losses: {row['what']} over rounds"
        rows.append(once(what, row["cpu_hours"] / rows[0]["cpu_hours"]))
    write("hours_per_verdict", rows, options.output)


def measured(what: str, folder: Path, steps: int, design: dict[str, Any]) -> dict[str, Any]:
    """CPU hours of the workflow up to its comparison, and how many verdicts there are."""
    folder = folder / what.replace(" ", "_")
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(study(steps, design)))
    command = [sys.executable, "-m", "snakemake", "results/verdict/report/comparisons.csv"]
    command += ["--snakefile", ROOT / "Snakefile", "--cores", "1", "--quiet", "all"]
    command += ["--configfile", "study.yaml"]
    hours = seconds([str(word) for word in command], folder) / 3600
    report = folder / "results/verdict/report"
    verdicts = pd.read_csv(report / "comparisons.csv")["verdict"]
    decided = int((~verdicts.str.startswith("undecided")).sum())
    row = {"what": what, "trainings": len(pd.read_csv(report / "runs.csv")), "cpu_hours": hours}
    return row | {"decided": decided, "comparisons": len(verdicts)}


def study(steps: int, design: dict[str, Any]) -> dict[str, Any]:
    """Three losses on drawn images."""
    matrix = {"dataset": ["drawn"], "model": ["net"], "loss": [*LOSSES], "fold": [*range(FOLDS)]}
    net = {"_target_": "monai.networks.nets.UNet", **NET, "spatial_dims": "$spatial_dims"}
    images = {"_target_": "lossbench.datasets.Phantom", "cases": 64, "size": SIZE, "folds": FOLDS}
    return {
        "experiment": "verdict",
        **design,
        "matrix": matrix | design.get("matrix", {}),
        "training": {"steps": steps, "batch_size": 8, "patch_size": SIZE},
        "execution": {"validate_every": 40, "ledger": None},
        "comparison": {"reference": "once"},
        "datasets": {"drawn": images},
        "models": {"net": net},
        "losses": LOSSES,
    }


if __name__ == "__main__":
    main()
