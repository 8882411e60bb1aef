"""What a picture shows of a volume: one slice. Without matplotlib, which an evaluation lacks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossbench.datasets.prepared import IGNORE, Prepared, foreground_labels
from lossbench.datasets.regions import as_drawn, as_predicted

MAX_PIXELS = 1024  # along an axis of a picture


def drawn_values(info: Mapping[str, Any]) -> list[int]:
    """Values to paint, of a label map, or of regions as `region_map` maps them; by classes.json."""
    if info.get("regions"):
        return [*range(1, len(info["classes"]) + 1)]
    return foreground_labels(info)


def drawn_label(data: Prepared, row: int) -> np.ndarray:
    """The label of a case as it is drawn: (*S), regions as `region_map` maps them."""
    return as_drawn(as_predicted(data.original_label(row), data.regions), data.regions)


def shown_slice(data: Prepared, row: int) -> int | None:
    """The slice of a case that a picture shows: where the label has most; None for an image."""
    return best_slice(drawn_label(data, row), drawn_values(data.info))


def shown_of(prediction: np.ndarray, number: int | None, data: Prepared) -> np.ndarray:
    """What a picture shows of a prediction: uint8 (H, W), of a volume the slice of that number."""
    # A view would keep the whole volume.
    return plane(as_drawn(prediction, data.regions), number).copy()


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
