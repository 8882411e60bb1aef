"""Tables of the page; those that a paper prints are also written as Markdown and LaTeX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common import tables
from lossbench.common.files import write_text
from lossbench.config import counted
from lossbench.stages.report import wording
from lossbench.stages.report.results import COMPARISON, Results
from lossbench.stages.report.wording import NOTHING, SYMBOLS

GROUP = list(tables.GROUP)
MAX_COLUMNS = 6  # of figures on a page; more become rows
CLAIMS = {"holds": "✓", "fails": "✗", "undecided": "?"}
COST = ["train_seconds", "images_per_second", "peak_memory_bytes"]


def verdict_counts(results: Results) -> pd.DataFrame:
    """On how many classes each loss is better, worse, ...; the most gains first."""
    rows = []
    for dataset, model in results.groups:
        table = results.of(results.comparisons, dataset, model, metric=results.metric)
        for loss in wording.by_gains(table[table["loss"].isin(results.compared)]):
            of_loss = table[table["loss"] == loss]
            row = {"dataset": dataset, "model": model, "loss": loss}
            row |= {v: str((of_loss["verdict"] == v).sum()) for v in SYMBOLS}
            of_loss = of_loss.dropna(subset="difference").sort_values("difference")
            pairs = zip(wording.differences(of_loss), of_loss["class"], strict=True)
            texts = [f"{difference} ({name})" for difference, name in pairs] or [NOTHING]
            rows.append(row | {"smallest difference": texts[0], "largest": texts[-1]})
    return pd.DataFrame(rows)


def means(results: Results) -> pd.DataFrame:
    """Mean with its interval per dataset, model, class and metric, the metric of verdicts first."""
    table = results.summary.copy()
    columns = (table[c] for c in ("mean", "ci_low", "ci_high"))
    table["text"] = [
        f"{wording.number(mean, high - low)} ({wording.interval(low, high)})"
        for mean, low, high in zip(*columns, strict=True)
    ]
    counts = table.groupby([*GROUP, "class", "metric"])
    for name, column in (("cases", "n_cases"), ("without the class", "n_empty")):
        # Such as "12", or "9 to 12" where losses differ.
        ends = zip(*(counts[column].transform(end) for end in ("min", "max")), strict=True)
        texts = ([wording.count(low), wording.count(high)] for low, high in ends)
        table[name] = [" to ".join(dict.fromkeys(both)) for both in texts]
    keys = ("metric", "cases", "without the class")
    metrics = dict.fromkeys([results.metric, *table["metric"]])
    parts = [_wide(results, table[table["metric"] == m], "class", "loss", keys) for m in metrics]
    return pd.concat(parts, ignore_index=True)


def comparisons(results: Results) -> pd.DataFrame:
    """Every comparison, all metrics."""
    table = results.comparisons
    frame = table[[*GROUP, "class", "metric", "loss", "reference"]].copy()
    frame["verdict"] = table["verdict"].fillna(NOTHING)  # of a metric that is reported only
    frame["difference"] = wording.differences(table)
    for title, name in (("interval", "simultaneous"), ("interval, unadjusted", "ci")):
        frame[title] = wording.intervals(table, name)
    frame["p, Holm"] = table["p_holm"].map(wording.p_value)
    frame["better on a random case"] = table["improvement"].map(wording.probability)
    frame["usual test"] = table["verdict_cases"].fillna(NOTHING)
    for column in ("n_cases", "n_subjects", "n_seeds", "n_blocks", "n_missing"):
        frame[column.removeprefix("n_")] = table[column].map(wording.count)
    for unit in ("cases", "blocks"):
        frame[f"{unit} needed"] = table[f"n_{unit}_needed"].map(wording.count)
    frame["paired"] = ["yes" if paired else "no" for paired in table["paired"]]
    return frame


def failures(results: Results) -> dict[str, Any]:
    """How often each loss failed: a row where it or the reference did, and what bounds the rest.

    Returns
    -------
    dict
        table, and rest: a sentence on the losses and classes without a row; empty without figures.
    """
    table = results.table("failures")
    if table.empty:
        return {}
    some = (table[["n_failed", "n_failed_reference", "n_collapsed"]] > 0).any(axis=1)
    rows, rest = table[some], table[~some]
    frame = rows[[*GROUP, "class", "loss"]].copy()
    counts = (rows[c] for c in ("n_failed", "n_subjects", "rate_high"))
    frame["subjects without overlap"] = [_bounded(*row) for row in zip(*counts, strict=True)]
    frame["with the reference"] = rows["n_failed_reference"].map(wording.count)
    frame["p, McNemar"] = rows["p_mcnemar"].map(wording.p_value)
    counts = (rows[c] for c in ("n_collapsed", "n_runs", "collapse_high"))
    frame["runs collapsed"] = [_bounded(*row) for row in zip(*counts, strict=True)]
    sentence = ""
    if len(rest):
        where = "Elsewhere no loss failed" if len(rows) else "No loss failed on any class"
        highest = rest[["rate_high", "collapse_high"]].max()
        subjects, runs = highest.map(wording.probability)
        sentence = (
            f"{where}. That still allows failures on up to {subjects} of subjects, and collapses "
            f"in up to {runs} of trainings."
        )
    return {"table": frame, "rest": sentence}


def _bounded(n: float, total: float, high: float) -> str:
    """A count with the exact upper bound of its rate, such as 1 of 6 (at most 58 %)."""
    if pd.isna(n) or pd.isna(total):
        return NOTHING
    return f"{n:.0f} of {total:.0f} (at most {wording.probability(high)})"


def models(results: Results) -> pd.DataFrame:
    """What is said of two trained models, where each loss was trained once."""
    table = results.comparisons[results.comparisons["scope"] == "models"]
    frame = table[COMPARISON].copy()
    frame["this model"] = table["verdict_models"].fillna(NOTHING)
    frame["difference"] = table["difference"].map(wording.signed)
    frame["interval"] = wording.intervals(table, "models")
    frame["p, Holm"] = table["p_models_holm"].map(wording.p_value)
    frame["luck tolerated (SD)"] = table["noise_tolerated"].map(wording.number)
    return frame


def over_datasets(results: Results) -> pd.DataFrame:
    """What holds over data sets, a row per loss, model and metric."""
    table = results.table("over_datasets")
    frame = table[["loss", "model", "metric"]].copy()
    frame["data sets"] = table["n_datasets"].map(wording.count)
    frame["verdict"] = [f"{SYMBOLS[verdict]} {verdict}" for verdict in table["verdict"]]
    frame["difference"] = table["difference"].map(wording.signed)
    frame["interval"] = wording.intervals(table, "ci")
    frame["p, Holm"] = table["p_holm"].map(wording.p_value)
    frame["SD between data sets"] = table["sd_between"].map(wording.number)
    frame["on a new data set"] = wording.intervals(table, "prediction")
    return frame


def claims(results: Results) -> pd.DataFrame:
    """Statements of others, and whether they hold here."""
    table = results.table("claims")
    frame = table[["claim", "source", "verdict", "figure", "evidence"]].fillna(NOTHING).astype(str)
    return frame.assign(verdict=[f"{CLAIMS.get(v, '')} {v}" for v in frame["verdict"]])


def ranks(results: Results) -> pd.DataFrame:
    """Rank of each loss with its interval and how sure it is to be first, a column per class."""
    table = results.table("ranks")
    table = table[table["metric"] == results.metric]
    columns = zip(*(table[c] for c in ("rank", "rank_low", "rank_high", "p_first")), strict=True)
    texts = [
        f"{rank:.3g} ({low:.3g} to {high:.3g}), first {wording.probability(first)}"
        for rank, low, high, first in columns
    ]
    return _wide(results, table.assign(text=texts), "loss", "class")


def pooled(results: Results) -> pd.DataFrame:
    """Dice and IoU of the counts summed over all cases, a row per class, a column per loss."""
    table = results.table("pooled")
    both = zip(table["dice"], table["iou"], strict=True)
    texts = [f"{wording.number(dice)}, IoU {wording.number(iou)}" for dice, iou in both]
    return _wide(results, table.assign(text=texts), "class", "loss")


def _wide(
    results: Results, table: pd.DataFrame, rows: str, columns: str, more: Sequence[str] = ()
) -> pd.DataFrame:
    """The column `text` in the order of the experiment; too many columns become rows."""
    if table.empty:
        return table
    orders = {
        "dataset": results.experiment.matrix.dataset,
        "model": results.experiment.matrix.model,
        "loss": results.losses,
        "class": list(
            dict.fromkeys(
                [*(c for d, _ in results.groups for c in results.classes(d)), "micro", "macro"]
            )
        ),
    }
    places = {key: {x: i for i, x in enumerate(order)} for key, order in orders.items()}
    keys = [*GROUP, rows, columns]
    table = table.sort_values(keys, key=lambda column: column.map(places[column.name]))
    if table[columns].nunique() > MAX_COLUMNS:
        return table[[*keys, *more, "text"]].rename(columns={"text": "value"})
    index = [*GROUP, rows, *more]
    wide = table.pivot(index=index, columns=columns, values="text")
    wide = wide.loc[table.set_index(index).index.unique()]
    wide = wide[[x for x in orders[columns] if x in wide]].fillna(NOTHING)
    return wide.rename_axis(columns=None).reset_index()


def collapses(results: Results) -> dict[str, Any]:
    """Runs that never found a class, from the first validation to the end: a table, maybe empty."""
    table = results.table("collapses")
    if table.empty:
        return {}
    table = table[table["n_collapsed"] > 0].sort_values("n_collapsed", ascending=False)
    frame = table[[*GROUP, "loss", "class"]].copy()
    pairs = zip(table["n_collapsed"], table["n_runs"], strict=True)
    frame["collapsed"] = [f"{n:.0f} of {runs:.0f} runs" for n, runs in pairs]
    in_all_runs = table["n_collapsed"] == table["n_runs"]
    return {"table": frame.assign(runs=table["seeds"].fillna(NOTHING)), "in_all_runs": in_all_runs}


def scale(results: Results) -> pd.DataFrame:
    """How much of each difference the scale of the loss alone explains."""
    table = results.table("scale")
    frame = table[COMPARISON].copy()
    frame["difference"] = table["difference"].map(wording.signed)
    frame["at the scale of the reference"] = table["matched"].map(wording.signed)
    frame["by scale alone"] = table["explained"].map(wording.signed)
    frame["its interval"] = wording.intervals(table, "ci")
    return frame


def tuning(results: Results) -> pd.DataFrame:
    """Both verdicts of each comparison, at the common learning rate and at each loss's own."""
    table = results.table("tuning")
    frame = table[COMPARISON].copy()
    for title, end in {"common learning rate": "fixed", "own learning rates": "tuned"}.items():
        pairs = zip(table[f"verdict_{end}"], table[f"difference_{end}"], strict=True)
        frame[title] = [f"{verdict} {wording.signed(difference)}" for verdict, difference in pairs]
    columns = (table[name] for name in ("lr_fixed", "lr_tuned", "lr_tuned_reference"))
    frame["rates: common, of the loss, of the reference"] = [
        ", ".join(f"{rate:g}" for rate in rates) for rates in zip(*columns, strict=True)
    ]
    frame["explained by the rate"] = table["explained_by_lr"].map(wording.signed)
    frame["its interval"] = wording.intervals(table, "ci")
    frame["at an edge"] = table["at_edge"].map(lambda n: counted(n, "fold") if n else "no")
    return frame


def cost(results: Results) -> pd.DataFrame:
    """What a training costs with each loss: medians over its runs, time against the reference."""
    rows = []
    for dataset, model in results.groups if set(COST) <= set(results.runs) else ():
        runs = results.of(results.runs, dataset, model).groupby("loss")
        medians, sizes = runs[COST].median(), runs.size()
        reference_seconds = medians["train_seconds"].get(results.reference, float("nan"))
        for loss in (x for x in results.losses if x in medians.index):
            seconds, rate, memory = medians.loc[loss]
            ratio = seconds / reference_seconds if reference_seconds > 0 else float("nan")
            rows.append(
                {
                    **{"dataset": dataset, "model": model, "loss": loss, "runs": str(sizes[loss])},
                    "train seconds": wording.count(seconds, 1),
                    "time against reference": f"{wording.TIMES}{ratio:.2f}"
                    if ratio == ratio
                    else NOTHING,
                    "images per second": wording.count(rate, 1),
                    "peak memory of the block (MB)": wording.count(memory / 1e6),
                }
            )
    return pd.DataFrame(rows)


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
