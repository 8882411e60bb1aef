"""Where another way of looking at the same results leads to another conclusion."""

from typing import Any

import pandas as pd

from lossbench.common.tables import GROUP
from lossbench.stages.report import wording
from lossbench.stages.report.results import COMPARISON, Results
from lossbench.stages.report.wording import NOTHING


def usual_test(results: Results) -> dict[str, Any]:
    """The test over cases alone beside the verdicts: counts, and a row where they differ.

    Returns
    -------
    dict
        total (number of comparisons), usual and ours (how many of them each calls different) and
        table; empty where the comparisons have no such test.
    """
    table = results.comparisons[results.comparisons["verdict_cases"].notna()]
    if table.empty:
        return {}
    usual, ours = (table[c].isin(["better", "worse"]) for c in ("verdict_cases", "verdict"))
    rows = table[(usual | ours) & (table["verdict_cases"] != table["verdict"])]
    frame = rows[COMPARISON].copy()
    frame["verdict"] = rows["verdict"]
    frame["usual test"] = rows["verdict_cases"]
    frame["difference"] = wording.differences(rows)
    frame["interval"] = wording.intervals(rows)
    frame["p, Holm"] = rows["p_holm"].map(wording.p_value)
    frame["p of the usual test, Holm"] = rows["p_cases_holm"].map(wording.p_value)
    return {"total": len(table), "usual": usual.sum(), "ours": ours.sum(), "table": frame}


def empty_classes(results: Results) -> dict[str, Any]:
    """What depends on how cases without a class are counted.

    Returns
    -------
    dict
        reversals (a text for each difference of which a convention says otherwise) and winners
        (`winners_by_convention`); empty for results without counts.
    """
    if results.table("conventions").empty:
        return {}
    rows = results.comparisons.dropna(subset="convention")
    reversals = [
        f"{row['loss']} on {row['class']} ({row['dataset']}, {row['model']}): "
        f"the sign or the verdict changes with {row['convention'].replace(',', ', ')}"
        for _, row in rows.iterrows()
    ]
    return {"reversals": reversals, "winners": winners_by_convention(results)}


def winners_by_convention(results: Results) -> pd.DataFrame:
    """The loss with the highest mean under each convention, for classes where it changes."""
    rows = []
    for keys, part in results.table("conventions").groupby([*GROUP, "class"], sort=False):
        winners = part[part["winner"]].groupby("convention", sort=False)
        names = winners["loss"].agg(lambda losses: wording.listing(list(losses)))
        if names.nunique() <= 1:
            continue
        of_reference = part[part["loss"] == results.reference]
        means = of_reference.set_index("convention")["mean"].map(wording.number)
        for convention, first in winners:
            rows.append(
                {
                    **dict(zip([*GROUP, "class"], keys, strict=True)),
                    "convention": convention,
                    "cases": wording.count(first["n_cases"].iloc[0]),
                    "winner": names[convention],
                    "its mean": wording.number(first["mean"].iloc[0]),
                    f"mean of {results.reference}": means.get(convention, NOTHING),
                }
            )
    return pd.DataFrame(rows)


def missing_pairs(results: Results) -> pd.DataFrame:
    """The comparisons that lack pairs which a full design would have."""
    table = results.comparisons[results.comparisons["n_missing"] > 0]
    frame = table[COMPARISON].copy()
    for name in ("missing", "cases", "blocks"):
        frame[name] = table[f"n_{name}"].map(wording.count)
    return frame.rename(columns={"missing": "missing pairs"})
