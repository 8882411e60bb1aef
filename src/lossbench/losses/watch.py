"""Watch what a loss makes of logits by softmax or sigmoid, call by call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lossbench.losses.known_losses import SIGMOID, SOFTMAX


class WatchActivations(TorchFunctionMode):
    """Records the activations that torch is asked for, and can replace the probabilities.

    Parameters
    ----------
    num_classes
        Size of dimension 1 of what counts as a prediction.
    replacements
        What each call of softmax gives; empty: what it does give.

    Attributes
    ----------
    inputs
        What softmax or sigmoid was applied to, call by call.
    probabilities
        What each softmax over the classes gave: probabilities, or their logarithms.
    sigmoid
        Whether probabilities were made class by class.
    """

    def __init__(self, num_classes: int, replacements: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.num_classes, self.replacements = num_classes, replacements
        self.inputs: list[Tensor] = []
        self.probabilities: list[Tensor] = []
        self.sigmoid = False

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Called by torch for every function."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name not in (*SOFTMAX, *SIGMOID):
            return func(*args, **kwargs)
        self.inputs.append(args[0] if args else kwargs["input"])
        self.sigmoid |= name in SIGMOID
        if name == "cross_entropy":
            if kwargs.get("label_smoothing"):
                return func(*args, **kwargs)
            return self._cross_entropy(*args, **kwargs)
        output = func(*args, **kwargs)
        return self._record(output) if name in SOFTMAX else output

    def _record(self, output: Tensor) -> Tensor:
        if output.ndim < 2 or output.shape[1] != self.num_classes:
            return output
        self.probabilities.append(output)
        return self.replacements[len(self.probabilities) - 1] if self.replacements else output

    def _cross_entropy(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any
    ) -> Tensor:
        """torch's, in two steps, since its own softmax cannot be seen."""
        log_p = self._record(functional.log_softmax(input, dim=1))
        reduction = options.get("reduction", "mean")
        if not target.is_floating_point():
            ignored = options.get("ignore_index", -100)
            return functional.nll_loss(
                log_p, target, weight, ignore_index=ignored, reduction=reduction
            )
        if weight is not None:
            target = target * weight.view(1, -1, *[1] * (input.ndim - 2))
        each = -(target * log_p).sum(dim=1)
        return {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}[reduction](each)
