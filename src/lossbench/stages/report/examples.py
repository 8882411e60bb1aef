"""Example images: where the other losses fall behind the reference, the median, where they gain."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lossbench.common.files import block_folder, reading
from lossbench.common.tables import PREDICTIONS
from lossbench.config import UserError
from lossbench.datasets import drawing
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.datasets.resampling import resample_image
from lossbench.datasets.slices import best_slice, drawn_label, drawn_values, plane
from lossbench.stages.report import wording
from lossbench.stages.report.figure_style import WIDTH, Picture, heading, save, wrapped
from lossbench.stages.report.results import Results

COLUMNS = 3
TILE = WIDTH / COLUMNS  # inches


def examples(results: Results) -> dict[str, Any]:
    """Pictures of three cases per dataset and model, and the reasons where there are none."""
    if not results.trained_here:
        return {}
    pictures, absent = [], []
    for dataset, model in results.groups:
        try:
            pictures += _of_group(results, dataset, model)
        except UserError as error:
            absent.append(f"{dataset}, {model}: {error}.")
    has_background = any(results.background(dataset) for dataset, _ in results.groups)
    return {"pictures": pictures, "absent": absent, "background": has_background}


def chosen(results: Results, dataset: str, model: str) -> dict[str, str]:
    """The cases with the worst, the median and the best difference to the reference.

    The difference of a case is the mean Dice of all other losses minus that of the reference, over
    classes without any background and over seeds.

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
    positions = {"worst": 0, "median": (len(order) - 1) // 2, "best": len(order) - 1}
    cases_by_label: dict[str, str] = {}
    for label, position in positions.items():
        if order.index[position] not in cases_by_label.values():
            label = f"{label} ({wording.signed(order.iloc[position])})"
            cases_by_label[label] = order.index[position]
    return cases_by_label


def _of_group(results: Results, dataset: str, model: str) -> list[Picture]:
    data = results.prepared(dataset)
    figures = {}  # all are drawn before one is saved: where predictions are missing, none is left
    for number, (label, case) in enumerate(chosen(results, dataset, model).items(), 1):
        index = int(np.flatnonzero(data.cases["case"] == case)[0])
        rows = results.of(results.cases, dataset, model, case=case)
        first = rows.sort_values(["fold", "seed"]).iloc[0]
        fold, seed = int(first["fold"]), int(first["seed"])
        rows = rows[(rows["fold"] == fold) & (rows["seed"] == seed)]
        scores = rows[rows["class"] != results.background(dataset)].groupby("loss")["dice"].mean()
        block = block_folder(results.folder, dataset, model, fold, seed)
        predictions = _predictions(block / PREDICTIONS, results.losses, index)
        figure = _draw(data, index, predictions, scores, f"{label}: {case}")
        figures["examples", dataset, model, number, case] = (f"{label}: {case}", figure)
    return [
        save(results, figure, heading(dataset, model), title, *file, ending="png")
        for file, (title, figure) in figures.items()
    ]


def _predictions(path: Path, losses: Sequence[str], index: int) -> dict[str, np.ndarray]:
    """What `evaluate` kept of each loss's prediction of a case: uint8 (H, W) by loss."""
    if not path.exists():
        raise UserError(f"the predictions ({path}) are missing")
    with reading(path), path.open("rb") as file, np.load(file) as kept:
        return {loss: kept[f"{loss}/{index}"] for loss in losses}


def _draw(
    data: Prepared, index: int, predictions: dict[str, np.ndarray], scores: pd.Series, title: str
) -> Figure:
    label, painted = drawn_label(data, index), drawn_values(data.info)
    image = resample_image(data.image(index), label.shape)
    image, truth, *maps = _planes(image, label, predictions.values(), painted)
    tiles = {"image": image, "ground truth": drawing.overlay(image, truth, painted)}
    for loss, prediction in zip(predictions, maps, strict=True):
        tile = drawing.overlay(image, prediction, painted)
        tiles[f"{wrapped(loss)}\nDice {scores.get(loss, np.nan):.3f}"] = tile
    n_rows = math.ceil(len(tiles) / COLUMNS)
    aspect = drawing.pixel_aspect(data.original_spacing(index))
    height = min(max(aspect * image.shape[0] / image.shape[1], 0.4), 2.0) * TILE
    figure = Figure(figsize=(WIDTH, n_rows * (height + 0.55) + 0.75), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
    for ax, (name, pixels) in zip(axes, tiles.items(), strict=False):
        ax.imshow(pixels, aspect=aspect, interpolation="nearest")
        ax.set_title(name, fontsize=8)
    for ax in axes:
        ax.set_axis_off()
    shown = np.unique(np.concatenate([m.reshape(-1) for m in (truth, *maps)])).tolist()
    if values := [value for value in shown if value in (*painted, IGNORE)]:
        names = drawing.names_of_values(data.classes, data.info)
        handles = drawing.legend_handles(names, painted, values)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
    return figure


def _planes(
    image: np.ndarray, label: np.ndarray, kept: Iterable[np.ndarray], foreground: list[int]
) -> list[np.ndarray]:
    """The image as colours (H, W, 3), label and kept predictions (H, W), a slice of volumes.

    All are cropped to where any map has foreground, and a quarter of its size around.
    """
    number = best_slice(label, foreground)
    maps = [plane(label, number), *kept]
    has_foreground = np.any([np.isin(m, foreground) for m in maps], axis=0)
    window = []
    for axis in (0, 1):
        inside = np.flatnonzero(has_foreground.any(axis=1 - axis))
        if inside.size:
            margin = max(4, (inside[-1] - inside[0]) // 4)
            window.append(slice(max(0, inside[0] - margin), inside[-1] + margin + 1))
    shown = drawing.displayed(plane(image, number))
    return [plane[tuple(window)] for plane in (shown, *maps)]
