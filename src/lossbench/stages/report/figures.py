"""Figures of cases and differences, a small one for each class so that many stay readable."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbench.config import UserError
from lossbench.stages.report import wording
from lossbench.stages.report.figure_style import (
    MAX_LINES,
    MAX_VECTOR_POINTS,
    VERDICTS,
    WIDTH,
    Picture,
    colour,
    heading,
    line_groups,
    losses_on_y,
    save,
    small,
    titled,
    wrapped,
)
from lossbench.stages.report.results import Results
from lossbench.statistics import expected_best

COLUMNS = 3  # of the squares of `pairs`
WIDE, HIGH = 1.2, 1.65  # from one square to the next, in sides of a square


def differences(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """Forest plot: each loss's difference to the reference with its interval.

    Raises
    ------
    UserError
        Where there is no such dataset, model or class: notebooks call this, too.
    """
    classes = {group: results.classes(group[0]) for group in results.groups}
    if name not in classes.get((dataset, model), ()):
        available = "; ".join(f"{d}, {m}, {' | '.join(names)}" for (d, m), names in classes.items())
        raise UserError(
            f"{results.output}: no results of {dataset}, {model}, {name}; available: {available}"
        )
    rows = results.of(results.comparisons, dataset, model, class_=name, metric=results.metric)
    rows = rows.set_index("loss")
    rows = rows.loc[[x for x in results.losses if x in rows.index]]
    if rows["difference"].isna().all():
        return
    figure, axes = _forest(results, 0.36, list(rows.index), results.metric)
    for y, (_, row) in enumerate(rows.iterrows()):
        shade, marker = VERDICTS[row["verdict"]]
        limits = [row["simultaneous_low"], row["simultaneous_high"]]
        axes.plot(limits, [y, y], color=shade, linewidth=2)
        face = "white" if row["verdict"] == "undecided" else shade
        axes.plot(row["difference"], y, marker, color=shade, markerfacecolor=face, markersize=7)
        text = f"{wording.SYMBOLS[row['verdict']]} {row['verdict']}"
        axes.annotate(
            text, (1, y), xycoords=("axes fraction", "data"), color=shade, fontsize=8, va="center",
            xytext=(5, 0), textcoords="offset points", annotation_clip=False,
        )  # fmt: skip
    yield figure


def _forest(results: Results, height: float, names: list[str], metric: str) -> tuple[Figure, Axes]:
    """A forest plot without its lines, of which each is so many inches high."""
    figure, axes = small(height * len(names) + 1.3)
    margin = results.experiment.comparison.margin_of(metric)
    axes.axvspan(-margin, margin, color="0.92", zorder=0)
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)
    losses_on_y(axes, names)
    axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
    better = "lower" if results.experiment.metric(metric).lower_is_better else "higher"
    axes.set_xlabel(f"{results.title(metric)}, difference to the reference\n({better} is better)")
    return figure, axes


def over_datasets(results: Results) -> list[Picture]:
    """Forest plots over data sets, one for each loss, model and metric.

    A line for each data set with its interval, then the mean over data sets with the interval of
    its verdict, and below it the prediction interval for a new data set.
    """
    means, rows = (results.table(name) for name in ("over_datasets", "datasets"))
    pictures = []
    for _, mean in means.iterrows():
        keys = ["model", "loss", "metric"]
        of = rows[(rows[keys] == mean[keys]).all(axis=1)]
        names = [*of["dataset"], "mean", "new data set"]
        figure, axes = _forest(results, 0.3, names, mean["metric"])
        for y, (_, row) in enumerate(of.iterrows()):
            axes.plot([row["ci_low"], row["ci_high"]], [y, y], color="0.35", linewidth=1.5)
            axes.plot(row["difference"], y, "s", color="0.35", markersize=5)
        shade, y = VERDICTS[mean["verdict"]][0], len(of)
        ends = [mean["ci_low"], mean["difference"], mean["ci_high"], mean["difference"]]
        axes.fill(ends, [y, y - 0.25, y, y + 0.25], color=shade)
        limits = [mean["prediction_low"], mean["prediction_high"]]
        axes.plot(limits, [y + 1, y + 1], "|-", color=shade, linewidth=1.5)
        titled(figure, f"{mean['loss']}: {mean['verdict']}")
        file = ("over_datasets", *mean[keys])
        pictures.append(save(results, figure, mean["model"], mean["loss"], *file))
    return pictures


def distributions(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """Box and strip per loss; a point for every case of every seed."""
    rows = results.of(results.cases, dataset, model, class_=name).dropna(subset=results.case_metric)
    if rows.empty:
        return
    figure, axes = small(0.45 * len(results.losses) + 1.0)
    present = [x for x in results.losses if x in set(rows["loss"])]
    values = [rows.loc[rows["loss"] == x, results.case_metric] for x in present]
    boxes = axes.boxplot(
        values, positions=range(len(present)), orientation="horizontal", widths=0.65,
        showfliers=False, patch_artist=True, medianprops={"color": "black"},
    )  # fmt: skip
    jitter = np.random.default_rng(0)
    for y, (loss, box, points) in enumerate(zip(present, boxes["boxes"], values, strict=True)):
        shade = colour(results, loss)
        box.set(facecolor=(*shade, 0.3), edgecolor=shade)
        heights = y + jitter.uniform(-0.22, 0.22, len(points))
        alpha = float(np.clip(30 / len(points), 0.15, 0.8))
        axes.scatter(
            points, heights, s=9, color=[shade], alpha=alpha, linewidth=0, zorder=3,
            rasterized=len(rows) > MAX_VECTOR_POINTS,
        )  # fmt: skip
    losses_on_y(axes, present)
    axes.set_xlabel(f"{results.title(results.case_metric)}, a point per case and seed")
    yield figure


def pairs(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """Paired scatter: each loss against the reference, a point per case and seed.

    A square for each loss, all with the same limits, in one set of axes: twenty sets take seconds.
    """
    rows = results.of(results.cases, dataset, model, class_=name)
    keys = ["fold", "seed", "case"]
    wide = rows.pivot_table(index=keys, columns="loss", values=results.case_metric)
    references = {x: results.experiment.reference_of(x) for x in results.experiment.compared}
    pairs_of = {
        x: wide[[reference, x]].dropna()
        for x, reference in references.items()
        if {x, reference} <= {*wide}
    }
    pairs_of = {loss: both for loss, both in pairs_of.items() if len(both)}
    if not pairs_of:
        return
    columns = min(COLUMNS, max(len(pairs_of), 2))
    n_rows = math.ceil(len(pairs_of) / columns)
    figure, axes = small(WIDTH / columns * n_rows * HIGH / WIDE + 0.6)
    axes.set(
        aspect="equal", xlim=(-0.05, columns * WIDE - 0.1), ylim=(HIGH - n_rows * HIGH - 0.2, 1.5)
    )
    axes.set_axis_off()
    together = pd.concat(pairs_of.values())
    low, high = np.nanmin(together), np.nanmax(together)
    room = 0.05 * max(high - low, 1e-3)
    # No room beyond 0 and 1 where all values keep to them: nobody has a Dice of 1.04.
    low = max(low - room, 0) if low >= 0 else low - room
    span = (min(high + room, 1) if high <= 1 else high + room) - low
    points = []
    for place, (loss, both) in enumerate(pairs_of.items()):
        x, y = place % columns * WIDE, -(place // columns) * HIGH
        gain = (both[loss] - both[references[loss]]) * (-1 if results.lower_is_better else 1)
        gains = (gain > 0).mean()
        axes.text(x, y + 1.04, f"{wrapped(loss)}\n{gains:.0%} better", fontsize=7.5)
        _square(axes, x, y, low, span)
        right, up = ((both[name] - low) / span for name in (references[loss], loss))
        points.append((x + right, y + up, [colour(results, loss)] * len(both)))
    right, up, shades = (np.concatenate(parts) for parts in zip(*points, strict=True))
    alpha = float(np.clip(30 * len(pairs_of) / len(up), 0.15, 0.8))
    axes.scatter(
        right, up, s=7, c=shades, alpha=alpha, linewidth=0, zorder=3,
        rasterized=len(up) > MAX_VECTOR_POINTS,
    )  # fmt: skip
    title = results.title(results.case_metric)
    text = f"to the right: {title} with the reference; upwards: with the loss"
    figure.supxlabel(text, fontsize=8)
    yield figure


def _square(axes: Axes, x: float, y: float, low: float, span: float) -> None:
    """The frame of a loss with its lower left corner at x, y: sides, diagonal and limits."""
    # The diagonal first, then the four sides, in one stroke.
    across, up = [x, x + 1, x + 1, x, x, x + 1], [y, y + 1, y, y, y + 1, y + 1]
    axes.plot(across, up, color="0.6", linewidth=0.8)
    for end, side in ((0, "left"), (1, "right")):
        text = f"{low + end * span:z.2f}"  # z: no -0.00
        axes.text(x + end, y - 0.04, text, fontsize=6.5, ha=side, va="top")


def rounds(results: Results, dataset: str, model: str, name: str) -> Iterator[Figure]:
    """Of a study in rounds: p and interval of each loss at every look."""
    rows = results.of(results.table("looks"), dataset, model, class_=name, metric=results.metric)
    # Without what claims compare.
    references = rows["loss"].map(results.experiment.reference_of)
    rows = rows[(rows["reference"] == references) & (rows["loss"] != references)]
    alpha = results.experiment.comparison.alpha
    for group in line_groups(results):
        present = [loss for loss in group[1:] if (rows["loss"] == loss).any()]
        if not present:
            continue
        figure, (of_p, of_interval) = small(2.9, columns=2, sharex=True)
        of_interval.axhspan(-results.margin, results.margin, color="0.92", zorder=0)
        of_interval.axhline(0, color="0.3", linewidth=1, zorder=1)
        of_p.axhline(alpha, color="0.3", linewidth=1, zorder=1)
        for place, loss in enumerate(present):
            row, shade = rows[rows["loss"] == loss], colour(results, loss)
            p = row[["p_holm", "p_equivalent_holm"]].min(axis=1).clip(lower=1e-6)
            of_p.plot(row["round"], p, marker="o", markersize=4, color=shade, label=loss)
            x = row["round"] + 0.12 * (place - (len(present) - 1) / 2)
            of_interval.vlines(x, row["low"], row["high"], color=shade, linewidth=2)
            of_interval.plot(x, row["difference"], "o", markersize=4, color=shade)
        of_p.set(yscale="log", xlabel="round", ylabel="p of the clearer side, corrected")
        of_p.set_xlim(0.5, results.experiment.rounds.budget + 0.5)
        of_p.locator_params(axis="x", integer=True)
        of_p.legend(fontsize=7)
        of_interval.set(xlabel="round", ylabel=f"{results.title()}, difference")
        yield figure


def tuning(results: Results) -> list[Picture]:
    """Mean validation Dice by learning rate, and the expected best of so many trainings."""
    pictures, trainings = [], results.table("tuning_runs")
    for dataset, model in results.groups:
        runs = results.of(trainings, dataset, model)
        losses = list(runs["loss"].unique())
        for part, start in enumerate(range(0, len(losses), MAX_LINES), 1):
            figure, (of_rate, of_budget) = small(2.9, columns=2)
            for loss in losses[start : start + MAX_LINES]:
                rows, shade = runs[runs["loss"] == loss], colour(results, loss)
                # Diverged trainings count as the worst.
                dice = rows["dice"].fillna(rows["dice"].min())
                by_rate = dice.groupby(rows["learning_rate"]).mean()
                of_rate.plot(
                    by_rate.index, by_rate, marker="o", markersize=4, color=shade, label=loss
                )
                best = expected_best(dice.to_numpy())
                of_budget.plot(np.arange(1, len(best) + 1), best, color=shade)
            of_rate.set(
                xscale="log", xlabel="learning rate", ylabel="validation Dice of the tuning"
            )
            of_rate.axvline(
                results.experiment.training_of(dataset).learning_rate, color="0.3", linewidth=1
            )
            of_rate.legend(fontsize=7)
            of_budget.set(xscale="log", xlabel="trainings", ylabel="expected best of them")
            titled(figure, f"tuning of {len(losses)} losses")
            file = ("tuning", dataset, model, part)
            pictures.append(save(results, figure, heading(dataset, model), "learning rate", *file))
    return pictures
