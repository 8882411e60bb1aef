"""Small batches to try a loss on, and a loss in the precision that it can be measured in."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lossbench.losses import one_hot
from lossbench.losses.gradients import ClassTerms, class_terms, flat_gradient

SIZES = {1: (256,), 2: (16, 16), 3: (8, 8, 8)}
BACKGROUND = (0.8, 0.4)  # share of the voxels of the probe's samples: they differ in make-up


class Probe(NamedTuple):
    """A batch to try a loss on: logits float64 (B, K, *S), one-hot target of the same size."""

    logits: Tensor
    target: Tensor


def probe_voxels(num_classes: int, spatial_dims: int) -> list[int]:
    """Voxels per class of the probe, for the weights of a loss that is to be measured."""
    labels = labels_of(num_classes, SIZES[spatial_dims])
    return torch.bincount(labels.flatten(), minlength=num_classes).tolist()


def labels_of(num_classes: int, size: tuple[int, ...]) -> Tensor:
    """Two samples, (2, *size), that hold every class in different shares."""
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor(BACKGROUND).view(-1, *[1] * len(size))
    foreground = torch.randint(1, num_classes, (2, *size), generator=generator)
    labels = foreground * (torch.rand((2, *size), generator=generator) >= share)
    labels.flatten(1)[:, :num_classes] = torch.arange(num_classes)
    return labels


def holding(k: int, number: int, num_classes: int, dims: int) -> Tensor:
    """One sample with a number of voxels of class k, and all the other classes in the rest."""
    others = torch.tensor([c for c in range(num_classes) if c != k])
    labels = others[torch.arange(int(np.prod(SIZES[dims]))) % len(others)]
    labels[:number] = k
    return labels.view(1, *SIZES[dims])


class RefusedError(Exception):
    """A loss cannot be called on a probe."""


def called(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """Value of a loss, from the state that it is in and stays in.

    Raises
    ------
    RefusedError
        Whatever the loss raised.
    """
    try:
        return copy.deepcopy(loss)(logits, target)
    except Exception as error:
        raise RefusedError(str(error)) from error


class Measured:
    """A loss in the precision that it can be measured in, and what all its probes share.

    Attributes
    ----------
    loss
        A copy in float64, or the loss as it came where that is refused.
    probe
        Of the labels (2, *S).
    sigmoid
        Whether its probabilities are made class by class.
    """

    def __init__(
        self, loss: nn.Module, labels: Tensor, num_classes: int, sigmoid: bool = False
    ) -> None:
        self.num_classes, self.sigmoid = num_classes, sigmoid
        self.loss, self.dtype = copy.deepcopy(loss).double(), torch.float64
        self.probe = self.soft(labels)
        try:
            self(*self.probe)
        except RefusedError:  # a loss that holds or makes float32
            self.loss, self.dtype = loss, torch.float32

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Value: scalar."""
        return called(self.loss, logits.to(self.dtype), target.to(self.dtype))

    def terms(self, probe: Probe) -> ClassTerms:
        """What each class adds, float (K,)."""
        logits, target = (t.to(self.dtype) for t in probe)
        return class_terms(lambda z: self(z, target), logits, target)

    def gradient(self, probe: Probe) -> Tensor:
        """With respect to the logits, in their shape."""
        logits = probe.logits.clone().requires_grad_()
        return flat_gradient(self(logits, probe.target), [logits]).view_as(logits)

    def soft(self, labels: Tensor, seed: int = 0) -> Probe:
        """Logits of a network that has learned a little, the later classes better."""
        target = one_hot(labels, self.num_classes).double()
        learned = torch.linspace(0.5, 2, self.num_classes).view(-1, *[1] * (labels.ndim - 1))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(target.shape, generator=generator, dtype=torch.float64)
        return Probe(1.5 * noise + learned * target, target)

    @property
    def example(self) -> int:
        """The foreground class with the largest term: one that the loss looks at."""
        return 1 + int(self.terms(self.probe).value[1:].argmax())
