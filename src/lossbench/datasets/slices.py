"""What a picture shows of a volume: one slice. Without matplotlib, which an evaluation lacks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossbench.datasets.prepared import IGNORE, Prepared, foreground_labels
from lossbench.datasets.regions import region_map, region_masks

MAX_PIXELS = 1024  # along an axis of a picture


def drawn_values(info: Mapping[str, Any]) -> list[int]:
    """Values to paint, of a label map, or of regions as `region_map` maps them; by classes.json."""
    if info.get("regions"):
        return [*range(1, len(info["classes"]) + 1)]
    return foreground_labels(info)


def drawn_label(data: Prepared, row: int) -> np.ndarray:
    """The label of a case as it is drawn: (*S), regions as `region_map` maps them."""
    label = data.original_label(row)
    return region_map(region_masks(label, data.regions), data.regions) if data.regions else label


def shown_of(prediction: np.ndarray, row: int, data: Prepared) -> np.ndarray:
    """What a picture shows of a prediction: uint8 (H, W), on the slice where the label has most."""
    drawn = region_map(prediction, data.regions) if data.regions else prediction
    number = best_slice(drawn_label(data, row), drawn_values(data.info))
    return plane(drawn, number).copy()  # a view would keep the whole volume


def best_slice(label: np.ndarray, foreground: Sequence[int]) -> int | None:
    """Choose the slice of a label (X, Y, Z) with the most classes, then the most foreground.

    None for a label (H, W), which has no slices.
    """

    def content(number: int) -> tuple[int, int]:
        counts = np.bincount(label[..., number].reshape(-1), minlength=IGNORE + 1)[foreground]
        return np.count_nonzero(counts), counts.sum()

    return max(range(label.shape[2]), key=content) if label.ndim == 3 else None


def plane(array: np.ndarray, number: int | None) -> np.ndarray:
    """A slice of a volume as a picture: (..., X, Y, Z) -> (..., Y, X); an image as it is.

    The second axis of a NIfTI volume runs to the front of the body: upwards in the picture. Of more
    pixels than a picture shows, every nth: 20 million would take half a minute.
    """
    picture = array if number is None else np.rot90(array[..., number], axes=(-2, -1))
    n = math.ceil(max(picture.shape[-2:]) / MAX_PIXELS)
    return picture[..., ::n, ::n]
