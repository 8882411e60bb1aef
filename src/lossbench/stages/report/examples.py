"""Example images: where the other losses fall behind the reference, the median, where they gain."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lossbench.common.files import read_json
from lossbench.config import UserError
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.stages.report import wording
from lossbench.stages.report.plotting import WIDTH, Picture, heading, save, stem, wrapped
from lossbench.stages.report.results import Results

COLUMNS = 3
TILE = WIDTH / COLUMNS  # inches


def examples(results: Results, folder: Path) -> tuple[list[Picture], list[str]]:
    """Pictures of three cases for each dataset and model, and why there are none for others."""
    pictures, absent = [], []
    for dataset, model in results.groups:
        try:
            pictures += _of_group(results, dataset, model, folder)
        except UserError as error:
            absent.append(f"{dataset}, {model}: {error}.")
    return pictures, absent


def chosen(results: Results, dataset: str, model: str) -> dict[str, str]:
    """The cases with the worst, the median and the best difference to the reference.

    The difference of a case is the mean Dice of all other losses minus that of the reference, over
    classes without background and over seeds.

    Returns
    -------
    dict
        Label, such as "worst (-0.200)", to case; fewer than three where there are fewer cases.

    Raises
    ------
    UserError
        Where no case has a difference.
    """
    cases = results.of(results.cases, dataset, model)
    cases = cases[cases["class"] != results.background(dataset)]
    wide = cases.pivot_table(index="case", columns="loss", values="dice")
    if results.reference not in wide or len(wide.columns) < 2:
        raise UserError("no case was predicted with both the reference and another loss")
    others = wide.drop(columns=results.reference).mean(axis=1)
    order = (others - wide[results.reference]).dropna().sort_values(kind="stable")
    if order.empty:
        raise UserError("no case was predicted with both the reference and another loss")
    places = {"worst": 0, "median": (len(order) - 1) // 2, "best": len(order) - 1}
    found: dict[str, str] = {}
    for label, place in places.items():
        if order.index[place] not in found.values():
            gain = wording.number(order.iloc[place], sign=True)
            found[f"{label} ({gain})"] = order.index[place]
    return found


def _of_group(results: Results, dataset: str, model: str, folder: Path) -> list[Picture]:
    prepared = results.prepared(dataset)
    if not (prepared / "classes.json").exists():
        raise UserError(f"the prepared dataset ({prepared}) is not there")
    data = Prepared(prepared)
    figures = {}  # all are drawn before one is saved: where weights are missing, none is left over
    for number, (label, case) in enumerate(chosen(results, dataset, model).items(), 1):
        index = int(np.flatnonzero(data.cases["case"] == case)[0])
        rows = results.of(results.cases, dataset, model, case=case)
        first = rows.sort_values(["fold", "seed"]).iloc[0]
        fold, seed = int(first["fold"]), int(first["seed"])
        rows = rows[(rows["fold"] == fold) & (rows["seed"] == seed)]
        scores = rows[rows["class"] != data.classes[0]].groupby("loss")["dice"].mean()
        predictions = _predictions(results, data, index, (dataset, model, fold, seed))
        figure = _draw(data, index, predictions, scores, f"{label}: {case}")
        figures[stem("examples", dataset, model, number, case)] = (f"{label}: {case}", figure)
    return [
        Picture(heading(dataset, model), title, save(figure, folder / name, embed="png"))
        for name, (title, figure) in figures.items()
    ]


def _predictions(
    results: Results, data: Prepared, index: int, keys: tuple[str, str, int, int]
) -> dict[str, np.ndarray]:
    """What each loss's run of a block says about a case: uint8 (*S) by loss."""
    # Here, since these import torch and everything else in a report does without.
    from lossbench.datasets.batches import patch_size
    from lossbench.models import load_run, predict

    dataset, model, fold, seed = keys
    found = {}
    for loss in results.losses:
        folder = results.run_folder(dataset, model, loss, fold, seed)
        if not (folder / "model.safetensors").exists():
            raise UserError(f"the weights of {loss} ({folder / 'model.safetensors'}) are not there")
        training = read_json(folder / "run.json")["training"]
        (found[loss],) = predict(load_run(folder, data), data, [index], patch_size(data, training))
    return found


def _draw(
    data: Prepared, index: int, predictions: dict[str, np.ndarray], scores: pd.Series, title: str
) -> Figure:
    label = data.label(index)
    image, truth, *maps = _planes(data.image(index), label, list(predictions.values()))
    tiles = {"image": None, "ground truth": truth}
    for loss, prediction in zip(predictions, maps, strict=True):
        tiles[f"{wrapped(loss)}\nDice {scores.get(loss, np.nan):.3f}"] = prediction
    lines = math.ceil(len(tiles) / COLUMNS)
    aspect = _aspect(data, index)
    height = min(max(aspect * image.shape[0] / image.shape[1], 0.4), 2.0) * TILE
    figure = Figure(figsize=(WIDTH, lines * (height + 0.55) + 0.75), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for ax, (name, classes) in zip(axes, tiles.items(), strict=False):
        _tile(ax, image, classes, len(data.classes), aspect)
        ax.set_title(name, fontsize=8)
    for ax in axes:
        ax.set_axis_off()
    _legend(figure, data.classes, [truth, *maps])
    return figure


def _planes(
    image: np.ndarray, label: np.ndarray, predictions: list[np.ndarray]
) -> list[np.ndarray]:
    """The image as (H, W) or (H, W, 3) in 0 to 1 and the class maps as (H, W).

    A volume is cut along its last axis where the ground truth has most foreground. All are
    cropped to what is of interest.
    """
    maps = [label, *predictions]
    if label.ndim == 3:
        foreground = ((label > 0) & (label != IGNORE)).sum(axis=(0, 1))
        cut = int(foreground.argmax())
        # NIfTI keeps x first: turned, so that the front of a head is up.
        image = np.rot90(image[..., cut], axes=(1, 2))
        maps = [np.rot90(m[..., cut]) for m in maps]
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
    low, high = np.percentile(shown, (0.5, 99.5))
    shown = np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
    window = _window(maps)
    return [plane[window] for plane in (shown, *maps)]


def _window(maps: list[np.ndarray]) -> tuple[slice, ...]:
    """Where any map has foreground, and a quarter of its size around."""
    foreground = np.any([(m > 0) & (m != IGNORE) for m in maps], axis=0)
    window = []
    for axis in (0, 1):
        inside = np.flatnonzero(foreground.any(axis=1 - axis))
        if not inside.size:
            return (slice(None), slice(None))
        around = max(4, (inside[-1] - inside[0]) // 4)
        window.append(slice(max(0, inside[0] - around), inside[-1] + around + 1))
    return tuple(window)


def _aspect(data: Prepared, index: int) -> float:
    """Height of a voxel over its width, as `_planes` turns it."""
    spacing = data.cases["spacing"].iloc[index]
    return spacing[0] / spacing[1] if len(spacing) == 2 else spacing[1] / spacing[0]


def _colours(number: int) -> list[tuple[float, float, float]]:
    """A colour per class; that of the background is never drawn."""
    return seaborn.color_palette("colorblind" if number <= 11 else "husl", number - 1)


def _tile(
    ax: Axes, image: np.ndarray, classes: np.ndarray | None, number: int, aspect: float
) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    if classes is not None:
        foreground = np.ma.masked_where((classes == 0) | (classes == IGNORE), classes)
        palette = ListedColormap(_colours(number))
        ax.imshow(
            foreground, cmap=palette, vmin=0.5, vmax=number - 0.5, alpha=0.6, aspect=aspect,
            interpolation="nearest",
        )  # fmt: skip
        ignored = np.ma.masked_where(classes != IGNORE, classes)
        # Middle grey, as in the legend.
        ax.imshow(
            ignored, cmap="gray", vmin=0, vmax=2 * IGNORE, aspect=aspect, interpolation="nearest"
        )


def _legend(figure: Figure, classes: list[str], maps: list[np.ndarray]) -> None:
    """The classes that are in the picture."""
    seen = sorted({int(k) for m in maps for k in np.unique(m)} - {0})
    palette = _colours(len(classes))
    patches = [
        Patch(
            color="0.5" if k == IGNORE else palette[k - 1],
            label="ignored" if k == IGNORE else classes[k],
        )
        for k in seen
    ]
    if patches:
        figure.legend(
            handles=patches, loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
