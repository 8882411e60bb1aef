"""The device of a process: one of the visible GPUs, the same one to its end."""

import torch

from lossbench.common import device, slots


def test_the_first_choice_holds_for_the_whole_process(monkeypatch, tmp_path):
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))
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
        device._held[0].close()


def test_without_a_gpu_it_is_the_cpu():
    if not torch.cuda.is_available():
        assert device.pick_device() == torch.device("cpu")
