"""The device that a job computes on."""

import functools
import os
import resource
import sys
from typing import IO

import torch

from lossbench.common.slots import claim


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
