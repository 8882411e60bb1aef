"""What a report is made from: the tables of `compare`, and each run's own files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossbench import config
from lossbench.files import block_folder

KEYS = ["dataset", "model", "loss", "fold", "seed"]
_CURVE = "val/dice/"
_TEXT = ("dataset", "model", "loss", "reference", "class", "metric", "case", "verdict")


@dataclass(frozen=True)
class Results:
    """A finished experiment.

    Attributes
    ----------
    experiment
        As experiment.json says it.
    folder
        The folder of experiment.json, which holds the blocks.
    cases, runs, summary, comparisons
        The tables of the report folder; the columns are those of DESIGN 4.
    """

    experiment: config.Experiment
    folder: Path
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
        return cls(
            experiment=config.load(experiment),
            folder=experiment.parent,
            cases=_table(
                output / "cases.parquet", pd.read_parquet, [*KEYS, "case", "class", "dice"]
            ),
            runs=_table(
                output / "runs.csv", _read_csv, [*KEYS, "status", "init_digest", "batch_digest"]
            ),
            summary=_table(
                output / "summary.csv", _read_csv, ["class", "metric", "mean", "n_empty"]
            ),
            comparisons=_table(
                output / "comparisons.csv", _read_csv, ["class", "metric", "verdict"]
            ),
        )

    @property
    def metric(self) -> str:
        """The metric that verdicts, figures and examples are about: the first that is compared."""
        return self.experiment.comparison.metrics[0]

    @property
    def reference(self) -> str:
        """The loss that the others are compared with."""
        return self.experiment.comparison.reference

    @property
    def losses(self) -> list[str]:
        """The losses of the matrix, the reference first."""
        return [self.reference, *(x for x in self.experiment.matrix.loss if x != self.reference)]

    @cached_property
    def groups(self) -> list[tuple[str, str]]:
        """Each dataset and model that has results, in the order of the matrix."""
        found = set(zip(self.runs["dataset"], self.runs["model"], strict=True))
        matrix = self.experiment.matrix
        return [(d, m) for d in matrix.dataset for m in matrix.model if (d, m) in found]

    def background(self, dataset: str) -> str:
        """The name of class 0."""
        return self.cases.loc[self.cases["dataset"] == dataset, "class"].iloc[0]

    def classes(self, dataset: str) -> list[str]:
        """The classes in their order, but the background last: readers ask for the others first."""
        names = self.cases.loc[self.cases["dataset"] == dataset, "class"].unique()
        return [*names[1:], names[0]]

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
    def curves(self) -> pd.DataFrame:
        """Validation Dice of every run: the keys, step, class, dice; no row for a missing file."""
        parts = []
        for keys in self._run_keys():
            path = self.run_folder(*keys) / "history.csv"
            if path.exists():
                parts.append(_curve(path).assign(**dict(zip(KEYS, keys, strict=True))))
        return pd.concat(parts) if parts else pd.DataFrame(columns=[*KEYS, "step", "class", "dice"])

    def missing_histories(self) -> int:
        """How many runs have no history.csv with a validation in it."""
        return len(self.runs) - len(self.curves[KEYS].drop_duplicates())

    def _run_keys(self) -> list[tuple[Any, ...]]:
        return list(self.runs[KEYS].itertuples(index=False, name=None))


def _curve(path: Path) -> pd.DataFrame:
    history = pd.read_csv(path, usecols=lambda c: c == "step" or c.startswith(_CURVE))
    long = history.melt("step", var_name="class", value_name="dice").dropna(subset="dice")
    return long.assign(**{"class": long["class"].str.removeprefix(_CURVE)})


def _read_csv(path: Path) -> pd.DataFrame:
    # A class may be called "NA": only an empty cell is a missing value.
    text = dict.fromkeys(_TEXT, str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


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
