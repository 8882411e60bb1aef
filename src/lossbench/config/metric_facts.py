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
    penalised
        Whether it has no value where the prediction lacks a class that is there, and is compared
        with the image's diagonal in that place.
    """

    title: str
    lower_is_better: bool = False
    low: float = 0.0
    high: float = 1.0
    needs_spacing: bool = False
    penalised: bool = False


STARTED = 0.1  # Dice that a class reaches once a network has begun to learn it
FOUND = 0.3  # Dice of a class that a network finds for certain
PENALISED = "_penalised"  # ends the name of a penalised metric, next to the plain one
METRICS = {
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "precision": Metric("precision"),
    "recall": Metric("recall"),
    "hd95": Metric("HD95", True, high=math.inf, needs_spacing=True, penalised=True),
    "surface_dice": Metric("surface Dice", needs_spacing=True),
}
# Of counts that are summed over the cases, by `compare`; no case has one. micro sums over the
# classes as well, and macro is the mean over them: these are figures of all classes together.
POOLED = {
    f"{kind}_{metric}": Metric(f"{kind} {METRICS[metric].title}")
    for kind in ("pooled", "micro", "macro")
    for metric in ("dice", "iou")
}
OF_ALL_CLASSES = tuple(name for name in POOLED if not name.startswith("pooled_"))
ALL_CLASSES = "all classes"  # what stands for the class of these


def outcome(dice: float, reference_dice: float) -> str:
    """Say what became of a class that a loss does not find, by its mean Dice and the reference's.

    Returns
    -------
    str
        "lost" where the reference finds the class, "not learned" where it has not begun to learn
        it either, and "" otherwise.
    """
    if dice < STARTED and reference_dice >= FOUND:
        return "lost"
    return "not learned" if dice < STARTED and reference_dice < STARTED else ""
