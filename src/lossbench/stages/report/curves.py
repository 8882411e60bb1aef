"""Figures of lines: learning curves, the gradient ledger, Dice against the size of a class."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lossbench.config import Experiment
from lossbench.datasets.prepared import Prepared
from lossbench.stages.report import wording
from lossbench.stages.report.plotting import (
    Picture,
    colour,
    dashes,
    heading,
    line_groups,
    save,
    small,
    stem,
    titled,
)
from lossbench.stages.report.results import CURVE, LEDGER, Results

SHARES = {"value": "of the value", "l1": "of the gradient, L1", "l2": "of the gradient, L2"}
FEWEST = 3  # datasets, for a line against the size of a class


def curves(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """Validation Dice against the step."""
    rows = results.of(results.histories, dataset, model, name=CURVE + name)
    for group in line_groups(results):
        yield from _figure(results, rows, group, "validation Dice")


def gradients(results: Results, folder: Path) -> list[Picture]:
    """The ledger: norm, scale and cosine of each loss's gradient along the training."""
    pictures = []
    reference = results.reference
    if isinstance(results.experiment, Experiment) and results.experiment.execution.ledger:
        reference = results.experiment.execution.ledger.reference
    looks = {
        "norm": "gradient norm",
        "scale": f"norm over that of {reference}",
        "cosine": f"cosine to {reference}",
    }
    for dataset, model in results.groups:
        for look, label in looks.items():
            rows = results.of(results.histories, dataset, model, name=LEDGER + look)
            for part, group in enumerate(line_groups(results), 1):
                for figure in _figure(results, rows, group, look):
                    titled(figure, label)
                    if look != "cosine" and (rows["value"] > 0).all():
                        _logarithmic(figure.axes[0])
                    path = folder / stem("ledger", dataset, model, look, part)
                    pictures.append(Picture(heading(dataset, model), label, save(figure, path)))
    return pictures


def shares(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """The ledger: the share of a class in each loss's value and gradient along the training."""
    rows = results.of(results.histories, dataset, model)
    found = {kind: rows[rows["name"] == f"{LEDGER}{kind}/{name}"] for kind in SHARES}
    found = {kind: table for kind, table in found.items() if len(table)}
    for group in line_groups(results):
        mine = {kind: table[table["loss"].isin(group)] for kind, table in found.items()}
        if all(table.empty for table in mine.values()):
            continue
        figure, grid = small(2.7 + 0.16 * len(group), 1, len(mine), squeeze=False, sharey=True)
        for axes, (kind, table) in zip(grid.flat, mine.items(), strict=True):
            _lines(axes, table, results)
            axes.set_title(SHARES[kind], fontsize=8)
            axes.set_ylim(-0.03, 1.03)
            axes.locator_params(axis="x", nbins=3)
        grid[0, 0].set_ylabel("share of the class")
        _legend(figure)
        yield figure


def fractions(results: Results, folder: Path) -> list[Picture]:
    """Mean and interval of a class against its share of the voxels, over datasets.

    For each model, foreground class, and the datasets (three or more) with equal classes.
    """
    pictures = []
    for model in dict.fromkeys(model for _, model in results.groups):
        for datasets in _alike(results, model):
            of_voxels = {d: _share_of_voxels(results, d) for d in datasets}
            for number, name in enumerate(results.classes(datasets[0]), 1):
                sizes = {d: of_voxels[d][name] for d in datasets if of_voxels[d][name] > 0}
                if name == results.background(datasets[0]) or not sizes:
                    continue
                for part, group in enumerate(line_groups(results), 1):
                    figure = _against_size(results, model, name, sizes, group)
                    path = folder / stem("fractions", datasets[0], model, number, name, part)
                    text = f"{model}, {wording.listing(datasets)}"
                    pictures.append(Picture(text, name, save(figure, path)))
    return pictures


def _alike(results: Results, model: str) -> list[list[str]]:
    """Three or more prepared datasets of a model with the same classes."""
    found: dict[tuple, list[str]] = {}
    for dataset, its_model in results.groups:
        if its_model == model and (results.prepared(dataset) / "classes.json").exists():
            found.setdefault(tuple(results.classes(dataset)), []).append(dataset)
    return [datasets for datasets in found.values() if len(datasets) >= FEWEST]


def _share_of_voxels(results: Results, dataset: str) -> dict[str, float]:
    """Of each class: the mean over cases of its share of a case's voxels."""
    data = Prepared(results.prepared(dataset))
    voxels = data.voxels()
    return dict(zip(data.classes, (voxels / voxels.sum(1, keepdims=True)).mean(0), strict=True))


def _against_size(
    results: Results, model: str, name: str, sizes: dict[str, float], losses: list[str]
) -> Figure:
    """Lines of some losses over the datasets, whose share of the class is `sizes`."""
    rows = [
        results.of(results.summary, d, model, class_=name, metric=results.metric).assign(x=size)
        for d, size in sorted(sizes.items(), key=lambda item: item[1])
    ]
    table = pd.concat(rows)
    figure, axes = small(2.9 + 0.16 * len(losses))
    for loss in (x for x in losses if x in set(table["loss"])):
        mine, shade = table[table["loss"] == loss], colour(results, loss)
        below, above = mine["mean"] - mine["ci_low"], mine["ci_high"] - mine["mean"]
        axes.errorbar(
            mine["x"], mine["mean"], [below.fillna(0), above.fillna(0)], color=shade, label=loss,
            linestyle=dashes(results, loss), marker="o", markersize=4, linewidth=1.6, capsize=2,
        )  # fmt: skip
    axes.set_xscale("log")
    # Between powers of ten too, where few of them are in view.
    subs = (1.0,) if table["x"].max() / table["x"].min() > 50 else (1.0, 0.5, 0.2)
    axes.xaxis.set_major_locator(LogLocator(10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: _one_to(share)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the class in the voxels (mean over cases)")
    axes.set_ylabel(wording.metric_name(results.metric))
    titled(figure, name)
    _legend(figure)
    return figure


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    plain = FuncFormatter(lambda y, _: f"{y:.3g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(10, subs=(2, 5)))


def _figure(results: Results, rows: pd.DataFrame, group: list[str], label: str) -> Iterator[Figure]:
    """One plot of lines against the step, where there are any."""
    mine = rows[rows["loss"].isin(group)]
    if len(mine):
        figure, axes = small(2.9 + 0.16 * len(group))
        _lines(axes, mine, results)
        axes.set_ylabel(label)
        axes.locator_params(axis="x", nbins=5)
        _legend(figure)
        yield figure


def _lines(axes: Axes, rows: pd.DataFrame, results: Results) -> None:
    # A seed's curve is its mean over folds; the band goes from the lowest seed to the highest.
    seeds = rows.groupby(["loss", "step", "seed"])["value"].mean()
    band = seeds.groupby(["loss", "step"]).agg(["mean", "min", "max"]).reset_index()
    for loss in (x for x in results.losses if x in set(band["loss"])):
        mine, shade = band[band["loss"] == loss], colour(results, loss)
        axes.plot(
            mine["step"], mine["mean"], linestyle=dashes(results, loss), color=shade,
            linewidth=1.8, label=loss, marker="." if len(mine) < 3 else "",
        )  # fmt: skip
        axes.fill_between(
            mine["step"], mine["min"], mine["max"], color=shade, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("step")


def _legend(figure: Figure) -> None:
    """Each loss once, below the axes."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = 1 if len(found) < 4 else 2
    figure.legend(
        found.values(), found.keys(), loc="outside lower left", fontsize=8, frameon=False,
        ncols=columns,
    )  # fmt: skip


def _one_to(share: float) -> str:
    """A share as 1:n, such as 1:1,000."""
    n = 1 / share
    return f"1:{n:,.0f}" if n >= 10 else f"1:{n:.3g}"
