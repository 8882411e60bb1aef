"""Losses whose forward has arguments `step` and `steps`: weights that change along the training."""

import inspect
from typing import Any

from torch import nn

ARGUMENTS = ("step", "steps")  # steps taken so far, and of the whole training
START = {"step": 0, "steps": 1}  # what such a loss gets where nothing is trained


def add_schedule(loss: nn.Module) -> nn.Module:
    """Have every part of a loss whose forward has `step` or `steps` called with them."""
    for part in loss.modules():
        if _scheduled(part):
            part.lossbench_schedule = dict(START)
            part.register_forward_pre_hook(_add_arguments, with_kwargs=True)
    return loss


def set_step(loss: nn.Module, step: int, steps: int) -> None:
    """Set what the parts of a loss are called with from now on."""
    for part in loss.modules():
        if takes_step(part):
            part.lossbench_schedule = {"step": step, "steps": steps}


def takes_step(loss: nn.Module) -> bool:
    """Whether a loss or a part of it depends on the step."""
    return any("lossbench_schedule" in vars(part) for part in loss.modules())


def _scheduled(part: nn.Module) -> list[str]:
    return [name for name in ARGUMENTS if name in inspect.signature(part.forward).parameters]


def _add_arguments(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    given = inspect.signature(part.forward).bind_partial(*args, **kwargs).arguments
    values = {n: part.lossbench_schedule[n] for n in _scheduled(part) if n not in given}
    return args, kwargs | values
