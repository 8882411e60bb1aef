"""Verdicts in words: numbers with their intervals, a sentence per class, an answer per dataset."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossbench.config import METRICS
from lossbench.stages.report.results import Results

# Each verdict has a symbol, so that none is told by its colour alone.
SYMBOLS = {"better": "▲", "worse": "▼", "equivalent": "≈", "undecided": "?"}
MINUS, NOTHING, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
MANY = 3  # losses; a sentence about more of them counts instead of naming numbers
LARGEST = 100_000  # more cases or blocks than this are as good as never


def number(value: float, width: float = np.nan, sign: bool = False) -> str:
    """A figure with three decimals, or four where its interval is too narrow for three."""
    if not np.isfinite(value):
        return NOTHING
    digits = 4 if 0 < width < 0.004 else 3
    rounded = round(float(value), digits)
    if rounded == 0:  # neither +0.000 nor -0.000
        return f"{0:.{digits}f}"
    return f"{rounded:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def interval(low: float, high: float, sign: bool = False) -> str:
    """An interval as "0.012 to 0.034", or that there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "no interval"
    return f"{number(low, high - low, sign)} to {number(high, high - low, sign)}"


def difference(row: pd.Series) -> str:
    """Difference to the reference, signed."""
    return number(row["difference"], row["ci_high"] - row["ci_low"], sign=True)


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return METRICS[metric].title if metric in METRICS else metric


def percent(share: float) -> str:
    """A share as "95 %"."""
    return f"{round(100 * share, 6):g} %"


def listing(names: Sequence[str]) -> str:
    """Names as "a, b and c"."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def needed(row: pd.Series) -> dict[str, str]:
    """How many in all would decide a comparison, by unit; empty where nobody can say."""
    found = {}
    for unit in ("blocks", "cases"):
        wanted = row[f"n_{unit}_needed"]
        if wanted <= row[f"n_{unit}"]:  # an estimate: what is there should do, and did not
            found[unit] = f"a few more {unit}"
        elif wanted <= LARGEST:  # and no NaN
            found[unit] = f"about {wanted:,.0f} {unit}"
    return found


def _would_decide(row: pd.Series) -> str:
    """Such as "about 12 blocks or about 90 cases would decide; there are 4 blocks and 60 cases"."""
    more = needed(row)
    if not more:
        return "no estimate of what would decide is possible"
    there = {unit: f"{row[f'n_{unit}']:,.0f}" for unit in more}
    have = [n if len(there) == 1 else f"{n} {unit}" for unit, n in there.items()]
    return f"{' or '.join(more.values())} would decide; there are {listing(have)}"


def sentence(rows: pd.DataFrame, margin: float) -> str:
    """What is known about each loss on one class, as the end of "on this class, ..."."""
    if rows.empty:
        return "nothing was compared."
    if len(rows) <= MANY:
        clauses = [_clause(row, margin) for _, row in rows.iterrows()]
    else:
        clauses = [
            _count(rows, verdict) for verdict in SYMBOLS if (rows["verdict"] == verdict).any()
        ]
    return "; ".join(clauses) + "."


def _clause(row: pd.Series, margin: float) -> str:
    loss, verdict = row["loss"], row["verdict"]
    limits = interval(row["ci_low"], row["ci_high"], sign=True)
    if verdict in ("better", "worse"):
        return f"{loss} is {verdict} ({difference(row)}, {limits})"
    if verdict == "equivalent":
        return f"{loss} is equivalent ({limits}, within ±{margin:g})"
    if not np.isfinite(row["ci_low"]):
        return f"{loss} is undecided ({difference(row)}, {limits}: {_unknown(row)})"
    return f"{loss} is undecided ({limits}; {_would_decide(row)})"


def _unknown(row: pd.Series) -> str:
    """Why a comparison has no interval."""
    if row["n_blocks"] == 1:
        return "with one block, the luck of a training cannot be told from the loss"
    return "too few cases have a value with both losses"


def _count(rows: pd.DataFrame, verdict: str) -> str:
    names = rows.loc[rows["verdict"] == verdict, "loss"].tolist()
    who = listing(names) if len(names) <= MANY else f"{len(names)} losses"
    return f"{who} {'is' if len(names) == 1 else 'are'} {verdict}"


def answer(results: Results, dataset: str, model: str, metric: str) -> str:
    """Which loss to train with, as far as one metric on one dataset and model says."""
    rows = results.of(results.comparisons, dataset, model, metric=metric)
    rows = rows[rows["loss"].isin(results.compared)]
    reference, order = results.reference, results.classes(dataset)
    if rows.empty:
        return f"There is only {reference}: nothing to compare it with."
    rows = rows.sort_values("class", key=lambda names: names.map(order.index))
    by_loss = {x: _verdicts(rows, x) for x in by_gains(rows)}
    clear = [x for x, v in by_loss.items() if v["better"] and not v["worse"]]
    if clear:
        return _train_with(clear, by_loss, reference)
    if mixed := [x for x, v in by_loss.items() if v["better"]]:
        parts = [f"{x} is {_on(by_loss[x], ('better', 'worse'))}" for x in mixed[:MANY]]
        more = f", and {len(mixed) - MANY} more losses alike" if len(mixed) > MANY else ""
        return f"It depends on the class. Than {reference}, {'; '.join(parts)}{more}."
    undecided = int((rows["verdict"] == "undecided").sum())
    if not undecided:
        return f"Keep {reference}: no other loss is better on any class."
    return (
        f"Keep {reference} for now: no other loss is shown to be better on any class, and "
        f"{undecided} of {len(rows)} comparisons are undecided."
    )


def by_gains(rows: pd.DataFrame) -> list[str]:
    """The losses of some comparisons, those that are better on most classes first."""
    better = rows[rows["verdict"] == "better"]["loss"].value_counts()
    worse = rows[rows["verdict"] == "worse"]["loss"].value_counts()
    return sorted(rows["loss"].unique(), key=lambda x: (-better.get(x, 0), worse.get(x, 0)))


def _train_with(clear: list[str], by_loss: dict[str, dict[str, list[str]]], reference: str) -> str:
    if len(clear) == 1:
        verdicts = by_loss[clear[0]]
        rest = f", {_on(verdicts, ('undecided',))}" if verdicts["undecided"] else ""
        return f"Train with {clear[0]}: {_on(verdicts, ('better',))}, worse on none{rest}."
    parts = [f"{x} ({_on(by_loss[x], ('better',))})" for x in clear[:MANY]]
    if len(clear) > MANY:
        return (
            f"{len(clear)} of {len(by_loss)} losses are better than {reference} on some class and "
            f"worse on none. Most gains: {', '.join(parts)}."
        )
    return f"Train with {' or '.join(parts)}: none of them is worse on any class."


def _verdicts(rows: pd.DataFrame, loss: str) -> dict[str, list[str]]:
    """The classes of each verdict."""
    mine = rows[rows["loss"] == loss]
    return {v: mine.loc[mine["verdict"] == v, "class"].tolist() for v in SYMBOLS}


def _on(verdicts: dict[str, list[str]], wanted: Sequence[str]) -> str:
    """Such as "better on a and b, worse on c"."""
    number = sum(map(len, verdicts.values()))
    return ", ".join(f"{verdict} on {_classes(verdicts[verdict], number)}" for verdict in wanted)


def _classes(names: list[str], number: int) -> str:
    if len(names) == number > 1:
        return f"all {number} classes"
    return listing(names) if len(names) <= MANY else f"{len(names)} of {number} classes"
