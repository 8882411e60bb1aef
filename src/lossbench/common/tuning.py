"""Learning rates that were tuned: rates.json of a fold, and the runs that are trained with them."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json
from lossbench.config import TUNED, Experiment

RATES = "rates.json"  # what `tune` wrote, in the folder of a fold


def rates_file(folder: Path, dataset: str, model: str, fold: int) -> Path:
    """Where the learning rates of a fold are, below the folder of the experiment."""
    return folder / dataset / model / f"fold{fold}" / RATES


def read_block(block: Path) -> dict[str, Any]:
    """Read block.json, with the learning rates that were tuned for its fold.

    Raises
    ------
    UserError
        Where a file is missing or damaged.
    """
    content, file = read_json(block), block.parents[1] / RATES
    if any(_is_tuned(run) for run in content["runs"].values()):
        read_json(file)  # which says so where it is missing
    content["runs"] = {loss: with_rate(run, file) for loss, run in content["runs"].items()}
    return content


def run_of(
    experiment: Experiment, folder: Path, dataset: str, model: str, loss: str, fold: int, seed: int
) -> dict[str, Any]:
    """A run of an experiment, with its learning rate where that is tuned and known."""
    run = experiment.run(dataset, model, loss, fold, seed)
    return with_rate(run, rates_file(folder, dataset, model, fold))


def with_rate(run: dict[str, Any], rates: Path) -> dict[str, Any]:
    """A run with its learning rate, where that is tuned and the file with the rates is there."""
    if not _is_tuned(run) or not rates.exists():
        return run
    by_loss = _read(rates, rates.stat().st_mtime_ns)["rates"]
    rate = by_loss[run["loss"]["name"].removesuffix(TUNED)]
    return {**run, "training": {**run["training"], "learning_rate": rate}}


@lru_cache(maxsize=128)
def _read(file: Path, _mtime: int) -> dict[str, Any]:
    """Learning rates of a fold; Snakemake asks for each block."""
    return read_json(file)


def _is_tuned(run: Mapping[str, Any]) -> bool:
    return run["training"]["learning_rate"] is None
