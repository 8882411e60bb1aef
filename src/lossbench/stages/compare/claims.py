"""The claims of an experiment, each held against its evidence."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.files import block_folder, read_json, reading
from lossbench.common.rounds import planned_blocks
from lossbench.config import Experiment
from lossbench.config.claims import ComparisonClaim, LedgerClaim
from lossbench.stages.compare.family import Tested
from lossbench.stages.compare.scores import Scores
from lossbench.statistics import Decision, Difference

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
EQUAL = 2.0  # shares are about equal where the largest is less than this many times the smallest
SHARES = {"value": "value", "l1": "L1 norm of the gradient", "l2": "L2 norm of the gradient"}


def claims(
    settings: Experiment, folder: Path, groups: Sequence[Scores], tested: Tested
) -> pd.DataFrame:
    """Say of every claim whether it holds, for each dataset and model.

    Parameters
    ----------
    settings
        The experiment, with its claims.
    folder
        Of the experiment: its blocks, for the ledgers, and check.json, for the cards.
    groups
        What was measured, for each dataset and model.
    tested
        Their `family`.

    Returns
    -------
    pd.DataFrame
        claim, source, dataset, model, verdict (holds, fails or undecided), figure (what was
        measured, in words) and evidence (where).
    """
    rows = []
    for claim, scores in product(settings.claims, groups):
        if claim.comparison:
            c = claim.comparison
            key = (*scores.keys.values(), c.loss, c.against, c.of_class, c.metric)
            limit = settings.metric(c.metric).high
            row = _test_comparison(c, tested[key].difference, tested[key].decision, limit)
        elif claim.ledger:
            row = _test_ledger(claim.ledger, _shares(claim.ledger, settings, folder, scores))
        else:
            with reading(folder / "check.json"):
                card = read_json(folder / "check.json")["cards"][scores.dataset][claim.card.loss]
                value = str(card[claim.card.property])
            evidence = f"card of {claim.card.loss}: {claim.card.property.replace('_', ' ')}"
            row = HOLDS if value == claim.card.expect else FAILS, value, evidence
        names = {"claim": claim.claim, "source": claim.source, **scores.keys}
        rows.append(names | dict(zip(("verdict", "figure", "evidence"), row, strict=True)))
    return pd.DataFrame(rows, columns=tables.CLAIMS)


def _test_comparison(
    claim: ComparisonClaim, difference: Difference, decision: Decision, limit: float
) -> tuple[str, str, str]:
    low, high = max(decision.low, -limit), min(decision.high, limit)
    interval = f"{low:+.3f} to {high:+.3f}" if np.isfinite(difference.variance) else "no interval"
    result = HOLDS if decision.verdict == claim.expect else FAILS
    evidence = f"{claim.metric} on {claim.of_class}: {claim.loss} minus {claim.against}"
    figure = f"{difference.mean:+.3f} ({interval}): {decision.verdict}"
    return UNDECIDED if decision.verdict == UNDECIDED else result, figure, evidence


def _shares(claim: LedgerClaim, settings: Experiment, folder: Path, scores: Scores) -> pd.DataFrame:
    """Share of each class (columns) in each run (rows)."""
    prefix, rows = f"ledger/{claim.share}/", []
    for keys, losses in planned_blocks(settings, folder):
        if scores.keys.items() <= keys.items() and claim.loss in losses:
            file = block_folder(folder, **keys) / claim.loss / "history.csv"
            with reading(file):
                entries = pd.read_csv(file).filter(regex=f"^{prefix}").dropna(how="all")
                rows.append(entries.iloc[0 if claim.at == "start" else -1])
    return pd.DataFrame(rows).rename(columns=lambda name: name.removeprefix(prefix))


def _test_ledger(claim: LedgerClaim, shares: pd.DataFrame) -> tuple[str, str, str]:
    if claim.expect == "equal":
        kept = shares.max(axis=1) < EQUAL * shares.min(axis=1)
    else:
        best = shares.idxmax(axis=1) if claim.expect == "largest" else shares.idxmin(axis=1)
        kept = best == claim.of_class
    result = HOLDS if kept.all() else UNDECIDED if kept.any() else FAILS
    means = ", ".join(f"{name} {share:.0%}" for name, share in shares.mean().items())
    figure = f"{means}; in {kept.sum()} of {len(kept)} runs"
    evidence = f"share of the {SHARES[claim.share]} of {claim.loss}, at the {claim.at}"
    return result, figure, evidence
