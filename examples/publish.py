"""Put the results of a finished study onto its page, with its report next to it.

    python examples/publish.py results/study docs/study

docs/study/README.md has a line `<!-- results -->` and one `<!-- end of results -->`: what stands
between them is replaced.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

CLAIMS = ["claim", "source", "verdict", "figure", "evidence"]
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the training


def main(results: Path, page: Path) -> None:
    report = results / "report"
    for name in ("report.html", "methods.md"):
        shutil.copy(report / name, page / name)
    runs = pd.read_csv(report / "runs.csv")
    plurals = {"dataset": "data sets", "loss": "losses", "fold": "folds", "seed": "seeds"}
    keys = [f"{name}: {runs[key].nunique()}" for key, name in plurals.items()]
    parts = [
        f"{len(runs)} trainings ({', '.join(keys)}), commit {', '.join(runs['commit'].unique())}. "
        "[The report](report.html) has every figure; [the text for a paper](methods.md)."
    ]
    if (report / "claims.csv").exists():
        parts.append(pd.read_csv(report / "claims.csv")[CLAIMS].to_markdown(index=False))
    else:
        parts += [*verdicts(pd.read_csv(report / "comparisons.csv")), plateaus(results)]
    if (over := report / "tables" / "over_datasets.md").exists():
        parts.append(over.read_text().strip())
    readme = page / "README.md"
    text = "\n\n".join(parts)
    mark = r"(<!-- results -->\n).*?(<!-- end of results -->)"
    whole = re.sub(mark, lambda m: f"{m[1]}{text}\n{m[2]}", readme.read_text(), flags=re.DOTALL)
    readme.write_text(whole)


def verdicts(table: pd.DataFrame) -> list[str]:
    """A table for each data set and model: losses down, classes across."""
    table = table[table["metric"] == table["metric"].iloc[0]]
    cell = "{verdict} {difference:+.3f} ({simultaneous_low:+.3f} to {simultaneous_high:+.3f})"
    table = table.assign(cell=[cell.format(**row) for row in table.to_dict("records")])
    return [
        f"{dataset}, {model}: {of_group['metric'].iloc[0]} minus that of the reference, with its "
        "interval:\n\n"
        + of_group.pivot_table("cell", "loss", "class", "first", sort=False).to_markdown()
        for (dataset, model), of_group in table.groupby(["dataset", "model"], sort=False)
    ]


def plateaus(results: Path) -> str:
    """Mean validation Dice of the foreground after each quarter of the training, as a table."""
    rows = []
    for file in sorted(results.glob("*/*/fold*/seed*/*/history.csv")):
        dataset, loss = file.parts[-6], file.parts[-2]
        history = pd.read_csv(file)
        dice = history.filter(regex="^val/dice/(?!background)").mean(axis=1)
        for share in SHARES:
            step = round(share * history["step"].max())
            rows.append((dataset, loss, step, dice[history["step"] == step].mean()))
    table = pd.DataFrame(rows, columns=["data set", "loss", "step", "dice"])
    wide = table.pivot_table("dice", ["data set", "loss"], "step", sort=False).reset_index()
    said = "Validation Dice, mean over foreground classes and runs, by step:\n\n"
    return said + wide.to_markdown(index=False, floatfmt=".3f")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
