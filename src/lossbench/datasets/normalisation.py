"""Normalisation of images, as an entry of the catalogue sets it and classes.json stores it.

Stored are "z_score", "none", {"window": [low, high]} or {"mean": [...], "std": [...]} with a number
for each channel: what `normalised` takes, for a case of the dataset or for a new image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Of colours from 0 to 255: https://docs.pytorch.org/vision/stable/models.html
IMAGENET = {
    "mean": [255 * mean for mean in (0.485, 0.456, 0.406)],
    "std": [255 * std for std in (0.229, 0.224, 0.225)],
}


def normalised(image: np.ndarray, normalisation: Any = "z_score") -> np.ndarray:
    """Normalise an image: numbers (C, *S) -> float32 (C, *S).

    Parameters
    ----------
    image
        As its file or the dataset has it.
    normalisation
        z_score: mean 0 and standard deviation 1 per channel; a constant channel, as a slice
        outside the body has, becomes 0. window: values are clipped to it, which becomes 0 to 1.
        mean, std: shifted and scaled by these. none: as it is.
    """
    if normalisation == "none":
        return np.array(image, dtype=np.float32, order="C")
    if normalisation == "z_score":
        return _z_score(image)
    if "window" in normalisation:
        low, high = normalisation["window"]
        result = (np.clip(image, low, high, dtype=np.float64) - low) / (high - low)
    else:
        shape = (-1, *[1] * (image.ndim - 1))
        mean, std = (np.reshape(normalisation[key], shape) for key in ("mean", "std"))
        result = (image - mean) / std
    return result.astype(np.float32, order="C")


def normalisation_problem(image: np.ndarray, normalisation: Any, sliced: bool) -> str | None:
    """Say why a setting of the catalogue does not suit an image (C, *S); None where it does.

    Slices of volumes (`sliced`) may be empty of signal.
    """
    if normalisation == "imagenet" and len(image) != 3:
        return (
            f"the image has {len(image)} channels, and normalisation imagenet needs 3; "
            "an ImageFolder reads 3 with channels: 3"
        )
    low, high = image.min(), image.max()
    if normalisation == "imagenet" and not sliced and (low < 0 or not 1 < high <= 255):
        return (
            f"the image has values from {low:g} to {high:g}, and normalisation imagenet takes "
            "colours from 0 to 255; use z_score"
        )
    if not sliced and isinstance(normalisation, dict):
        bottom, top = normalisation["window"]
        if high <= bottom or low >= top:
            return (
                f"the image has values from {low:g} to {high:g}, all outside the window "
                f"[{bottom:g}, {top:g}]; fix normalisation"
            )
    return None


def mean_and_std(images: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over all voxels of some images (C, *S)."""
    flat = [image.reshape(len(image), -1) for image in images]
    count = sum(image.shape[1] for image in flat)
    mean = sum(image.sum(axis=1, dtype=np.float64) for image in flat) / count
    # Not from the sum of squares, which is rounded where the mean is large.
    squares = [np.square(image - mean[:, None]).sum(axis=1, dtype=np.float64) for image in flat]
    std = np.sqrt(sum(squares) / count)
    return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1).tolist()}


def _z_score(image: np.ndarray) -> np.ndarray:
    result = np.zeros(image.shape, dtype=np.float32)
    for channel, target in zip(image, result, strict=True):  # one at a time, in twice the memory
        # Not by the deviation: rounding of the mean may leave it above 0.
        if channel.min() < channel.max():
            centred = channel.ravel().astype(np.float64)
            centred -= centred.mean()
            centred /= centred.std()
            target[...] = centred.reshape(channel.shape)
    return result
