"""Tune the learning rate of each loss of a fold, alike for all, without its evaluation cases."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossbench.common.files import read_json, reading, write_json
from lossbench.common.provenance import run_digest
from lossbench.config import LearningRateTuning, UserError, counted
from lossbench.datasets.inner_split import InnerSplit
from lossbench.datasets.prepared import Prepared
from lossbench.stages.train import train_missing
from lossbench.statistics import peak

log = logging.getLogger(__name__)


def tune(tuning: Path, data: Path, store: Path, output: Path, threads: int = 1) -> None:
    """Tune the learning rate of each loss of a fold: the same grid, seeds and cases for all.

    Each point of the grid is trained a few times, on training cases of the fold of which some are
    held out. A loss gets the rate at the vertex of a parabola around its best point.

    Parameters
    ----------
    tuning
        tuning.json: the grid, and how each loss is trained.
    data
        Folder of the prepared dataset.
    store
        results/runs: finished and half-finished runs by digest.
    output
        rates.json to write: digest (of tuning.json and the data), rates (by loss), at_edge (losses
        whose best point is the first or the last), and points (of each training loss,
        learning_rate, seed, status, dice, digest).
    threads
        CPU threads.

    Raises
    ------
    UserError
        Where a loss fails, or no case that is held out shows a class.
    SystemExit
        After SIGTERM or SIGINT, with every run's checkpoint written.
    """
    torch.set_num_threads(threads)
    prepared, spec = Prepared(data), read_json(tuning)
    prepared.verify()
    digest = run_digest(spec, prepared.digest)
    middle = spec["learning_rate"].pop("middle")
    grid = LearningRateTuning.model_validate(spec["learning_rate"])
    losses, half = list(spec["runs"]), grid.points // 2
    splits = {seed: InnerSplit(data, seed) for seed in grid.seeds}
    low, high = -half, half
    trained: dict[tuple[int, int], list[dict[str, Any]]] = {}
    while True:
        for position in range(low, high + 1):
            for seed, split in splits.items():
                if (position, seed) not in trained:
                    rate = grid.rate(middle, position)
                    trained[position, seed] = _train(spec, split, store, rate)
        # (losses, trainings, points)
        scores = [[trained[p, seed] for p in range(low, high + 1)] for seed in splits]
        curves = np.moveaxis([[[x["dice"] for x in y] for y in z] for z in scores], 2, 0)
        peaks = dict(zip(losses, map(peak, curves.astype(float)), strict=True))
        edges = {found.edge for found in peaks.values() if found}
        wider = (max(low - (-1 in edges), -2 * half), min(high + (1 in edges), 2 * half))
        if wider == (low, high):
            break
        low, high = wider
        log.info("the best point of a loss is an edge: all losses get a further one")
    rates = {
        loss: grid.rate(middle, low + found.position) if found else middle
        for loss, found in peaks.items()
    }
    at_edge = [loss for loss, found in peaks.items() if found is None or found.edge]
    points = [training for key in sorted(trained) for training in trained[key]]
    for point in points:
        point["dice"] = None if np.isnan(point["dice"]) else point["dice"]
    found = {"digest": digest, "rates": rates, "at_edge": at_edge, "points": points}
    write_json(output, found)
    chosen = ", ".join(f"{loss} {rate:g}" for loss, rate in rates.items())
    log.info("learning rates after %s: %s", counted(len(points), "training"), chosen)


def _train(
    spec: dict[str, Any], split: InnerSplit, store: Path, rate: float
) -> list[dict[str, Any]]:
    """Train each loss at a learning rate; what became of it, in their order."""
    seed = split.seed
    runs = {
        loss: {**run, "seed": seed, "training": {**run["training"], "learning_rate": rate}}
        for loss, run in spec["runs"].items()
    }
    # Validated at the end alone, which takes no part in the training.
    last = max(run["training"]["steps"] for run in runs.values())
    folders = train_missing(runs, spec["execution"] | {"validate_every": last}, store, split)
    found = []
    for loss, folder in folders.items():
        status = read_json(folder / "status.json")
        dice = _validation_dice(folder / "history.csv", split)
        if status["status"] == "diverged":
            dice = np.nan
        elif np.isnan(dice):
            raise UserError(
                f"{spec['dataset']}: no case that is held out for tuning in fold {spec['fold']} "
                "shows a class; give the dataset more cases, or take tuning out of the experiment"
            )
        log.info("%s at learning rate %g, seed %d: validation Dice %.4f", loss, rate, seed, dice)
        kept = {key: status[key] for key in ("digest", "status", "started", "finished")}
        found.append({"loss": loss, "learning_rate": rate, "seed": seed, "dice": dice, **kept})
    return found


def _validation_dice(history: Path, split: InnerSplit) -> float:
    """Mean Dice of the foreground at the last validation; NaN without any."""
    with reading(history), history.open() as file:
        last = list(csv.DictReader(file))[-1]
    names = [f"val/dice/{split.classes[label]}" for label in split.foreground]
    values = [float(last[name]) for name in names if last.get(name)]
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
