"""The section on tuned learning rates: both verdicts, validation Dice by rate, expected best."""

from typing import Any

import numpy as np
import pandas as pd

from lossbench.common.tables import GROUP
from lossbench.config import counted
from lossbench.stages.report import wording
from lossbench.stages.report.figure_style import (
    MAX_LINES,
    Picture,
    colour,
    heading,
    save,
    small,
    titled,
)
from lossbench.stages.report.results import Results
from lossbench.statistics import expected_best


def tuning(results: Results) -> dict[str, Any]:
    """The table of both verdicts, and pictures of the tuning; empty where nothing was tuned."""
    table, runs = results.table("tuning"), results.table("tuning_runs")
    if table.empty:
        return {}
    frame = table[[*GROUP, "class", "metric", "loss"]].copy()
    for title, end in {"common learning rate": "fixed", "own learning rates": "tuned"}.items():
        pairs = zip(table[f"verdict_{end}"], table[f"difference_{end}"], strict=True)
        frame[title] = [f"{verdict} {wording.signed(difference)}" for verdict, difference in pairs]
    columns = (table[name] for name in ("lr_fixed", "lr_tuned", "lr_tuned_reference"))
    frame["rates: common, of the loss, of the reference"] = [
        ", ".join(f"{rate:g}" for rate in rates) for rates in zip(*columns, strict=True)
    ]
    frame["explained by the rate"] = table["explained_by_lr"].map(wording.signed)
    frame["its interval"] = [wording.difference_interval(row, "ci") for _, row in table.iterrows()]
    frame["at an edge"] = table["at_edge"].map(lambda n: counted(n, "fold") if n else "no")
    pictures = [
        picture
        for dataset, model in results.groups
        for picture in _pictures(results, dataset, model, results.of(runs, dataset, model))
    ]
    return {"table": frame, "pictures": pictures, "trainings": len(runs)}


def _pictures(results: Results, dataset: str, model: str, runs: pd.DataFrame) -> list[Picture]:
    """Mean validation Dice by learning rate, and the expected best of so many trainings."""
    pictures, losses = [], list(runs["loss"].unique())
    for part, start in enumerate(range(0, len(losses), MAX_LINES), 1):
        figure, (of_rate, of_budget) = small(2.9, columns=2)
        for loss in losses[start : start + MAX_LINES]:
            rows, shade = runs[runs["loss"] == loss], colour(results, loss)
            # Diverged trainings count as the worst.
            dice = rows["dice"].fillna(rows["dice"].min())
            by_rate = dice.groupby(rows["learning_rate"]).mean()
            of_rate.plot(by_rate.index, by_rate, marker="o", markersize=4, color=shade, label=loss)
            best = expected_best(dice.to_numpy())
            of_budget.plot(np.arange(1, len(best) + 1), best, color=shade)
        of_rate.set(xscale="log", xlabel="learning rate", ylabel="validation Dice of the tuning")
        of_rate.axvline(
            results.experiment.training_of(dataset).learning_rate, color="0.3", linewidth=1
        )
        of_rate.legend(fontsize=7)
        of_budget.set(xscale="log", xlabel="trainings", ylabel="expected best of them")
        titled(figure, f"tuning of {len(losses)} losses")
        file = ("tuning", dataset, model, part)
        pictures.append(save(results, figure, heading(dataset, model), "learning rate", *file))
    return pictures
