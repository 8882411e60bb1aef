"""Images and labels as pictures: those of prepare and check, and the examples of the report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lossbench.datasets.prepared import IGNORE, foreground_labels, labelled_voxels
from lossbench.datasets.regions import as_drawn, as_predicted
from lossbench.datasets.slices import best_slice, drawn_values, plane

MAX_CASES = 6  # in a picture
MAX_PIXELS = 500  # along the longer side of a case, or up to twice as many
MAX_LEGEND_ENTRIES = 24
# Okabe and Ito's palette, which colour-blind people can tell apart, without black.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
IGNORED_COLOUR = "#999999"
OPACITY = 0.55  # of a class's colour over the image
PERCENTILES = (0.5, 99.5)  # of the image, shown as black and white


def picture(
    cases: pd.DataFrame,
    folder: Path,
    info: Mapping[str, Any],
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Draw cases spread over the dataset: the image above, with its label below.

    Parameters
    ----------
    cases
        Columns case, fold (and part), shape (text), offset and voxels_<class>.
    folder
        Holds images.npy and labels.npy.
    info
        name, classes, background, channels, ignore.
    notes
        Names of the cases to draw instead, the first `MAX_CASES` of them, with a line for each.
    """
    images, labels = (np.load(folder / f, mmap_mode="r") for f in ("images.npy", "labels.npy"))
    classes, channels, regions = info["classes"], info["channels"], info.get("regions")
    painted = drawn_values(info)
    voxels = cases[[f"voxels_{name}" for name in classes]]
    if notes is None:  # from the first case to the last, with foreground where any has it
        foreground = voxels.iloc[:, foreground_labels(info)].sum(axis=1)
        candidates = cases[foreground > 0] if (foreground > 0).any() else cases
        rows = np.linspace(0, len(candidates) - 1, MAX_CASES).round().astype(int)
        drawn = candidates.iloc[np.unique(rows)]
    else:
        drawn = cases.set_index("case", drop=False).loc[list(notes)[:MAX_CASES]]
    figure = Figure(figsize=(2.4 * max(len(drawn), 2), 5.6), layout="constrained")
    axes = figure.subplots(2, len(drawn), squeeze=False)
    for (above, below), (_, row) in zip(axes.T, drawn.iterrows(), strict=True):
        shape = tuple(int(size) for size in row["shape"].split("x"))
        start, stop = row["offset"], row["offset"] + int(np.prod(shape))
        label = labels[start:stop].reshape(shape)
        label = as_drawn(as_predicted(label, regions), regions)
        number = best_slice(label, painted)
        image = images[start * channels : stop * channels].reshape(channels, *shape)
        image, label = plane(image, number), plane(label, number)
        step = max(1, max(label.shape) // MAX_PIXELS)  # of what a picture cannot show
        image, label = displayed(image[:, ::step, ::step]), label[::step, ::step]
        part = row["part"] if "part" in row else f"fold {row['fold']}"
        title = f"{row['case'][:24]}\n{row['shape']}, {part}"
        above.set_title(title + (f"\n{notes[row['case']]}" if notes else ""), fontsize=8)
        for axis, pixels in ((above, image), (below, overlay(image, label, painted))):
            axis.imshow(pixels)
            axis.set_axis_off()
    totals = voxels.sum().to_numpy()
    shares = totals / max(labelled_voxels(cases, info).sum(), 1)
    names = [f"{name} {share:.2%}" for name, share in zip(classes, shares, strict=True)]
    values = [*painted, *([IGNORE] if info["ignore"] else [])]
    handles = legend_handles(names_of_values(names, info), painted, values)
    figure.legend(
        handles=handles[:MAX_LEGEND_ENTRIES], loc="outside lower center", ncols=6, fontsize=8,
        frameon=False,
    )  # fmt: skip
    title = f"{info['name']}: {len(cases)} cases"
    if info["background"] == 0:
        title += f", {names[0]} of all labelled voxels"
    figure.suptitle(title, fontsize=10)
    return figure


def names_of_values(names: Sequence[str], info: Mapping[str, Any]) -> list[str]:
    """Names of the classes in the order of the values in a picture, from 0."""
    return ["", *names] if info.get("regions") else [*names]


def displayed(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) as colours from 0 to 1 (H, W, 3); of other than 3 channels the first."""
    image = image if len(image) == 3 else image[:1].repeat(3, axis=0)
    low, high = np.percentile(image, PERCENTILES)
    return np.moveaxis(np.clip((image - low) / max(high - low, 1e-6), 0, 1), 0, 2)


def overlay(image: np.ndarray, label: np.ndarray, foreground: Sequence[int]) -> np.ndarray:
    """Colours (H, W, 3) with the foreground of a label (H, W) painted over them."""
    painted = image.copy()
    for value, colour in {**class_colours(foreground), IGNORE: IGNORED_COLOUR}.items():
        mask = label == value
        painted[mask] = (1 - OPACITY) * image[mask] + OPACITY * np.array(to_rgb(colour))
    return painted


def class_colours(foreground: Sequence[int]) -> dict[int, Any]:
    """A colour for each of these labels."""
    n = len(foreground)
    colours = PALETTE[:n] if n <= len(PALETTE) else colormaps["viridis"](np.linspace(0, 1, n))
    return dict(zip(foreground, colours, strict=True))


def legend_handles(
    names: Sequence[str], foreground: Sequence[int], values: Iterable[int]
) -> list[Patch]:
    """Patches for the label values in a picture; `names` holds all classes."""
    colours = class_colours(foreground)
    return [
        Patch(facecolor=IGNORED_COLOUR, label="ignored")
        if value == IGNORE
        else Patch(facecolor=colours[value], label=names[value])
        for value in values
    ]


def pixel_aspect(spacing: Sequence[float]) -> float:
    """Height of a pixel over its width, in a `plane` of a case with this spacing."""
    return spacing[0] / spacing[1] if len(spacing) == 2 else spacing[1] / spacing[0]
