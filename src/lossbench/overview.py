"""What a dry run prints below Snakemake's list of jobs: runs, and why they are trained.

Snakemake imports this at every start, each job's included: no torch and no pandas here.
"""

import json
from collections import Counter
from itertools import groupby, product
from pathlib import Path
from typing import Any

from lossbench.common.data_files import sources_version
from lossbench.common.files import block_folder, read_json
from lossbench.common.provenance import run_digest
from lossbench.common.rounds import last_look, look_file, planned_blocks
from lossbench.common.tuning import run_of, tuned
from lossbench.common.user_code import changed_files
from lossbench.config import (
    OF_ALL_CLASSES,
    Experiment,
    Training,
    UserError,
    canonical,
    counted,
)

# Three blocks and six comparisons need 11: such studies find a difference of 0.005 in 3 % (docs).
TOO_MANY_STANDARD_ERRORS = 10.0
ENOUGH_STANDARD_ERRORS = 5.0  # as with five blocks and six comparisons


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
        A line for the experiment, one for the training, one for each dataset and model, one for
        each loss that is to be trained there, and `low_power`.
    """
    matrix, n_blocks = experiment.matrix, len(list(experiment.blocks()))
    folder = results / experiment.experiment
    validate_every = experiment.execution.validate_every
    at_most = "at most " if experiment.rounds else ""
    lines = [
        f"{experiment.experiment}: {at_most}{counted(n_blocks * len(matrix.loss), 'run')} in "
        f"{at_most}{counted(n_blocks, 'block')}: {', '.join(matrix.loss)} on folds "
        f"{_ranges(matrix.fold)}, seeds {_ranges(matrix.seed)}; compared with "
        f"{experiment.comparison.reference}",
        f"  {_training(experiment.training, validate_every)}",
        *(
            f"  {name}: {_training(experiment.training_of(name), validate_every)}"
            for name in matrix.dataset
            if experiment.datasets[name].training
        ),
        *_tuning(experiment, folder),
        *_rounds(experiment, folder),
    ]
    for (dataset, model), of_group in groupby(
        planned_blocks(experiment, folder),
        key=lambda block: (block[0]["dataset"], block[0]["model"]),
    ):
        group = list(of_group)
        prepared = results / "datasets" / dataset / "classes.json"
        if not prepared.is_file():
            lines.append(
                f"  {dataset}, {model}: not prepared yet; what the store holds is known after that"
            )
            continue
        if reasons := _prepared_again(experiment, prepared.parent):
            lines.append(
                f"  {dataset}, {model}: prepared again ({', '.join(reasons)}); "
                "what the store holds is known after that"
            )
            continue
        digest = read_json(prepared)["digest"]
        states = Counter(
            (loss, _state(run_of(experiment, folder, loss=loss, **keys), digest, results / "runs"))
            for keys, losses in group
            for loss in losses
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
                    for keys, losses in group
                    if loss in losses
                    for reason in _reasons(experiment, results, keys, loss, digest)
                )
                again = f" (retrained: {', '.join(reasons)})" if reasons else ""
                lines.append(f"    {loss}: {begun + new} to train{resumed}{again}")
    if sentence := low_power(experiment, results):
        lines.append(f"  {sentence}")
    return "\n".join(lines)


def low_power(experiment: Experiment, results: Path) -> str:
    """Say that a study is too small for any verdict, and what to do; empty where it is not.

    Nothing is known of its noise before the training, so this counts in standard errors: how many
    of them a difference must have for the smallest p of the step-down over all comparisons, with
    the degrees of freedom of the blocks.

    Parameters
    ----------
    experiment
        As `validate` gives it.
    results
        The folder results/: a dataset that is prepared there has its classes, any other counts
        with two.
    """
    from scipy import special  # only for a plan: each job of Snakemake's imports this module

    matrix, comparison = experiment.matrix, experiment.comparison
    n_classes = 0
    for dataset in matrix.dataset:
        prepared = results / "datasets" / dataset / "classes.json"
        n_classes += len(read_json(prepared)["classes"]) if prepared.is_file() else 2
    n_losses = len(experiment.compared)
    n_over_classes = sum(metric in OF_ALL_CLASSES for metric in comparison.metrics)
    n_per_model = n_classes * (len(comparison.metrics) - n_over_classes)
    n_per_model += len(matrix.dataset) * n_over_classes
    n_tests = n_per_model * len(matrix.model) * n_losses
    n_blocks = len(matrix.fold) * len(matrix.seed)
    if n_blocks == 1 and n_losses:
        return (
            "With one block (a fold and a seed) no verdict on the losses is possible, only on the "
            "trained models: add seeds (matrix.seed: [0, 1, 2]) or folds (matrix.fold)"
        )

    def standard_errors(blocks: int) -> float:
        return float(-special.stdtrit(blocks - 1, comparison.alpha / n_tests / 2))

    if not n_tests or (least := standard_errors(n_blocks)) < TOO_MANY_STANDARD_ERRORS:
        return ""
    enough = n_blocks
    while standard_errors(enough) > ENOUGH_STANDARD_ERRORS:
        enough += 1
    return (
        f"Next to no difference can be decided: with {n_blocks} blocks and {n_tests} comparisons "
        f"it must be {least:.0f} standard errors large ({ENOUGH_STANDARD_ERRORS:.0f} with "
        f"{enough} blocks): add seeds or folds (matrix.seed, matrix.fold), or compare fewer losses "
        "and metrics"
    )


def _prepared_again(experiment: Experiment, folder: Path) -> list[str]:
    """What has changed since a dataset was prepared."""
    try:
        old = read_json(folder / "dataset.json")
        new = json.loads(experiment.dataset_json(folder.name, sources_version(folder)))
        reasons = ["its files have changed"] * (old.pop("files", "") != new.pop("files", ""))
        return _changes(old, new) + reasons
    except (UserError, AttributeError, TypeError):  # missing or damaged
        return []


def _reasons(
    experiment: Experiment, results: Path, keys: dict[str, Any], loss: str, data_digest: str
) -> list[str]:
    """What has changed since a run of a block was trained; empty where nothing has, or none was."""
    folder = block_folder(results / experiment.experiment, **keys) / loss
    run = run_of(experiment, results / experiment.experiment, loss=loss, **keys)
    try:
        if read_json(folder / "status.json")["digest"] == run_digest(run, data_digest):
            return []
        changes = _changes(read_json(folder / "run.json"), run)
    except (UserError, KeyError, AttributeError, TypeError):  # missing or damaged
        return []
    return changes or ["its data have changed"]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The user's files, and then the settings, that differ between two specifications."""
    files = changed_files(old.pop("code", {}), new.pop("code", {}))
    reasons = [f"{file} has changed" for file in files]
    return reasons + ["its settings have changed"] * (canonical(old) != canonical(new))


def _training(training: Training, validate_every: int) -> str:
    """What a study may have taken from the default experiment without a thought."""
    size = " x ".join(map(str, training.patch_size)) if training.patch_size else "the largest size"
    return (
        f"{training.steps} steps of {counted(training.batch_size, 'image')} of {size}, "
        f"{training.optimizer} from learning rate {training.learning_rate:g}, "
        f"validated every {validate_every} steps"
    )


def _tuning(experiment: Experiment, folder: Path) -> list[str]:
    """A line on the trainings before the blocks."""
    if experiment.tuning is None:
        return []
    matrix, grid = experiment.matrix, experiment.tuning.learning_rate
    n_losses = sum(map(experiment.is_tuned, matrix.loss))
    folds = [*product(matrix.dataset, matrix.model, matrix.fold)]
    n_folds, n_tuned = len(folds), sum(tuned(experiment, folder.parent, *keys) for keys in folds)
    low, high = (grid.rate(1, side * (grid.points // 2)) for side in (-1, 1))
    n_trainings = counted(grid.points * grid.trainings * n_folds * n_losses, "training")
    steps = f" of {grid.steps} steps" if grid.steps else ""
    return [
        f"  before them, tuning: {n_trainings}{steps} ({grid.points} learning rates, {low:g} "
        f"to {high:g} times the common one, x {grid.trainings} x {counted(n_folds, 'fold')} x "
        f"{n_losses} losses), more where the best rate is the first or last"
        f"{f'; done in {n_tuned} of {n_folds}' if n_tuned else ''}"
    ]


def _rounds(experiment: Experiment, folder: Path) -> list[str]:
    """A line on how far a study in rounds has come; the lines below it are of what is known."""
    if experiment.rounds is None:
        return []
    first, budget = experiment.rounds.first, experiment.rounds.budget
    last = last_look(experiment, folder)
    if last and not read_json(look_file(folder, last))["open"]:
        return [f"  {counted(last, 'round')} of at most {budget}: nothing is open"]
    known = last + 1 if last else first
    return [f"  {counted(known, 'round')} so far of at most {budget}, with a look after each"]


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
