"""nnU-Net's summary.json, of both versions: counts and overlap per case and label.

Version 2 (evaluation/evaluate_predictions.py): `metric_per_case`, a list of `{"reference_file",
"prediction_file", "metrics": {label: {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}}}`;
Dice and IoU are NaN where a label is in neither. A region has the name of its labels, "(1, 2)";
there is no background. Version 1 (evaluation/evaluator.py): `results.all`, a list of `{"reference",
"test", label: {"Dice", "Jaccard", "Precision", "Recall", "Total Positives Reference", "Total
Positives Test", ...}}`, the background among the labels. The files' Dice of a case without the
label is 0 for a false positive and NaN else, so that means of two losses are over different cases:
the counts decide, which version 1 gives by Dice and both totals.
"""

import json
import math
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from lossbench.config import UserError

COUNTED = {"TP", "FP", "FN"}
TOTALS = {"Dice", "Total Positives Reference", "Total Positives Test"}
COLUMNS = {
    **{"TP": "tp", "FP": "fp", "FN": "fn", "Dice": "dice", "IoU": "iou", "Jaccard": "iou"},
    **{"Precision": "precision", "Recall": "recall", "Hausdorff Distance 95": "hd95"},
}


def read(path: Path, content: bytes, name: str) -> pd.DataFrame:
    """Rows of case x class.

    Parameters
    ----------
    path, content
        The file and its bytes. Folders of the path that are called fold_0, as nnU-Net calls them,
        and seed_1 say fold and seed.
    name
        Of the loss; nothing in the file says it.

    Returns
    -------
    pd.DataFrame
        Without `fold` where no folder says it; its ``attrs["splits"]`` are where nnU-Net keeps
        splits_final.json of these labels.

    Raises
    ------
    UserError
        Where the file is no such summary, or has no name.
    """
    if not name:
        raise UserError(f"{path}: which loss is it? Expected: NAME={path}")
    rows, splits = [], []
    numbers = {key: found for key in ("fold", "seed") if (found := _number(path, key)) is not None}
    try:
        for case, label_file, labels in _cases(json.loads(content)):
            splits.append(str(label_file.parent.parent / "splits_final.json"))
            for label, figures in labels.items():
                keys = {"loss": name, "case": case, "class": str(label), **numbers}
                rows.append({**keys, **_figures(figures)})
        frame = pd.DataFrame(rows)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path}: is not a valid summary.json of nnU-Net ({type(error).__name__}: {error}); "
            "expected: metric_per_case, with prediction_file and the metrics of each label "
            "(version 2), or results.all (version 1)"
        ) from None
    if not rows:
        raise UserError(f"{path}: has no case")
    frame.attrs["splits"] = list(dict.fromkeys(splits))
    return frame


def _cases(summary: dict[str, Any]) -> list[tuple[str, Path, dict[str, dict[str, float]]]]:
    """Case, path of its label map, figures by label."""
    if "metric_per_case" in summary:
        found = [
            (case.get("prediction_file") or case["reference_file"], case.get("reference_file"),
             case["metrics"])
            for case in summary["metric_per_case"]
        ]  # fmt: skip
    else:
        found = [
            (case.get("test") or case["reference"], case.get("reference"),
             {key: value for key, value in case.items() if isinstance(value, dict)})
            for case in summary["results"]["all"]
        ]  # fmt: skip
    return [(_file_name(file), Path(label or ""), labels) for file, label, labels in found]


def _figures(figures: dict[str, float]) -> dict[str, float]:
    """By our names; where there are counts, these alone: ratios are derived, by one convention."""
    if figures.keys() >= COUNTED:
        return {COLUMNS[key]: figures[key] for key in COUNTED}
    if figures.keys() >= TOTALS:
        reference, test = figures["Total Positives Reference"], figures["Total Positives Test"]
        dice = figures["Dice"]
        tp = 0 if math.isnan(dice) else round(dice * (reference + test) / 2)
        return {"tp": tp, "fp": test - tp, "fn": reference - tp}
    return {COLUMNS[key]: value for key, value in figures.items() if key in COLUMNS}


def _file_name(file: str) -> str:
    """hippocampus_001 of /somewhere/hippocampus_001.nii.gz."""
    name = PurePosixPath(file.replace("\\", "/")).name
    return name.removesuffix(".gz").rpartition(".")[0] or name


def _number(path: Path, kind: str) -> int | None:
    """3 of a path with a folder fold_3."""
    found = [re.fullmatch(rf"{kind}_?(\d+)", part) for part in path.resolve().parts]
    return next((int(match[1]) for match in reversed(found) if match), None)
