"""What MLflow should hold of finished results. Reads files alone and knows no MLflow."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common import tables
from lossbench.common.files import block_folder, read_json
from lossbench.common.provenance import sha256
from lossbench.config import Experiment, UserError, canonical, unnamed
from lossbench.stages.track.view import clean, verdict_table, verdicts_in_words

GROUP = ["dataset", "model", "loss"]
BLOCK = ["dataset", "model", "fold", "seed"]
KEYS = [*GROUP, "fold", "seed"]
TIMES = ["started", "finished"]
OF_TRAINING = ["steps", "train_seconds", "images_per_second", "peak_memory_bytes"]
OF_TEST = ["dice", "dice_with_background"]
OF_COMPARISON = ["difference", "ci_low", "ci_high", "p_holm"]
NOTE_LENGTH = 8000  # of a tag of a run
# Something that MLflow never forgets: ("param", key, value), ("metric", key, value, ms, step), ...
Fact = tuple[str | float, ...]
Params = Callable[[str, str, str], dict[str, str]]  # of a dataset, model and loss


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, as an input of a run."""

    name: str
    digest: str
    cases: int


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
        ms since 1970; without an end, the run goes on.
    parent
        Key of the parent's record, if any.
    history
        history.csv, or as much of it as there is.
    figures
        Single values, known at the end.
    files
        Artifacts: name within the run -> file.
    provisional
        Whether figures are still to come: then a finished run of an earlier sync stays.
    """

    key: str
    kind: str
    name: str
    start: int
    end: int | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    dataset: Dataset | None = None
    history: bytes = b""
    figures: dict[str, float] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    provisional: bool = False

    @cached_property
    def content(self) -> str:
        """Digest of what the record is made of; cheap, as most records are unchanged."""
        own = [self.key, self.kind, self.name, self.start, self.end, self.params, self.tags]
        text = json.dumps([*own, self.figures], sort_keys=True)
        files = (part for name, path in self.files.items() for part in (name, self._mark(path)))
        return sha256(text, repr(self.dataset), self.history, *files)

    @cached_property
    def facts(self) -> list[Fact]:
        """Everything that cannot be taken back, in an order in which a growing run only adds."""
        end = self.start if self.end is None else self.end
        return [
            ("start", self.name, self.start),
            *(("param", key, value) for key, value in self.params.items()),
            *([("dataset", self.dataset.name, self.dataset.digest)] if self.dataset else []),
            *_curves(self.history, self.start),
            # At step 0 they are bars in the UI; at a later step, lines.
            *(
                ("metric", clean(name), float(value), end, 0)
                for name, value in self.figures.items()
                if math.isfinite(value)  # NaN: the class is absent from every case
            ),
            *(("file", name, self._mark(path)) for name, path in self.files.items()),
        ]

    def _mark(self, path: Path) -> str:
        """Digest of a file. Weights are large, and others only where their run ended anew."""
        return str(self.end) if path.suffix == ".safetensors" else sha256(path.read_bytes())


def read(e: Experiment, folder: Path, models: bool = False) -> tuple[list[Record], list[str]]:
    """Read the records of a finished experiment, parents first; and its classes in order.

    Parameters
    ----------
    e
        The experiment.
    folder
        That of experiment.json.
    models
        Whether a run gets its weights as an artifact.

    Raises
    ------
    UserError
        Where a file of the results is missing.
    """
    report = folder / "report"
    names = ("runs", "summary", "comparisons")
    runs, summary, comparisons = (read_table(report / f"{name}.csv") for name in names)
    cases = pd.read_parquet(report / "cases.parquet")
    classes = list(cases["class"].unique())
    means = cases.groupby([*KEYS, "class"], sort=False)[e.all_metrics].mean()
    scores = {keys: table.droplevel(KEYS) for keys, table in means.groupby(level=KEYS)}
    summaries, verdicts = (dict(list(table.groupby(GROUP))) for table in (summary, comparisons))
    params, data = partial(params_of, e, cards(folder)), datasets(e, folder)
    losses = [
        _loss(e, keys, params, data, rows, summaries[keys], verdicts.get(keys, comparisons[:0]))
        for keys, rows in runs.groupby(GROUP, sort=False)
    ]
    children = []
    for row in runs.to_dict("records"):
        run = block_folder(folder, *(row[key] for key in BLOCK)) / row["loss"]
        scored = row | _per_class(scores[tuple(row[key] for key in KEYS)])
        files = _model(run, prepared(folder, row["dataset"])) if models else {}
        children.append(run_record(scored, params, data, _bytes(run / "history.csv"), files))
    note = verdict_table(comparisons, classes, e.comparison.reference)
    span = _ms(runs["started"].min()), _ms(runs["finished"].max())
    return [
        comparison_record(e, "finished", *span, note, _artifacts(folder)),
        *losses,
        *children,
    ], classes


def run_record(
    row: Mapping[str, Any],
    params: Params,
    data: Mapping[str, Dataset],
    history: bytes,
    files: dict[str, Path] | None = None,
) -> Record:
    """One training: its settings, its curves and, once they are known, its figures.

    Parameters
    ----------
    row
        A row of runs.csv and means under test/; or a status.json and KEYS, before there are tables.
    """
    dataset, model, loss, fold, seed = (row[key] for key in KEYS)
    numbers = {k: v for k, v in row.items() if isinstance(v, Real) and not isinstance(v, bool)}
    words = {k: str(v) for k, v in row.items() if k not in numbers and v is not None}
    figures = {f"system/{name}": row[name] for name in OF_TRAINING if name in row}
    has_test = OF_TEST[0] in row
    if has_test:
        figures |= {f"test/{name}": row[name] for name in OF_TEST}
        figures |= {name: value for name, value in row.items() if name.startswith("test/")}
        # What else runs.csv says of a run.
        rest = numbers.keys() - {*KEYS, *OF_TRAINING, *OF_TEST} - figures.keys()
        figures |= {f"system/{name}": numbers[name] for name in sorted(rest)}
    return Record(
        key=row["digest"],
        kind="run",
        name=f"{loss} · fold {fold} · seed {seed}",
        start=_ms(row["started"]),
        end=_ms(row["finished"]) if "finished" in row else None,
        parent=loss_key(dataset, model, loss),
        params={**params(dataset, model, loss), "fold": str(fold), "seed": str(seed)},
        tags={
            "lossbench.block": f"{dataset}/{model}/fold{fold}/seed{seed}",
            **{f"lossbench.{k}": v for k, v in words.items() if k not in {*KEYS, *TIMES}},
        },
        dataset=data[dataset],
        history=history,
        figures=figures,
        files=files or {},
        provisional=not has_test,
    )


def _loss(
    e: Experiment,
    keys: tuple[str, str, str],
    params: Params,
    data: Mapping[str, Dataset],
    runs: pd.DataFrame,
    summary: pd.DataFrame,
    verdicts: pd.DataFrame,
) -> Record:
    """All runs of a dataset x model x loss: means with intervals, and the verdict per class."""
    figures = {f"test/{name}": runs[name].mean() for name in OF_TEST}
    tags = {"lossbench.status": "diverged" if (runs["status"] == "diverged").any() else "finished"}
    is_reference = keys[2] == e.comparison.reference
    for row in summary.to_dict("records"):
        name = f"{row['metric']}/{row['class']}"
        figures[f"test/{name}"] = row["mean"]
        spread = {k: v for k, v in row.items() if isinstance(v, Real) and k != "mean"}
        figures |= {f"summary/{name}/{k}": float(v) for k, v in spread.items()}
        if is_reference and row["metric"] in e.comparison.metrics:
            tags[clean(name)] = "reference"
    for row in verdicts.to_dict("records"):
        name = f"{row['metric']}/{row['class']}"
        figures |= {f"versus/{name}/{k}": row[k] for k in OF_COMPARISON}
        tags[clean(name)] = row["verdict"]
    words = "the reference" if is_reference else verdicts_in_words(verdicts)
    return Record(
        key=loss_key(*keys),
        kind="loss",
        name=loss_name(*keys),
        start=_ms(runs["started"].min()),
        end=_ms(runs["finished"].max()),
        params=params(*keys),
        tags={**tags, "lossbench.verdict": words, "mlflow.note.content": words},
        dataset=data[keys[0]],
        figures=figures,
    )


def comparison_record(
    e: Experiment, status: str, start: int, end: int | None, note: str, files: dict[str, Path]
) -> Record:
    """Describe the experiment as a whole: verdicts as a note, the report as artifacts."""
    return Record(
        key="comparison",
        kind="comparison",
        name=f"comparison of {e.experiment}",
        start=start,
        end=end,
        tags={"mlflow.note.content": _within(note, NOTE_LENGTH), "lossbench.status": status},
        files=files,
        provisional=end is None,
    )


def params_of(e: Experiment, known: Mapping, dataset: str, model: str, loss: str) -> dict[str, str]:
    """Settings, and what the loss computes: so that runs can be filtered by either."""
    run = e.run(dataset=dataset, model=model, loss=loss, fold=0, seed=0)
    training = {k: v if isinstance(v, str) else canonical(v) for k, v in run["training"].items()}
    # One param for all keywords: a param that only some losses have spoils MLflow's charts.
    keywords = canonical(unnamed(run["loss"]))
    card = {f"card/{k}": str(v) for k, v in known.get(dataset, {}).get(loss, {}).items()}
    names = {"dataset": dataset, "model": model, "loss": loss, "loss_params": keywords}
    return {**names, **card, **training}


def cards(folder: Path) -> dict:
    """What each loss computes, by dataset and loss; empty for an experiment never checked."""
    path = folder / "check.json"
    return read_json(path).get("cards", {}) if path.exists() else {}


def prepared(folder: Path, dataset: str) -> Path:
    """Where a dataset of an experiment lies."""
    return folder.parent / "datasets" / dataset


def datasets(e: Experiment, folder: Path) -> dict[str, Dataset]:
    """Datasets of an experiment that are prepared, by name."""
    ready = [d for d in e.matrix.dataset if (prepared(folder, d) / "classes.json").exists()]
    digests = {name: read_json(prepared(folder, name) / "classes.json")["digest"] for name in ready}
    sizes = {name: len(read_table(prepared(folder, name) / "cases.csv")) for name in ready}
    return {name: Dataset(name, digests[name], sizes[name]) for name in ready}


def loss_key(dataset: str, model: str, loss: str) -> str:
    """Key of the record of a dataset x model x loss."""
    return f"loss/{dataset}/{model}/{loss}"


def loss_name(dataset: str, model: str, loss: str) -> str:
    """Name of the run of a dataset x model x loss, the loss first: names are cut at the right."""
    return f"{loss} · {dataset} · {model}"


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of the results, which must be there."""
    try:
        return tables.read_csv(path).fillna({"commit": ""})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the workflow, which writes it") from None


def _per_class(scores: pd.DataFrame) -> dict[str, float]:
    """Means over the cases of a run, by metric and class."""
    table = scores.to_dict()
    return {f"test/{m}/{name}": v for m in table for name, v in table[m].items()}


def _model(run: Path, data: Path) -> dict[str, Path]:
    """What it takes to build the network again: weights, specification, classes."""
    paths = (run / "model.safetensors", run / "run.json", data / "classes.json")
    return {f"model/{path.name}": path for path in paths}


def _artifacts(folder: Path) -> dict[str, Path]:
    """Page, figures and tables of the report, and the experiment."""
    report = folder / "report"
    page = report / "report.html"
    if not page.exists():
        raise UserError(f"{page}: no such file; run the workflow, which writes it")
    paths = [page, *sorted(report.glob("*.csv"))]
    for sub in ("figures", "tables"):
        paths += sorted(path for path in (report / sub).rglob("*") if path.is_file())
    names = {str(path.relative_to(report)): path for path in paths}
    return {"experiment.json": folder / "experiment.json", **names}


def _curves(history: bytes, start: int) -> Iterator[Fact]:
    """Points of the curves, row by row."""
    for row in csv.DictReader(io.StringIO(history.decode())):
        row.pop("started", None)  # a growing history says when it began
        stamp, step = start + round(1000 * float(row.pop("seconds"))), int(row.pop("step"))
        for name, text in row.items():
            if text and math.isfinite(float(text)):  # blank where the step was not validated
                yield "metric", clean(name), float(text), stamp, step


def _within(text: str, length: int) -> str:
    """Whole lines of a text, up to a length."""
    if len(text) <= length:
        return text
    rest = "\n\nThe rest is in comparisons.csv."
    return text[: length - len(rest)].rpartition("\n")[0] + rest


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the workflow, which writes it") from None


def _ms(timestamp: str) -> int:
    return round(1000 * datetime.fromisoformat(timestamp).timestamp())
