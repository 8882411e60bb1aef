"""The claims of an experiment, each held against its evidence."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common import tables
from lossbench.common.files import block_folder, read_json
from lossbench.config import Experiment
from lossbench.config.sections import CardClaim, ComparisonClaim, LedgerClaim
from lossbench.stages.compare.comparisons import max_difference
from lossbench.stages.compare.scores import Scores
from lossbench.statistics import Difference, holm, paired_difference, verdict

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
EQUAL = 2.0  # shares are about equal where the largest is less than this many times the smallest
SHARES = {"value": "value", "l1": "L1 norm of the gradient", "l2": "L2 norm of the gradient"}


def claims(settings: Experiment, folder: Path, groups: Sequence[Scores]) -> pd.DataFrame:
    """Say of every claim whether it holds, for each dataset and model.

    Parameters
    ----------
    settings
        The experiment, with its claims.
    folder
        Of the experiment: its blocks, for the ledgers, and check.json, for the cards.
    groups
        What was measured, for each dataset and model.

    Returns
    -------
    pd.DataFrame
        claim, source, dataset, model, verdict (holds, fails or undecided), figure (what was
        measured, in words) and evidence (where).
    """
    differences = iter(_tested(settings, groups))
    rows = []
    for claim, scores in product(settings.claims, groups):
        if claim.comparison:
            limit = max_difference(scores, claim.comparison.metric)
            found = _compared(claim.comparison, *next(differences), limit, settings)
        elif claim.ledger:
            found = _weighed(claim.ledger, _shares(claim.ledger, settings, folder, scores))
        else:
            cards = read_json(folder / "check.json")["cards"][scores.dataset]
            found = _read(claim.card, cards[claim.card.loss])
        names = {"claim": claim.claim, "source": claim.source, **scores.keys}
        rows.append(names | dict(zip(tables.CLAIMS[4:], found, strict=True)))
    return pd.DataFrame(rows, columns=tables.CLAIMS)


def _tested(settings: Experiment, groups: Sequence[Scores]) -> Iterator[tuple[Difference, float]]:
    """The difference of each comparison that is claimed, and its p after Holm over all of them.

    In the order of claims, then groups.
    """
    claimed = [c.comparison for c in settings.claims if c.comparison]
    differences = [
        paired_difference(
            scores.pairs(c.metric, c.loss, c.against, scores.classes.index(c.of_class))
        )
        for c, scores in product(claimed, groups)
    ]
    return zip(differences, holm([d.p() for d in differences]), strict=True)


def _compared(
    claim: ComparisonClaim, difference: Difference, p: float, limit: float, settings: Experiment
) -> tuple[str, str, str]:
    how, higher = settings.comparison, not settings.metric(claim.metric).lower_is_better
    found = verdict(difference, p, how.margin_of(claim.metric), how.alpha, higher)
    low, high = difference.interval(1 - how.alpha, limit)
    interval = f"{low:+.3f} to {high:+.3f}" if np.isfinite(low) else "no interval"
    said = UNDECIDED if found == UNDECIDED else HOLDS if found == claim.expect else FAILS
    evidence = f"{claim.metric} on {claim.of_class}: {claim.loss} minus {claim.against}"
    return said, f"{difference.mean:+.3f} ({interval}): {found}", evidence


def _shares(claim: LedgerClaim, settings: Experiment, folder: Path, scores: Scores) -> pd.DataFrame:
    """Share of each class (columns) in each run (rows)."""
    prefix, rows = f"ledger/{claim.share}/", []
    for keys in settings.blocks():
        if scores.keys.items() <= keys.items():
            history = pd.read_csv(block_folder(folder, **keys) / claim.loss / "history.csv")
            entries = history.filter(regex=f"^{prefix}").dropna(how="all")
            rows.append(entries.iloc[0 if claim.at == "start" else -1])
    return pd.DataFrame(rows).rename(columns=lambda name: name.removeprefix(prefix))


def _weighed(claim: LedgerClaim, shares: pd.DataFrame) -> tuple[str, str, str]:
    if claim.expect == "equal":
        kept = shares.max(axis=1) < EQUAL * shares.min(axis=1)
    else:
        best = shares.idxmax(axis=1) if claim.expect == "largest" else shares.idxmin(axis=1)
        kept = best == claim.of_class
    said = HOLDS if kept.all() else UNDECIDED if kept.any() else FAILS
    means = ", ".join(f"{name} {share:.0%}" for name, share in shares.mean().items())
    figure = f"{means}; in {kept.sum()} of {len(kept)} runs"
    evidence = f"share of the {SHARES[claim.share]} of {claim.loss}, at the {claim.at}"
    return said, figure, evidence


def _read(claim: CardClaim, card: dict[str, Any]) -> tuple[str, str, str]:
    found = card[claim.property]
    said = HOLDS if str(found) == claim.expect else FAILS
    return said, str(found), f"card of {claim.loss}: {claim.property.replace('_', ' ')}"
