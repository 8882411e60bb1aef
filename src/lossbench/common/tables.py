"""Tables of the results as `compare` writes them, read back as they were."""

from pathlib import Path

import pandas as pd

TEXT = (
    "dataset", "model", "loss", "reference", "class", "metric", "case", "verdict", "verdict_cases",
    "convention", "seeds", "claim", "source", "figure", "evidence", "commit",
)  # fmt: skip


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table; a class may be called "NA": only an empty cell is a missing value."""
    text = dict.fromkeys(TEXT, str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
