"""A slot on a GPU of one's own, with pretended devices and real processes."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each starts processes

HOLD = """
import logging, sys, time
from pathlib import Path
from lossbench.common.device import acquire_gpu
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
index, lock = acquire_gpu(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1]))
print(index, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holding(tmp_path):
    """Start jobs that hold a place, and end them."""
    started = []

    def start(names: str, jobs: int = 1) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, tmp_path, names, str(jobs)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for job in started:
        with job:
            job.kill()


def place(job: subprocess.Popen) -> int:
    return int(job.stdout.readline())


def test_jobs_spread_over_the_devices(holding):
    jobs = [holding("GPU-a,GPU-b,GPU-c") for _ in range(3)]
    assert sorted(place(job) for job in jobs) == [0, 1, 2]


def test_a_job_waits_until_one_that_dies_frees_its_place(holding):
    jobs = [holding("GPU-a,GPU-b") for _ in range(2)]
    held = {place(job): job for job in jobs}
    third = holding("GPU-a,GPU-b")
    assert third.stdout.readline() == "waiting for a free GPU of 2, with 1 job on each\n"
    held[1].kill()
    assert place(third) == 1


def test_devices_are_filled_one_by_one_where_jobs_may_share(holding):
    jobs = [holding("GPU-a,GPU-b", 2)]
    first = place(jobs[0])
    assert first == 0
    places = [place(holding("GPU-a,GPU-b", 2)) for _ in range(3)]
    assert places == [1, 0, 1]


def test_a_device_is_known_by_its_name_and_not_by_its_number(holding):
    """As where a scheduler shows each job a GPU of its own as number 0."""
    assert place(holding("GPU-a")) == 0
    assert place(holding("GPU-b")) == 0
