"""Figures: a small one for each dataset, model and class, so that many classes stay readable."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbench.config import LOWER_IS_BETTER
from lossbench.files import whole
from lossbench.report import words
from lossbench.report.results import Results

WIDTH = 4.4  # inches: a third of a wide page, the whole of a narrow one
GROUP = 7  # losses in one plot of curves; more cannot be told apart
# Seaborn's for the colour-blind, without those that are too pale on white or taken for grey.
COLOURS = [seaborn.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9)]
REFERENCE_COLOUR = (0.15, 0.15, 0.15)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)))
# Colour and marker of each verdict; the page's style sheet has the same colours.
VERDICTS = {
    "better": ("#0173b2", "^"),
    "worse": ("#c04a00", "v"),
    "equivalent": ("#00755a", "s"),
    "undecided": ("#5f5f5f", "o"),
}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "lossbench",  # the same figure gives the same file
    "text.parse_math": False,  # names are names, also with a $ in them
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: what it is of, and its image as a data URI."""

    dataset: str
    model: str
    name: str
    uri: str


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures."""
    with matplotlib.rc_context({**seaborn.axes_style("whitegrid"), **_STYLE}):
        yield


def save(figure: Figure, path: Path, embed: str = "svg") -> str:
    """Write a figure as SVG and PNG; `path` has no suffix.

    Returns
    -------
    str
        A data URI of the SVG, or of the PNG where `embed` says so.
    """
    kinds = {"svg": "image/svg+xml", "png": "image/png"}
    found = {}
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not again for each file
    for kind in kinds:
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
        found[kind] = buffer.getvalue()
        with whole(path.with_name(f"{path.name}.{kind}")) as part:
            part.write_bytes(found[kind])
    return f"data:{kinds[embed]};base64,{base64.b64encode(found[embed]).decode()}"


def stem(kind: str, *parts: object) -> str:
    """A file name of lower-case letters, digits and _."""
    return re.sub(r"[^a-z0-9]+", "_", "_".join(str(p) for p in (kind, *parts)).lower()).strip("_")


def differences(results: Results, folder: Path) -> list[Picture]:
    """Forest plots: each loss's difference to the reference with its interval, per class."""
    pictures = []
    for dataset, model, number, name in _panels(results):
        rows = results.of(results.comparisons, dataset, model, class_=name, metric=results.metric)
        rows = rows.set_index("loss")
        rows = rows.loc[[x for x in results.losses if x in rows.index]]
        if rows["difference"].notna().any():
            figure, axes = _figure(0.36 * len(rows) + 1.3)
            _forest(axes, rows, results)
            axes.set_title(_title(results, dataset, name), loc="left")
            path = folder / stem("differences", dataset, model, number, name)
            pictures.append(Picture(dataset, model, name, save(figure, path)))
    return pictures


def distributions(results: Results, folder: Path) -> list[Picture]:
    """Box and strip per loss; a point for every case of every seed, per class."""
    pictures = []
    for dataset, model, number, name in _panels(results):
        rows = results.of(results.cases, dataset, model, class_=name).dropna(subset=results.metric)
        if len(rows):
            figure, axes = _figure(0.45 * len(results.losses) + 1.0)
            _strips(axes, rows, results)
            axes.set_title(_title(results, dataset, name), loc="left")
            path = folder / stem("cases", dataset, model, number, name)
            pictures.append(Picture(dataset, model, name, save(figure, path)))
    return pictures


def curves(results: Results, folder: Path) -> list[Picture]:
    """Validation Dice against the step, per class; more losses than can be told apart are split."""
    pictures = []
    others = results.losses[1:]
    groups = [others[i : i + GROUP] for i in range(0, len(others), GROUP)] or [[]]
    for dataset, model, number, name in _panels(results):
        rows = results.of(results.curves, dataset, model, class_=name)
        for part, group in enumerate(groups, 1):
            mine = rows[rows["loss"].isin([results.reference, *group])]
            if len(mine):
                figure, axes = _figure(2.9 + 0.16 * len(group))
                _lines(axes, mine, results)
                axes.set_title(_title(results, dataset, name), loc="left")
                path = folder / stem("curves", dataset, model, number, name, part)
                pictures.append(Picture(dataset, model, name, save(figure, path)))
    return pictures


def colour(results: Results, loss: str) -> tuple[float, float, float]:
    """The colour of a loss, the same in all figures; distinct within a group of curves."""
    position = results.losses.index(loss)
    return REFERENCE_COLOUR if position == 0 else COLOURS[(position - 1) % GROUP]


def wrapped(name: str, width: int = 16) -> str:
    """A long name on several lines, broken at _ where it can be."""
    lines = [""]
    for piece in re.findall(r"[^_]*_?", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _panels(results: Results) -> Iterator[tuple[str, str, int, str]]:
    for dataset, model in results.groups:
        for number, name in enumerate(results.classes(dataset), 1):
            yield dataset, model, number, name


def _figure(height: float) -> tuple[Figure, Axes]:
    # Not through pyplot: nothing to close, and no display is looked for.
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _title(results: Results, dataset: str, name: str) -> str:
    return f"{name} (background)" if name == results.background(dataset) != "background" else name


def _losses_on_y(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_ylabel("")


def _forest(axes: Axes, rows: pd.DataFrame, results: Results) -> None:
    margin = results.experiment.comparison.margin
    axes.axvspan(-margin, margin, color="0.92", zorder=0)
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)
    for y, (_, row) in enumerate(rows.iterrows()):
        shade, marker = VERDICTS[row["verdict"]]
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=shade, linewidth=2)
        face = "white" if row["verdict"] == "undecided" else shade
        axes.plot(row["difference"], y, marker, color=shade, markerfacecolor=face, markersize=7)
        text = f"{words.SYMBOLS[row['verdict']]} {row['verdict']}"
        axes.annotate(
            text, (1, y), xycoords=("axes fraction", "data"), color=shade, fontsize=8, va="center",
            xytext=(5, 0), textcoords="offset points", annotation_clip=False,
        )  # fmt: skip
    _losses_on_y(axes, list(rows.index))
    axes.locator_params(axis="x", nbins=5)
    metric = words.metric_name(results.metric)
    better = "lower" if results.metric in LOWER_IS_BETTER else "higher"
    axes.set_xlabel(f"{metric}, difference to the reference\n({better} is better)")


def _strips(axes: Axes, rows: pd.DataFrame, results: Results) -> None:
    present = [x for x in results.losses if x in set(rows["loss"])]
    values = [rows.loc[rows["loss"] == x, results.metric] for x in present]
    boxes = axes.boxplot(
        values, positions=range(len(present)), orientation="horizontal", widths=0.65,
        showfliers=False, patch_artist=True, medianprops={"color": "black"},
    )  # fmt: skip
    jitter = np.random.default_rng(0)
    for y, (loss, box, points) in enumerate(zip(present, boxes["boxes"], values, strict=True)):
        shade = colour(results, loss)
        box.set(facecolor=(*shade, 0.3), edgecolor=shade)
        alpha = float(np.clip(30 / len(points), 0.15, 0.8))
        heights = y + jitter.uniform(-0.22, 0.22, len(points))
        axes.scatter(
            points, heights, s=9, color=[shade], alpha=alpha, linewidth=0, zorder=3,
            rasterized=len(points) > 300,
        )  # fmt: skip
    _losses_on_y(axes, present)
    axes.set_xlabel(f"{words.metric_name(results.metric)}, a point per case and seed")


def _lines(axes: Axes, rows: pd.DataFrame, results: Results) -> None:
    # A seed's curve is its mean over folds; the band goes from the lowest seed to the highest.
    seeds = rows.groupby(["loss", "step", "seed"])["dice"].mean()
    band = seeds.groupby(["loss", "step"]).agg(["mean", "min", "max"]).reset_index()
    present = [x for x in results.losses if x in set(band["loss"])]
    for loss in present:
        mine, shade = band[band["loss"] == loss], colour(results, loss)
        dashes = DASHES[results.losses.index(loss) % GROUP] if loss != results.reference else "-"
        axes.plot(
            mine["step"], mine["mean"], linestyle=dashes, color=shade, linewidth=1.8, label=loss,
            marker="." if len(mine) < 3 else "",
        )  # fmt: skip
        axes.fill_between(
            mine["step"], mine["min"], mine["max"], color=shade, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("step")
    axes.set_ylabel("validation Dice")
    axes.locator_params(axis="x", nbins=5)
    columns = 1 if len(present) < 4 else 2
    axes.figure.legend(loc="outside lower left", fontsize=8, frameon=False, ncols=columns)
