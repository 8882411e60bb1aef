"""The facts of every metric: one row each. Its function is in `lossbench.metrics`."""

import math
from typing import NamedTuple


class Metric(NamedTuple):
    """What is known of a metric without computing it.

    Attributes
    ----------
    title
        The metric as people write it.
    lower_is_better
        Whether a smaller value is better.
    low, high
        The smallest and the largest value that there can be.
    needs_spacing
        Whether it is measured in the unit of the spacing, on surfaces.
    """

    title: str
    lower_is_better: bool = False
    low: float = 0.0
    high: float = 1.0
    needs_spacing: bool = False


STARTED = 0.1  # Dice that a class reaches once a network has begun to learn it
METRICS = {
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "precision": Metric("precision"),
    "recall": Metric("recall"),
    "hd95": Metric("HD95", lower_is_better=True, high=math.inf, needs_spacing=True),
    "surface_dice": Metric("surface Dice", needs_spacing=True),
}
