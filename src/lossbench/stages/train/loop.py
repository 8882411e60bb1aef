"""The training loop: all losses of a block, taken through each step in turn."""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lossbench.common.device import device_name, memory_size, peak_memory, wait_for
from lossbench.common.global_state import preserve_global_state
from lossbench.common.instantiate import location_of
from lossbench.common.progress import position, time_left
from lossbench.config import FreshProcessError, UserError
from lossbench.datasets.batches import FNV_PRIME
from lossbench.losses import batch_loss
from lossbench.models import changed_input, set_learning_rate
from lossbench.stages.train.compiled import compile_networks
from lossbench.stages.train.cuda_graph import choose_update
from lossbench.stages.train.gpu_errors import gpu_errors
from lossbench.stages.train.run import Run
from lossbench.stages.train.stop import StopSignal

log = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60.0  # what a job that is killed without a signal loses at most, about


def train_runs(
    runs: Sequence[Run], stop: StopSignal, finished: Collection[dict[str, Any]] = ()
) -> dict[str, str]:
    """Train runs to their last step; a run that fails ends alone.

    Parameters
    ----------
    runs
        Of one block, new or resumed; runs of equal batch settings share one stream of batches.
    stop
        Where it was signalled, every run leaves a checkpoint and SystemExit is raised.
    finished
        What was used (`engine` of status.json) by the runs of the block that are finished.

    Returns
    -------
    dict
        What went wrong, by the name of the run; empty where all is well.
    """
    failures: dict[str, str] = {}
    first, last = min(run.step for run in runs), max(run.steps for run in runs)
    remaining = sum(run.steps - run.step for run in runs)
    begin, step = time.monotonic(), first
    engines = [*finished, *(run.engine for run in runs if run.step)]
    compiled = {engine["compiled"] for engine in engines}

    def line() -> str:
        return f"step {step + 1} of {last}, {time_left(begin, step + 1 - first, last - first)}"

    bar = tqdm(total=remaining, unit="step", disable=None, leave=False)  # on a terminal
    with bar, logging_redirect_tqdm(), position(line):
        for step in range(first, last):
            if step == first + 1:  # not timed: it chooses how, and loads the kernels of a GPU
                wait_for(runs[0].device)
                begin = time.monotonic()
            if step == (first if compiled else first + 2):  # the second says how long all will take
                wait_for(runs[0].device)
                left = (time.monotonic() - begin) * (last - step)
                active = [r for r in runs if r.status == "training" and r.name not in failures]
                if active:
                    with isolate_failures(active[0].name, failures, active[0]):
                        compile_networks(active, optimise, left, compiled)
                begin = time.monotonic()  # what is left does not go at the pace of a compiler
            for run in runs:
                # A resumed run waits until the others have come to its step.
                if run.step != step or run.status != "training" or run.name in failures:
                    continue
                with isolate_failures(run.name, failures, run):
                    take_step(run)
                bar.update()
                if stop.signal:
                    checkpoint_and_exit([r for r in runs if r.name not in failures], stop)
    for run in runs:
        if run.name not in failures:
            with isolate_failures(run.name, failures, run):
                run.finish()
    return failures


def take_step(run: Run) -> None:
    """Take one step of a run; nothing is read from the device but at the rows of the history."""
    step, training = run.step, run.training
    batch = run.batches(step)  # the same one for every loss of the block, made once
    is_first = run.update is None
    if is_first:  # of this process; its preparation is not timed
        run.update = choose_update(partial(optimise, run), run, batch.images, batch.labels)
    with run.stopwatch:
        set_learning_rate(run.optimizer, learning_rate(training, step))
        # What a network, a loss or a library draws in a step is the same for every loss.
        run.seed_step(step)
        loss, norm = run.update(batch.images, batch.labels)
        run.sums += torch.stack([loss, norm])
        run.batch_digest.mul_(FNV_PRIME).add_(batch.checksum)
    run.step += 1
    if is_first and not batch.is_as_made():  # what `predict` cannot see, as x.data.mul_(2)
        raise changed_input(run.spec["model"])

    if run.is_due("log_every") or run.is_due("validate_every") or run.is_due("ledger_every"):
        row = run.log(learning_rate(training, step))
        if run.status == "diverged":
            return
        if run.is_due("ledger_every"):
            row |= run.ledger.row(run)
        if run.is_due("validate_every"):
            row |= run.validate()
        run.write_progress()
        if run.seconds_since_checkpoint() > CHECKPOINT_SECONDS:
            run.checkpoint()


def optimise(run: Run, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Forward, loss, backward, optimiser: the loss and the gradient norm, scalars on the device."""
    run.optimizer.zero_grad(set_to_none=True)
    logits = run.predict(images, run.forward)
    loss = batch_loss(run.loss, logits, labels, run.step, run.steps)
    loss.backward()
    if limit := run.training["clip_norm"]:
        norm = clip_grad_norm_(run.parameters, limit)
    else:  # a limit of infinity would multiply all gradients by 1
        norm = get_total_norm(p.grad for p in run.parameters if p.grad is not None)
    run.optimizer.step()
    return loss.detach(), norm


def learning_rate(training: dict, step: int) -> float:
    """Polynomial decay: a function of the step alone."""
    return training["learning_rate"] * (1 - step / training["steps"]) ** training["decay_power"]


@contextmanager
def isolate_failures(name: str, failures: dict[str, str], run: Run | None = None) -> Iterator[None]:
    """End the run of this loss alone where something fails; what it was goes to `failures`.

    What it changes for the whole process, such as torch's default dtype, is put back.
    """
    try:
        with preserve_global_state():
            yield
    except torch.AcceleratorError as error:
        log.error("losses.%s: the GPU stopped", name, exc_info=error)
        raise gpu_errors().after(name, error) from error
    except FreshProcessError:
        raise
    # exit() in a loss ends that loss; Ctrl-C raises nothing here (`StopSignal`).
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        failures[name] = failure_message(name, error, run)
        log.warning("%s: ends here; the other losses of the block go on", name)


def failure_message(name: str, error: BaseException, run: Run | None) -> str:
    """One line on what failed; the traceback of what is not the user's goes to the log."""
    if isinstance(error, UserError):
        return f"losses.{name}: {str(error).removeprefix(f'losses.{name}: ')}"
    ran_out = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
    if run and ran_out:
        peak, size = (measure(run.device) / 1e9 for measure in (peak_memory, memory_size))
        return (
            f"losses.{name}: out of memory at step {run.step}, with {peak:.1f} GB at the peak of "
            f"the {size:.1f} GB of {device_name(run.device)}; training.batch_size is "
            f"{run.training['batch_size']} and training.patch_size {list(run.patch)}: lower one"
        )
    what = f"{type(error).__name__}: {error} ({location_of(error)})"
    text = f"losses.{name}: failed at step {run.step if run else 0}: {what}"
    log.error("%s", text, exc_info=error)
    return text


def checkpoint_and_exit(runs: Sequence[Run], stop: StopSignal) -> None:
    """Leave a checkpoint of every run, such that the next process resumes at this very step."""
    for run in runs:
        if run.status == "training":  # what has diverged resumes from its last checkpoint
            run.checkpoint()
    log.warning("stopped by %s; run the workflow again, and it resumes from here", stop.signal)
    raise SystemExit(1)
