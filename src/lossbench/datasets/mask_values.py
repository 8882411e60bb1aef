"""The values of mask files, where they are not indices of classes."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lossbench.config import UserError


def parsed(values: Mapping[int | str, int], in_colour: bool) -> dict[int, int]:
    """The keys of `values` as numbers: they are text where the catalogue went through JSON."""
    try:
        if not in_colour:
            return {int(key): label for key, label in values.items()}
        if not all(re.fullmatch("#[0-9A-Fa-f]{6}", str(key)) for key in values):
            raise ValueError
        return {int(str(key)[1:], 16): label for key, label in values.items()}
    except ValueError:
        raise UserError(
            f"values: the keys are {list(values)}; expected whole numbers, or colours such as "
            "'#ff0000' alone"
        ) from None


def translated(
    mask: np.ndarray, values: Mapping[int, int], path: Path, in_colour: bool
) -> np.ndarray:
    """The class of each pixel of a mask (H, W); UserError where a value is not listed."""
    present = np.unique(mask)
    if unknown := [value.item() for value in present if value not in values]:
        name = "#{:06x}".format if in_colour else str
        raise UserError(
            f"{path}: holds the values [{', '.join(name(value) for value in unknown[:5])}], which "
            f"`values` does not list; available: {', '.join(name(value) for value in values)}"
        )
    return np.array([values[value.item()] for value in present])[np.searchsorted(present, mask)]


def mask_image(classes: np.ndarray, values: Mapping[int | str, int] | None) -> Image.Image:
    """The mask of a class map, uint8 (H, W), as `ImageFolder` reads it with these `values`.

    Raises
    ------
    UserError
        Where a class has no value; of several, it gets the first.
    """
    if not values:
        return Image.fromarray(classes)
    in_colour = any(str(key).startswith("#") for key in values)
    value_of: dict[int, int] = {}
    for value, label in sorted(parsed(values, in_colour).items()):
        value_of.setdefault(label, value)
    present = np.unique(classes)
    if absent := [str(label) for label in present if label not in value_of]:
        raise UserError(f"values: names no value for class {', '.join(absent)}, which is predicted")
    found = np.array([value_of[label] for label in present])[np.searchsorted(present, classes)]
    if in_colour:
        channels = np.stack([found >> 16, found >> 8, found], axis=2) & 255
        return Image.fromarray(channels.astype(np.uint8))
    return Image.fromarray(found.astype(np.uint8 if max(value_of.values()) < 256 else np.uint16))
