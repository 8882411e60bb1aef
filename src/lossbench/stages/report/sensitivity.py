"""Where another way of looking at the same results concludes otherwise."""

from typing import Any

import pandas as pd

from lossbench.stages.report import wording
from lossbench.stages.report.results import Results
from lossbench.stages.report.tables import GROUP, count, intervals, p_value

CALLED = ("better", "worse")
_COMPARISON = [*GROUP, "class", "metric", "loss"]


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
    frame = apart[_COMPARISON].copy()
    frame["verdict"] = apart["verdict"]
    frame["usual test"] = apart["verdict_cases"]
    frame["difference"] = [wording.difference(row) for _, row in apart.iterrows()]
    frame["interval"] = intervals(apart, "ci")
    frame["p, Holm"] = apart["p_holm"].map(p_value)
    frame["p of the usual test, Holm"] = apart["p_cases_holm"].map(p_value)
    return {"of": len(table), "usual": usual.sum(), "ours": ours.sum(), "table": frame}


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
    frame = table[_COMPARISON].copy()
    frame["missing pairs"] = table["n_missing"].map(count)
    return frame.assign(cases=table["n_cases"].map(count), blocks=table["n_blocks"])
