"""Learning rates that were tuned: rates.json of a fold, and the runs that are trained with them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json, read_json_once
from lossbench.common.provenance import run_digest
from lossbench.config import TUNED, Experiment, UserError

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
    content["runs"] = {loss: with_rate(run, file) for loss, run in content["runs"].items()}
    if lacking := [loss for loss, run in content["runs"].items() if _is_tuned(run)]:
        read_json(file)  # which says so where it is missing
        raise UserError(f"{file}: has no rate for {lacking[0]}; delete it and run the workflow")
    return content


def tuning_digest(
    experiment: Experiment, data_digest: str, dataset: str, model: str, fold: int
) -> str:
    """Digest of a fold's tuning: its settings and its data, as rates.json has it."""
    return run_digest(json.loads(experiment.tuning_json(dataset, model, fold)), data_digest)


def tuned(experiment: Experiment, results: Path, dataset: str, model: str, fold: int) -> bool:
    """Whether the learning rates of a fold are those of its settings and data."""
    try:
        rates = read_json(rates_file(results / experiment.experiment, dataset, model, fold))
        data_digest = read_json(results / "datasets" / dataset / "classes.json")["digest"]
        return rates["digest"] == tuning_digest(experiment, data_digest, dataset, model, fold)
    except (UserError, KeyError, TypeError):  # missing or damaged
        return False


def run_of(
    experiment: Experiment, folder: Path, dataset: str, model: str, loss: str, fold: int, seed: int
) -> dict[str, Any]:
    """A run of an experiment, with its learning rate where that is tuned and known."""
    run = experiment.run(dataset, model, loss, fold, seed)
    return with_rate(run, rates_file(folder, dataset, model, fold))


def with_rate(run: dict[str, Any], rates: Path) -> dict[str, Any]:
    """A run with its learning rate, where that is tuned and the file with the rates has it."""
    if not _is_tuned(run) or not rates.exists():
        return run
    by_loss = read_json_once(rates)["rates"]
    rate = by_loss.get(run["loss"]["name"].removesuffix(TUNED))
    return {**run, "training": {**run["training"], "learning_rate": rate}}


def _is_tuned(run: Mapping[str, Any]) -> bool:
    return run["training"]["learning_rate"] is None
