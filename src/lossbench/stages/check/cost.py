"""What a block takes on this device, from a few steps with each of its losses."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from lossbench.common.device import device_name, peak_memory, wait_for
from lossbench.config import TUNED, Experiment
from lossbench.datasets.batches import patch_size
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.datasets.regions import as_predicted
from lossbench.metrics import measure_case
from lossbench.models import precision_used
from lossbench.predictions import predict
from lossbench.stages.check.preflight import GradientProbe

STEPS = 5  # timed, of each loss, after a first one that is not
CASES = 3  # predicted and measured
THREADS = 1  # of the CPU, as the rule `train` has it


def block_cost(study: Experiment, data: Prepared, model: str, seconds: float) -> dict[str, Any]:
    """Time and memory of the blocks of a dataset and model; to be called in a process of its own.

    The memory that this process has had is a block's but for the state of its other losses. What
    is not counted: the start of the processes, and a gradient ledger.

    Parameters
    ----------
    study, data, model
        The experiment, its dataset, and one of its models.
    seconds
        For the timed steps of all losses: fewer are made where they take long.

    Returns
    -------
    dict
        dataset, model, device, blocks, at_most (whether rounds may need fewer), memory_bytes,
        batch_seconds, block_seconds, tuning_seconds, total_seconds, and losses: for each loss
        step_seconds, and train_, validate_ and evaluate_seconds of a run.
    """
    torch.set_num_threads(THREADS)
    settings = study.at_common_rate()
    probe, matrix = GradientProbe(settings, data, model), settings.matrix
    batch = statistics.median(
        _timed(probe.device, partial(probe.batches, step)) for step in range(1, STEPS + 1)
    )
    per_loss = seconds / len(matrix.loss)
    steps = {loss: _step_seconds(probe, data, loss, batch, per_loss) for loss in matrix.loss}
    predicting, measuring = _case_seconds(probe, data)
    n_validation, n_evaluation = (
        statistics.fmean(len(rows(fold)) for fold in matrix.fold)
        for rows in (data.validation, data.evaluation)
    )
    losses = {}
    # The losses of a block share the batches.
    most_steps = max(training["steps"] for training in probe.trainings.values())
    block, tuning, grid = batch * most_steps, 0.0, study.tuning and study.tuning.learning_rate
    if grid:
        tuning = batch * (grid.steps or most_steps)
    for loss, step in steps.items():
        training = probe.trainings[loss]
        validations = math.ceil(training["steps"] / settings.execution.validate_every)
        parts = {
            "train_seconds": step * training["steps"],
            "validate_seconds": predicting * n_validation * validations,
            "evaluate_seconds": (predicting + measuring) * n_evaluation,
        }
        losses[loss] = {"step_seconds": step, **parts}
        block += sum(parts.values()) * (2 if study.is_tuned(loss + TUNED) else 1)
        if grid:
            tuning += step * (grid.steps or training["steps"]) + predicting * n_validation
    blocks = len(matrix.fold) * len(matrix.seed)
    tuning *= len(matrix.fold) * grid.points * grid.trainings if grid else 0
    return {
        "dataset": data.info["name"],
        "model": model,
        "device": device_name(probe.device),
        "blocks": blocks,
        "at_most": study.rounds is not None,
        "memory_bytes": _memory_bytes(probe, len(study.matrix.loss)),
        "batch_seconds": batch,
        "block_seconds": block,
        "tuning_seconds": tuning,
        "total_seconds": blocks * block + tuning,
        "losses": losses,
    }


def _timed(device: torch.device, call: Callable[[], object]) -> float:
    """Seconds of a call, with all that it has set off on the device."""
    begin = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - begin


def _step_seconds(
    probe: GradientProbe, data: Prepared, loss: str, batch: float, seconds: float
) -> float:
    """Of a step with a loss, without making its batch; the first one, which warms up, is left out.

    The network runs in half precision where it will in the training.
    """
    training = probe.trainings[loss]
    amp = precision_used(training, probe.device) == "bf16"
    step = partial(probe.update, loss)
    times: list[float] = []
    with torch.autocast(probe.device.type, torch.bfloat16, enabled=amp):
        first = _timed(probe.device, step)
        end = time.monotonic() + seconds - first
        while len(times) < STEPS and time.monotonic() < end:
            times.append(_timed(probe.device, step))
    # Timed on batches of the reference; a loss may have others.
    share = _voxels(training, data) / _voxels(probe.spec["training"], data)
    return max(statistics.median(times or [first]) - batch, 0.0) * share


def _case_seconds(probe: GradientProbe, data: Prepared) -> tuple[float, float]:
    """Of predicting a case, and of its metrics: of its label, moved by a voxel."""
    rows = [int(row) for row in data.evaluation(probe.spec["fold"])[:CASES]]
    patch = patch_size(data, probe.spec["training"])
    device = probe.device

    def measure_all() -> None:
        for row in rows:
            label = np.asarray(data.original_label(row))
            moved = np.roll(np.where(label == IGNORE, 0, label), 1, axis=0)
            moved = as_predicted(moved, data.regions)
            measure_case(moved, row, data)

    predicting = _timed(device, partial(predict, probe.model, data, rows, patch, device))
    return predicting / len(rows), _timed(device, measure_all) / len(rows)


def _voxels(training: Mapping[str, Any], data: Prepared) -> int:
    """Of the images of a batch; a step takes about as long as these are many."""
    return training["batch_size"] * math.prod(patch_size(data, training))


def _memory_bytes(probe: GradientProbe, n_losses: int) -> int:
    """Of a block, from what this process has had, with one loss at a time.

    A loss more keeps weights, a copy of them, gradients, and the optimiser's state; on a GPU also
    what its step takes, by its CUDA graph.
    """
    peak = peak_memory(probe.device)
    if probe.device.type == "cuda":
        return n_losses * peak
    weights = sum(t.nbytes for t in probe.model.state_dict().values())
    gradients = sum(p.nbytes for p in probe.model.parameters() if p.requires_grad)
    moments = 2 if probe.spec["training"]["optimizer"] == "adamw" else 1
    return peak + (n_losses - 1) * (2 * weights + (1 + moments) * gradients)
