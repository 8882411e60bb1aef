"""Whether a loss applies its activation: measured, since its arguments may say anything.

Logits of a perfect prediction are tried at several depths. With an activation, all of them are
perfect probabilities; without one, each gives another value.
"""

import copy
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.losses.known_losses import ACTIVATION_ARGUMENTS
from lossbench.losses.targets import example_target
from lossbench.losses.watch import WatchActivations

# Logits of the true class and of the others.
PERFECT = {"perfect": (10, -10), "true_deep": (40, -10), "others_deep": (10, -40)}
SPREAD = 0.02  # of the value among these, relative to the distance to inverted logits


def activation_problem(
    loss: nn.Module, num_classes: int, spatial_dims: int, overlapping: bool = False
) -> str | None:
    """What is wrong with how a loss takes logits, in words; None where nothing is.

    Parameters
    ----------
    loss
        (logits (B, K, *S), one-hot target (B, K, *S)) -> scalar.
    num_classes, spatial_dims
        Of the dataset: K, and the number of axes in S.
    overlapping
        Whether its classes are regions that overlap: the target is multi-hot.

    Returns
    -------
    str or None
        That the loss takes a softmax, where regions overlap; that it, or one that it calls, takes
        logits as probabilities; that it takes the softmax of probabilities; that perfect logits
        score no better than inverted ones.
    """
    loss, target = copy.deepcopy(loss), _target(num_classes, spatial_dims, overlapping)
    probes, twice, softmax = _measure(loss, target)
    if overlapping and (softmax or _is_same_shifted(probes[loss].values)):
        return (
            f"{type(loss).__name__} takes the softmax over the channels, so that a voxel is in one "
            "of them, and the regions of the data set overlap; let it take the sigmoid, or choose "
            "another loss"
        )
    if twice:
        return (
            f"{type(loss).__name__} applies softmax or sigmoid to what already are probabilities, "
            "so that none comes near 0 or 1; remove one of the two"
        )
    for part, probe in probes.items():
        if not probe.activated and (why := _depends_on_depth(probe.values)):
            return f"{type(part).__name__} takes logits as probabilities: {why}{_hint(part)}"
    values = probes[loss].values
    if not _is_same_shifted(values) and _is_dead(loss, target):
        return (
            f"{type(loss).__name__} takes logits as probabilities: its gradient is 0 where all "
            f"logits are below 0{_hint(loss)}"
        )
    if not values["perfect"] < values["inverted"]:
        return (
            f"{type(loss).__name__} gives {values['perfect']:.4g} for perfect logits and "
            f"{values['inverted']:.4g} for inverted ones; a loss must be lower where the "
            "prediction is better"
        )
    return None


def are_probabilities(output: Tensor) -> bool:
    """Whether a network's output (B, K, *S) has gone through softmax already."""
    sums = output.sum(dim=1)
    return bool((output >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def _target(k: int, spatial_dims: int, overlapping: bool) -> Tensor:
    """Bands, two of each class, in a batch of two that differ."""
    n, values = 16**spatial_dims, k + overlapping
    labels = (torch.arange(n) * 2 * values // n % values).view([16] * spatial_dims)
    return example_target(torch.stack([labels, labels.flip(0)]), k, overlapping)


def _logits(target: Tensor, true: float, others: float) -> Tensor:
    return torch.where(target > 0, true, others).float()


def _measure(loss: nn.Module, target: Tensor) -> tuple[dict[nn.Module, "_Probe"], bool, bool]:
    """What the loss, and each loss in it that gets the logits, makes of several predictions.

    And whether probabilities were activated again, and a softmax was taken over the channels.
    """
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(target.shape, generator=generator)
    shift = 5 * torch.randn(target[:, :1].shape, generator=generator)
    tries = {name: _logits(target, *depth) for name, depth in PERFECT.items()}
    tries |= {"inverted": _logits(target, -10, 10), "some": some, "shifted": some + shift}
    probes: dict[nn.Module, _Probe] = {}
    twice = softmax = False
    with _WatchParts(loss, probes) as parts:
        for name, logits in tries.items():
            inputs = parts.run(name, logits.requires_grad_(), target)
            softmax |= bool(parts.watched.probabilities)
            if name == "others_deep":  # the logits themselves lie far outside
                twice = any(bool(x.min() >= 0 and x.max() <= 1) for x in inputs)
    whole = {part: probe for part, probe in probes.items() if len(probe.values) == len(tries)}
    return whole, twice, softmax


def _is_same_shifted(values: Mapping[str, float]) -> bool:
    """Whether a constant per pixel changes nothing: so it is behind a softmax of any making."""
    return math.isclose(values["shifted"], values["some"], rel_tol=1e-4, abs_tol=1e-6)


def _depends_on_depth(values: Mapping[str, float]) -> str | None:
    """How perfect predictions differ in a loss where no activation was seen."""
    if not all(math.isfinite(value) for value in values.values()):
        return f"for six predictions it gives {_list(values.values())}"
    if _is_same_shifted(values):
        return None
    depths = [values[name] for name in PERFECT]
    if max(depths) - min(depths) <= SPREAD * abs(values["inverted"] - values["perfect"]):
        return None
    return f"for three perfect predictions it gives {_list(depths)}"


def _is_dead(loss: nn.Module, target: Tensor) -> bool:
    """Whether all logits below 0 leave no gradient, as where a loss clips them to 0 and 1."""
    logits = _logits(target, -3, -4).requires_grad_()
    value = loss(logits, target)
    return value.requires_grad and not torch.autograd.grad(value, logits)[0].any()


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _hint(loss: nn.Module) -> str:
    """The argument to set, where one is known by its name."""
    arguments = inspect.signature(type(loss)).parameters
    names = [name for name in ACTIVATION_ARGUMENTS if name in arguments]
    return f"; set {names[0]}: true" if names else "; let it apply softmax to the logits"


@dataclass
class _Probe:
    """A loss: its value by name of the logits; whether softmax or sigmoid was seen in it."""

    values: dict[str, float] = field(default_factory=dict)
    activated: bool = False


class _WatchParts:
    """Runs a loss, and sees for each loss in it that gets the logits its value and activations."""

    def __init__(self, loss: nn.Module, probes: dict[nn.Module, _Probe]) -> None:
        self.loss, self.probes = loss, probes
        self.state = copy.deepcopy(loss.state_dict())

    def __enter__(self) -> "_WatchParts":
        self.hooks = [part.register_forward_pre_hook(self._enter) for part in self.loss.modules()]
        self.hooks += [part.register_forward_hook(self._leave) for part in self.loss.modules()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def run(self, name: str, logits: Tensor, target: Tensor) -> list[Tensor]:
        """Compute the loss of logits by this name: the predictions that it activated."""
        self.name, self.logits, self.starts = name, logits, []
        with WatchActivations(logits.shape[1]) as self.watched:
            self.loss(logits, target)
        self.loss.load_state_dict(self.state)
        return self._predictions()

    def _predictions(self, start: int = 0) -> list[Tensor]:
        size = self.logits[:, 0].numel()
        inputs = self.watched.inputs[start:]
        return [x for x in inputs if x.requires_grad and x.numel() >= size]

    def _enter(self, part: nn.Module, arguments: Sequence[Any]) -> None:
        self.starts.append(len(self.watched.inputs))

    def _leave(self, part: nn.Module, arguments: Sequence[Any], value: Any) -> None:
        start = self.starts.pop()
        gets_logits = bool(arguments) and arguments[0] is self.logits
        if gets_logits and isinstance(value, Tensor) and value.numel() == 1:
            probe = self.probes.setdefault(part, _Probe())
            probe.values[self.name] = value.item()
            probe.activated |= bool(self._predictions(start))
