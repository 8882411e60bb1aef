"""Whether the networks of a block are compiled: all of them or none, since rounding differs."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossbench.common.device import wait_for
from lossbench.config import duration
from lossbench.stages.train.cuda_graph import Update, fastest, snapshot
from lossbench.stages.train.gpu_errors import gpu_errors

if TYPE_CHECKING:
    from lossbench.stages.train.run import Run

log = logging.getLogger(__name__)
# Steps of a block that take longer than this, in seconds, are worth an attempt: on two cores it
# takes 40 to 160 s, and gains 1.07 to 1.45 on the networks of the catalogue.
LONG = {"cpu": 3600.0, "cuda": 900.0}
GAIN = 1.05  # below which the plain network stays
TOLERANCE = 1e-3  # of loss and gradient norm
STEPS = {"cpu": 3, "cuda": 20}  # timed, after a first one


def compile_networks(
    runs: Sequence["Run"],
    optimise: Callable[["Run", Tensor, Tensor], tuple[Tensor, Tensor]],
    seconds: float,
    before: set[bool],
) -> None:
    """Compile the networks of a block where that pays, measured on the first of them.

    On a GPU a graph of the compiled network is compared with one of the plain network, where there
    is one: that of a small network gains more than compiled kernels do. All that is changed is
    `forward` of each run, and what `engine` says of it.

    Parameters
    ----------
    runs
        That are to be trained.
    optimise
        A step of a run: it is taken back.
    seconds
        That the remaining steps of the block take at most.
    before
        Whether runs of the block were compiled that are finished already, or go on here: what they
        did is done again. Empty where there are none.
    """
    if not runs:
        return
    run, errors = runs[0], gpu_errors()
    long = seconds > LONG.get(run.device.type, float("inf"))
    plain_is_set = run.execution["speed"] == "exact" or errors.plain or False in before
    if plain_is_set or not (before or long):
        return
    log.info("the steps take up to %s: compiling, a minute or more", duration(seconds))
    eager, graph = partial(optimise, run), run.engine["graph"]
    plain, expected = _measured(run, run.update or eager)
    for each in runs:
        each.forward = torch.compile(each.model, dynamic=False)
    reason = ""
    try:
        compiled, found = _measured(run, eager, choose=True)
        if not torch.allclose(found, expected, rtol=TOLERANCE):
            reason = f"loss and gradient norm {found.tolist()} in place of {expected.tolist()}"
        elif not before and plain < GAIN * compiled:
            reason = f"{plain / compiled:.2f} times as fast"
    except torch.AcceleratorError as error:  # every later call would fail too
        raise errors.after(run.name, error, compiling=True) from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
    if reason:
        log.info("the network is not compiled after all: %s", reason)
        run.engine["graph"] = graph
    else:
        log.info("compiled, a step is %.2f times as fast", plain / compiled)
    for each in runs:
        each.engine["compiled"] = not reason
        if reason:
            each.forward = each.model
        elif each.device.type == "cuda":
            each.update = None  # a graph holds the kernels of the plain network


def _measured(run: "Run", update: Update, choose: bool = False) -> tuple[float, Tensor]:
    """Seconds of a step, and the loss and gradient norm of a first one; all are taken back.

    `choose`: the fastest way to take the steps is looked for after the first one.
    """
    batch, restore = run.batches(run.step), snapshot(run)
    run.seed_step(run.step)
    steps = STEPS[run.device.type]
    try:
        first = torch.stack(update(batch.images, batch.labels))
        if choose:
            update = fastest(update, run, batch.images, batch.labels)
        wait_for(run.device)
        begin = time.perf_counter()
        for _ in range(steps):
            update(batch.images, batch.labels)
        wait_for(run.device)
        return (time.perf_counter() - begin) / steps, first
    finally:
        restore()
