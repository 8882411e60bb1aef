"""An experiment's files, finished or under way, read into records. Knows no MLflow."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.check_tables import read_check
from lossbench.common.files import block_folder, read_json, reading
from lossbench.common.provenance import run_digest
from lossbench.common.rounds import planned_blocks
from lossbench.common.tables import BLOCK, RUN, STATUS
from lossbench.common.tuning import RATES, run_of, with_rate
from lossbench.config import TUNED, Experiment, UserError, canonical, unnamed
from lossbench.datasets.prepared import Prepared
from lossbench.stages.track.read_files import artifacts, curves_of_looks, read_begun, read_table
from lossbench.stages.track.record import Record
from lossbench.stages.track.view import verdict_table, verdict_tag, verdicts_in_words

GROUP = ["dataset", "model", "loss"]  # the keys of a parent run
# Columns of runs.csv.
TEST = ("dice", "dice_with_background", "micro_dice", "micro_iou", "macro_dice", "macro_iou")
VERSUS = ["difference", "ci_low", "ci_high", "p_holm"]  # columns of comparisons.csv
MAX_NOTE = 7900  # characters; MLflow takes 8000 in a tag of a run


class Study:
    """An experiment and its files, read into records.

    Attributes
    ----------
    data, datasets, classes
        Each prepared dataset; its name, digest and number of cases; names of all classes.
    cards
        What each loss computes, by dataset and loss; empty for an experiment never checked.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.e, self.folder, self.report = experiment, folder, folder / "report"
        self.stored = folder.parent / "runs"
        folders = [folder.parent / "datasets" / name for name in experiment.matrix.dataset]
        self.data = {x.name: Prepared(x) for x in folders if (x / "classes.json").exists()}
        self.datasets = {name: (name, x.digest, len(x.cases)) for name, x in self.data.items()}
        self.classes = list(dict.fromkeys(c for x in self.data.values() for c in x.classes))
        checked = folder / "check.json"
        self.cards = read_json(checked).get("cards", {}) if checked.exists() else {}

    def finished(self, models: bool = False) -> list[Record]:
        """Read a finished experiment, parents first; with `models`, runs get their weights.

        Raises
        ------
        UserError
            Where a file of the results is missing.
        """
        for name in {*self.e.matrix.dataset} - self.data.keys():
            read_json(self.folder.parent / "datasets" / name / "classes.json")  # is not there
        runs, summary = (read_table(self.report / f"{n}.csv", GROUP) for n in ("runs", "summary"))
        comparisons = read_table(self.report / "comparisons.csv")
        self.cards = read_check(self.folder, runs).get("cards", {})
        for data in self.data.values():
            data.refuse_other(runs)
        with reading(self.report / "cases.parquet"):
            cases = pd.read_parquet(self.report / "cases.parquet")
            means = cases.groupby([*RUN, "class"], sort=False)[self.e.all_metrics].mean()
        scores = {keys: table.droplevel(RUN) for keys, table in means.groupby(level=list(RUN))}
        summaries = dict(list(summary.groupby(GROUP)))
        with reading(self.report / "comparisons.csv"):
            verdicts = dict(list(comparisons.groupby(GROUP)))
        parents = [
            self._finished_loss(keys, rows, summaries[keys], verdicts.get(keys, comparisons[:0]))
            for keys, rows in runs.groupby(GROUP, sort=False)
        ]
        children = []
        for row in runs.to_dict("records"):
            folder = block_folder(self.folder, *(row[key] for key in BLOCK)) / row["loss"]
            with reading(folder / "history.csv"):
                history = (folder / "history.csv").read_bytes()
            table = scores[tuple(row[key] for key in RUN)].to_dict()
            test = {f"test/{m}/{name}": v for m in table for name, v in table[m].items()}
            # What it takes to build the network again: weights, specification, classes.
            data = self.data[row["dataset"]].folder
            paths = (folder / "model.safetensors", folder / "run.json", data / "classes.json")
            files = {f"model/{path.name}": path for path in paths} if models else {}
            children.append(self._run(row, history, test, files))
        note = verdict_table(comparisons, self.classes)
        files, curves = artifacts(self.folder), curves_of_looks(self.report)
        whole = self._comparison("finished", *_span(runs), note, files=files, history=curves)
        return [whole, *parents, *children, *self._tuning_runs()]

    def under_way(self, status: str = "training") -> list[Record]:
        """Read what there is so far; runs that have begun and not ended get the status."""
        planned = list(self._planned())
        runs = [
            self._run({"status": status, **begun[0], **keys, "digest": digest}, begun[1])
            for keys, digest in planned
            if (begun := read_begun(self.stored / digest))
        ]
        if not runs:
            return []
        starts: dict[tuple, int] = {}  # a parent began with the first of its runs
        for run in runs:
            group = tuple(run.params[key] for key in GROUP)
            starts[group] = min(run.start, starts.get(group, run.start))
        n_ended = sum(run.end is not None for run in runs)
        note = f"{n_ended} of {len(planned)} runs are trained; the comparison follows."
        return [
            self._comparison(status, min(starts.values()), None, note),
            *(self._loss(of, t, None, {"lossbench.status": status}) for of, t in starts.items()),
            *runs,
        ]

    def is_compared(self) -> bool:
        """Whether the workflow came to its end, so that its tables are those of its runs."""
        try:
            table = read_table(self.report / "runs.csv")
            compared = set(zip(table["digest"], table["finished"], strict=True))
            digests = [digest for _, digest in self._planned()]
            status = [read_json(self.stored / digest / "status.json") for digest in digests]
            trained = set(zip(digests, (s["finished"] for s in status), strict=True))
            paths = (self.report / "comparisons.csv", self.report / "mlflow.json")
            compare_time, track_time = (path.stat().st_mtime for path in paths)
            return compared == trained and compare_time <= track_time
        except (OSError, UserError):
            return False

    def _planned(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Keys and digest of every run whose block is written and whose data are prepared."""
        for keys, _ in planned_blocks(self.e, self.folder):
            block = block_folder(self.folder, **keys) / "block.json"
            if keys["dataset"] in self.datasets and block.exists():
                for loss, spec in read_json(block)["runs"].items():
                    spec = with_rate(spec, block.parents[1] / RATES)
                    digest = run_digest(spec, self.datasets[keys["dataset"]][1])
                    yield {**keys, "loss": loss}, digest

    def _run(
        self,
        row: Mapping[str, Any],
        history: bytes,
        test: Mapping[str, float] | None = None,
        files: dict[str, Path] | None = None,
    ) -> Record:
        """One training, by its row of runs.csv and means over its cases, or by its status.json."""
        *group, fold, seed = (row[key] for key in RUN)
        numbers = {k: v for k, v in row.items() if isinstance(v, Real) and not isinstance(v, bool)}
        # Training first: a run that was under way is then added to.
        figures = {f"system/{k}": numbers[k] for k in STATUS if k in numbers}
        if test is not None:
            figures |= {f"test/{k}": row[k] for k in TEST if k in row} | dict(test)
            rest = numbers.keys() - {*RUN, *STATUS, *TEST}
            figures |= {f"system/{k}": numbers[k] for k in sorted(rest)}
        text = {k: str(v) for k, v in row.items() if k not in numbers and v is not None}
        others = text.keys() - {*RUN, "started", "finished"}
        return Record(
            key=row["digest"],
            kind="run",
            name=f"{row['loss']} · fold {fold} · seed {seed}",
            start=_ms(row["started"]),
            end=_ms(row["finished"]) if "finished" in row else None,
            parent="/".join(["loss", *group]),
            params={**self._params(*group, fold), "fold": str(fold), "seed": str(seed)},
            tags={
                "lossbench.block": "{dataset}/{model}/fold{fold}/seed{seed}".format(**row),
                **{f"lossbench.{k}": text[k] for k in text if k in others},
                **self._card(row["dataset"], row["loss"]),
            },
            dataset=self.datasets[row["dataset"]],
            history=history,
            figures=figures,
            files=files or {},
            provisional=test is None,
        )

    def _tuning_runs(self) -> Iterator[Record]:
        """Each training of the tuning, below the loss that got its learning rate by it."""
        path = self.report / "tuning_runs.csv"
        for row in read_table(path).to_dict("records") if path.exists() else ():
            group = [row[key] for key in GROUP]
            history = self.stored / row["digest"] / "history.csv"
            params = self._params(*group)
            params |= {key: str(row[key]) for key in ("fold", "seed", "learning_rate")}
            if steps := self.e.tuning.learning_rate.steps:
                params["steps"] = str(steps)
            yield Record(
                key=f"tuning/{row['digest']}",
                kind="tuning",
                name=f"tuning {row['loss']} · {row['learning_rate']:g} · fold {row['fold']}",
                start=_ms(row["started"]),
                end=_ms(row["finished"]),
                parent="/".join(["loss", *group]) + TUNED,
                params=params,
                tags={"lossbench.status": row["status"]},
                dataset=self.datasets[row["dataset"]],
                history=history.read_bytes() if history.exists() else b"",
                figures={"tuning/dice": row["dice"]},
            )

    def _finished_loss(
        self,
        keys: tuple[str, str, str],
        runs: pd.DataFrame,
        summary: pd.DataFrame,
        comparisons: pd.DataFrame,
    ) -> Record:
        """All runs of a dataset x model x loss: means with intervals, and the verdict per class."""
        figures = {f"test/{name}": runs[name].mean() for name in TEST if name in runs}
        tags = {"lossbench.status": min(runs["status"])}  # diverged, where one is, else finished
        is_reference = keys[2] == self.e.reference_of(keys[2])
        for row in summary.to_dict("records"):
            name = f"{row['metric']}/{row['class']}"
            figures[f"test/{name}"] = row["mean"]
            spread = {k: v for k, v in row.items() if isinstance(v, Real) and k != "mean"}
            figures |= {f"summary/{name}/{k}": float(v) for k, v in spread.items()}
            if is_reference and row["metric"] in self.e.comparison.metrics:
                tags[verdict_tag(row["metric"], row["class"])] = "reference"
        for row in comparisons.to_dict("records"):
            name = f"{row['metric']}/{row['class']}"
            figures |= {f"versus/{name}/{k}": row[k] for k in VERSUS}
            if row["verdict"]:  # there is none on a metric that is reported only
                tags[verdict_tag(row["metric"], row["class"])] = row["verdict"]
        words = "the reference" if is_reference else verdicts_in_words(comparisons)
        tags |= dict.fromkeys(("lossbench.verdict", "mlflow.note.content"), words)
        return self._loss(keys, *_span(runs), tags, figures=figures)

    def _loss(
        self, keys: tuple[str, ...], start: int, end: int | None, tags: dict[str, str], **more: Any
    ) -> Record:
        dataset, model, loss = keys
        return Record(
            key="/".join(["loss", *keys]),
            kind="loss",
            name=f"{loss} · {dataset} · {model}",  # the loss first: names are cut at the right
            start=start,
            end=end,
            params=self._params(*keys),
            tags={**tags, **self._card(dataset, loss)},
            dataset=self.datasets[dataset],
            provisional=end is None,
            **more,
        )

    def _comparison(
        self, status: str, start: int, end: int | None, note: str, **more: Any
    ) -> Record:
        """Describe the experiment as a whole: verdicts as a note, the report as artifacts."""
        if len(note) > MAX_NOTE:
            note = note[:MAX_NOTE].rpartition("\n")[0] + "\n\nThe rest is in comparisons.csv."
        return Record(
            key="comparison",
            kind="comparison",
            name=f"comparison of {self.e.experiment}",
            start=start,
            end=end,
            tags={"mlflow.note.content": note, "lossbench.status": status},
            provisional=end is None,
            **more,
        )

    def _params(self, dataset: str, model: str, loss: str, fold: int = -1) -> dict[str, str]:
        """Settings, so that runs can be filtered by them; of a fold, where one is given.

        Without one, a learning rate that was tuned is null: each fold has its own.
        """
        run = run_of(self.e, self.folder, dataset, model, loss, fold, seed=0)
        return {
            "dataset": dataset,
            "model": model,
            "loss": loss,
            # One param for all keywords: a param that only some losses have spoils MLflow's charts.
            "loss_params": canonical(unnamed(run["loss"])),
            **{k: v if isinstance(v, str) else canonical(v) for k, v in run["training"].items()},
        }

    def _card(self, dataset: str, loss: str) -> dict[str, str]:
        """What a loss computes, as tags: of params MLflow would make axes and columns."""
        cards = self.cards.get(dataset, {})  # those of tuned losses would be the same
        card = cards.get(loss) or cards.get(loss.removesuffix(TUNED), {})
        return {f"card/{name}": str(value) for name, value in card.items()}


def _span(runs: pd.DataFrame) -> tuple[int, int]:
    return _ms(runs["started"].min()), _ms(runs["finished"].max())


def _ms(timestamp: str) -> int:
    return round(1000 * datetime.fromisoformat(timestamp).timestamp())
