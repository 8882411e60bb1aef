"""A picture of a few prepared cases with their labels, to see what was read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lossbench.datasets.prepared import IGNORE

SHOWN = 6  # cases
# Okabe and Ito's palette, which colour-blind people can tell apart, without black.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
IGNORED = "#999999"


def picture(
    cases: pd.DataFrame,
    folder: Path,
    info: Mapping[str, Any],
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Draw cases spread over the dataset: the image above, with its label below.

    Of a volume, the slice across the last axis with the most classes, then the most foreground,
    is shown.

    Parameters
    ----------
    cases
        Columns case, fold, shape (text), offset and voxels_<class>.
    folder
        Holds images.npy and labels.npy.
    info
        name, classes, channels, ignore.
    notes
        Names of the cases to draw instead, the first `SHOWN` of them, with a line for each.
    """
    arrays = [np.load(folder / file, mmap_mode="r") for file in ("images.npy", "labels.npy")]
    colours = [to_rgb(colour) for colour in _colours(len(info["classes"]) - 1)]
    if notes is None:
        shown = _spread(cases, info)
    else:
        shown = cases.set_index("case", drop=False).loc[list(notes)[:SHOWN]]
    figure = Figure(figsize=(2.4 * max(len(shown), 2), 5.6), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for column, (_, row) in zip(axes.T, shown.iterrows(), strict=True):
        image, label = _slice(row, *arrays, info["channels"])
        column[0].imshow(image)
        title = f"{row['case'][:24]}\n{row['shape']}, fold {row['fold']}"
        title += f"\n{notes[row['case']]}" if notes else ""
        column[0].set_title(title, fontsize=8)
        column[1].imshow(_overlay(image, label, colours))
        for axis in column:
            axis.set_axis_off()
    _legend(figure, cases, info, colours)
    return figure


def _spread(cases: pd.DataFrame, info: Mapping[str, Any]) -> pd.DataFrame:
    """Some cases from the first to the last, with foreground where any has it."""
    foreground = cases[[f"voxels_{name}" for name in info["classes"][1:]]].sum(axis=1)
    candidates = cases[foreground > 0] if (foreground > 0).any() else cases
    rows = np.unique(np.linspace(0, len(candidates) - 1, SHOWN).round().astype(int))
    return candidates.iloc[rows]


def _legend(figure: Figure, cases: pd.DataFrame, info: Mapping[str, Any], colours: list) -> None:
    voxels = cases[[f"voxels_{name}" for name in info["classes"]]].sum().to_numpy()
    shares = voxels / max(voxels.sum(), 1)
    names = [f"{n} {share:.2%}" for n, share in zip(info["classes"], shares, strict=True)]
    handles = [Patch(facecolor=c, label=n) for c, n in zip(colours, names[1:], strict=True)]
    handles += [Patch(facecolor=IGNORED, label="ignored")] if info["ignore"] else []
    figure.legend(
        handles=handles[:24], loc="outside lower center", ncols=6, fontsize=8, frameon=False
    )
    figure.suptitle(
        f"{info['name']}: {len(cases)} cases, {names[0]} of all labelled voxels", fontsize=10
    )


def _slice(
    row: pd.Series, images: np.ndarray, labels: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) in 0 to 1 and label (H, W) of a case."""
    shape = tuple(int(size) for size in row["shape"].split("x"))
    start, size = row["offset"], int(np.prod(shape))
    image = images[start * channels : (start + size) * channels].reshape(channels, *shape)
    label = labels[start : start + size].reshape(shape)
    if len(shape) == 3:
        best = max(range(shape[2]), key=lambda number: _content(label[..., number]))
        # The second axis of a NIfTI volume runs to the front of the body: upwards here.
        image = np.rot90(image[..., best], axes=(1, 2))
        label = np.rot90(label[..., best])
    image = image[:3] if channels == 3 else image[:1].repeat(3, axis=0)
    low, high = np.percentile(image, (0.5, 99.5))
    return np.moveaxis(np.clip((image - low) / max(high - low, 1e-6), 0, 1), 0, 2), label


def _content(label: np.ndarray) -> tuple[int, int]:
    """Number of foreground classes and of their voxels."""
    counts = np.bincount(label.reshape(-1), minlength=IGNORE + 1)[1:IGNORE]
    return np.count_nonzero(counts), counts.sum()


def _overlay(image: np.ndarray, label: np.ndarray, colours: list) -> np.ndarray:
    painted = image.copy()
    for value, colour in [*enumerate(colours, start=1), (IGNORE, to_rgb(IGNORED))]:
        painted[label == value] = 0.45 * image[label == value] + 0.55 * np.array(colour)
    return painted


def _colours(count: int) -> list:
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return list(colormaps["viridis"](np.linspace(0, 1, count)))
