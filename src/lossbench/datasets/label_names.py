"""Classes and regions from the labels of a dataset.json."""

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossbench.config import UserError


def class_names(names: Mapping[int, str], count: int, path: Path) -> list[str]:
    """Names in order of their labels, in lower case, with _ for all but letters and digits.

    `count` is the number of entries in the file: there are fewer names where two share a label.
    """
    if len(names) != count or sorted(names) != list(range(len(names))):
        raise UserError(
            f"{path}: labels are {sorted(names)}; they must be whole numbers from 0 without a gap"
        )
    letters = {n: unicodedata.normalize("NFC", name.lower()) for n, name in sorted(names.items())}
    return [re.sub(r"[\W_]+", "_", name).strip("_") for name in letters.values()]


def nnunet_classes(
    labels: Mapping[str, Any], path: Path
) -> tuple[list[str], int | None, dict[str, list[int]] | None]:
    """Classes, the ignore label if there is one, and the regions where labels are lists."""
    lists = {name: x if isinstance(x, list) else [x] for name, x in labels.items()}
    numbers = [label for of_name in lists.values() for label in of_name]
    if not all(isinstance(label, int) and not isinstance(label, bool) for label in numbers):
        raise UserError(
            f'{path}: labels are {json.dumps(labels)}; expected {{"background": 0, ...}}; '
            "labels with their names are the Decathlon's layout: lossbench.datasets.MSD"
        )
    (ignore,) = lists.pop("ignore", [None])
    if not any(isinstance(label, list) for label in labels.values()):
        names = {label: name for name, (label,) in lists.items()}
        return class_names(names, len(lists), path), ignore, None
    regions = {name: of_name for name, of_name in lists.items() if of_name != [0]}
    names = class_names(dict(enumerate(regions)), len(regions), path)
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two regions have one name in lower case: {', '.join(regions)}")
    # As nnU-Net has it, all that is no background is a region; its labels have no names.
    every = sorted({0}.union(*regions.values()))
    classes = class_names({n: f"label_{n}" if n else "background" for n in every}, len(every), path)
    return classes, ignore, dict(zip(names, regions.values(), strict=True))
