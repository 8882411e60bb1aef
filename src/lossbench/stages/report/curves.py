"""Figures of lines: learning curves, the gradient ledger, Dice against the size of a class."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lossbench.config import UserError
from lossbench.stages.report import loss_cards, wording
from lossbench.stages.report.figure_style import (
    Picture,
    colour,
    dashes,
    heading,
    line_groups,
    per_class,
    save,
    small,
    titled,
)
from lossbench.stages.report.results import CURVE, LEDGER, Results

SHARES = {"value": "of the value", "l1": "of the gradient, L1", "l2": "of the gradient, L2"}
MIN_DATASETS = 3  # datasets, for a line against the size of a class


def learning_curves(results: Results) -> dict[str, Any]:
    """Pictures of the validation Dice, and how many runs have none; none for external results."""
    if not results.trained_here:
        return {}
    pictures, missing = per_class(results, "curves", curves), results.missing_histories()
    return {"pictures": pictures, "missing": missing} if pictures or missing else {}


def curves(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """Validation Dice against the step."""
    rows = results.of(results.histories, dataset, model, name=CURVE + name)
    for group in line_groups(results):
        yield from _against_step(results, rows, group, "validation Dice")


def gradients(results: Results) -> dict[str, Any]:
    """Pictures of the ledger along the training, and the tables of check before it."""
    ledger, probes = _ledger(results), loss_cards.preflights(results)
    if not ledger and not probes:
        return {}
    return {"ledger": ledger, "shares": per_class(results, "shares", shares), "probes": probes}


def _ledger(results: Results) -> list[Picture]:
    """Norm, scale and cosine of each loss's gradient along the training."""
    pictures = []
    reference = results.reference
    if results.trained_here and results.experiment.execution.ledger:
        reference = results.experiment.execution.ledger.reference
    quantities = {
        "norm": "gradient norm",
        "scale": f"norm over that of {reference}",
        "cosine": f"cosine to {reference}",
    }
    for dataset, model in results.groups:
        for quantity, label in quantities.items():
            rows = results.of(results.histories, dataset, model, name=LEDGER + quantity)
            for part, group in enumerate(line_groups(results), 1):
                for figure in _against_step(results, rows, group, quantity):
                    titled(figure, label)
                    if quantity != "cosine" and (rows["value"] > 0).all():
                        _logarithmic(figure.axes[0])
                    file = ("ledger", dataset, model, quantity, part)
                    pictures.append(save(results, figure, heading(dataset, model), label, *file))
    return pictures


def shares(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """The ledger: the share of a class in each loss's value and gradient along the training."""
    rows = results.of(results.histories, dataset, model)
    by_kind = {kind: rows[rows["name"] == f"{LEDGER}{kind}/{name}"] for kind in SHARES}
    by_kind = {kind: table for kind, table in by_kind.items() if len(table)}
    for group in line_groups(results):
        tables = {kind: table[table["loss"].isin(group)] for kind, table in by_kind.items()}
        if all(table.empty for table in tables.values()):
            continue
        figure, grid = small(2.7 + 0.16 * len(group), 1, len(tables), squeeze=False, sharey=True)
        for axes, (kind, table) in zip(grid.flat, tables.items(), strict=True):
            _lines(axes, table, results)
            axes.set_title(SHARES[kind], fontsize=8)
            axes.set_ylim(-0.03, 1.03)
            axes.locator_params(axis="x", nbins=3)
        grid[0, 0].set_ylabel("share of the class")
        _legend(figure)
        yield figure


def sizes(results: Results) -> list[Picture]:
    """Mean and interval of a class against its share of the voxels, over datasets.

    For each model, foreground class, and the datasets (three or more) with equal classes.
    """
    pictures = []
    alike: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}  # by model and classes
    for dataset, model in results.groups:
        if of_voxels := _share_of_voxels(results, dataset):
            alike.setdefault((model, *results.classes(dataset)), {})[dataset] = of_voxels
    for (model, *classes), of_datasets in alike.items():
        if len(of_datasets) < MIN_DATASETS:
            continue
        first = next(iter(of_datasets))
        for number, name in enumerate(classes, 1):
            sizes_of = {d: shares[name] for d, shares in of_datasets.items() if shares[name] > 0}
            if name == results.background(first) or not sizes_of:
                continue
            for part, group in enumerate(line_groups(results), 1):
                figure = _against_size(results, model, name, sizes_of, group)
                group_name = f"{model}, {wording.listing([*of_datasets])}"
                file = ("sizes", first, model, number, name, part)
                pictures.append(save(results, figure, group_name, name, *file))
    return pictures


def _share_of_voxels(results: Results, dataset: str) -> dict[str, float]:
    """Of each class: the mean over cases of its share of a case's voxels.

    Empty where the data that the runs were trained on are not there.
    """
    try:
        data = results.prepared(dataset)
    except UserError:
        return {}
    shares = data.voxels() / data.labelled()[:, None]
    return dict(zip(data.classes, shares.mean(axis=0), strict=True))


def _against_size(
    results: Results, model: str, name: str, shares_of: dict[str, float], losses: list[str]
) -> Figure:
    """Lines of some losses over the datasets, whose share of the class is `shares_of`."""
    rows = [
        results.of(results.summary, d, model, class_=name, metric=results.metric).assign(x=size)
        for d, size in sorted(shares_of.items(), key=lambda item: item[1])
    ]
    table = pd.concat(rows)
    figure, axes = small(2.9 + 0.16 * len(losses))
    for loss in (x for x in losses if x in set(table["loss"])):
        points, shade = table[table["loss"] == loss], colour(results, loss)
        below, above = points["mean"] - points["ci_low"], points["ci_high"] - points["mean"]
        axes.errorbar(
            points["x"], points["mean"], [below.fillna(0), above.fillna(0)], color=shade,
            label=loss, linestyle=dashes(results, loss), linewidth=1.6, marker="o", markersize=4,
            capsize=2,
        )  # fmt: skip
    axes.set_xscale("log")
    # Between powers of ten too, where few of them are in view.
    subs = (1.0,) if table["x"].max() / table["x"].min() > 50 else (1.0, 0.5, 0.2)
    axes.xaxis.set_major_locator(LogLocator(10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: _one_in(1 / share)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the class in the voxels (mean over cases)")
    axes.set_ylabel(results.title())
    titled(figure, name)
    _legend(figure)
    return figure


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    plain = FuncFormatter(lambda y, _: f"{y:.3g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(10, subs=(2, 5)))


def _against_step(
    results: Results, rows: pd.DataFrame, group: list[str], label: str
) -> Iterator[Figure]:
    """One plot of lines against the step, where there are any."""
    rows = rows[rows["loss"].isin(group)]
    if len(rows):
        figure, axes = small(2.9 + 0.16 * len(group))
        _lines(axes, rows, results)
        axes.set_ylabel(label)
        axes.locator_params(axis="x", nbins=5)
        _legend(figure)
        yield figure


def _lines(axes: Axes, rows: pd.DataFrame, results: Results) -> None:
    # A seed's curve is its mean over folds; the band goes from the lowest seed to the highest.
    seeds = rows.groupby(["loss", "step", "seed"])["value"].mean()
    band = seeds.groupby(["loss", "step"]).agg(["mean", "min", "max"]).reset_index()
    for loss in (x for x in results.losses if x in set(band["loss"])):
        line, shade = band[band["loss"] == loss], colour(results, loss)
        axes.plot(
            line["step"], line["mean"], linestyle=dashes(results, loss), color=shade,
            linewidth=1.8, label=loss, marker="." if len(line) < 3 else "",
        )  # fmt: skip
        axes.fill_between(
            line["step"], line["min"], line["max"], color=shade, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("step")


def _legend(figure: Figure) -> None:
    """Each loss once, below the axes."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = 1 if len(handles) < 4 else 2
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower left", fontsize=8, frameon=False,
        ncols=columns,
    )  # fmt: skip


def _one_in(n: float) -> str:
    """A share of 1 / n, such as 1:1,000."""
    return f"1:{n:,.0f}" if n >= 10 else f"1:{n:.3g}"
