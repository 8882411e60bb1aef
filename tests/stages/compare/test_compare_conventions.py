"""compare: conventions for empty classes, against the libraries; a winner that changes with them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lossbench.stages.compare.conventions import CONVENTIONS, QUOTED, overlap
from tests.helpers.comparison_tables import change, read, tables
from tests.helpers.fake_results import write_experiment

PARITY = Path(
    os.environ.get("LOSSBENCH_PARITY")
    or Path(__file__).parents[4] / "shared" / "fixtures" / "parity"
)


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path, n_cases=8)


# Classes in neither, predicted alone, in the label alone, in both (notes/pitfalls.md 5.1).
EMPTY = {
    "nnunet": [np.nan, 0, 0, 0.5],
    "monai_ignore_empty": [np.nan, np.nan, 0, 0.5],
    "monai_count_empty": [1, 0, 0, 0.5],
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_for_empty_classes(convention):
    tp, fp, fn = np.array([[0, 0, 0, 4], [0, 3, 0, 6], [0, 0, 3, 2]], float)
    dice = overlap(tp, fp, fn, convention)
    assert dice == pytest.approx(np.array(EMPTY[convention]), nan_ok=True)
    iou = np.array(EMPTY[convention])
    iou[3] = 1 / 3
    assert overlap(tp, fp, fn, convention, "iou") == pytest.approx(iou, nan_ok=True)
    assert np.isnan(overlap(np.array([np.nan]), fp[:1], fn[:1], convention)).all(), "no row"


def test_conventions_are_smps():
    """On the four cases."""
    from segmentation_models_pytorch.metrics import f1_score, iou_score

    tp, fp, fn = torch.tensor([[0, 0, 0, 4], [0, 3, 0, 6], [0, 0, 3, 2]])[..., None]
    smp = {"zero_division": 1.0, "reduction": None}
    for metric, function in {"dice": f1_score, "iou": iou_score}.items():
        theirs = function(tp, fp, fn, torch.ones_like(tp), **smp)[:, 0].numpy()
        ours = overlap(
            *(x[:, 0].double().numpy() for x in (tp, fp, fn)), "monai_count_empty", metric
        )
        assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"no {PARITY}; LOSSBENCH_PARITY names it")
def test_conventions_are_monais():
    """By the reference values, many of them of absent classes."""
    names = {True: "monai_ignore_empty", False: "monai_count_empty"}
    seen = 0
    for text in (PARITY / "monai_metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["fn"] != "monai.metrics.compute_dice" or not line["params"]["include_background"]:
            continue
        arrays = np.load(PARITY / line["inputs"])
        classes = np.arange(arrays["gt"].shape[-1])
        truth = arrays["gt"].reshape(len(arrays["gt"]), -1, len(classes)) > 0.5
        found = arrays["pred_labels"].reshape(len(truth), -1, 1) == classes
        tp, fp, fn = (
            (a & b).sum(axis=1).astype(float)
            for a, b in [(truth, found), (~truth, found), (truth, ~found)]
        )
        ours = overlap(tp, fp, fn, names[line["params"]["ignore_empty"]])
        assert ours == pytest.approx(np.array(line["value"], float), abs=2e-7, nan_ok=True)
        seen += (tp + fn == 0).sum()
    assert seen > 10, "there are absent classes to tell the conventions apart"


def test_a_winner_that_changes_with_the_convention_is_flagged(experiment):
    """False positives on labels without the class: MONAI's default does not see them."""
    empty = "`class` == 'posterior' and tp + fn == 0"
    change(experiment, empty, fp=0)
    change(experiment, f"loss == 'dice_inverse_frequency' and {empty}", fp=50)
    comparisons = tables(experiment)[3].set_index(["loss", "class"])["convention"].fillna("")
    flagged = comparisons[comparisons != ""]
    others = "nnunet,monai_count_empty"
    assert flagged.to_dict() == {("dice_inverse_frequency", "posterior"): others}
    table = read(experiment, "conventions")
    table = table[table["class"] == "posterior"]
    winners = table[table["winner"]].set_index("convention")["loss"]
    assert winners[QUOTED] == "dice_inverse_frequency"
    assert winners["monai_count_empty"] == "dice_no_background"
    n_cases = table.groupby(["convention", "loss"])["n_cases"].first()
    assert n_cases[QUOTED, "dice"] == 14
    assert n_cases["monai_count_empty", "dice"] == 16
    assert n_cases["nnunet", "dice"] == 14
    assert n_cases["nnunet", "dice_inverse_frequency"] == 16
