"""What losses and metrics compute, against values from the libraries themselves.

The fixtures are those of ../shared/fixtures/parity: inputs (B, *S, C), and lines of what Keras
segmentation_models 1.0.1, MONAI 1.6.1 and segmentation_models_pytorch 0.6.0 gave for them.
LOSSBENCH_PARITY names another folder of the same form.
"""

import functools
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from monai.losses import DiceLoss, GeneralizedDiceLoss
from monai.metrics import DiceMetric, compute_dice
from monai.metrics.utils import do_metric_reduction

from lossbench.config import Loss
from lossbench.losses import FScoreLoss, build_loss, f_score, one_hot
from lossbench.metrics import counts

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("LOSSBENCH_PARITY") or REPOSITORY.parent / "shared" / "fixtures" / "parity"
)
CATALOGUE = yaml.safe_load((REPOSITORY / "config/losses.yaml").read_text())["losses"]
CASES = sorted(path.stem for path in FOLDER.glob("inputs/*.npz")) or ["none"]

pytestmark = pytest.mark.skipif(
    not (FOLDER / "inputs").is_dir(),
    reason=f"no {FOLDER}; LOSSBENCH_PARITY names the folder of the reference values",
)


@functools.cache
def lines(file):
    """Lines of a file by (function, case)."""
    found = defaultdict(list)
    for text in (FOLDER / file).read_text().splitlines():
        line = json.loads(text)
        found[line["fn"].rpartition(".")[2], line["case"]].append(line)
    return found


@functools.cache
def inputs(case):
    """Tensors of a case, channels first: logits, probabilities, one-hot target, in float64."""
    arrays = dict(np.load(FOLDER / f"inputs/{case}.npz"))
    first = {
        key: torch.from_numpy(np.moveaxis(arrays[key], -1, 1)).double()
        for key in ("logits", "pr", "gt")
    }
    return arrays | first


def entry(spec, case):
    """A loss as lossbench builds it, with the fixture's prior as the training frequencies."""
    spec = CATALOGUE[spec] if isinstance(spec, str) else spec
    prior = inputs(case)["prior"]
    names = [f"class{c}" for c in range(len(prior))]
    return build_loss({"name": "it", **Loss(**spec).spec()}, prior, names)


def near(expected, tolerance):
    return pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)


def case_lines(file, function, case):
    found = lines(file)[function, case]
    if not found:
        pytest.skip(f"no line of {function} for {case}")
    return found


@pytest.mark.parametrize("case", CASES)
def test_keras_losses(case):
    """From float32 logits, as in training; within 1e-5 also where raw weights give -10."""
    x = inputs(case)
    logits, target = x["logits"].float(), x["gt"].float()
    for line in case_lines("keras_sm.jsonl", "DiceLoss", case):
        found = FScoreLoss(**line["params"])(logits, target).item()
        assert found == pytest.approx(line["value"], rel=0, abs=1e-5), line["params"]


@pytest.mark.parametrize("case", CASES)
def test_keras_scores_of_thresholded_predictions(case):
    x = inputs(case)
    for line in case_lines("keras_sm.jsonl", "FScore", case):
        options = dict(line["params"])
        kept = options.pop("class_indexes")
        kept = slice(None) if kept is None else kept
        weights = options.pop("class_weights")
        weights = torch.tensor(1.0 if weights is None else weights)
        hard = (x["pr"] > options.pop("threshold")).double()
        found = f_score(hard[:, kept], x["gt"][:, kept], class_weights=weights, **options).item()
        assert found == pytest.approx(line["value"], rel=1e-6, abs=1e-6), line["params"]


@pytest.mark.parametrize("function", [DiceLoss, GeneralizedDiceLoss], ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", CASES)
def test_monai_losses(case, function):
    """The installed MONAI computes what the reference did: in float64, and in float32."""
    x = inputs(case)
    for line in case_lines("monai_losses.jsonl", function.__name__, case):
        target = x["labels"] if line["target"] == "labels" else x["gt"]
        target = torch.as_tensor(target)
        if line["params"].get("to_onehot_y"):
            target = torch.from_numpy(x["labels"]).unsqueeze(1)
        loss = function(**line["params"])
        found = loss(x[line["input"]], target)
        assert found.tolist() == near_all(line["value"], 1e-8), line["params"]
        single = loss(
            x[line["input"]].float(), target if target.dtype == torch.int64 else target.float()
        )
        assert single.tolist() == near_all(line["value_f32"], 2e-6), line["params"]


def near_all(expected, tolerance):
    """`pytest.approx` for nested lists."""
    if not isinstance(expected, list):
        return near(expected, tolerance)
    return [near_all(value, tolerance) for value in expected]


@pytest.mark.parametrize("case", CASES)
def test_monai_losses_of_a_config(case):
    """From float32 logits through an entry of a config, literal weights included."""
    x = inputs(case)
    logits, target = x["logits"].float(), x["gt"].float()
    tried = 0
    for function in ("DiceLoss", "GeneralizedDiceLoss"):
        for line in case_lines("monai_losses.jsonl", function, case):
            params = {**line["params"], "softmax": True}
            ignored = (
                params.get("weight") and logits.shape[1] == 2 and not params["include_background"]
            )
            if params["reduction"] != "mean" or params.pop("to_onehot_y", False) or ignored:
                continue
            found = entry({"_target_": line["fn"], **params}, case)(logits, target).item()
            assert found == near(line["value"], 5e-6), params
            tried += 1
    assert tried > 50


GRADIENTS = {
    "plain": "dice",
    "batch": "dice_batch",
    "nobg": "dice_no_background",
    "squared": "dice_squared",
    "nr0": {"_target_": "monai.losses.DiceLoss", "softmax": True, "smooth_nr": 0.0},
    "w_raw": "dice_inverse_frequency_raw",
    "w_mean1": "dice_inverse_frequency",
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_catalogue(case, name):
    reference, x = np.load(FOLDER / f"grads/{case}.npz"), inputs(case)
    loss = entry(GRADIENTS[name], case)
    expected = torch.from_numpy(reference[f"grad_{name}"])
    # In float32 a case of near perfect predictions has gradients of 1e-7 from cancelling sums.
    for dtype, tolerance, floor in ((torch.float64, 1e-6, 0), (torch.float32, 1e-5, 1e-8)):
        logits = x["logits"].to(dtype).detach().clone().requires_grad_()
        value = loss(logits, x["gt"].to(dtype))
        value.backward()
        assert value.item() == near(reference[f"loss_{name}"].item(), tolerance)
        assert (logits.grad - expected).abs().max() <= tolerance * expected.abs().max() + floor


@pytest.mark.parametrize("case", CASES)
def test_smp_losses(case):
    """From logits through an entry of a config: float64, and float32 with its known cancellation."""
    x = inputs(case)
    for line in case_lines("smp.jsonl", "DiceLoss", case):
        params = {**line["params"], "from_logits": True}
        if params["classes"] and len(params["classes"]) == 1 and params["class_weights"]:
            continue  # one class, normalised: its weight has no effect, and an entry is refused
        inner = {"_target_": "segmentation_models_pytorch.losses.DiceLoss", **params}
        loss = entry({"_target_": "lossbench.losses.IndexTarget", "loss": inner}, case)
        assert loss(x["logits"], x["gt"]).item() == near(line["value"], 1e-6), params
        single = loss(x["logits"].float(), x["gt"].float()).item()
        assert single == near(line["value_f32"], 5e-5), params


def dice_of_counts(case, ignore_empty):
    """Dice per image and class (B, K) from lossbench's counts, in each convention."""
    x = inputs(case)
    k = len(x["prior"])
    pairs = zip(x["pred_labels"].astype(np.uint8), x["labels"].astype(np.uint8), strict=True)
    tp, fp, fn = np.stack([counts(p, label, k) for p, label in pairs]).transpose(1, 0, 2)
    empty = np.nan if ignore_empty else np.where(fp == 0, 1.0, 0.0)
    with np.errstate(invalid="ignore"):
        return np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), empty)


@pytest.mark.parametrize("case", CASES)
def test_metrics_from_counts(case):
    """Both conventions for classes that are absent, and each of MONAI's reductions."""
    found = case_lines("monai_metrics.jsonl", "compute_dice", case)
    for line in found + case_lines("monai_metrics.jsonl", "DiceMetric", case):
        options = line["params"]
        table = dice_of_counts(case, options["ignore_empty"])
        table = torch.from_numpy(table[:, int(not options["include_background"]) :])
        value, present = do_metric_reduction(table, options.get("reduction", "none"))
        expected = np.array(line["value"], dtype=float)
        np.testing.assert_allclose(value.numpy().reshape(expected.shape), expected, rtol=2e-7)
        if "not_nans" in line and options["reduction"] != "none":
            np.testing.assert_array_equal(present.numpy().reshape(-1), np.ravel(line["not_nans"]))


@pytest.mark.parametrize("case", CASES)
def test_monai_metrics(case):
    """The installed MONAI computes what the reference did."""
    x = inputs(case)
    k = len(x["prior"])
    found, truth = (one_hot(torch.from_numpy(x[key]), k) for key in ("pred_labels", "labels"))
    for line in case_lines("monai_metrics.jsonl", "compute_dice", case):
        value = compute_dice(found, truth, **line["params"]).numpy()
        np.testing.assert_allclose(value, np.array(line["value"], dtype=float), rtol=2e-7)
    for line in case_lines("monai_metrics.jsonl", "DiceMetric", case):
        metric = DiceMetric(**line["params"])
        metric(found, truth)
        expected = np.array(line["value"], dtype=float)
        value = metric.aggregate().numpy().reshape(expected.shape)
        np.testing.assert_allclose(value, expected, rtol=2e-7)


def test_the_lines_are_all_there():
    """Every function of the fixtures is one that a test here runs."""
    tested = {
        "keras_sm.jsonl": {"DiceLoss", "FScore"},
        "monai_losses.jsonl": {"DiceLoss", "GeneralizedDiceLoss"},
        "monai_metrics.jsonl": {"compute_dice", "DiceMetric"},
        "smp.jsonl": {"DiceLoss"},
    }
    for file, functions in tested.items():
        assert {function for function, _ in lines(file)} == functions
