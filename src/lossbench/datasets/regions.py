"""Regions: sets of labels that overlap, each measured and trained as a class of its own.

As in nnU-Net's region-based training: a whole tumour [1, 2, 3] holds its core [2, 3]. Labels are
stored as their files have them; a target is 1 in each region that has the label of a voxel.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lossbench.config import UserError
from lossbench.datasets.contract import class_problems, problem_list
from lossbench.datasets.prepared import IGNORE

Regions = Sequence[Sequence[int]]  # the labels of each, in the order of the classes


def regions_of(
    source: Any, entry: Mapping[str, Any], where: str
) -> tuple[list[str], list[list[int]] | None]:
    """The classes of a dataset, and where these are regions, the labels of each.

    Parameters
    ----------
    source
        The dataset: its `classes`, and perhaps `regions`, names with their labels.
    entry
        dataset.json, whose `regions` come first: pairs of a name and its labels, in their order.
    where
        Begins the message.

    Raises
    ------
    UserError
        With all regions that cannot be.
    """
    given = entry.get("regions") or getattr(source, "regions", None)
    if not given:
        return list(source.classes), None
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
    regions = {name: sorted({*labels}) for name, labels in pairs}
    if problems := list(_problems(regions, list(source.classes))):
        raise problem_list(f"{where}.regions: cannot be used", problems)
    return list(regions), list(regions.values())


def class_order(
    source: Any, entry: Mapping[str, Any], regions: Regions | None, where: str
) -> list[int] | None:
    """The label that each region gets in a label map, painted in their order: `region_labels`.

    nnU-Net's dataset.json has them as ``regions_class_order``. None where the dataset has none, or
    the regions are those of the entry.

    Raises
    ------
    UserError
        Where they are not a label for each region.
    """
    order = getattr(source, "regions_class_order", None)
    if order is None or not regions or entry.get("regions"):
        return None
    labels = sorted({label for region in regions for label in region})
    if (
        not isinstance(order, list)
        or len(order) != len(regions)
        or any(x not in labels for x in order)
    ):
        raise UserError(
            f"{where}: regions_class_order is {order!r}; expected a label for each of the "
            f"{len(regions)} regions, of {labels}"
        )
    return list(order)


def region_labels(masks: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Masks of regions (R, *S) as a label map, uint8 (*S): the last one of a voxel counts."""
    painted = np.zeros(masks.shape[1:], np.uint8)
    for mask, label in zip(masks, order, strict=True):
        painted[mask == 1] = label
    return painted


def _problems(regions: Mapping[str, list[int]], classes: list[str]) -> Iterator[str]:
    yield from class_problems(list(regions), least=1)
    available = ", ".join(f"{label} ({name})" for label, name in enumerate(classes))
    names: dict[tuple[int, ...], str] = {}
    for name, labels in regions.items():
        for label in labels:
            if not 0 <= label < len(classes):
                yield f"{name}: the data set has no label {label}; available: {available}"
        if (same := names.setdefault(tuple(labels), name)) != name:
            yield f"{name} has the labels of {same}; name each region once"


def voxel_columns(
    counts: np.ndarray, classes: Sequence[str], regions: Regions | None
) -> dict[str, int]:
    """Columns of cases.csv with the voxels of each class, from those of each label to `IGNORE`."""
    if regions is None:
        return {f"voxels_{name}": int(n) for name, n in zip(classes, counts, strict=False)}
    named = zip(classes, regions, strict=True)
    columns = {f"voxels_{name}": int(counts[[*labels]].sum()) for name, labels in named}
    foreground = sorted({label for labels in regions for label in labels})
    # Regions overlap: these are no sums of the columns above.
    columns["foreground_voxels"] = int(counts[foreground].sum())
    return columns | {"labelled_voxels": int(counts[:IGNORE].sum())}


def region_masks(label: np.ndarray, regions: Regions) -> np.ndarray:
    """A label map (*S) as a mask of each region: uint8 (R, *S) of 0 and 1, `IGNORE` as before."""
    masks = np.stack([np.isin(label, region) for region in regions]).astype(np.uint8)
    masks[:, label == IGNORE] = IGNORE
    return masks


def region_map(masks: np.ndarray, regions: Regions) -> np.ndarray:
    """Masks of regions (R, *S) as one map for a picture, uint8 (*S): 0 is no region, 1 the first.

    They are painted one over the other, those of more labels first.
    """
    painted = np.where(masks[0] == IGNORE, IGNORE, 0).astype(np.uint8)
    for number in sorted(range(len(regions)), key=lambda r: -len(regions[r])):
        painted[masks[number] == 1] = number + 1
    return painted


def as_predicted(label: np.ndarray, regions: Regions | None) -> np.ndarray:
    """A label (*S) in the form of a prediction: itself, or masks of regions that overlap."""
    return region_masks(label, regions) if regions else label


def as_drawn(prediction: np.ndarray, regions: Regions | None) -> np.ndarray:
    """A prediction, or a label in its form, as one map (*S) for a picture."""
    return region_map(prediction, regions) if regions else prediction
