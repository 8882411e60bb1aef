"""What a report is made from: the tables of `compare`, and each run's own files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench import config
from lossbench.common.files import block_folder
from lossbench.common.tables import RUN, read_csv

KEYS = list(RUN)
CURVE, LEDGER = "val/dice/", "ledger/"
_CHECKS = (
    *("n_missing", "improvement"),
    *("p_cases_holm", "verdict_cases", "convention"),
)


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
        The tables of the report folder; the columns are those of DESIGN 4.
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
        e = config.load_study(experiment)
        metric = e.comparison.metrics[0]
        of_cases = [*KEYS, "case", "class", metric]
        of_summary = ["dataset", "model", "loss", "class", "metric", "mean", "n_empty"]
        return cls(
            experiment=e,
            folder=experiment.parent,
            output=output,
            cases=_table(output / "cases.parquet", pd.read_parquet, of_cases),
            runs=_table(output / "runs.csv", read_csv, KEYS),
            summary=_table(output / "summary.csv", read_csv, of_summary),
            comparisons=_compared(output / "comparisons.csv"),
        )

    def extra(self, name: str) -> pd.DataFrame | None:
        """A table that not every experiment has, such as claims.csv; None where it is not there."""
        path = self.output / f"{name}.csv"
        return _table(path, read_csv, []) if path.exists() else None

    @property
    def trained_here(self) -> bool:
        """Whether lossbench trained these runs: results of others have no digests."""
        return "init_digest" in self.runs and bool(self.runs["init_digest"].notna().any())

    @property
    def metric(self) -> str:
        """The metric that verdicts, figures and examples are about: the first that is compared."""
        return self.experiment.comparison.metrics[0]

    @property
    def margin(self) -> float:
        """Of that metric."""
        return self.experiment.comparison.margin_of(self.metric)

    @property
    def lower_is_better(self) -> bool:
        """Whether less of that metric is better."""
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
        """The losses that were asked for, without the reference and the scale controls."""
        if not self.experiment.comparison.scale_control:
            return self.losses[1:]
        return [x for x in self.losses[1:] if not x.endswith(config.MATCHED)]

    @cached_property
    def groups(self) -> list[tuple[str, str]]:
        """Each dataset and model that has results, in the order of the matrix."""
        found = set(zip(self.runs["dataset"], self.runs["model"], strict=True))
        matrix = self.experiment.matrix
        return [(d, m) for d in matrix.dataset for m in matrix.model if (d, m) in found]

    @cached_property
    def _classes(self) -> dict[str, list[str]]:
        pairs = self.cases[["dataset", "class"]].drop_duplicates()
        return pairs.groupby("dataset", sort=False)["class"].agg(list).to_dict()

    def background(self, dataset: str) -> str | None:
        """The name of class 0; other people's results may do without."""
        first = self._classes[dataset][0]
        return first if self.trained_here or first in ("background", "0") else None

    def classes(self, dataset: str) -> list[str]:
        """The classes in their order, but the background last: readers ask for the others first."""
        return sorted(self._classes[dataset], key=lambda c: c == self.background(dataset))

    def prepared(self, dataset: str) -> Path:
        """The folder that `prepare` wrote for a dataset."""
        return self.folder.parent / "datasets" / dataset

    def of(self, table: pd.DataFrame, dataset: str, model: str, **keys: str) -> pd.DataFrame:
        """The rows of a table about one dataset and model, and what else `keys` name."""
        keep = (table["dataset"] == dataset) & (table["model"] == model)
        for column, value in keys.items():
            keep &= table[column.rstrip("_")] == value  # class_, since class is a keyword
        return table[keep]

    def run_folder(self, dataset: str, model: str, loss: str, fold: int, seed: int) -> Path:
        """The folder that holds a run's own files."""
        return block_folder(self.folder, dataset, model, fold, seed) / loss

    @cached_property
    def histories(self) -> pd.DataFrame:
        """What history.csv of every run says: the keys, step, name, value; only curves and ledger.

        `name` is the column there: val/dice/{class}, ledger/{quantity}.
        """
        parts = []
        for keys in self.runs[KEYS].itertuples(index=False, name=None):
            path = self.run_folder(*keys) / "history.csv"
            if path.exists():
                parts.append(_history(path).assign(**dict(zip(KEYS, keys, strict=True))))
        return pd.concat(parts) if parts else pd.DataFrame(columns=[*KEYS, "step", "name", "value"])

    def missing_histories(self) -> int:
        """How many runs have no history.csv with a validation in it."""
        found = self.histories[self.histories["name"].str.startswith(CURVE)]
        return len(self.runs) - len(found[KEYS].drop_duplicates())


def _history(path: Path) -> pd.DataFrame:
    wanted = (CURVE, LEDGER)
    table = pd.read_csv(path, usecols=lambda c: c == "step" or c.startswith(wanted))
    return table.melt("step", var_name="name", value_name="value").dropna(subset="value")


def _compared(path: Path) -> pd.DataFrame:
    """comparisons.csv; the checks are empty where it was made without them."""
    table = _table(path, read_csv, ["class", "metric", "verdict"])
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *_CHECKS])))


def _table(path: Path, read: Callable[[Path], pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    try:
        table = read(path)
    except FileNotFoundError:
        raise config.UserError(f"{path}: no such file; run compare, which writes it") from None
    except Exception as error:
        raise config.UserError(
            f"{path}: damaged ({error}); delete it and run compare again"
        ) from None
    if lacks := [c for c in columns if c not in table]:
        raise config.UserError(
            f"{path}: lacks the column {lacks[0]!r}; delete it and run compare again"
        )
    return table.replace([np.inf, -np.inf], np.nan)
