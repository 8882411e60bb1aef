"""The device that a job computes on: which one, its memory, and time spent on it."""

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

import torch
from filelock import FileLock

from lossbench.common.files import try_lock
from lossbench.config import UserError, counted

log = logging.getLogger(__name__)
GPU_FILE = Path("/dev/nvidia0")  # where NVIDIA's driver has found a GPU
WAIT_SECONDS = 1.0  # between two attempts to get a GPU


@functools.cache
def pick_device(wait: bool = True) -> torch.device:
    """A free one of the visible GPUs, held until the process ends; without a GPU, the CPU.

    The CPU also where no GPU is free and the job is not to wait for one.

    Snakemake assigns no device on one machine, so a job takes one by a file lock.
    $LOSSBENCH_JOBS_PER_GPU says how many jobs may share a GPU; one unless it is set. An empty
    $CUDA_VISIBLE_DEVICES asks for the CPU.

    Raises
    ------
    UserError
        Where a GPU was asked for or is there, and torch cannot use it, with torch's reason.
    """
    if _held:  # by a stage of this process that was told otherwise whether to wait
        return torch.device("cuda", torch.cuda.current_device())
    if not torch.cuda.is_available():
        if gpu := _expected_gpu():
            raise UserError(f"{gpu}, but torch cannot use a GPU: {_reason()}")
        return torch.device("cpu")
    # By UUID, since a scheduler may show every job another GPU under the same number.
    names = [
        str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())
    ]
    found = acquire_gpu(names, jobs_per_gpu(), wait=wait)
    if found is None:
        log.info("every GPU is in use: this is done on the CPU")
        return torch.device("cpu")
    index, lock = found
    _held.append(lock)
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def jobs_per_gpu() -> int:
    """How many jobs may share a GPU."""
    return int(os.environ.get("LOSSBENCH_JOBS_PER_GPU", "1"))


_held: list[FileLock] = []  # released when the process ends


def _expected_gpu() -> str:
    """Why a GPU is expected here, as the beginning of a sentence; empty where none is."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        asked = visible.strip() not in ("", "-1", "NoDevFiles")
        return f"CUDA_VISIBLE_DEVICES is {visible}" if asked else ""
    if jobs := os.environ.get("SLURM_JOB_GPUS"):
        return f"Slurm gave this job GPU {jobs}"
    return f"this machine has {GPU_FILE}" if GPU_FILE.exists() else ""


def _reason() -> str:
    """Why torch sees no GPU, in its own words."""
    try:
        torch.cuda.init()
    except Exception as error:
        return (
            f"{str(error).strip().splitlines()[0]}. Install a build of torch for this driver, or "
            "set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU"
        )
    return "it sees no device"


def acquire_gpu(
    names: Sequence[str], jobs: int, folder: Path | None = None, wait: bool = True
) -> tuple[int, FileLock] | None:
    """Get a slot on one of several GPUs.

    Parameters
    ----------
    names
        The GPUs, by names that are theirs on this machine.
    jobs
        Slots on each.
    folder
        Where the lock files are; None: one folder of the user's, for all workflows of the machine.
    wait
        Until a slot is free.

    Returns
    -------
    tuple
        Index of the GPU, and the lock that holds the slot. It is free again when the lock is
        released, also where the process is killed. None where no slot is free.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"lossbench-gpus-{os.getuid()}"
    waited = False
    while True:
        # The first slot of every GPU before the second of any.
        for slot, (index, name) in itertools.product(range(jobs), enumerate(names)):
            if lock := try_lock(folder / f"{name}.{slot}.lock"):
                return index, lock
        if not wait:
            return None
        if not waited:
            waited = True
            each = counted(jobs, "job")
            log.info("waiting for a free GPU of %d, with %s on each", len(names), each)
        time.sleep(WAIT_SECONDS)


class Stopwatch:
    """Sums the time of pieces of work on a device, without waiting for it until `lap`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total, self.begin = 0.0, 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        """Start a piece."""
        if self.device.type == "cuda":
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            self.events.append(pair)
            pair[0].record()
        else:
            self.begin = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        """End it."""
        if self.device.type == "cuda":
            self.events[-1][1].record()
        else:
            self.total += time.perf_counter() - self.begin

    def lap(self) -> float:
        """Seconds since the last lap; waits for a GPU."""
        if self.events:
            self.events[-1][1].synchronize()
            self.total += sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
            self.events.clear()
        total, self.total = self.total, 0.0
        return total


def device_name(device: torch.device) -> str:
    """Name of the GPU; for the CPU, with the number of threads, on which rounding depends."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


def wait_for(device: torch.device) -> None:
    """Return when a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
