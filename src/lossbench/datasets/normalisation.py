"""Normalisation of images, as an entry of the catalogue sets it and classes.json stores it.

Stored are "z_score", "none", {"window": [low, high]} or {"mean": [...], "std": [...]} with a number
for each channel: what `normalised` takes, for a case of the dataset or for a new image. Where it is
a shift and a scale, images are stored as they are, those of 8 bits as uint8, and normalised where
they are read.
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
    if "window" in normalisation:
        low, high = normalisation["window"]
        result = (np.clip(image, low, high, dtype=np.float64) - low) / (high - low)
        return result.astype(np.float32, order="C")
    if normalisation == "z_score":
        if image.dtype != np.uint8:
            return _z_score(image)
        normalisation = mean_and_std([image])
    shape = (-1, *[1] * (image.ndim - 1))
    mean, std = (np.reshape(normalisation[k], shape).astype(np.float32) for k in ("mean", "std"))
    result = np.subtract(image, mean, dtype=np.float32, order="C")  # the operations of a batch
    return np.divide(result, std, out=result)


def as_stored(image: np.ndarray, normalisation: Any) -> tuple[np.ndarray, dict[str, list[float]]]:
    """An image as prepare stores it, and what it is to be normalised by when it is read.

    Parameters
    ----------
    image
        Numbers (C, *S).
    normalisation
        As `normalised` takes it, or imagenet, or dataset, whose statistics are known later.

    Returns
    -------
    np.ndarray
        uint8 (C, *S) where it holds these and is stored as it is, else float32.
    dict
        mean and std of each channel; empty where nothing is left to do.
    """
    is_8_bit = image.dtype == np.uint8
    if "window" in normalisation or (normalisation == "z_score" and not is_8_bit):
        return normalised(image, normalisation), {}
    stored = np.ascontiguousarray(image, dtype=np.uint8 if is_8_bit else np.float32)
    if normalisation == "z_score":
        return stored, mean_and_std([image])
    return stored, IMAGENET if normalisation == "imagenet" else {}


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
    """Mean and standard deviation of each channel over all voxels of some images (C, *S).

    A deviation of 0 becomes 1.
    """
    found = [_channel_mean_and_std(channels) for channels in zip(*images, strict=True)]
    return {"mean": [mean for mean, _ in found], "std": [std or 1.0 for _, std in found]}


def _channel_mean_and_std(channels: Sequence[np.ndarray]) -> tuple[float, float]:
    """Over all voxels of one channel of some images."""
    n = sum(channel.size for channel in channels)
    if all(channel.dtype == np.uint8 for channel in channels):  # which few numbers describe
        counts = sum(np.bincount(channel.ravel(), minlength=256) for channel in channels)
        values = np.arange(256)
        mean = counts @ values / n
        return float(mean), float(np.sqrt(counts @ np.square(values - mean) / n))
    mean = sum(channel.sum(dtype=np.float64) for channel in channels) / n
    # Not from the sum of squares, which is rounded where the mean is large.
    squares = (np.square(channel.astype(np.float64) - mean).sum() for channel in channels)
    return float(mean), float(np.sqrt(sum(squares) / n))


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
