"""nnU-Net's summary.json: counts and overlap per case and label.

Format (nnU-Net v2, evaluation/evaluate_predictions.py): `metric_per_case`, a list of
`{"reference_file", "prediction_file", "metrics": {label: {"Dice", "IoU", "TP", "FP", "FN", "TN",
"n_pred", "n_ref"}}}`; Dice and IoU are NaN where a label is in neither. A region has the name of
its labels, "(1, 2)"; there is no background. The file's Dice of a case without the label is 0 for
a false positive and NaN else, so that its means of two losses are over different cases: the counts
decide.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from lossbench.config import UserError

COUNTED = {"TP", "FP", "FN"}
COLUMNS = {"TP": "tp", "FP": "fp", "FN": "fn", "Dice": "dice", "IoU": "iou"}


def read(path: Path, content: bytes, name: str, place: int) -> pd.DataFrame:
    """Rows of case x class.

    Parameters
    ----------
    path, content
        The file and its bytes.
    name
        Of the loss; nothing in the file says it.
    place
        Position among the files of this name: the fold, where no folder of the path is called
        fold_0, as nnU-Net calls them. A folder seed_1 says the seed.

    Raises
    ------
    UserError
        Where the file is no such summary, or has no name.
    """
    if not name:
        raise UserError(f"{path}: which loss is it? Expected: NAME={path}")
    rows = []
    try:
        for case in json.loads(content)["metric_per_case"]:
            keys = {"loss": name, "case": _case(case)}
            keys |= {"fold": _number(path, "fold", place), "seed": _number(path, "seed", 0)}
            for label, figures in case["metrics"].items():
                if figures.keys() >= COUNTED:  # then Dice and IoU are derived, by one convention
                    figures = {key: figures[key] for key in COUNTED}
                known = {COLUMNS[key]: value for key, value in figures.items() if key in COLUMNS}
                rows.append({**keys, "class": str(label), **known})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is not a valid summary.json of nnU-Net v2 ({type(error).__name__}: {error}); "
            "expected: metric_per_case, with prediction_file and the metrics of each label"
        ) from None
    if not rows:
        raise UserError(f"{path}: metric_per_case has no case")
    return pd.DataFrame(rows)


def _case(case: dict[str, Any]) -> str:
    """hippocampus_001 of /somewhere/hippocampus_001.nii.gz."""
    file = case.get("prediction_file") or case["reference_file"]
    name = PurePosixPath(file.replace("\\", "/")).name
    return name.removesuffix(".gz").rpartition(".")[0] or name


def _number(path: Path, kind: str, otherwise: int) -> int:
    """3 of a path with a folder fold_3."""
    found = [re.fullmatch(rf"{kind}_?(\d+)", part) for part in path.resolve().parts]
    return next((int(match[1]) for match in reversed(found) if match), otherwise)
