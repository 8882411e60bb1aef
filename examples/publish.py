"""Put the results of a finished study onto its page, with its tables and figures next to it.

    python examples/publish.py results/study docs/study

In README.md of the page, what stands between a line `<!-- results -->` and one
`<!-- end of results -->` is replaced. Without a README.md the files alone are copied. A report of
more than a megabyte stays in the results: a repository keeps every version of it for ever.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

CLAIMS = ["claim", "source", "verdict", "figure", "evidence"]
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the training
STARTED = 0.1  # Dice of a class that a run has begun to learn
MAX_REPORT = 1_100_000  # bytes
GROUP = ["dataset", "loss"]


def main(results: Path, page: Path) -> None:
    report = results / "report"
    page.mkdir(parents=True, exist_ok=True)
    names = ("methods.md", "comparisons.csv", "claims.csv")
    copied = [report / name for name in names if (report / name).exists()]
    if (report / "report.html").stat().st_size <= MAX_REPORT:
        copied.append(report / "report.html")
    elif not (report / "claims.csv").exists():
        copied += report.glob("figures/curves_*.svg")
    for path in copied:
        shutil.copy(path, page)
    readme = page / "README.md"
    if readme.exists():
        mark = r"(<!-- results -->\n).*?(<!-- end of results -->)"
        text = "\n\n".join(parts(results, [path.name for path in copied]))
        replaced = re.sub(
            mark, lambda m: f"{m[1]}{text}\n{m[2]}", readme.read_text(), flags=re.DOTALL
        )
        readme.write_text(replaced)


def parts(results: Path, copied: list[str]) -> list[str]:
    """The paragraphs and tables of the page."""
    report = results / "report"
    runs = pd.read_csv(report / "runs.csv")
    plurals = {"data set": "data sets", "loss": "losses", "fold": "folds", "seed": "seeds"}
    counts = {name: runs[name.replace(" ", "")].nunique() for name in plurals}
    keys = [f"{n} {name if n == 1 else plurals[name]}" for name, n in counts.items()]
    text = (
        f"{len(runs)} trainings ({', '.join(keys)}), the last on {runs['finished'].max()[:10]}, "
        f"commit {', '.join(x[:7] for x in runs['commit'].unique())}. "
        "[The text for the methods section of a paper](methods.md)"
    )
    if "report.html" in copied:
        text += "; [the report](report.html), with every figure"
    texts = [f"{text}."]
    if (report / "claims.csv").exists():
        return [*texts, pd.read_csv(report / "claims.csv")[CLAIMS].to_markdown(index=False)]
    texts += verdicts(pd.read_csv(report / "comparisons.csv"))
    if (over := report / "tables" / "over_datasets.md").exists():
        texts.append(f"Over data sets, by random effects:\n\n{over.read_text().strip()}")
    history = histories(results)
    texts += [plateaus(history), *starts(history)]
    if "ledger/cosine" in history:
        texts.append(gradients(history))
    figures = [name for name in copied if name.endswith(".svg") and "background" not in name]
    if figures:
        pictures = " ".join(f"![{name[:-4]}]({name})" for name in sorted(figures))
        texts.append(f"Validation Dice by step; a band spans the folds and seeds:\n\n{pictures}")
    return texts


def verdicts(table: pd.DataFrame) -> list[str]:
    """A table for each data set and model: losses down, classes across."""
    table = table[table["metric"] == table["metric"].iloc[0]]
    cell = "{verdict} {difference:+.3f} ({simultaneous_low:+.3f} to {simultaneous_high:+.3f})"
    table = table.assign(cell=[cell.format(**row) for row in table.to_dict("records")])
    return [
        f"{dataset}: {of_group['metric'].iloc[0]} minus that of "
        f"{of_group['reference'].iloc[0]}, with the interval of its verdict:\n\n"
        + of_group.pivot_table("cell", "loss", "class", "first", sort=False).to_markdown()
        for (dataset, _), of_group in table.groupby(["dataset", "model"], sort=False)
    ]


def histories(results: Path) -> pd.DataFrame:
    """The histories of all runs, with their keys."""
    tables = []
    for file in sorted(results.glob("*/*/fold*/seed*/*/history.csv")):
        table = pd.read_csv(file)
        tables.append(table.assign(dataset=file.parts[-6], loss=file.parts[-2]))
    return pd.concat(tables, ignore_index=True)


def plateaus(history: pd.DataFrame) -> str:
    """Mean validation Dice of the foreground by the end of each quarter, and the last gain."""
    foreground = history.filter(regex="^val/dice/(?!background$)").mean(axis=1)
    validated = history["step"][foreground.notna()].unique()
    ends = [round(share * validated.max()) for share in SHARES]
    steps = sorted({max(validated[validated <= end]) for end in ends if (validated <= end).any()})
    at_quarters = history.assign(dice=foreground)[history["step"].isin(steps)]
    wide = at_quarters.pivot_table("dice", GROUP, "step")
    if len(steps) > 1:
        wide[f"gain since step {steps[-2]}"] = wide[steps[-1]] - wide[steps[-2]]
    table = wide.reset_index().to_markdown(index=False, floatfmt=".3f")
    return f"Validation Dice, mean over foreground classes and runs, by step:\n\n{table}"


def starts(history: pd.DataFrame) -> list[str]:
    """When each loss begins to learn a class, where one begins after the first validation."""
    texts = []
    for dataset, rows in history.groupby("dataset", sort=False):
        curves = rows.filter(regex="^val/dice/(?!background$)").dropna(how="all", axis=1)
        names = {column: column.removeprefix("val/dice/") for column in curves}
        means = curves.rename(columns=names).groupby([rows["loss"], rows["step"]]).mean().dropna()
        first = means.index.get_level_values("step").min()
        cells = {name: means[name].groupby("loss").agg(_start) for name in means}
        table = pd.DataFrame(cells)
        if (means.xs(first, level="step") < STARTED).any(axis=None):
            texts.append(
                f"{dataset}: the first validation at which the mean Dice of a class is above "
                f"{STARTED}, and its Dice at the end:\n\n{table.to_markdown()}"
            )
    return texts


def _start(dice: pd.Series) -> str:
    started = dice[dice > STARTED]
    when = f"step {started.index[0][1]}" if len(started) else "never"
    return f"{when}, {dice.iloc[-1]:.3f}"


def gradients(history: pd.DataFrame) -> str:
    """Scale and cosine of each loss's gradient, against the reference's at the same weights."""
    rows = history.dropna(subset="ledger/cosine")
    wide = rows.pivot_table(["ledger/scale", "ledger/cosine"], GROUP, "step")
    wide.columns = [f"{name.removeprefix('ledger/')}, step {step}" for name, step in wide.columns]
    table = wide.reset_index().to_markdown(index=False, floatfmt=".3g")
    return (
        "The gradient ledger: norm of the gradient over that of the reference at the same weights "
        f"(scale), and the cosine between the two, mean over runs:\n\n{table}"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
