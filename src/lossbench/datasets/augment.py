"""Random changes of a batch, on its device: drawn on the host, nothing read back.

Each change is drawn per image. Labels follow the spatial changes with nearest neighbours.
"""

import math
from collections.abc import Mapping, Sequence
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
    draws = _draw(len(images), images.shape[2:], settings, generator)
    draws = _to_device(draws, images.device)
    for axis in range(1, labels.ndim):
        if settings["flip"]:
            chosen = draws[f"flip{axis}"].bool()
            images = torch.where(_per_image(chosen, images), images.flip(axis + 1), images)
            labels = torch.where(_per_image(chosen, labels), labels.flip(axis), labels)
    if "theta" in draws:
        images, labels = _resample(images, labels, draws["theta"], draws["resampled"].long())
    if settings["contrast"]:
        mean = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
        images = (images - mean) * _per_image(1 + draws["contrast"], images) + mean
    if settings["brightness"]:
        images = images + _per_image(draws["brightness"], images)
    if settings["gamma"]:
        images = _gamma(images, _per_image(1 + draws["gamma"], images))
    if "noise" in draws:
        rows = draws["noisy"].long()
        seed = int(torch.randint(2**62, (1,), generator=generator))
        noise = counter_noise(seed, rows, images[0].numel()).view(-1, *images.shape[1:])
        noisy = images[rows] + noise * _per_image(draws["noise"], images)
        images = images.index_copy(0, rows, noisy)
    return images, labels


def counter_noise(seed: int, rows: Tensor, elements: int) -> Tensor:
    """Standard normal numbers that are a function of seed, row and element, on every device.

    The generator of a GPU gives other numbers on another model of GPU, and than that of a CPU.

    Parameters
    ----------
    seed
        Below 2**62.
    rows
        int64 (R,), numbers of the images in their batch.
    elements
        How many numbers a row has.

    Returns
    -------
    Tensor
        float32 (R, elements) on the device of `rows`: equal up to the rounding of log and cos.
        None is beyond 5.8, since a uniform number has 24 bits.
    """
    half = (elements + 1) // 2  # one hash gives two numbers
    counters = rows[:, None] * half + torch.arange(half, device=rows.device)
    bits = _hash(counters.add_(seed))
    u = ((bits >> 40) & 0xFFFFFF).add_(1).float().mul_(2.0**-24)  # (0, 1]
    angle = ((bits >> 8) & 0xFFFFFF).float().mul_(math.tau * 2.0**-24)
    radius = u.log_().mul_(-2).sqrt_()  # the transform of Box and Muller
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :elements]


def _hash(x: Tensor) -> Tensor:
    """Mix the bits of int64 in place, by the finaliser of splitmix64 (Steele et al., 2014)."""
    x.mul_(-0x61C8864680B583EB)
    x ^= (x >> 30) & (2**34 - 1)  # a shift of signed numbers repeats the sign: cut it off
    x.mul_(-0x40A7B892E31B1A47)
    x ^= (x >> 27) & (2**37 - 1)
    x.mul_(-0x6B2FB644ECCEEE15)
    x ^= (x >> 31) & (2**33 - 1)
    return x


def _draw(
    count: int, size: Sequence[int], settings: Mapping[str, Any], generator: torch.Generator
) -> dict[str, Tensor]:
    """All that is drawn for a batch, on the CPU: strengths per image, 0 where not chosen."""

    def chosen() -> Tensor:
        return torch.rand(count, generator=generator) < settings["probability"]

    def uniform(largest: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * largest

    draws: dict[str, Tensor] = {}
    if settings["flip"]:
        for axis in range(1, len(size) + 1):
            draws[f"flip{axis}"] = torch.rand(count, generator=generator) < 0.5
    if settings["rotate"] or settings["scale"]:
        axes = 1 if len(size) == 2 else 3
        angles = [uniform(math.radians(settings["rotate"])) for _ in range(axes)]
        factors, rows = 1 + uniform(settings["scale"]), chosen().nonzero().flatten()
        if len(rows):
            matrix = _rotation(angles)[rows] / factors[rows].view(-1, 1, 1)
            # Grid coordinates run from -1 to 1 on every axis, x first: rotate in pixels instead.
            xyz = torch.tensor(size[::-1], dtype=torch.float32)
            matrix = matrix * xyz.view(1, 1, -1) / xyz.view(1, -1, 1)
            draws["theta"] = torch.cat([matrix, torch.zeros(len(rows), len(size), 1)], dim=2)
            draws["resampled"] = rows
    for change in ("contrast", "brightness", "gamma"):
        if settings[change]:
            draws[change] = uniform(settings[change]) * chosen()
    if settings["noise"]:
        strengths, rows = uniform(settings["noise"]).abs(), chosen().nonzero().flatten()
        if len(rows):
            draws["noise"], draws["noisy"] = strengths[rows], rows
    return draws


def _to_device(draws: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
    """The draws as float32 on the device, in one copy from pinned memory: no waiting."""
    if device.type == "cpu" or not draws:
        return draws
    packed = torch.cat([tensor.flatten().float() for tensor in draws.values()])
    if device.type == "cuda":
        packed = packed.pin_memory()
    parts = packed.to(device, non_blocking=True).split([t.numel() for t in draws.values()])
    return {name: part.view(draws[name].shape) for name, part in zip(draws, parts, strict=True)}


def _resample(images: Tensor, labels: Tensor, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate and scale some images; what comes from outside is mirrored, label included."""
    grid = affine_grid(theta, [len(rows), 1, *images.shape[2:]], align_corners=False)
    options = {"padding_mode": "reflection", "align_corners": False}
    warped = grid_sample(images[rows], grid, mode="bilinear", **options)
    warped_labels = grid_sample(labels[rows].unsqueeze(1).float(), grid, mode="nearest", **options)
    images = images.index_copy(0, rows, warped)
    labels = labels.index_copy(0, rows, warped_labels.squeeze(1).to(labels.dtype))
    return images, labels


def _rotation(angles: list[Tensor]) -> Tensor:
    """Rotation matrices (B, D, D): about one axis in 2D, about x, y and z in turn in 3D."""
    if len(angles) == 1:
        c, s = angles[0].cos(), angles[0].sin()
        return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    cos, sin = torch.stack(angles).cos(), torch.stack(angles).sin()
    axis = torch.arange(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turns = torch.eye(3).repeat(3, len(angles[0]), 1, 1)
    turns[axis, :, i, i] = turns[axis, :, j, j] = cos
    turns[axis, :, i, j], turns[axis, :, j, i] = -sin, sin
    return turns[2] @ (turns[1] @ turns[0])


def _gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise to a power between the smallest and the largest value of each channel."""
    space = tuple(range(2, images.ndim))
    low, high = images.amin(space, keepdim=True), images.amax(space, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((images - low) / span).clamp(0, 1) ** exponent * span + low


def _per_image(values: Tensor, batch: Tensor) -> Tensor:
    """Values (B,) in a shape that broadcasts over a batch (B, ...)."""
    return values.view(-1, *[1] * (batch.ndim - 1))
