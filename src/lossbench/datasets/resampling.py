"""From the grid of the files to the grid of the training, and back for what is measured.

Images (H, W) are interpolated bilinearly, over the area where they get smaller, and their labels
are of the nearest pixel. Volumes are interpolated linearly, and a label is the class whose
interpolated indicator is largest. The borders of the grids coincide.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage


def is_resampled(settings: Mapping[str, Any]) -> bool:
    """Whether an entry, or classes.json, has a size or a spacing of the training images."""
    return any(settings.get(key) for key in ("resize", "target_spacing"))


def training_shape(
    shape: Sequence[int], spacing: Sequence[float], settings: Mapping[str, Any]
) -> tuple[int, ...]:
    """The shape of a case on the grid of the training.

    Parameters
    ----------
    shape, spacing
        Of the case, as its files have it.
    settings
        resize, the size of all training images, or target_spacing, their spacing; or neither.
    """
    if settings.get("resize"):
        return tuple(settings["resize"])
    if target := settings.get("target_spacing"):
        sizes = zip(shape, spacing, target, strict=True)
        return tuple(max(1, round(n * old / new)) for n, old, new in sizes)
    return tuple(shape)


def axes_problem(axes: int, settings: Mapping[str, Any]) -> str | None:
    """Say which setting has another number of axes than a case; None where both fit."""
    for key in ("resize", "target_spacing"):
        if settings.get(key) and len(settings[key]) != axes:
            return f"has {axes} axes, and {key} is {settings[key]}; give a number for each axis"
    return None


def resample_image(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An image (C, *S) on a grid of another shape: float32, or as it is where the shape is."""
    if image.shape[1:] == tuple(shape):
        return image
    channels = image.astype(np.float32)
    if len(shape) == 2:
        size, bilinear = tuple(shape[::-1]), Image.Resampling.BILINEAR
        return np.stack([np.asarray(Image.fromarray(c).resize(size, bilinear)) for c in channels])
    return np.stack([_linear(channel, shape) for channel in channels])


def resample_label(label: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A label, uint8 (*S), on a grid of another shape; or as it is where the shape is."""
    if label.shape == tuple(shape):
        return label
    if len(shape) == 2:
        image = Image.fromarray(np.ascontiguousarray(label))
        return np.array(image.resize(tuple(shape[::-1]), Image.Resampling.NEAREST))
    result, largest = np.zeros(shape, np.uint8), np.full(shape, -1, np.float32)
    for value in np.unique(label):
        share = _linear((label == value).astype(np.float32), shape)
        result[share > largest] = value
        np.maximum(largest, share, out=largest)
    return result


def resample_prediction(classes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A prediction of classes (*S), or of regions (R, *S), on a grid of another shape."""
    if classes.ndim == len(shape):
        return resample_label(classes, shape)
    return np.stack([resample_label(region, shape) for region in classes])


def _linear(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    factors = np.divide(shape, volume.shape)
    return ndimage.zoom(volume, factors, order=1, mode="nearest", grid_mode=True)
