"""What a prepared dataset holds, before anything is trained on it."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lossbench.datasets.prepared import Prepared
from lossbench.stages.check.findings import findings


def survey(data: Prepared, folds: Sequence[int]) -> dict[str, Any]:
    """Describe a dataset.

    Parameters
    ----------
    data
        The dataset.
    folds
        Those that the experiment trains.

    Returns
    -------
    dict
        cases; sizes and spacing (min, median, max per axis); ignored (share of all voxels, and
        median and high share in a case; None without an ignore label); classes (class, share of the
        labelled voxels, cases that have it, and low, median, high share in these); parts (part of
        the split, or fold; cases, subjects, and share of each class); findings (kind, text, cases),
        one of a kind, what is most likely a mistake first.
    """
    voxels, labelled, subjects = data.voxels(), data.labelled(), data.cases["subject"]
    return {
        "cases": len(voxels),
        "sizes": _spread(data.cases["shape"]),
        "spacing": _spread(data.cases["spacing"]),
        "ignored": _ignored(data) if data.info["ignore"] else None,
        "classes": [_of_class(n, k, voxels, labelled) for k, n in enumerate(data.classes)],
        "parts": [
            {
                "part": part,
                "cases": len(rows),
                "subjects": subjects.iloc[rows].nunique(),
                "shares": _shares(voxels[rows], labelled[rows]),
            }
            for part, rows in data.parts().items()
        ],
        "findings": findings(data, folds),
    }


def _ignored(data: Prepared) -> dict[str, float]:
    sizes, ignored = data.sizes(), data.ignored()
    of_cases = ignored / sizes
    shares = {"share": ignored.sum() / sizes.sum(), "median": np.median(of_cases)}
    return {name: float(x) for name, x in (shares | {"high": of_cases.max()}).items()}


def _spread(values: Iterable[tuple]) -> dict[str, list[float]]:
    table = np.array(list(values), dtype=float)
    marks = {"min": np.min, "median": np.median, "max": np.max}
    return {name: mark(table, axis=0).tolist() for name, mark in marks.items()}


def _shares(voxels: np.ndarray, labelled: np.ndarray) -> list[float]:
    return (voxels.sum(axis=0) / max(labelled.sum(), 1)).tolist()


def _of_class(name: str, k: int, voxels: np.ndarray, labelled: np.ndarray) -> dict[str, Any]:
    present = (voxels[:, k] / np.maximum(labelled, 1))[voxels[:, k] > 0]
    low, median, high = np.quantile(present, (0, 0.5, 1)) if present.size else (0, 0, 0)
    row = {"class": name, "share": _shares(voxels, labelled)[k], "cases": int(present.size)}
    return row | {"low": float(low), "median": float(median), "high": float(high)}
