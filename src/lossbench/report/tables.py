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
        dataset, model, class, background (bool), sentence, and cells: for each loss but the
        reference a dict of texts, or None where it was not compared.
    """
    rows = []
    for dataset, model in results.groups:
        table = results.of(results.comparisons, dataset, model, metric=results.metric)
        for name in results.classes(dataset):
            found = table[table["class"] == name].set_index("loss", drop=False)
            found = found.loc[[x for x in results.losses if x in found.index]]
            cells = [_cell(found.loc[x]) if x in found.index else None for x in results.losses[1:]]
            margin = results.experiment.comparison.margin
            said = words.sentence(found, margin) if len(found) else "nothing was compared."
            row = {"dataset": dataset, "model": model, "class": name, "cells": cells}
            row |= {"background": name == results.background(dataset), "sentence": said}
            rows.append(row)
    return rows


def _cell(row: pd.Series) -> dict:
    return {
        "verdict": row["verdict"],
        "symbol": words.SYMBOLS[row["verdict"]],
        "difference": words.difference(row),
        "interval": words.interval(row["ci_low"], row["ci_high"], sign=True),
        "needed": words.needed(row) if row["verdict"] == "undecided" else [],
        "paired": bool(row["paired"]),
        "n": f"{row['n_cases']:,.0f} cases, {row['n_blocks']:,.0f} blocks",
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
        return words.NOTHING
    inner = cell["interval"]
    if cell["needed"]:
        inner += f"; needs {' or '.join(cell['needed'])}"
    if not cell["paired"]:
        inner += "; not paired"
    return f"{cell['symbol']} {cell['verdict']} {cell['difference']} ({inner})"


def means(results: Results, metric: str) -> pd.DataFrame:
    """Mean with its interval, a row per dataset, model and class, a column per loss."""
    rows = []
    for dataset, model in results.groups:
        table = results.of(results.summary, dataset, model, metric=metric)
        for name in results.classes(dataset):
            mine = table[table["class"] == name].set_index("loss")
            row = {"dataset": dataset, "model": model, "class": name}
            row |= {"cases": _range(mine["n_cases"]), "without the class": _range(mine["n_empty"])}
            found = {x: _mean(row) for x, row in mine.iterrows()}
            row |= {x: found.get(x, words.NOTHING) for x in results.losses}
            rows.append(row)
    return pd.DataFrame(rows)


def _range(counts: pd.Series) -> str:
    """Such as "12", or "9 to 12" where losses differ."""
    if counts.empty:
        return words.NOTHING
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


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
        frame[column] = [_p(p) for p in table[column]]
    for column in ("n_cases", "n_seeds", "n_blocks", "n_cases_needed", "n_blocks_needed"):
        frame[column] = [_plain(n, 0) for n in table[column]]
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
    """What a training costs with each loss: medians over its runs, time against the reference."""
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
                    "time against reference": _ratio(seconds, base),
                    "images per second": _plain(rate, 1),
                    "peak memory (MB)": _plain(memory / 1e6, 0),
                }
            )
    return pd.DataFrame(rows)


def _p(p: float) -> str:
    return words.NOTHING if pd.isna(p) else f"{p:.2g}" if p >= 1e-4 else "<0.0001"


def _ratio(value: float, base: float) -> str:
    return f"{words.TIMES}{value / base:.2f}" if base > 0 else words.NOTHING


def _plain(value: float, digits: int) -> str:
    return words.NOTHING if pd.isna(value) else f"{value:,.{digits}f}"


def write(results: Results, folder: Path) -> None:
    """Write verdict, summary and comparisons as Markdown and LaTeX."""
    frames = {
        "verdict": verdict_frame(results),
        "summary": summary(results),
        "comparisons": comparisons(results),
    }
    for name, frame in frames.items():
        safe = frame.map(lambda text: str(text).replace("|", "\\|"))
        markdown = safe.to_markdown(index=False, disable_numparse=True)
        write_text(folder / f"{name}.md", markdown + "\n")
        latex = frame.map(_latex).to_latex(index=False, escape=True)
        write_text(folder / f"{name}.tex", latex)


def _latex(text: str) -> str:
    """Without the characters that plain LaTeX has no glyph for."""
    for symbol in words.SYMBOLS.values():
        text = text.removeprefix(f"{symbol} ")
    return text.replace(words.MINUS, "-").replace(words.NOTHING, "-")
