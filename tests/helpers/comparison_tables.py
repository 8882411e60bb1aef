"""The tables of `compare`, read and changed."""

import pandas as pd

from lossbench.stages.compare import compare


def tables(experiment):
    output = experiment.parent / "report"
    compare(experiment, output)
    named = {
        name: pd.read_csv(output / f"{name}.csv") for name in ("runs", "summary", "comparisons")
    }
    return pd.read_parquet(output / "cases.parquet"), *named.values()


def read(experiment, name):
    return pd.read_csv(
        experiment.parent / "report" / f"{name}.csv", keep_default_na=False, na_values=""
    )


def change(experiment, where, **columns):
    """Set columns of cases.parquet, in every block, on the rows of a query."""
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        rows = table.query(where).index
        for name, value in columns.items():
            table.loc[rows, name] = value
        table.to_parquet(file, index=False)
