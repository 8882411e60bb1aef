"""Counts and metrics, against MONAI's and against what can be counted by hand."""

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, compute_hausdorff_distance, compute_surface_dice

from lossbench.config import UserError
from lossbench.datasets.prepared import IGNORE
from lossbench.metrics import build_metric, counts, dice_of, measure


def pair(shape=(20, 24), k=3, seed=0):
    generator = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    label[(slice(3, 12),) * len(shape)] = 1
    label[(slice(12, 17),) * len(shape)] = k - 1
    prediction = np.roll(label, 1, axis=0)
    wrong = generator.random(shape) < 0.02
    prediction[wrong] = generator.integers(0, k, wrong.sum())
    return prediction, label


def test_counts_by_hand():
    prediction = np.array([[0, 1, 1], [2, 0, 1]], np.uint8)
    label = np.array([[0, 1, 0], [1, IGNORE, 1]], np.uint8)
    assert counts(prediction, label, 3).tolist() == [[1, 2, 0], [0, 1, 1], [1, 1, 0]]


def test_overlap_precision_and_recall_by_hand():
    """Class 2 is predicted and not there: no precision at all, and nothing to overlap or recall."""
    prediction = np.array([[0, 1, 1], [2, 0, 1]], np.uint8)
    label = np.array([[0, 1, 0], [1, IGNORE, 1]], np.uint8)
    found = measure(prediction, label, [1.0, 1.0], 4, 1.0)
    hand = {
        "dice": [2 / 3, 4 / 6, np.nan, np.nan],
        "iou": [1 / 2, 2 / 4, np.nan, np.nan],
        "precision": [1, 2 / 3, 0, np.nan],
        "recall": [1 / 2, 2 / 3, np.nan, np.nan],
    }
    for name, values in hand.items():
        assert found[name] == pytest.approx(values, nan_ok=True), name


def test_mean_dice_of_cases_by_hand():
    """False positives count where the class is there, and a case without the class does not."""
    cases = [[[8, 1], [2, 3], [4, 1]], [[5, 0], [0, 7], [0, 0]]]  # tp, fp, fn of two classes
    dice = dice_of([np.array(case) for case in cases])
    assert dice == pytest.approx([(16 / (16 + 2 + 4) + 1) / 2, 2 / (2 + 3 + 1)])
    assert np.isnan(dice_of([np.array([[0], [7], [0]])])).all()


@pytest.mark.parametrize("shape", [(20, 24), (16, 18, 17)])
def test_dice_is_monais_and_the_counts_reproduce_it(shape):
    prediction, label = pair(shape)
    found = measure(prediction, label, [1.0] * len(shape), 3, 1.0)
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(a.astype(np.int64)), 3).movedim(-1, 0)[None]
        for a in (prediction, label)
    ]
    monai = DiceMetric(include_background=True, reduction="none")(*one_hot)[0].numpy()
    assert found["dice"] == pytest.approx(monai, abs=1e-6)
    tp, fp, fn = (found[name] for name in ("tp", "fp", "fn"))
    assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(found["dice"], abs=1e-6)
    without = DiceMetric(include_background=False, reduction="none")(*one_hot)[0].numpy()
    assert found["dice"][1:] == pytest.approx(without, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((20, 24), (1.0, 1.0)), ((20, 24), (0.5, 2.0)), ((18, 17, 20), (0.8, 1.0, 3.0))],
)
def test_surfaces_are_monais(shape, spacing, seed):
    """Objects that touch the border of the image, and a class that is in one of the two alone."""
    prediction, label = pair(shape, k=4, seed=seed)
    prediction[-1], label[:2] = 3, 2
    label[label == 1] = seed
    found = measure(prediction, label, spacing, 4, 1.5)
    masks = [
        torch.from_numpy(np.stack([a == c for c in range(4)]))[None] for a in (prediction, label)
    ]
    options = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(*masks, percentile=95, **options)[0].numpy()
        surface = compute_surface_dice(*masks, class_thresholds=[1.5] * 4, **options)[0].numpy()
    hd95[np.isinf(hd95)] = np.nan
    assert found["hd95"] == pytest.approx(hd95, abs=1e-4, nan_ok=True)
    assert found["surface_dice"] == pytest.approx(surface, abs=1e-4, nan_ok=True)


def surfaces_by_brute_force(prediction, label, spacing, k, tolerance):
    """From the definition: every voxel against all its neighbours and every surface voxel."""
    shape, nan = label.shape, np.nan
    steps = [step * unit for unit in np.eye(len(shape), dtype=int) for step in (1, -1)]

    def surface(classes, c):
        def has_class(voxel):
            inside = all(0 <= i < n for i, n in zip(voxel, shape, strict=True))
            return inside and label[voxel] != IGNORE and classes[voxel] == c

        voxels = [v for v in np.ndindex(shape) if has_class(v)]
        edge = [v for v in voxels if not all(has_class(tuple(np.add(v, step))) for step in steps)]
        return np.reshape(edge, (-1, len(shape))) * np.array(spacing)

    hd95, surface_dice = [], []
    for c in range(k):
        ours, theirs = surface(prediction, c), surface(label, c)
        if not (len(ours) and len(theirs)):
            hd95.append(nan)
            surface_dice.append(0 if len(ours) or len(theirs) else nan)
            continue
        table = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
        there, back = table.min(axis=1), table.min(axis=0)
        hd95.append(max(np.percentile(there, 95), np.percentile(back, 95)))
        surface_dice.append((np.r_[there, back] <= tolerance).mean())
    return {"hd95": np.array(hd95), "surface_dice": np.array(surface_dice)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shape", "spacing"), [((13, 11), (1.0, 1.0)), ((13, 11), (0.5, 2.0)), ((6, 7, 5), (1, 3, 0.7))]
)
def test_surfaces_without_the_ignored_voxels_are_those_of_the_definition(shape, spacing, seed):
    """Ignored: a block, the border on one side, and single voxels; a class that is there alone."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 4, (2, *(-(-n // 3) for n in shape)), dtype=np.uint8)
    blocks = np.kron(coarse, np.ones((1, *(3,) * len(shape)), np.uint8))
    prediction, label = (block[tuple(slice(n) for n in shape)].copy() for block in blocks)
    label[label == 3] = 0
    label[(slice(2, 5),) * len(shape)], label[-1:] = IGNORE, IGNORE
    label[generator.random(shape) < 0.05] = IGNORE
    found = measure(prediction, label, spacing, 5, 1.5)
    expected = surfaces_by_brute_force(prediction, label, spacing, 5, 1.5)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, nan_ok=True), name
    assert np.isfinite(found["hd95"]).any()


def test_a_class_that_is_predicted_in_the_ignored_zone_alone_is_not_predicted():
    """From above: class 0, ignored, class 1; the prediction is 1, or 0 where it is ignored."""
    label = np.repeat(np.array([0, IGNORE, 1], np.uint8), 10)[:, None].repeat(30, axis=1)
    prediction = np.ones_like(label)
    for ignored_as in (1, 0):
        prediction[10:20] = ignored_as
        found = measure(prediction, label, (1.0, 1.0), 2, 1.0)
        assert found["dice"][0] == 0
        assert np.isnan(found["hd95"][0])
        assert found["surface_dice"][0] == 0
    right = np.where(label == IGNORE, 0, label)
    found = measure(right, label, (1.0, 1.0), 2, 1.0)
    assert found["hd95"].tolist() == [0, 0]
    assert found["surface_dice"].tolist() == [1, 1]


def test_a_surface_inside_the_ignored_band_is_right_and_one_beyond_it_is_as_far_as_it_is():
    """An object in a band of two pixels, whose true outline may lie anywhere in the band."""
    row, column = np.mgrid[:40, :40]
    radius = np.hypot(row - 20, column - 20)
    label = np.where(radius < 8, 1, np.where(radius < 10, IGNORE, 0)).astype(np.uint8)
    for size in (8, 9, 10):
        found = measure((radius < size).astype(np.uint8), label, (1.0, 1.0), 2, 0.5)
        assert found["hd95"].tolist() == [0, 0], size
        assert found["surface_dice"].tolist() == [1, 1], size
    for size, hd95 in ((6, 2), (12, 4)):
        found = measure((radius < size).astype(np.uint8), label, (1.0, 1.0), 2, 0.5)
        assert found["hd95"][1] == pytest.approx(hd95, abs=0.6), size
        assert found["surface_dice"][1] < 0.6


def test_a_perfect_prediction():
    _, label = pair()
    found = measure(label, label, (1.0, 1.0), 3, 1.0)
    for name in ("dice", "iou", "precision", "recall", "surface_dice"):
        assert found[name] == pytest.approx(np.ones(3))
    assert found["hd95"] == pytest.approx(np.zeros(3))


def test_classes_that_are_not_there():
    """Columns: in both, only predicted, only in the label, in neither."""
    label = np.zeros((8, 8), np.uint8)
    label[2:4, 2:4], label[5:7, 5:7] = 1, 3
    prediction = np.zeros((8, 8), np.uint8)
    prediction[2:4, 2:4], prediction[5:7, 5:7] = 1, 2
    found = measure(prediction, label, (1.0, 1.0), 5, 1.0)
    nan = np.nan
    expected = {
        "dice": [1, 1, nan, 0, nan],
        "recall": [1, 1, nan, 0, nan],
        "precision": [1, 1, 0, nan, nan],
        "iou": [1, 1, nan, 0, nan],
        "hd95": [0, 0, nan, nan, nan],
        "surface_dice": [1, 1, 0, 0, nan],
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.array(values, float), nan_ok=True), name


def test_ignored_voxels_count_in_nothing():
    prediction, label = pair()
    cut = measure(prediction[5:], label[5:], (1.0, 1.0), 3, 1.0)
    ignored = label.copy()
    ignored[:5] = IGNORE
    found = measure(prediction, ignored, (1.0, 1.0), 3, 1.0)
    for name, values in cut.items():
        assert found[name] == pytest.approx(values), name
    other = prediction.copy()
    other[:5] = 2
    for name, values in measure(other, ignored, (1.0, 1.0), 3, 1.0).items():
        assert values == pytest.approx(found[name]), name


def test_mean_dice_leaves_out_cases_without_the_class():
    a, b = np.array([[5, 4], [0, 0], [0, 4]]), np.array([[5, 0], [0, 3], [0, 0]])
    assert dice_of([a, b]) == pytest.approx([1, 2 / 3])
    assert np.isnan(dice_of([b])[1])


class Named:
    def __call__(self, prediction, label, spacing):
        return {"wall": 1}


class Odd:
    """Gives what Python takes for numbers, or for the end of the program."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, prediction, label, spacing):
        match self.kind:
            case "gradient":
                return torch.ones(3, requires_grad=True)
            case "masked":
                return np.ma.masked_array([1, 2, 3], [False, True, False])
        raise SystemExit(0)


@pytest.mark.parametrize(("kind", "text"), [("gradient", "gives tensor"), ("end", "SystemExit: 0")])
def test_a_metric_that_gives_no_numbers_ends_with_a_message(kind, text, phantom):
    metric = build_metric("mine", {"_target_": f"{__name__}.Odd", "kind": kind}, phantom)
    with pytest.raises(UserError, match=f"metrics.mine: .*{text}"):
        metric(*pair(), (1.0, 1.0))


def test_what_a_metric_masks_has_no_value(phantom):
    metric = build_metric("mine", {"_target_": f"{__name__}.Odd", "kind": "masked"}, phantom)
    assert metric(*pair(), (1.0, 1.0)) == pytest.approx([1, np.nan, 3], nan_ok=True)


class TwoArguments:
    def __call__(self, prediction, label):
        return 0


def test_a_metric_that_cannot_be_used(phantom):
    """No message names a file of ours."""
    with pytest.raises(UserError) as error:
        build_metric("mine", {"_target_": "fractions.Fraction"}, phantom)
    assert "is not a class with __call__(prediction, label, spacing);" in str(error.value)
    metric = build_metric("mine", {"_target_": f"{__name__}.TwoArguments"}, phantom)
    with pytest.raises(UserError) as error:
        metric(*pair(), (1.0, 1.0))
    assert str(error.value) == (
        "metrics.mine: failed, called as metric(prediction, label, spacing): TypeError: "
        "TwoArguments.__call__() takes 3 positional arguments but 4 were given (in the call itself)"
    )
    metric = build_metric("mine", {"_target_": f"{__name__}.Named"}, phantom)
    with pytest.raises(UserError, match=r"metrics.mine: gives {'wall': 1}; expected 3 numbers"):
        metric(*pair(), (1.0, 1.0))
