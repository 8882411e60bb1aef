"""What a dry run prints below Snakemake's list of jobs: runs, and why they are trained.

Snakemake imports this at every start, each job's included: no torch and no pandas here.
"""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from lossbench.common.code import changed_files
from lossbench.common.files import block_folder, read_json
from lossbench.common.provenance import run_digest
from lossbench.config import Experiment, Training, UserError, canonical, counted


def overview(experiment: Experiment, results: Path) -> str:
    """Blocks and runs of an experiment, and which of the runs the store holds already.

    Parameters
    ----------
    experiment
        As `validate` gives it.
    results
        The folder results/, which need not exist. That a stored run is whole is for `train` to
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
        f"{_ranges(matrix.fold)}, seeds {_ranges(matrix.seed)}; compared with "
        f"{experiment.comparison.reference}",
        f"  {_training(experiment.training, experiment.execution.validate_every)}",
    ]
    for (dataset, model), of_group in groupby(
        blocks, key=lambda keys: (keys["dataset"], keys["model"])
    ):
        group = list(of_group)
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
        stored = sum(states[loss, "stored"] for loss in matrix.loss)
        lines.append(
            f"  {dataset}, {model}: {stored} of {states.total()} runs are taken from the store"
        )
        for loss in matrix.loss:
            begun, new = states[loss, "begun"], states[loss, "new"]
            if begun + new:
                resumed = f", {begun} from a checkpoint" if begun else ""
                reasons = dict.fromkeys(
                    reason
                    for keys in group
                    for reason in _reasons(experiment, results, keys, loss, digest)
                )
                again = f" (retrained: {', '.join(reasons)})" if reasons else ""
                lines.append(f"    {loss}: {begun + new} to train{resumed}{again}")
    return "\n".join(lines)


def _reasons(
    experiment: Experiment, results: Path, keys: dict[str, Any], loss: str, data_digest: str
) -> list[str]:
    """What has changed since a run of a block was trained; empty where nothing has, or none was."""
    folder = block_folder(results / experiment.experiment, **keys) / loss
    run = experiment.run(loss=loss, **keys)
    try:
        if read_json(folder / "status.json")["digest"] == run_digest(run, data_digest):
            return []
        trained = read_json(folder / "run.json")
        files = changed_files(trained.pop("code", {}), run.pop("code", {}))
    except (UserError, KeyError, AttributeError, TypeError):  # missing or damaged
        return []
    reasons = [f"{file} has changed" for file in files]
    if canonical(trained) != canonical(run):
        reasons.append("its settings have changed")
    return reasons or ["its data have changed"]


def _training(training: Training, validate_every: int) -> str:
    """What a study may have taken from the default experiment without a thought."""
    size = " x ".join(map(str, training.patch_size)) if training.patch_size else "the largest size"
    return (
        f"{training.steps} steps of {counted(training.batch_size, 'image')} of {size}, "
        f"{training.optimizer} from learning rate {training.learning_rate:g}, "
        f"validated every {validate_every} steps"
    )


def _state(run: dict[str, Any], data_digest: str, store: Path) -> str:
    folder = store / run_digest(run, data_digest)
    if (folder / "status.json").is_file():
        return "stored"
    return "begun" if (folder / "checkpoint.pt").is_file() else "new"


def _ranges(numbers: list[int]) -> str:
    """Whole numbers in words: 0-4, 7."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges)
