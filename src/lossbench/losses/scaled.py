"""A loss times a factor: what scale alone does."""

import copy
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from lossbench.config import UserError
from lossbench.losses.gradients import flat_gradient


class Scaled(nn.Module):
    """A loss times a constant, or times what gives it the gradient norm of another at the start.

    Parameters
    ----------
    loss
        (logits (B, K, *S), one-hot target (B, K, *S)) -> scalar.
    factor
        The constant.
    match
        The other loss; `match_scale` then sets the factor, before the first step.
    """

    def __init__(
        self, loss: nn.Module, factor: float = 1.0, match: nn.Module | None = None
    ) -> None:
        super().__init__()
        if not factor > 0:
            raise UserError(f"factor is {factor}; expected a number above 0")
        if match is not None and factor != 1:
            raise UserError("factor and match are both set; match finds the factor itself")
        self.loss, self.factor, self.match = loss, factor, match
        self.measured: nn.Module | None = None  # what `match_scale` looks at

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, K, *S), (B, K, *S) -> scalar."""
        if self.measured is not None:
            return self.measured(logits, target)
        return self.factor * self.loss(logits, target)


def scale_of(loss: nn.Module) -> Scaled | None:
    """The `Scaled` that a loss is or wraps, if any."""
    return next((part for part in loss.modules() if isinstance(part, Scaled)), None)


def match_scale(
    name: str, loss: nn.Module, value: Callable[[], Tensor], parameters: Iterable[Tensor]
) -> None:
    """Set the factor of a `Scaled` that matches another loss; other losses stay as they are.

    Parameters
    ----------
    name
        Of the loss, for messages.
    loss
        The loss of a run.
    value
        The value of `loss` on a batch, as a function of `parameters`.
    parameters
        Of the network, at the start.

    Raises
    ------
    UserError
        Where one of the two gradients is 0 or not finite.
    """
    scaled = scale_of(loss)
    if scaled is not None and scaled.match is not None:
        parameters = list(parameters)
        own, other = (
            _norm(name, scaled, part, value, parameters) for part in (scaled.loss, scaled.match)
        )
        scaled.factor = other / own


def _norm(
    name: str,
    scaled: Scaled,
    part: nn.Module,
    value: Callable[[], Tensor],
    parameters: Sequence[Tensor],
) -> float:
    """Gradient norm of a part, called in the place of the whole."""
    scaled.measured = copy.deepcopy(part)  # a state of its own stays as it is
    norm = float(flat_gradient(value(), parameters).norm())
    scaled.measured = None
    if not 0 < norm < float("inf"):
        raise UserError(
            f"losses.{name}: the gradient norm of {type(part).__name__} at the start is "
            f"{norm:.3g}; scales can be matched only where it is above 0 and finite"
        )
    return norm
