"""What a user's code leaves behind in the process is put back, whatever way it ends."""

import gc
import locale
import logging
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lossbench.common.global_state import preserve_global_state

KEPT = []  # what a user's code holds on to, such as a mode that it never leaves


class Doubling(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return 2 * function(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def enter(context):
    KEPT.append(context)
    context.__enter__()


def doubled(module, inputs, output):
    return 2 * output


def layer_output():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    return layer(torch.ones(1)).item()


def gradient():
    weight = torch.nn.Parameter(torch.ones(1))
    (3 * weight).backward()
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    image = torch.ones(1, requires_grad=True)
    layer(image).backward()
    return weight.grad.item(), image.grad.item()


def stepped():
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    torch.optim.SGD([weight], 1.0).step()
    return weight.item()


CHANGES = {
    "inference mode": (lambda: enter(torch.inference_mode()), gradient),
    "grad mode": (lambda: torch.set_grad_enabled(False), gradient),
    "autocast": (lambda: enter(torch.autocast("cpu", torch.bfloat16)), lambda: torch.is_autocast_enabled("cpu")),
    "a hook of all modules": (lambda: register_module_forward_hook(doubled), layer_output),
    "a backward hook of all modules": (
        lambda: register_module_full_backward_hook(lambda m, i, o: (5 * i[0],)),
        gradient,
    ),
    "a hook of all optimisers": (
        lambda: register_optimizer_step_post_hook(lambda o, a, k: o.param_groups[0]["params"][0].data.zero_()),
        stepped,
    ),
    "a function mode": (lambda: enter(Doubling()), lambda: torch.ones(1).add(1).item()),
    "a dispatch mode": (lambda: enter(Dispatching()), torch._C._len_torch_dispatch_stack),
    "a device": (lambda: torch.set_default_device("meta"), lambda: str(torch.ones(1).device)),
    "a dtype": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.ones(1).dtype),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "warnings": (lambda: warnings.simplefilter("ignore"), lambda: warnings.filters[:]),
    "numpy's errors": (lambda: np.seterr(all="ignore"), np.geterr),
    "an added variable": (lambda: os.environ.update(LOSSBENCH_A="1"), lambda: dict(os.environ)),
    "a changed variable": (lambda: os.environ.update(PATH="/x"), lambda: dict(os.environ)),
    "a removed variable": (lambda: os.environ.pop("PATH"), lambda: dict(os.environ)),
    "the folder": (lambda: os.chdir("/"), Path.cwd),
    "a signal": (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGTERM)),
    "the locale": (lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"), lambda: locale.setlocale(locale.LC_ALL)),
    "logging": (logging.disable, lambda: logging.getLogger("lossbench").isEnabledFor(logging.ERROR)),
    "denormals": (lambda: torch.set_flush_denormal(True), lambda: (torch.tensor([1e-40]) * 1).item()),
    "determinism": (lambda: torch.use_deterministic_algorithms(True), torch.are_deterministic_algorithms_enabled),
    "mkldnn": (lambda: torch.backends.mkldnn.set_flags(False), lambda: torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_what_code_changes_for_the_process_is_put_back(what, fails):
    change, observed = CHANGES[what]
    before = observed()
    try:
        with preserve_global_state():
            change()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert observed() == before
    KEPT.clear()
    gc.collect()  # where a guard that was kept ends at last
    assert observed() == before


def test_os_exit_raises_in_this_process_and_ends_a_child():
    real = os._exit
    with pytest.raises(SystemExit) as caught, preserve_global_state():
        os._exit(3)
    assert caught.value.code == 3
    assert os._exit is real
    with preserve_global_state():
        child = os.fork()
        if not child:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
