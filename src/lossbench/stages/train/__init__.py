"""Train the losses of a block: one process, the same initial weights, the same batches."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lossbench.common.device import wait_for
from lossbench.common.files import read_json, try_lock
from lossbench.common.instantiate import location_of
from lossbench.common.provenance import run_digest
from lossbench.config import UserError
from lossbench.datasets.batches import Batches
from lossbench.datasets.prepared import Prepared
from lossbench.stages.train.run import Run
from lossbench.stages.train.stop import Stop
from lossbench.stages.train.store import finished, lay

log = logging.getLogger(__name__)
WAIT_SECONDS = 2.0  # between two looks at a run that another process trains


def train(block: Path, data: Path, store: Path, threads: int = 1) -> None:
    """Train what the store does not hold yet, and lay every run of the block into its folder.

    Parameters
    ----------
    block
        block.json: the specification of each run.
    data
        Folder of the prepared dataset.
    store
        results/runs: finished and half-finished runs by digest.
    threads
        Of the CPU; part of what the bits of a result depend on.

    Raises
    ------
    UserError
        Where a loss fails; the others of the block are trained to their end first.
    SystemExit
        After SIGTERM or SIGINT, with every run's checkpoint written.
    """
    torch.set_num_threads(threads)
    prepared, runs = Prepared(data), read_json(block)["runs"]
    prepared.verify()
    folders = {name: store / run_digest(run, prepared.digest) for name, run in runs.items()}
    missing = [name for name in runs if not finished(folders[name])]
    for name in runs.keys() - missing:
        log.info("%s: taken from the store, %s", name, folders[name])
    waiting = False
    while missing:
        with ExitStack() as held:
            free = [name for name in missing if _is_free(folders[name], held)]
            if free:
                with Stop() as stop:
                    _train([Run(runs[name], folders[name], prepared) for name in free], stop)
            else:
                if not waiting:
                    log.info("waiting for %s, which another process trains", ", ".join(missing))
                waiting = True
                time.sleep(WAIT_SECONDS)
        missing = [name for name in missing if not finished(folders[name])]
    for name, folder in folders.items():
        lay(folder, block.parent / name)


def _is_free(folder: Path, held: ExitStack) -> bool:
    """Whether no other process trains a run of the store; then it is this one's, while held."""
    lock = try_lock(folder / "lock")
    return lock is not None and bool(held.enter_context(lock))


def _train(runs: Sequence[Run], stop: Stop) -> None:
    """Take all runs through the same steps, an interval at a time: they share the batches."""
    streams: dict[str, Batches] = {}
    failures: dict[str, str] = {}
    for run in runs:
        run.start(streams)
    steps = sum(run.steps - run.step for run in runs)
    bar = tqdm(total=steps, unit="step", disable=None, leave=False)  # on a terminal alone
    with bar, logging_redirect_tqdm():
        for end in sorted({end for run in runs for end in run.ends()}):
            for turn in _turns([run for run in runs if run.name not in failures], end):
                before = sum(run.step for run in turn)
                _take(turn, end, stop, failures)
                bar.update(sum(run.step for run in turn) - before)
                if stop.signal:
                    _leave([run for run in runs if run.name not in failures], stop)
            for stream in streams.values():
                stream.forget()
    for run in runs:
        if run.name not in failures:
            run.finish()
    if failures:
        raise UserError("\n".join(failures.values()))


def _turns(runs: Sequence[Run], end: int) -> list[list[Run]]:
    """Runs with steps to take before an end: one after the other, or some of them side by side."""
    going = [run for run in runs if run.goes_to(end)]
    beside = [run for run in going if run.training["side_by_side"]]
    alone = [[run] for run in going if not run.training["side_by_side"]]
    return [*alone, beside] if beside else alone


def _take(turn: Sequence[Run], end: int, stop: Stop, failures: dict[str, str]) -> None:
    """Take runs side by side to an end; the time is shared out evenly."""
    begin = time.perf_counter()
    for run in turn:
        with _kept_apart(run, failures):
            run.advance(end, stop)
    with _kept_apart(turn[-1], failures):  # whose error a GPU tells of late is not known
        wait_for(turn[-1].device)
    seconds = (time.perf_counter() - begin) / len(turn)
    for run in turn:
        if run.name not in failures:
            with _kept_apart(run, failures):
                run.settle(end, seconds)


@contextmanager
def _kept_apart(run: Run, failures: dict[str, str]) -> Iterator[None]:
    """An error within ends this run alone."""
    try:
        yield
    except Exception as error:
        failures[run.name] = _told(run, error)


def _told(run: Run, error: Exception) -> str:
    """What went wrong with a loss, in a line; the rest of it goes to the log."""
    if isinstance(error, UserError):
        text = f"losses.{run.name}: {error}"
    else:
        what = f"{type(error).__name__}: {error} ({location_of(error)})"
        text = f"losses.{run.name}: failed at step {run.step}: {what}"
        log.error("%s", text, exc_info=error)
    log.warning("%s: ends here; the other losses of the block go on", run.name)
    return text


def _leave(runs: Sequence[Run], stop: Stop) -> None:
    """End the process, such that the next one goes on where this one stopped."""
    for run in runs:
        if run.status == "training":  # what has diverged goes on from its last checkpoint
            run.checkpoint()
    log.warning("stopped by %s; run the workflow again, and it goes on from here", stop.signal)
    raise SystemExit(1)
