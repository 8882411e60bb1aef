"""The device that a job computes on."""

import fcntl
import functools
import itertools
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch

log = logging.getLogger(__name__)
WAIT_SECONDS = 1.0  # between two looks for a free GPU


@functools.cache
def pick_device() -> torch.device:
    """A free one of the visible GPUs, held until the process ends; without a GPU, the CPU.

    Snakemake assigns no device on one machine. $LOSSBENCH_JOBS_PER_GPU says how many jobs may
    share a GPU; one unless it is set.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # By UUID, since a scheduler may show every job another GPU under the same number.
    names = [
        str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())
    ]
    jobs = int(os.environ.get("LOSSBENCH_JOBS_PER_GPU", "1"))
    index, file = claim(names, jobs)
    _held.append(file)
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


_held: list[IO] = []  # open as long as the process lives


def claim(names: Sequence[str], jobs: int = 1, folder: Path | None = None) -> tuple[int, IO]:
    """Wait for a place on one of several devices.

    Parameters
    ----------
    names
        The devices, by names that are theirs on this machine.
    jobs
        Places on each.
    folder
        For the lock files; None: one of the user's, for all workflows of the machine.

    Returns
    -------
    tuple
        Index of the device, and a locked file. The place is free again when the file is closed,
        also where the process is killed.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"lossbench-gpus-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        # The first place of every device before the second of any.
        for place, (index, name) in itertools.product(range(jobs), enumerate(names)):
            file = (folder / f"{name}.{place}.lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return index, file
        if not waited:
            waited = True
            log.info("waiting for a free GPU of %d, with %d jobs on each", len(names), jobs)
        time.sleep(WAIT_SECONDS)


def device_name(device: torch.device) -> str:
    """Name of the GPU; for the CPU, with the number of threads, on which rounding depends."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_memory(device: torch.device) -> int:
    """Largest memory of this process so far, in bytes: of the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_size(device: torch.device) -> int:
    """Memory of the GPU, or of the machine, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
