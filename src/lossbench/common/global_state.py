"""What Python, numpy and torch keep for a whole process, which a user's code may change."""

import locale
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

DEVICES = ("cpu", "cuda")
# Hooks that are called for every network, loss and optimiser of the process.
HOOKS = {
    "torch.nn.modules.module": (
        *("backward_pre_hooks", "backward_hooks", "forward_pre_hooks", "forward_hooks"),
        *("forward_hooks_always_called", "forward_hooks_with_kwargs"),
        *("buffer_registration_hooks", "module_registration_hooks", "parameter_registration_hooks"),
    ),
    "torch.optim.optimizer": ("optimizer_pre_hooks", "optimizer_post_hooks"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # those by which a job is stopped
GUARDS: list[Any] = []  # inference modes that put back what user code left
SMALLEST = sys.float_info.min  # half of it is 0 where denormal numbers are flushed
log = logging.getLogger(__name__)


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Put back what code within changes: one loss must not change how the next one computes.

    It takes some microseconds. Random numbers are not its matter: they are seeded at every step.
    `os._exit`, which would end the process without a word, raises SystemExit meanwhile.
    """
    before, exit_at_once = _read(), os._exit
    process = os.getpid()

    def raise_exit(status: int) -> NoReturn:
        if os.getpid() != process:  # a child, which ends so when it has done its work
            exit_at_once(status)
        raise SystemExit(status)

    os._exit = raise_exit
    try:
        yield
    finally:
        os._exit = exit_at_once
        if (after := _read()) != before:
            _write({name: value for name, value in before.items() if after.get(name) != value})


def _read() -> dict[str, Any]:
    root = logging.getLogger()
    state = {
        "folder": Path.cwd(),
        "environment": dict(os.environ._data),  # type: ignore[attr-defined] # a copy takes 100 us
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "logging": (root.handlers[:], root.level, root.manager.disable, log.disabled),
        "warnings": warnings.filters[:],
        "denormal": SMALLEST / 2 > 0,
    }
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = numpy.geterr()
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
            "autocast": [torch.is_autocast_enabled(device) for device in DEVICES],
            "inference": torch.is_inference_mode_enabled(),
            "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
            "hooks": [{**hooks} for hooks in _hooks()],
            "mkldnn": torch._C._get_mkldnn_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "cudnn": torch.backends.cudnn.deterministic,
            "tf32": torch.backends.cudnn.allow_tf32,
        }
    return state


@cache
def _hooks() -> list[dict[int, Any]]:
    """The hooks of all modules and of all optimisers, as torch keeps them."""
    modules = [(sys.modules[name], kinds) for name, kinds in HOOKS.items()]
    return [getattr(module, f"_global_{kind}") for module, kinds in modules for kind in kinds]


def _write(state: dict[str, Any]) -> None:
    torch: Any = sys.modules.get("torch")
    numpy: Any = sys.modules.get("numpy")
    for name, value in state.items():
        match name:
            case "folder":
                os.chdir(value)
            case "environment":
                for key in os.environb.keys() - value.keys():
                    del os.environb[key]
                os.environb.update(value)
            case "locale":
                locale.setlocale(locale.LC_ALL, value)
            case "signals" if threading.current_thread() is threading.main_thread():
                for number, handler in zip(SIGNALS, value, strict=True):
                    signal.signal(number, handler)
            case "logging":
                _write_logging(*value)
            case "denormal" if torch:
                torch.set_flush_denormal(not value)
            case "numpy":
                numpy.seterr(**value)
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
            case "autocast":
                for device, enabled in zip(DEVICES, value, strict=True):
                    torch.set_autocast_enabled(device, enabled)
            case "inference":
                # Never left again: a guard that ends puts back what was before it.
                GUARDS.append(torch.inference_mode(value))
                GUARDS[-1].__enter__()
            case "modes":
                for _ in range(torch._C._len_torch_function_stack() - value[0]):
                    torch._C._pop_torch_function_stack()
                for _ in range(torch._C._len_torch_dispatch_stack() - value[1]):
                    torch._C._pop_torch_dispatch_stack(None)
            case "hooks":
                for hooks, former in zip(_hooks(), value, strict=True):
                    hooks.clear()
                    hooks.update(former)
            case "mkldnn":
                torch._C._set_mkldnn_enabled(value)
            case "benchmark":
                torch.backends.cudnn.benchmark = value
            case "cudnn":
                torch.backends.cudnn.deterministic = value
            case "tf32":
                torch.backends.cudnn.allow_tf32 = value


def _write_logging(
    handlers: list[logging.Handler], level: int, disable: int, disabled: bool
) -> None:
    """Our messages go where they went: logging.config silences all loggers that there are."""
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(disable)
    for name in root.manager.loggerDict:
        if name.partition(".")[0] == "lossbench":
            logging.getLogger(name).disabled = disabled
