"""What a workflow is about to do, in words: for a dry run, so that no torch and no pandas here."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json
from lossbench.common.provenance import run_digest
from lossbench.config import Experiment, Training, counted


def overview(experiment: Experiment, results: Path) -> str:
    """Blocks and runs of an experiment, and which of the runs the store holds already.

    Parameters
    ----------
    experiment
        As `validate` gives it.
    results
        The folder results/, which need not be there. That a stored run is whole is for `train` to
        check: a run counts as stored where its status is.

    Returns
    -------
    str
        A line for the experiment, one for the training, one for each dataset and model, and one for
        each loss that is to be trained there.
    """
    matrix, blocks = experiment.matrix, list(experiment.blocks())
    lines = [
        f"{experiment.experiment}: {counted(len(blocks) * len(matrix.loss), 'run')} in "
        f"{counted(len(blocks), 'block')}: {', '.join(matrix.loss)} on folds "
        f"{_listed(matrix.fold)}, seeds {_listed(matrix.seed)}; compared with "
        f"{experiment.comparison.reference}",
        f"  {_training(experiment.training, experiment.execution.validate_every)}",
    ]
    for (dataset, model), group in groupby(
        blocks, key=lambda keys: (keys["dataset"], keys["model"])
    ):
        prepared = results / "datasets" / dataset / "classes.json"
        if not prepared.is_file():
            lines.append(
                f"  {dataset}, {model}: not prepared yet; what the store holds is known after that"
            )
            continue
        digest = read_json(prepared)["digest"]
        states = Counter(
            (loss, _state(experiment.run(loss=loss, **keys), digest, results / "runs"))
            for keys in group
            for loss in matrix.loss
        )
        lines += _of_pair(f"  {dataset}, {model}", states, matrix.loss)
    return "\n".join(lines)


def _training(how: Training, validate_every: int) -> str:
    """What a study may have taken from the default experiment without a thought."""
    size = " x ".join(map(str, how.patch_size)) if how.patch_size else "the largest size"
    return (
        f"{how.steps} steps of {counted(how.batch_size, 'image')} of {size}, {how.optimizer} from "
        f"learning rate {how.learning_rate:g}, validated every {validate_every} steps"
    )


def _state(run: dict[str, Any], data_digest: str, store: Path) -> str:
    folder = store / run_digest(run, data_digest)
    if (folder / "status.json").is_file():
        return "stored"
    return "begun" if (folder / "checkpoint.pt").is_file() else "new"


def _of_pair(where: str, states: Counter, losses: list[str]) -> list[str]:
    stored = sum(number for (_, state), number in states.items() if state == "stored")
    lines = [f"{where}: {stored} of {states.total()} runs are taken from the store"]
    for loss in losses:
        begun, new = states[loss, "begun"], states[loss, "new"]
        if begun + new:
            goes_on = f", {begun} from a checkpoint" if begun else ""
            lines.append(f"    {loss}: {begun + new} to train{goes_on}")
    return lines


def _listed(numbers: list[int]) -> str:
    """Such as 0-4, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
