"""Train the losses of a block: one process, the same initial weights, the same batches."""

import logging
import math
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from lossbench.common.device import device_name, pick_device
from lossbench.common.files import read_json, try_lock
from lossbench.common.global_state import preserve_global_state
from lossbench.common.progress import INTERVAL
from lossbench.common.provenance import run_digest
from lossbench.common.tuning import read_block
from lossbench.common.user_code import refuse_other_code
from lossbench.config import UserError
from lossbench.datasets.batches import Arrays, Batches, batch_settings
from lossbench.datasets.prepared import Prepared
from lossbench.stages.train.cuda_graph import set_global_flags
from lossbench.stages.train.finished_runs import is_finished, link_run
from lossbench.stages.train.gpu_errors import gpu_errors
from lossbench.stages.train.loop import isolate_failures, train_runs
from lossbench.stages.train.run import Run
from lossbench.stages.train.stop import StopSignal

log = logging.getLogger(__name__)
WAIT_SECONDS = 2.0  # between two looks at a run that another process trains


def train(block: Path, data: Path, store: Path, threads: int = 1) -> None:
    """Train the losses of a block from the same weights on the same batches.

    What the store holds is taken from there; every run is linked into the folder of the block.

    Parameters
    ----------
    block
        block.json: the specification of each run, and how to execute them.
    data
        Folder of the prepared dataset.
    store
        results/runs: finished and half-finished runs by digest.
    threads
        CPU threads; part of what the bits of a result depend on.

    Raises
    ------
    UserError
        Where a loss fails; the others of the block are trained to their end first.
    SystemExit
        After SIGTERM or SIGINT, with every run's checkpoint written.
    """
    torch.set_num_threads(threads)
    prepared, content = Prepared(data), read_block(block)
    prepared.verify()
    folders = train_missing(content["runs"], content["execution"], store, prepared)
    for name, folder in folders.items():
        link_run(folder, block.parent / name)


def train_missing(specs: dict, execution: dict, store: Path, data: Prepared) -> dict[str, Path]:
    """Train what the store lacks of some runs of a block; the folder of each in the store."""
    folders = {name: store / run_digest(spec, data.digest) for name, spec in specs.items()}
    failed = gpu_errors().failed
    missing = [name for name in specs if not is_finished(folders[name], specs[name]["training"])]
    for name in specs.keys() - missing:
        log.info("%s: taken from the store, %s", name, folders[name])
    missing = [name for name in missing if name not in failed]
    said = -math.inf
    while missing:
        with ExitStack() as locks:
            free = [name for name in missing if _lock(folders[name], locks)]
            if free:
                # Those that another process has finished meanwhile, too.
                finished = [
                    read_json(folders[x] / "status.json")
                    for x in specs
                    if x not in {*missing, *failed}
                ]
                _train({name: specs[name] for name in free}, execution, folders, data, finished)
            else:
                if time.monotonic() - said > INTERVAL:
                    said = time.monotonic()
                    log.info("waiting for %s, which another process trains", ", ".join(missing))
                time.sleep(WAIT_SECONDS)
        missing = [x for x in missing if not is_finished(folders[x], specs[x]["training"])]
    if failed:
        raise UserError("\n".join(failed.values()))
    return folders


def _lock(folder: Path, locks: ExitStack) -> bool:
    """Whether no other process trains a run of the store; then it is locked for this one."""
    lock = try_lock(folder / "lock")
    if lock:
        locks.callback(lock.release)
    return lock is not None


def _train(
    specs: dict, execution: dict, folders: dict[str, Path], data: Prepared, finished: list[dict]
) -> None:
    """Train some runs of a block to their end, on one device and with shared batches.

    `finished`: status.json of the others that are finished.
    """
    device = pick_device()
    log.info("device: %s", device_name(device))
    streams: dict[str, Batches] = {}
    arrays = Arrays(data, device)
    runs, failures = [], {}
    # What evaluates the runs in this process is not changed by how they were trained.
    with StopSignal() as stop, preserve_global_state():
        set_global_flags(
            execution["speed"], sum(spec["training"]["steps"] for spec in specs.values())
        )
        for name, spec in specs.items():
            key = batch_settings(spec["training"])
            if key not in streams:
                streams[key] = Batches(
                    data, spec["fold"], spec["seed"], spec["training"], device, arrays
                )
            streams[key].users += 1
            with isolate_failures(name, failures):
                refuse_other_code(spec.get("code", {}), "block.json", spec["model"], spec["loss"])
                runs.append(Run(spec, execution, folders[name], data, streams[key]))
        if runs:
            failures |= train_runs(runs, stop, [status["engine"] for status in finished])
    if failures:
        raise UserError("\n".join(failures.values()))
