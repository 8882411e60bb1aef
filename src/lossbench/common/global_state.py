"""What Python, numpy and torch keep for a whole process, which a user's code may change."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Put back what code within changes: one loss must not change how the next one computes.

    It takes some microseconds. Random numbers are not its matter: they are seeded at every step.
    """
    before = _read()
    try:
        yield
    finally:
        if (after := _read()) != before:
            _write({name: value for name, value in before.items() if after.get(name) != value})


def _read() -> dict[str, Any]:
    state = {"folder": Path.cwd(), "numpy": np.geterr(), "warnings": warnings.filters[:]}
    if torch := sys.modules.get("torch"):  # not imported here: some stages do without it
        state |= {
            "dtype": torch.get_default_dtype(),
            # torch.get_default_device() makes a tensor, which takes longer than all the rest.
            "device": getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None),
            "grad": torch.is_grad_enabled(),
            "anomaly": torch.is_anomaly_enabled(),
            "deterministic": torch.get_deterministic_debug_mode(),
            "matmul": torch.get_float32_matmul_precision(),
            "threads": torch.get_num_threads(),
            "benchmark": torch.backends.cudnn.benchmark,
            "cudnn": torch.backends.cudnn.deterministic,
            "tf32": torch.backends.cudnn.allow_tf32,
        }
    return state


def _write(state: dict[str, Any]) -> None:
    torch: Any = sys.modules.get("torch")
    for name, value in state.items():
        match name:
            case "folder":
                os.chdir(value)
            case "numpy":
                np.seterr(**value)
            case "warnings":
                warnings.filters[:] = value
                warnings._filters_mutated()  # type: ignore[attr-defined] # forgets what was ignored
            case "dtype":
                torch.set_default_dtype(value)
            case "device":
                torch.set_default_device(value and value.device)
            case "grad":
                torch.set_grad_enabled(value)
            case "anomaly":
                torch.autograd.set_detect_anomaly(value)
            case "deterministic":
                torch.set_deterministic_debug_mode(value)
            case "matmul":
                torch.set_float32_matmul_precision(value)
            case "threads":
                torch.set_num_threads(value)
            case "benchmark":
                torch.backends.cudnn.benchmark = value
            case "cudnn":
                torch.backends.cudnn.deterministic = value
            case "tf32":
                torch.backends.cudnn.allow_tf32 = value
