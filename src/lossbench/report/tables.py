"""Tables of the page, and those beside it in Markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from lossbench.files import write_text
from lossbench.report import words
from lossbench.report.results import Results

GROUP = ["dataset", "model"]


def verdicts(results: Results) -> list[dict]:
    """A row per dataset, model and class, with a cell per loss.

    Returns
    -------
    list of dict
        dataset, model, class, background (bool), n_cases, n_blocks and cells: for each loss but
        the reference a row of comparisons.csv as a dict, or None where there is none.
    """
    rows = []
    for dataset, model in results.groups:
        for name in results.classes(dataset):
            found = results.of(
                results.comparisons, dataset, model, class_=name, metric=results.metric
            ).set_index("loss", drop=False)
            cells = [_cell(found.loc[x]) if x in found.index else None for x in results.losses[1:]]
            rows.append(
                {
                    "dataset": dataset,
                    "model": model,
                    "class": name,
                    "background": name == results.background(dataset),
                    "cells": cells,
                    "sentence": words.sentence(found, results.experiment.comparison.margin)
                    if len(found)
                    else "nothing was compared.",
                }
            )
    return rows


def _cell(row: pd.Series) -> dict:
    return {
        "verdict": row["verdict"],
        "symbol": words.SYMBOLS[row["verdict"]],
        "difference": words.difference(row),
        "interval": words.interval(row["ci_low"], row["ci_high"], sign=True),
        "needed": words.needed(row) if row["verdict"] == "undecided" else "",
        "paired": bool(row["paired"]),
        "n": f"{row['n_cases']:g} cases, {row['n_blocks']:g} blocks",
    }


def verdict_frame(results: Results) -> pd.DataFrame:
    """The verdict table as text: symbol, verdict, difference and interval in a cell."""
    rows = []
    for row in verdicts(results):
        cells = dict(zip(results.losses[1:], map(_cell_text, row["cells"]), strict=True))
        rows.append({k: row[k] for k in (*GROUP, "class")} | cells)
    return pd.DataFrame(rows, columns=[*GROUP, "class", *results.losses[1:]])


def _cell_text(cell: dict | None) -> str:
    if cell is None:
        return "–"
    more = f"; needs {cell['needed']}" if cell["needed"] else ""
    unpaired = "; not paired" if not cell["paired"] else ""
    text = f"{cell['symbol']} {cell['verdict']} {cell['difference']} ({cell['interval']}{more}{unpaired})"
    return text


def means(results: Results, metric: str) -> pd.DataFrame:
    """Mean with its interval, a row per dataset, model and class, a column per loss."""
    rows = []
    for dataset, model in results.groups:
        table = results.of(results.summary, dataset, model, metric=metric)
        for name in results.classes(dataset):
            mine = table[table["class"] == name].set_index("loss")
            row = {"dataset": dataset, "model": model, "class": name}
            for label, column in (("cases", "n_cases"), ("without the class", "n_empty")):
                counts = sorted({int(n) for n in mine[column]})
                row[label] = (
                    " to ".join(str(n) for n in dict.fromkeys(counts[:1] + counts[-1:])) or "–"
                )
            row |= {x: _mean(mine.loc[x]) if x in mine.index else "–" for x in results.losses}
            rows.append(row)
    return pd.DataFrame(rows)


def _mean(row: pd.Series) -> str:
    width = row["ci_high"] - row["ci_low"]
    return f"{words.number(row['mean'], width)} ({words.interval(row['ci_low'], row['ci_high'])})"


def comparisons(results: Results) -> pd.DataFrame:
    """Every comparison, formatted, all metrics."""
    table = results.comparisons
    frame = table[[*GROUP, "class", "metric", "loss", "reference", "verdict"]].copy()
    frame["difference"] = [words.difference(row) for _, row in table.iterrows()]
    frame["interval"] = [
        words.interval(low, high, sign=True)
        for low, high in zip(table["ci_low"], table["ci_high"], strict=True)
    ]
    for column in ("p", "p_holm"):
        frame[column] = [
            "–" if pd.isna(p) else f"{p:.2g}" if p >= 1e-4 else "<0.0001" for p in table[column]
        ]
    counts = ("n_cases", "n_seeds", "n_blocks", "n_cases_needed", "n_blocks_needed")
    for column in counts:
        frame[column] = ["–" if pd.isna(n) else f"{n:,.0f}" for n in table[column]]
    frame["paired"] = ["yes" if paired else "no" for paired in table["paired"]]
    return frame


def summary(results: Results) -> pd.DataFrame:
    """Every row of summary.csv, formatted."""
    table = results.summary
    frame = table[[*GROUP, "class", "metric", "loss"]].copy()
    frame["mean"] = [_mean(row) for _, row in table.iterrows()]
    for column in ("sd_case", "sd_seed"):
        frame[column] = [words.number(value) for value in table[column]]
    for column in ("n_cases", "n_seeds", "n_empty"):
        frame[column] = [f"{n:.0f}" for n in table[column]]
    return frame


def cost(results: Results) -> pd.DataFrame:
    """What a training costs with each loss: medians over its runs, and time against the reference."""
    rows = []
    for dataset, model in results.groups:
        runs = results.of(results.runs, dataset, model).groupby("loss")
        medians = runs[["train_seconds", "images_per_second", "peak_memory_bytes"]].median()
        for loss in (x for x in results.losses if x in medians.index):
            seconds, rate, memory = medians.loc[loss]
            base = medians["train_seconds"].get(results.reference, float("nan"))
            rows.append(
                {
                    "dataset": dataset,
                    "model": model,
                    "loss": loss,
                    "runs": str(runs.size()[loss]),
                    "train seconds": _plain(seconds, 1),
                    "time against reference": f"×{seconds / base:.2f}" if base > 0 else "–",
                    "images per second": _plain(rate, 1),
                    "peak memory (MB)": _plain(memory / 1e6, 0),
                }
            )
    return pd.DataFrame(rows)


def _plain(value: float, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:,.{digits}f}"


def write(results: Results, folder: Path) -> None:
    """Write verdict, summary and comparisons as Markdown and LaTeX."""
    frames = {
        "verdict": verdict_frame(results),
        "summary": summary(results),
        "comparisons": comparisons(results),
    }
    for name, frame in frames.items():
        safe = frame.map(lambda text: str(text).replace("|", "\\|"))
        write_text(
            folder / f"{name}.md", safe.to_markdown(index=False, disable_numparse=True) + "\n"
        )
        latex = frame.map(_latex).rename(columns=_latex)
        write_text(folder / f"{name}.tex", latex.to_latex(index=False, escape=True))


def _latex(text: str) -> str:
    """Without the characters that plain LaTeX has no glyph for."""
    for symbol in words.SYMBOLS.values():
        text = text.removeprefix(f"{symbol} ")
    return text.replace("−", "-").replace("–", "-").replace("×", "x")
