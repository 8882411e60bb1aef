"""Random changes of a batch, on its device: drawn on the host, nothing read back.

Each change is drawn per image. Labels follow the spatial changes with nearest neighbours.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def augment(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change a batch at random.

    Parameters
    ----------
    images
        float32 (B, C, *S), with mean 0 and standard deviation 1 per case.
    labels
        uint8 (B, *S).
    settings
        The section `training.augmentation` of the config.
    generator
        On the CPU; the same state gives the same changes.

    Returns
    -------
    tuple of Tensor
        Images and labels of the same shapes and types.
    """
    draw = _Draw(len(images), settings["probability"], generator, images.device)
    if settings["flip"]:
        images, labels = _flip(images, labels, generator)
    if settings["rotate"] or settings["scale"]:
        images, labels = _resample(images, labels, settings, draw)
    if settings["contrast"]:
        mean = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
        images = (images - mean) * _per_image(1 + draw(settings["contrast"]), images) + mean
    if settings["brightness"]:
        images = images + _per_image(draw(settings["brightness"]), images)
    if settings["gamma"]:
        images = _gamma(images, _per_image(1 + draw(settings["gamma"]), images))
    if settings["noise"]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        there = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=there, device=images.device)
        images = images + noise * _per_image(draw(settings["noise"]).abs(), images)
    return images, labels


class _Draw:
    """Draws a strength per image: uniform in [-largest, largest], or 0 where not chosen."""

    def __init__(
        self, count: int, probability: float, generator: torch.Generator, device: torch.device
    ) -> None:
        self.count, self.probability = count, probability
        self.generator, self.device = generator, device

    def chosen(self) -> Tensor:
        """Images that a change is for, bool (B,), on the CPU."""
        return torch.rand(self.count, generator=self.generator) < self.probability

    def uniform(self, largest: float) -> Tensor:
        """Strengths (B,), on the CPU."""
        return (2 * torch.rand(self.count, generator=self.generator) - 1) * largest

    def __call__(self, largest: float) -> Tensor:
        return (self.uniform(largest) * self.chosen()).to(self.device, non_blocking=True)


def _flip(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    for axis in range(1, labels.ndim):
        chosen = torch.rand(len(images), generator=generator) < 0.5
        chosen = chosen.to(images.device, non_blocking=True)
        images = torch.where(_per_image(chosen, images), images.flip(axis + 1), images)
        labels = torch.where(_per_image(chosen, labels), labels.flip(axis), labels)
    return images, labels


def _resample(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], draw: _Draw
) -> tuple[Tensor, Tensor]:
    """Rotate and scale about the centre; what comes from outside is mirrored, label included."""
    dims = images.ndim - 2
    angles = [draw.uniform(math.radians(settings["rotate"])) for _ in range(1 if dims == 2 else 3)]
    factors = 1 + draw.uniform(settings["scale"])
    chosen = draw.chosen().nonzero().flatten()
    if not len(chosen):
        return images, labels
    matrix = _rotation(angles)[chosen] / factors[chosen].view(-1, 1, 1)
    # Grid coordinates run from -1 to 1 on every axis, x first: rotate in pixels, not in these.
    size = torch.tensor(images.shape[2:][::-1], dtype=torch.float32)
    matrix = matrix * size.view(1, 1, -1) / size.view(1, -1, 1)
    theta = torch.cat([matrix, torch.zeros(len(chosen), dims, 1)], dim=2).to(images.device)
    chosen = chosen.to(images.device)
    grid = affine_grid(theta, [len(chosen), 1, *images.shape[2:]], align_corners=False)
    options = {"padding_mode": "reflection", "align_corners": False}
    warped = grid_sample(images[chosen], grid, mode="bilinear", **options)
    warped_labels = grid_sample(
        labels[chosen].unsqueeze(1).float(), grid, mode="nearest", **options
    )
    images = images.index_copy(0, chosen, warped)
    labels = labels.index_copy(0, chosen, warped_labels.squeeze(1).to(labels.dtype))
    return images, labels


def _rotation(angles: list[Tensor]) -> Tensor:
    """Rotation matrices (B, D, D): about one axis in 2D, about x, y and z in turn in 3D."""
    if len(angles) == 1:
        c, s = angles[0].cos(), angles[0].sin()
        return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    matrix = torch.eye(3).expand(len(angles[0]), 3, 3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3).repeat(len(angle), 1, 1)
        turn[:, i, i], turn[:, j, j] = angle.cos(), angle.cos()
        turn[:, i, j], turn[:, j, i] = -angle.sin(), angle.sin()
        matrix = turn @ matrix
    return matrix


def _gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise to a power between the smallest and the largest value of each channel."""
    space = tuple(range(2, images.ndim))
    low, high = images.amin(space, keepdim=True), images.amax(space, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((images - low) / span).clamp(0, 1) ** exponent * span + low


def _per_image(values: Tensor, batch: Tensor) -> Tensor:
    """Values (B,) in a shape that broadcasts over a batch (B, ...)."""
    return values.view(-1, *[1] * (batch.ndim - 1))
