"""The device of a process: one of the visible GPUs by a lock of its own, the same one to its end."""

import subprocess
import sys

import pytest
import torch

from lossbench.common import device
from lossbench.config import UserError


def test_the_first_choice_holds_for_the_whole_process(monkeypatch, tmp_path):
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = {0: "GPU-a", 1: "GPU-b"}
    properties = lambda n: type("P", (), {"uuid": names[n]})  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(device, "_held", [])
    device.pick_device.cache_clear()
    try:
        assert device.pick_device() == device.pick_device() == torch.device("cuda", 0)
        assert len(device._held) == 1
    finally:
        device.pick_device.cache_clear()
        device._held[0].release()


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """A machine on which torch cannot use a GPU, for a reason that it gives."""

    def refuse():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 12020).\nMore"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.setattr(device, "GPU_FILE", tmp_path / "nvidia0")
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    device.pick_device.cache_clear()
    yield tmp_path / "nvidia0"
    device.pick_device.cache_clear()


def test_without_a_gpu_it_is_the_cpu(no_gpu):
    assert device.pick_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES is 0"),
        ({"SLURM_JOB_GPUS": "2"}, "Slurm gave this job GPU 2"),
        ({}, "this machine has"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(
    variables, expected, no_gpu, monkeypatch
):
    no_gpu.touch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        device.pick_device()
    assert str(error.value).startswith(expected)
    assert "driver on your system is too old (found version 12020)." in str(error.value)
    assert "set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU" in str(error.value)


def test_an_empty_variable_asks_for_the_cpu(no_gpu, monkeypatch):
    no_gpu.touch()
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.pick_device() == torch.device("cpu")


def test_a_stopwatch_sums_what_it_is_started_for(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    watch = device.Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            pass
    assert watch.lap() == 5.0
    assert watch.lap() == 0.0


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


@pytest.mark.slow
def test_jobs_spread_over_the_devices(holding):
    jobs = [holding("GPU-a,GPU-b,GPU-c") for _ in range(3)]
    assert sorted(place(job) for job in jobs) == [0, 1, 2]


@pytest.mark.slow
def test_a_job_waits_until_one_that_dies_frees_its_place(holding):
    jobs = [holding("GPU-a,GPU-b") for _ in range(2)]
    held = {place(job): job for job in jobs}
    third = holding("GPU-a,GPU-b")
    assert third.stdout.readline() == "waiting for a free GPU of 2, with 1 job on each\n"
    held[1].kill()
    assert place(third) == 1


@pytest.mark.slow
def test_devices_are_filled_one_by_one_where_jobs_may_share(holding):
    jobs = [holding("GPU-a,GPU-b", 2)]
    first = place(jobs[0])
    assert first == 0
    places = [place(holding("GPU-a,GPU-b", 2)) for _ in range(3)]
    assert places == [1, 0, 1]


@pytest.mark.slow
def test_a_device_is_known_by_its_name_and_not_by_its_number(holding):
    """As where a scheduler shows each job a GPU of its own as number 0."""
    assert place(holding("GPU-a")) == 0
    assert place(holding("GPU-b")) == 0


def test_a_check_does_not_wait_for_a_gpu_on_which_a_study_trains(tmp_path):
    index, lock = device.acquire_gpu(["GPU-a"], 1, tmp_path)
    assert index == 0
    assert device.acquire_gpu(["GPU-a"], 1, tmp_path, wait=False) is None
    lock.release()
    index, lock = device.acquire_gpu(["GPU-a"], 1, tmp_path, wait=False)
    lock.release()
