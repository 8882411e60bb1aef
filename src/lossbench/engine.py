"""How a step is computed: faster, and the same up to rounding. Each part has a setting."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format


def place(model: nn.Module, device: torch.device, training: Mapping[str, Any]) -> nn.Module:
    """The network on its device, ready to train; with `channels_last`, weights in that layout.

    On a GPU only those of 2D convolutions: 3D normalisation there knows no such layout yet, and
    copies (https://github.com/pytorch/pytorch/pull/194616).
    """
    model = model.to(device).train()
    if training["channels_last"]:
        convert_conv2d_weight_memory_format(model, torch.channels_last)
        if device.type == "cpu":
            convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    return model


def make_optimizer(model: nn.Module, training: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; with `fused`, a kernel for all weights."""
    own = {
        "lr": training["learning_rate"],
        "weight_decay": training["weight_decay"],
        "fused": training["fused"],
    }
    if training["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), **own)
    momentum = training["momentum"]
    return torch.optim.SGD(model.parameters(), momentum=momentum, nesterov=momentum > 0, **own)


@functools.cache
def compiled() -> Callable[[nn.Module, Tensor], Tensor]:
    """The call of a network, to be compiled at its first one, once for all networks of a kind.

    Random numbers are those of the network that is not compiled.
    """
    return torch.compile(_call, dynamic=False, options={"fallback_random": True})


def _call(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def not_compiled(error: Exception) -> bool:
    """Whether compiling is what failed."""
    return isinstance(error, torch._dynamo.exc.TorchDynamoException)
