"""The values of mask files, where they are not indices of classes."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lossbench.config import UserError


def parsed(values: Mapping[int | str, int]) -> tuple[dict[int, int], bool]:
    """`values` with its keys as numbers, and whether these are colours.

    Keys are text where the catalogue went through JSON.

    Raises
    ------
    UserError
        Where keys or classes are of another kind, or two keys are one value.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"values is {values!r}; expected the class of each value: {{0: 0, 255: 1}}")
    in_colour = any(str(key).startswith("#") for key in values)
    key_of: dict[int, int | str] = {}
    for key, label in values.items():
        if not re.fullmatch("#[0-9A-Fa-f]{6}" if in_colour else r"-?\d+", str(key)):
            raise UserError(
                f"values: the keys are {list(values)}; expected whole numbers, or colours such as "
                "'#ff0000' alone"
            )
        if type(label) is not int:
            raise UserError(
                f"values: the class of {key!r} is {label!r}; expected its number, or ignore's"
            )
        value = int(str(key)[1:], 16) if in_colour else int(key)
        if value in key_of:
            raise UserError(f"values: {key_of[value]!r} and {key!r} are the same; keep one of them")
        key_of[value] = key
    return {value: values[key] for value, key in key_of.items()}, in_colour


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
    numbers, in_colour = parsed(values)
    value_of: dict[int, int] = {}
    for value, label in sorted(numbers.items()):
        value_of.setdefault(label, value)
    present = np.unique(classes)
    if absent := [str(label) for label in present if label not in value_of]:
        raise UserError(f"values: names no value for class {', '.join(absent)}, which is predicted")
    found = np.array([value_of[label] for label in present])[np.searchsorted(present, classes)]
    if in_colour:
        channels = np.stack([found >> 16, found >> 8, found], axis=2) & 255
        return Image.fromarray(channels.astype(np.uint8))
    return Image.fromarray(found.astype(np.uint8 if max(value_of.values()) < 256 else np.uint16))
