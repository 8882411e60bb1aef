"""What MLflow should hold, read from results. Reads files alone and knows no MLflow."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.config import METRICS, Experiment, UserError, canonical
from lossbench.files import block_folder, read_json
from lossbench.provenance import sha256
from lossbench.track.view import clean, verdict_table

GROUP = ["dataset", "model", "loss"]
KEYS = [*GROUP, "fold", "seed"]
SYSTEM = ["train_seconds", "images_per_second", "peak_memory_bytes"]
NOTE_LENGTH = 8000  # of a tag of a run
Point = tuple[str, float, int, int]  # metric, value, ms since 1970, step
Params = Callable[[str, str, str], dict[str, str]]  # of a dataset, model and loss


@dataclass(frozen=True)
class Record:
    """A run as MLflow should have it.

    Attributes
    ----------
    key
        Identity within the experiment: a run's digest, or what a parent summarises.
    kind
        run (one training), loss (dataset x model x loss), or comparison.
    start, end
        ms since 1970.
    parent
        Key of the parent's record, if any.
    files
        Artifacts: name within the run -> file.
    """

    key: str
    kind: str
    name: str
    start: int
    end: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Point] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    parent: str | None = None

    @cached_property
    def content(self) -> str:
        """Digest of everything that is written."""
        own = [self.key, self.kind, self.name, self.start, self.end, self.params, self.tags]
        text = json.dumps([*own, self.metrics], sort_keys=True)
        files = [part for name, path in self.files.items() for part in (name, path.read_bytes())]
        return sha256(text, *files)


def read(e: Experiment, folder: Path) -> tuple[list[Record], list[str]]:
    """Read the records of an experiment, parents before their children; and its classes in order.

    Parameters
    ----------
    e
        The experiment.
    folder
        That of experiment.json.

    Raises
    ------
    UserError
        Where a file of the results is missing.
    """
    report = folder / "report"
    names = ("runs", "summary", "comparisons")
    runs, summary, comparisons = (_csv(report / f"{name}.csv") for name in names)
    runs["start"], runs["end"] = runs["started"].map(_ms), runs["finished"].map(_ms)
    cases = pd.read_parquet(report / "cases.parquet")
    classes = list(cases["class"].unique())
    means = cases.groupby([*KEYS, "class"], sort=False)[list(METRICS)].mean()
    scores = {keys: table.droplevel(KEYS) for keys, table in means.groupby(level=KEYS)}

    summaries = dict(list(summary.groupby(GROUP)))
    verdicts = dict(list(comparisons.groupby(GROUP)))
    none = comparisons.iloc[:0]
    params = partial(_params, e, _cards(folder / "check.json"))
    losses = [
        _loss(e, params, keys, rows, summaries[keys], verdicts.get(keys, none))
        for keys, rows in runs.groupby(GROUP, sort=False)
    ]
    children = [
        _run(params, row, scores[tuple(row[k] for k in KEYS)], folder) for _, row in runs.iterrows()
    ]
    return [_comparison(e, folder, runs, comparisons, classes), *losses, *children], classes


def _run(params: Params, row: pd.Series, scores: pd.DataFrame, folder: Path) -> Record:
    """One training: its settings, its curves, its test metrics per class."""
    dataset, model, loss, fold, seed = (row[key] for key in KEYS)
    block = block_folder(folder, dataset, model, fold, seed)
    figures = {"test/dice": row["dice"], "test/dice_with_background": row["dice_with_background"]}
    for metric, per_class in scores.to_dict().items():
        figures |= {f"test/{metric}/{name}": value for name, value in per_class.items()}
    figures |= {f"system/{name}": row[name] for name in SYSTEM}
    return Record(
        key=row["digest"],
        kind="run",
        name=f"{loss} · fold {fold} · seed {seed}",
        start=row["start"],
        end=row["end"],
        parent=_loss_key(dataset, model, loss),
        params={**params(dataset, model, loss), "fold": str(fold), "seed": str(seed)},
        tags={
            "lossbench.digest": row["digest"],
            "lossbench.block": f"{dataset}/{model}/fold{fold}/seed{seed}",
            "lossbench.status": row["status"],
            "lossbench.commit": _text(row["commit"]),
            "lossbench.device": _text(row["device"]),
            "lossbench.versions": row["versions"],
        },
        metrics=[
            *_curves(_csv(block / loss / "history.csv"), row["start"]),
            *_points(figures, row["end"]),
        ],
    )


def _loss(
    e: Experiment,
    params: Params,
    keys: tuple,
    runs: pd.DataFrame,
    summary: pd.DataFrame,
    verdicts: pd.DataFrame,
) -> Record:
    """All runs of a dataset x model x loss: means with intervals, and the verdict per class."""
    dataset, model, loss = keys
    figures: dict[str, float] = {"test/dice": runs["dice"].mean()}
    figures["test/dice_with_background"] = runs["dice_with_background"].mean()
    for row in summary.to_dict("records"):
        name = f"test/{row['metric']}/{row['class']}"
        figures |= {
            name: row["mean"],
            f"{name}/ci_low": row["ci_low"],
            f"{name}/ci_high": row["ci_high"],
        }
    tags = {"lossbench.status": "diverged" if (runs["status"] == "diverged").any() else "finished"}
    for row in summary[summary["metric"].isin(e.comparison.metrics)].to_dict("records"):
        if loss == e.comparison.reference:
            tags[clean(f"{row['metric']}/{row['class']}")] = "reference"
    for row in verdicts.to_dict("records"):
        tags[clean(f"{row['metric']}/{row['class']}")] = row["verdict"]
    return Record(
        key=_loss_key(*keys),
        kind="loss",
        name=f"{loss} · {dataset} · {model}",
        start=int(runs["start"].min()),
        end=int(runs["end"].max()),
        params={**params(dataset, model, loss), "runs": str(len(runs))},
        tags=tags,
        metrics=list(_points(figures, int(runs["end"].max()))),
    )


def _comparison(
    e: Experiment, folder: Path, runs: pd.DataFrame, comparisons: pd.DataFrame, classes: list[str]
) -> Record:
    """Describe the experiment as a whole: verdicts as a note, the report as artifacts."""
    report = folder / "report"
    note = verdict_table(comparisons, classes, e.comparison.reference)
    names = ["comparisons.csv", "summary.csv", "runs.csv", "report.html"]
    paths = [report / name for name in names]
    for sub in ("figures", "tables"):
        paths += sorted(p for p in (report / sub).rglob("*") if p.is_file())
    files = {str(path.relative_to(report)): path for path in paths}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file; run the workflow, which writes it")
    return Record(
        key="comparison",
        kind="comparison",
        name=f"comparison of {e.experiment}",
        start=int(runs["start"].min()),
        end=int(runs["end"].max()),
        tags={"mlflow.note.content": _within(note, NOTE_LENGTH)},
        files={"experiment.json": folder / "experiment.json", **files},
    )


def _params(e: Experiment, cards: dict, dataset: str, model: str, loss: str) -> dict[str, str]:
    """Settings, and what the loss computes: so that runs can be filtered by either."""
    run = e.run(dataset=dataset, model=model, loss=loss, fold=0, seed=0)
    training = {k: v if isinstance(v, str) else canonical(v) for k, v in run["training"].items()}
    # One param for all keywords: a param that only some losses have spoils MLflow's charts.
    keywords = canonical({k: v for k, v in run["loss"].items() if k != "name"})
    card = {f"card/{k}": str(v) for k, v in cards.get(dataset, {}).get(loss, {}).items()}
    names = {"dataset": dataset, "model": model, "loss": loss, "loss_params": keywords}
    return {**names, **card, **training}


def _cards(path: Path) -> dict:
    """What each loss computes, by dataset and loss; empty for an experiment never checked."""
    return read_json(path).get("cards", {}) if path.exists() else {}


def _curves(history: pd.DataFrame, start: int) -> Iterator[Point]:
    stamps = [start + round(1000 * seconds) for seconds in history["seconds"]]
    steps = history["step"].tolist()
    for column in history.columns.drop(["step", "seconds"]):
        name = clean(column)
        for value, stamp, step in zip(history[column].tolist(), stamps, steps, strict=True):
            if math.isfinite(value):  # blank where the step was not validated
                yield name, float(value), stamp, step


def _points(figures: dict[str, float], stamp: int) -> Iterator[Point]:
    for name, value in figures.items():
        if math.isfinite(value):  # NaN: the class is absent from every case
            yield clean(name), float(value), stamp, 0  # bars in the UI; a later step, a line


def _loss_key(dataset: str, model: str, loss: str) -> str:
    return f"loss/{dataset}/{model}/{loss}"


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _within(text: str, length: int) -> str:
    """Whole lines of a text, up to a length."""
    if len(text) <= length:
        return text
    rest = "\n\nThe rest is in comparisons.csv."
    return text[: length - len(rest)].rpartition("\n")[0] + rest


def _ms(timestamp: str) -> int:
    return round(1000 * datetime.fromisoformat(timestamp).timestamp())


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"class": str, "commit": str})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the workflow, which writes it") from None
