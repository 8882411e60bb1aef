"""The device of a process: one of the visible GPUs, the same one to its end."""

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
