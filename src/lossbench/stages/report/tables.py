"""Tables of the page, which also stand beside it in Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.common.files import write_text
from lossbench.stages.report import wording
from lossbench.stages.report.results import Results
from lossbench.stages.report.wording import NOTHING

GROUP = ["dataset", "model"]
METRIC_KEYS = ("metric", "cases", "without the class")
MOST = 6  # columns of figures that fit a page; more become rows
CLAIMS = {"holds": "✓", "fails": "✗", "undecided": "?"}
COST = ["train_seconds", "images_per_second", "peak_memory_bytes"]


def all_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table by its name, as text; those that would be empty are not there."""
    made: dict[str, Callable[[Results], pd.DataFrame | None]] = {
        "verdict": verdict_frame,
        "scores": scores,
        "means": means,
        "comparisons": comparisons,
        "claims": claims,
        "ranks": ranks,
        "pooled": pooled,
        "conventions": conventions,
        "collapses": collapses,
        "scale": scale,
        "cost": cost,
    }
    found = {name: make(results) for name, make in made.items()}
    return {name: frame for name, frame in found.items() if frame is not None and len(frame)}


def cells(results: Results, dataset: str, model: str) -> dict[tuple[str, str], dict]:
    """What a verdict table says in each cell, by class and loss."""
    table = results.of(results.comparisons, dataset, model, metric=results.metric)
    return {(row["class"], row["loss"]): _cell(row, results) for _, row in table.iterrows()}


def levels(results: Results, dataset: str, model: str) -> dict[str, str]:
    """The mean of the reference on each class."""
    table = results.of(
        results.summary, dataset, model, loss=results.reference, metric=results.metric
    )
    return {row["class"]: wording.number(row["mean"]) for _, row in table.iterrows()}


def _cell(row: pd.Series, results: Results) -> dict:
    usual, verdict = row["verdict_cases"], row["verdict"]
    return {
        "verdict": verdict,
        "symbol": wording.SYMBOLS[verdict],
        "value": row["difference"],
        "difference": wording.difference(row),
        "interval": wording.interval(row["ci_low"], row["ci_high"], sign=True),
        "needed": _needed(row) if verdict == "undecided" else [],
        "paired": bool(row["paired"]) or not results.trained_here,
        "n": f"{row['n_cases']:,.0f} cases, {row['n_blocks']:,.0f} blocks",
        "usual": usual if usual in ("better", "worse") and usual != verdict else "",
        "convention": row["convention"] if isinstance(row["convention"], str) else "",
    }


def _needed(row: pd.Series) -> list[str]:
    found = wording.needed(row).items()
    return [f"{more} (has {row[f'n_{unit}']:,.0f})" for unit, more in found]


def verdict_frame(results: Results) -> pd.DataFrame:
    """The verdict table as text, a row per class: symbol, verdict, difference and interval."""
    rows = []
    for dataset, model in results.groups:
        found = cells(results, dataset, model)
        for name in results.classes(dataset):
            said = {x: _cell_text(found.get((name, x))) for x in results.losses[1:]}
            rows.append({"dataset": dataset, "model": model, "class": name, **said})
    return pd.DataFrame(rows)


def _cell_text(cell: dict | None) -> str:
    if cell is None:
        return NOTHING
    inner = cell["interval"]
    if cell["needed"]:
        inner += f"; needs {' or '.join(cell['needed'])}"
    if not cell["paired"]:
        inner += "; not paired"
    return f"{cell['symbol']} {cell['verdict']} {cell['difference']} ({inner})"


def scores(results: Results) -> pd.DataFrame:
    """On how many classes each loss is better, worse, ...; the most gains first."""
    rows = []
    for dataset, model in results.groups:
        table = results.of(results.comparisons, dataset, model, metric=results.metric)
        for loss in wording.by_gains(table[table["loss"].isin(results.compared)]):
            mine = table[table["loss"] == loss]
            row = {"dataset": dataset, "model": model, "loss": loss}
            row |= {v: str((mine["verdict"] == v).sum()) for v in wording.SYMBOLS}
            mine = mine.dropna(subset="difference").sort_values("difference")
            said = [f"{wording.difference(x)} ({x['class']})" for _, x in mine.iterrows()]
            said = said or [NOTHING]
            rows.append(row | {"smallest difference": said[0], "largest": said[-1]})
    return pd.DataFrame(rows)


def means(results: Results) -> pd.DataFrame:
    """Mean with its interval per dataset, model, class and metric, the metric of verdicts first."""
    table = results.summary
    said = [_mean(row) for _, row in table.iterrows()]
    table = table.assign(cases=_range(table, "n_cases"), said=said)
    table["without the class"] = _range(table, "n_empty")
    metrics = dict.fromkeys([results.metric, *table["metric"]])
    parts = [
        _wide(results, table[table["metric"] == metric], "class", "loss", METRIC_KEYS)
        for metric in metrics
    ]
    return pd.concat(parts, ignore_index=True)


def _range(table: pd.DataFrame, column: str) -> list[str]:
    """Of each class: such as "12", or "9 to 12" where losses differ."""
    counts = table.groupby([*GROUP, "class", "metric"])[column]
    ends = zip(counts.transform("min"), counts.transform("max"), strict=True)
    return [count(low) if low == high else f"{count(low)} to {count(high)}" for low, high in ends]


def _mean(row: pd.Series) -> str:
    width = row["ci_high"] - row["ci_low"]
    return (
        f"{wording.number(row['mean'], width)} ({wording.interval(row['ci_low'], row['ci_high'])})"
    )


def comparisons(results: Results) -> pd.DataFrame:
    """Every comparison, all metrics."""
    table = results.comparisons
    frame = table[[*GROUP, "class", "metric", "loss", "reference", "verdict"]].copy()
    frame["difference"] = [wording.difference(row) for _, row in table.iterrows()]
    frame["interval"] = intervals(table, "ci")
    frame["p, Holm"] = table["p_holm"].map(p_value)
    frame["better on a random case"] = table["improvement"].map(share)
    frame["usual test"] = table["verdict_cases"].fillna(NOTHING)
    for column in ("n_cases", "n_seeds", "n_blocks", "n_missing"):
        frame[column.removeprefix("n_")] = table[column].map(count)
    for unit in ("cases", "blocks"):
        frame[f"{unit} needed"] = table[f"n_{unit}_needed"].map(count)
    frame["paired"] = ["yes" if paired else "no" for paired in table["paired"]]
    return frame


def intervals(table: pd.DataFrame, name: str) -> list[str]:
    """The columns {name}_low and {name}_high as signed intervals."""
    pairs = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return [wording.interval(low, high, sign=True) for low, high in pairs]


def claims(results: Results) -> pd.DataFrame | None:
    """Statements of others, and whether they hold here."""
    table = results.extra("claims")
    if table is None:
        return None
    frame = table[["claim", "source", "verdict", "figure", "evidence"]].fillna(NOTHING).astype(str)
    return frame.assign(verdict=[f"{CLAIMS.get(v, '')} {v}" for v in frame["verdict"]])


def ranks(results: Results) -> pd.DataFrame | None:
    """Rank of each loss with its interval and how sure it is to be first, a column per class."""
    table = results.extra("ranks")
    if table is None:
        return None
    table = table[table["metric"] == results.metric]
    columns = zip(*(table[c] for c in ("rank", "rank_low", "rank_high", "p_first")), strict=True)
    said = [
        f"{rank:.3g} ({low:.3g} to {high:.3g}), first {share(first)}"
        for rank, low, high, first in columns
    ]
    return _wide(results, table.assign(said=said), "loss", "class")


def pooled(results: Results) -> pd.DataFrame | None:
    """Dice of the counts summed over all cases, a row per class, a column per loss."""
    table = results.extra("pooled")
    if table is None:
        return None
    said = [wording.number(value) for value in table["dice"]]
    return _wide(results, table.assign(said=said), "class", "loss")


def _wide(
    results: Results, table: pd.DataFrame, rows: str, columns: str, more: Sequence[str] = ()
) -> pd.DataFrame:
    """The column `said` in the order of the experiment; too many columns become rows."""
    orders = {
        "dataset": results.experiment.matrix.dataset,
        "model": results.experiment.matrix.model,
        "loss": results.losses,
        "class": list(dict.fromkeys(c for d, _ in results.groups for c in results.classes(d))),
    }
    places = {key: {x: i for i, x in enumerate(order)} for key, order in orders.items()}
    keys = [*GROUP, rows, columns]
    table = table.sort_values(keys, key=lambda column: column.map(places[column.name]))
    if table[columns].nunique() > MOST:
        return table[[*keys, *more, "said"]].rename(columns={"said": "value"})
    index = [*GROUP, rows, *more]
    wide = table.pivot(index=index, columns=columns, values="said")
    wide = wide.loc[table.set_index(index).index.unique()]
    wide = wide[[x for x in orders[columns] if x in wide]].fillna(NOTHING)
    return wide.rename_axis(columns=None).reset_index()


def conventions(results: Results) -> pd.DataFrame | None:
    """Winners under each convention for empty classes, where it is not always the same one."""
    table = results.extra("conventions")
    if table is None:
        return None
    rows = []
    for keys, part in table.groupby([*GROUP, "class"], sort=False):
        winners = part[part["winner"]].groupby("convention", sort=False)
        names = winners["loss"].agg(lambda found: wording.listing(list(found)))
        if names.nunique() <= 1:
            continue
        own = part[part["loss"] == results.reference].set_index("convention")["mean"]
        for convention, first in winners:
            row = dict(zip([*GROUP, "class"], keys, strict=True))
            row |= {"convention": convention, "cases": count(first["n_cases"].iloc[0])}
            row |= {"winner": names[convention], "its mean": wording.number(first["mean"].iloc[0])}
            row[f"mean of {results.reference}"] = wording.number(own.get(convention, np.nan))
            rows.append(row)
    return pd.DataFrame(rows)


def collapses(results: Results) -> pd.DataFrame | None:
    """Losses that left a class alone from the first validation to the end, and how often."""
    table = results.extra("collapses")
    if table is None:
        return None
    table = table[table["n_collapsed"] > 0].sort_values("n_collapsed", ascending=False)
    frame = table[[*GROUP, "loss", "class"]].copy()
    pairs = zip(table["n_collapsed"], table["n_runs"], strict=True)
    frame["collapsed"] = [f"{n:.0f} of {runs:.0f} runs" for n, runs in pairs]
    return frame.assign(which=table["seeds"].fillna(NOTHING))


def scale(results: Results) -> pd.DataFrame | None:
    """How much of each difference the scale of the loss alone explains."""
    table = results.extra("scale")
    if table is None:
        return None
    frame = table[[*GROUP, "class", "metric", "loss"]].copy()
    frame["difference"] = table["difference"].map(signed)
    frame["at the scale of the reference"] = table["matched"].map(signed)
    frame["by scale alone"] = table["explained"].map(signed)
    frame["its interval"] = intervals(table, "ci")
    return frame


def cost(results: Results) -> pd.DataFrame | None:
    """What a training costs with each loss: medians over its runs, time against the reference."""
    if not set(COST) <= set(results.runs):
        return None
    rows = []
    for dataset, model in results.groups:
        runs = results.of(results.runs, dataset, model).groupby("loss")
        medians = runs[COST].median()
        for loss in (x for x in results.losses if x in medians.index):
            seconds, rate, memory = medians.loc[loss]
            base = medians["train_seconds"].get(results.reference, np.nan)
            times = f"{wording.TIMES}{seconds / base:.2f}" if base > 0 else NOTHING
            row = {"dataset": dataset, "model": model, "loss": loss, "runs": str(runs.size()[loss])}
            row["train seconds"] = count(seconds, 1)
            row["time against reference"] = times
            row["images per second"] = count(rate, 1)
            row["peak memory (MB)"] = count(memory / 1e6)
            rows.append(row)
    return pd.DataFrame(rows)


def p_value(p: float) -> str:
    """A p value with two digits."""
    if pd.isna(p):
        return NOTHING
    return f"{p:.2g}" if p >= 1e-4 else "<0.0001"


def share(value: float) -> str:
    """A probability in percent; not 0 % or 100 % where it is not quite."""
    if pd.isna(value):
        return NOTHING
    rounded = f"{value:.0%}".replace("%", " %")
    if rounded == "0 %" and value > 0:
        return "<1 %"
    if rounded == "100 %" and value < 1:
        return ">99 %"
    return rounded


def signed(value: float) -> str:
    """A difference with its sign."""
    return wording.number(value, sign=True)


def count(value: float, digits: int = 0) -> str:
    """A number of things, or of seconds."""
    return NOTHING if pd.isna(value) else f"{value:,.{digits}f}"


def write(frames: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write each table as Markdown and LaTeX."""
    for name, frame in frames.items():
        safe = frame.map(lambda text: str(text).replace("|", "\\|"))
        markdown = safe.to_markdown(index=False, disable_numparse=True)
        write_text(folder / f"{name}.md", markdown + "\n")
        latex = frame.map(_latex).to_latex(index=False, escape=True)
        write_text(folder / f"{name}.tex", latex)


def _latex(text: str) -> str:
    """Without the characters that plain LaTeX has no glyph for."""
    for symbol in (*wording.SYMBOLS.values(), *CLAIMS.values()):
        text = text.removeprefix(f"{symbol} ")
    return text.replace(wording.MINUS, "-").replace(NOTHING, "-").replace(wording.TIMES, "x")
