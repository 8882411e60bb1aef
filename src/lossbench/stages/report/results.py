"""What a report is made from: the tables of `compare`, and each run's own files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench import config
from lossbench.common import tables
from lossbench.common.files import block_folder, read_json, reading
from lossbench.common.tables import COMPARISONS, RUN, read_csv
from lossbench.datasets.prepared import Prepared

KEYS = list(RUN)
COMPARISON = ["dataset", "model", "class", "metric", "loss"]  # how tables of the page begin
CURVE, LEDGER = "val/dice/", "ledger/"


@dataclass(frozen=True)
class Results:
    """A finished experiment.

    Attributes
    ----------
    experiment
        From experiment.json: an Experiment, or a Study of results of other programs.
    folder
        The folder of experiment.json, which holds the blocks.
    output
        The report folder, which holds the tables.
    cases, runs, summary, comparisons
        The tables of the report folder; the columns are those of `common.tables`.
    """

    experiment: config.Study
    folder: Path
    output: Path
    cases: pd.DataFrame
    runs: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame

    @classmethod
    def read(cls, experiment: Path, output: Path) -> "Results":
        """Read experiment.json and the tables.

        Raises
        ------
        UserError
            Where a table is missing, damaged or without a column that it should have.
        """
        study = config.load_study(experiment)
        case_columns = [*KEYS, "case", "class", case_metric(study)]
        group = ["dataset", "model", "loss", "class", "metric"]
        summary_columns = [*group, "mean", "n_empty", "background"]
        cases = _read(output / "cases.parquet", pd.read_parquet, case_columns)
        comparisons = _read(output / "comparisons.csv", read_csv, ["class", "metric", "verdict"])
        # Columns that a table of an earlier version lacks.
        comparisons = comparisons.reindex(columns=dict.fromkeys([*comparisons, *COMPARISONS]))
        for end in ("low", "high"):
            adjusted = comparisons[f"simultaneous_{end}"]
            comparisons[f"simultaneous_{end}"] = adjusted.fillna(comparisons[f"ci_{end}"])
        return cls(
            experiment=study,
            folder=experiment.parent,
            output=output,
            cases=cases,
            runs=_read(output / "runs.csv", read_csv, KEYS),
            summary=_read(output / "summary.csv", read_csv, summary_columns),
            comparisons=comparisons,
        )

    def table(self, name: str) -> pd.DataFrame:
        """A table that not every experiment has, such as claims; without the file it has no row."""
        path = self.output / f"{name}.csv"
        if not path.exists():
            return pd.DataFrame(columns=getattr(tables, name.upper()))
        return _read(path, read_csv, [])

    @cached_property
    def exploratory(self) -> list[str]:
        """Looks at these runs outside the plan of the study, as `compare` found them on record."""
        file = self.output / "looks.json"
        return read_json(file)["exploratory"] if file.exists() else []

    @property
    def progress(self) -> str:
        """How many rounds a study took, and what was saved; empty without rounds."""
        study = self.experiment
        if study.rounds is None:
            return ""
        n_rounds, budget = self.runs["seed"].nunique(), study.rounds.budget
        at_most = len(list(study.blocks())) * len(study.matrix.loss)
        return (
            f"Trained in rounds: {n_rounds} of at most {budget}, "
            f"{len(self.runs)} of at most {at_most} trainings."
        )

    @property
    def trained_here(self) -> bool:
        """Whether lossbench trained these runs: external results have no digests."""
        return isinstance(self.experiment, config.Experiment)

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.output / "figures"

    @property
    def metric(self) -> str:
        """The metric of the verdicts, figures and examples: the first that is compared."""
        return self.experiment.comparison.metrics[0]

    @property
    def case_metric(self) -> str:
        """That metric of a single case: the IoU of each where the pooled one is compared."""
        return case_metric(self.experiment)

    def title(self, metric: str = "") -> str:
        """A metric as people write it; by default the one of the verdicts."""
        return self.experiment.metric(metric or self.metric).title

    @property
    def margin(self) -> float:
        """The margin of that metric."""
        return self.experiment.comparison.margin_of(self.metric)

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value of that metric is better."""
        return self.experiment.metric(self.metric).lower_is_better

    @property
    def reference(self) -> str:
        """The loss that the others are compared with."""
        return self.experiment.comparison.reference

    @property
    def losses(self) -> list[str]:
        """The losses of the matrix, the reference first."""
        return [self.reference, *(x for x in self.experiment.matrix.loss if x != self.reference)]

    @property
    def compared(self) -> list[str]:
        """The losses of the matrix without references and scale controls."""
        losses = self.experiment.compared
        if not self.experiment.comparison.scale_control:
            return losses
        return [x for x in losses if not x.endswith(config.MATCHED)]

    @cached_property
    def groups(self) -> list[tuple[str, str]]:
        """Each dataset and model that has results, in the order of the matrix."""
        finished = set(zip(self.runs["dataset"], self.runs["model"], strict=True))
        matrix = self.experiment.matrix
        return [(d, m) for d in matrix.dataset for m in matrix.model if (d, m) in finished]

    @cached_property
    def _classes(self) -> dict[str, list[str]]:
        pairs = self.cases[["dataset", "class"]].drop_duplicates()
        return pairs.groupby("dataset", sort=False)["class"].agg(list).to_dict()

    def background(self, dataset: str) -> str | None:
        """The name of the background; None where no class is one."""
        rows = self.summary["background"] & (self.summary["dataset"] == dataset)
        return next(iter(self.summary.loc[rows, "class"]), None)

    def classes(self, dataset: str) -> list[str]:
        """The classes in their order, but the background last: readers ask for the others first."""
        return sorted(self._classes[dataset], key=lambda c: c == self.background(dataset))

    @property
    def is_of_all_classes(self) -> bool:
        """Whether the metric of the verdicts is one of all classes together."""
        return self.metric in config.OF_ALL_CLASSES

    def compared_classes(self, dataset: str) -> list[str]:
        """What the verdicts are of: the classes, or all together where the metric is of these."""
        return [config.ALL_CLASSES] if self.is_of_all_classes else self.classes(dataset)

    def prepared(self, dataset: str) -> Prepared:
        """The dataset that the runs were trained on.

        Raises
        ------
        UserError
            Where it is missing, or other data have been prepared under its name since.
        """
        data = Prepared(self.folder.parent / "datasets" / dataset)
        if not (data.folder / "classes.json").exists():
            raise config.UserError(f"the prepared dataset ({data.folder}) is missing")
        data.refuse_other(self.runs)
        return data

    def of(self, table: pd.DataFrame, dataset: str, model: str, **keys: str) -> pd.DataFrame:
        """The rows of a table about one dataset and model, and what else `keys` name."""
        keep = (table["dataset"] == dataset) & (table["model"] == model)
        for column, value in keys.items():
            keep &= table[column.rstrip("_")] == value  # class_, since class is a keyword
        return table[keep]

    def not_found(self, dataset: str, model: str) -> dict[tuple[str, str], str]:
        """Classes that a loss does not find, by class and loss.

        What `config.outcome` says of it; classes that are found have no entry.
        """
        rows = self.of(self.summary, dataset, model, metric="dice")
        means = rows.set_index(["class", "loss"])["mean"].to_dict()
        outcomes = {
            (name, loss): config.outcome(mean, means.get((name, reference), np.nan))
            for (name, loss), mean in means.items()
            if loss != (reference := self.experiment.reference_of(loss))
        }
        return {key: outcome for key, outcome in outcomes.items() if outcome}

    @cached_property
    def _failures(self) -> dict[tuple[str, ...], tuple[int, int, int, float]]:
        table = self.table("failures").set_index(["dataset", "model", "loss", "class"])
        counts = table[["n_failed", "n_failed_reference", "n_subjects", "rate_high"]]
        return dict(zip(counts.index, counts.itertuples(index=False, name=None), strict=True))

    def failed(self, row: pd.Series) -> tuple[int, int, int, float]:
        """Subjects of a comparison without overlap: of the loss, the reference, of how many; bound.

        The bound is of the loss's rate on new subjects, NaN where nothing is known.
        """
        keys = tuple(row[["dataset", "model", "loss", "class"]])
        return self._failures.get(keys, (0, 0, 0, float("nan")))

    @cached_property
    def histories(self) -> pd.DataFrame:
        """Curves and ledger of every run's history.csv: the keys of the run, step, name, value.

        `name` is the column of history.csv: val/dice/{class}, ledger/{quantity}.
        """
        parts = []
        for keys in self.runs[KEYS].to_dict("records"):
            block = {name: key for name, key in keys.items() if name != "loss"}
            path = block_folder(self.folder, **block) / keys["loss"] / "history.csv"
            if path.exists():
                with reading(path):
                    table = pd.read_csv(
                        path, usecols=lambda c: c == "step" or c.startswith((CURVE, LEDGER))
                    )
                    table = table.melt("step", var_name="name", value_name="value")
                parts.append(table.dropna(subset="value").assign(**keys))
        return pd.concat(parts) if parts else pd.DataFrame(columns=[*KEYS, "step", "name", "value"])

    def missing_histories(self) -> int:
        """How many runs have no history.csv with a validation in it."""
        curves = self.histories[self.histories["name"].str.startswith(CURVE)]
        return len(self.runs) - len(curves[KEYS].drop_duplicates())


def case_metric(study: config.Study) -> str:
    """The metric of cases that the first compared metric is or, pooled, is made of."""
    metric = study.comparison.metrics[0]
    return metric.partition("_")[2] if metric in config.POOLED else metric


def _read(path: Path, read: Callable[[Path], pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    with reading(path):
        table = read(path)
    if missing := [c for c in columns if c not in table]:
        raise config.UserError(
            f"{path}: lacks the column {missing[0]!r}; delete it and run compare again"
        )
    return table.replace([np.inf, -np.inf], np.nan)
