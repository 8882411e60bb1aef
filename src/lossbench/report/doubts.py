"""Where another way of looking at the same results concludes otherwise."""

from typing import Any

import pandas as pd

from lossbench.report import words
from lossbench.report.results import Results
from lossbench.report.tables import GROUP, intervals, p_value

CALLED = ("better", "worse")
_OF = [*GROUP, "class", "metric", "loss"]


def usual_test(results: Results) -> dict[str, Any] | None:
    """The test over cases alone against the verdicts: counts, and a row where they differ.

    Returns
    -------
    dict or None
        of, usual and ours (numbers of comparisons, and how many either calls different), table;
        None where the comparisons have no such test.
    """
    table = results.comparisons[results.comparisons["verdict_cases"].notna()]
    if table.empty:
        return None
    usual, ours = table["verdict_cases"].isin(CALLED), table["verdict"].isin(CALLED)
    apart = table[(usual | ours) & (table["verdict_cases"] != table["verdict"])]
    frame = apart[_OF].copy()
    frame["verdict"] = apart["verdict"]
    frame["usual test"] = apart["verdict_cases"]
    frame["difference"] = [words.difference(row) for _, row in apart.iterrows()]
    frame["interval"] = intervals(apart, "ci")
    frame["p, Holm"] = apart["p_holm"].map(p_value)
    frame["p of the usual test, Holm"] = apart["p_cases_holm"].map(p_value)
    return {"of": len(table), "usual": usual.sum(), "ours": ours.sum(), "table": frame}


def bootstrap(results: Results) -> pd.DataFrame | None:
    """The comparisons where one interval excludes 0 and its bootstrap check does not."""
    table = results.comparisons.dropna(subset=["boot_low", "boot_high", "ci_low", "ci_high"])
    if table.empty:
        return None
    sides = [_side(table[f"{name}_low"], table[f"{name}_high"]) for name in ("ci", "boot")]
    apart = table[sides[0] != sides[1]]
    frame = apart[[*_OF, "verdict"]].copy()
    return frame.assign(
        interval=intervals(apart, "ci"), **{"bootstrap interval": intervals(apart, "boot")}
    )


def _side(low: pd.Series, high: pd.Series) -> pd.Series:
    """1 for an interval above 0, -1 for one below, 0 for one that has it."""
    return (low > 0).astype(int) - (high < 0).astype(int)


def flips(results: Results) -> list[str]:
    """Differences whose sign depends on the convention for empty classes."""
    table = results.comparisons.dropna(subset="convention")
    return [
        f"{row['loss']} on {row['class']} ({row['dataset']}, {row['model']}): "
        f"the other sign by {row['convention'].replace(',', ', ')}"
        for _, row in table.iterrows()
    ]


def missing_pairs(results: Results) -> pd.DataFrame:
    """The comparisons that lack pairs which a full design would have."""
    table = results.comparisons[results.comparisons["n_missing"] > 0]
    frame = table[_OF].copy()
    frame["missing pairs"] = [f"{n:,.0f}" for n in table["n_missing"]]
    return frame.assign(cases=table["n_cases"].map("{:,.0f}".format), blocks=table["n_blocks"])
