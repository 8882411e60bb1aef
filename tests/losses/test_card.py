"""Cards of losses whose meaning is known from their sources and from the notes."""

import copy
import runpy

import pytest
import torch
import yaml
from torch import nn

from lossbench.losses import build_loss
from lossbench.losses.card import PROPERTIES, measure, probe_voxels
from lossbench.losses.watch import WatchActivations
from tests.helpers.configs import CONFIG

CATALOGUE = yaml.safe_load((CONFIG / "losses.yaml").read_text())["losses"]
K, CLASSES = 4, ["background", "a", "b", "c"]
MONAI, SMP = "monai.losses.", "segmentation_models_pytorch.losses."
DICE = {"_target_": MONAI + "DiceLoss", "softmax": True}
CE = {"_target_": "torch.nn.CrossEntropyLoss"}


def index(**loss):
    return {"_target_": "lossbench.losses.IndexTarget", "loss": loss}


def smp(name, **arguments):
    return index(_target_=SMP + name, mode="multiclass", **arguments)


class ByHand(nn.Module):
    """Dice with a softmax of its own."""

    def forward(self, logits, target):
        p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        return 1 - 2 * (p * target).sum() / (p + target).sum()


class OnlyPairs(nn.Module):
    def forward(self, logits, target):
        if len(logits) != 2:
            raise KeyError("two samples")
        return nn.functional.cross_entropy(logits, target)


class Shared(nn.Module):
    """Cross-entropy whose weights two modules hold."""

    def __init__(self):
        super().__init__()
        self.weight = torch.ones(K, dtype=torch.float64)
        self.part = nn.Identity()
        self.part.weight = self.weight

    def forward(self, logits, target):
        return -(self.weight * (target * logits.log_softmax(1)).mean((0, 2, 3))).sum()


class Summed(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target, reduction="sum")


def build(spec, k=K, dims=2):
    spec = {"name": "it", **{key: v for key, v in spec.items() if key != "training"}}
    return build_loss(spec, probe_voxels(k, dims), CLASSES[:k])


def card(spec, k=K, dims=2):
    return measure(build(spec, k, dims), build(DICE, k, dims), k, dims)


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        (
            DICE,
            {
                "form": "Dice", "denominator": "linear", "smoothing": 1e-5, "pooling": "per sample",
                "background_value": "yes", "background_gradient": "yes",
                "absent_class": "adds a constant", "absent_value": 1 / K, "absent_gradient": "vanishing",
                "weights": "none", "value_perfect": 0, "value_worst": 1,
                "scale": 1, "cosine": 1, "hard_value": "1 - Dice, per sample",
            },
        ),
        (
            {**DICE, "batch": True},
            {"pooling": "per batch", "form": "Dice", "hard_value": "1 - Dice, per batch"},
        ),
        (
            {**DICE, "include_background": False},
            {
                "background_value": "no", "background_gradient": "yes", "absent_value": 1 / (K - 1),
                "form": "Dice", "hard_value": "1 - Dice, per sample without background",
            },
        ),
        (
            {**DICE, "softmax": False, "sigmoid": True, "include_background": False},
            {"background_value": "no", "background_gradient": "no"},
        ),
        (
            {**DICE, "squared_pred": True},
            {
                "form": "Dice", "denominator": "squared",
                "hard_value": "1 - Dice, per sample",
            },
        ),
        (
            {**DICE, "jaccard": True},
            {"form": "Jaccard", "denominator": "linear", "hard_value": "1 - IoU, per sample"},
        ),
        ({**DICE, "smooth_nr": 1.0, "smooth_dr": 1.0}, {"smoothing": 1, "form": "Dice"}),
        ({**DICE, "smooth_nr": 0.0}, {"absent_class": "adds a constant", "absent_gradient": "none"}),
        (
            {**DICE, "weight": "$inverse_frequency"},
            {"weights": "not divided by their sum", "form": "Dice"},
        ),
        (
            {**DICE, "weight": [1.0, 2.0, 4.0, 5.0]},
            {
                "weights": "not divided by their sum", "value_worst": 3,
                "hard_value": "other",
            },
        ),
        (
            {"_target_": MONAI + "TverskyLoss", "softmax": True, "alpha": 0.3, "beta": 0.7},
            {"form": "Tversky 0.3 0.7", "denominator": "linear"},
        ),
        (
            {"_target_": MONAI + "GeneralizedDiceLoss", "softmax": True},
            {"form": "other", "pooling": "per sample", "absent_class": "counts"},
        ),
        (
            {"_target_": MONAI + "DiceCELoss", "softmax": True},
            {"form": "other", "pooling": "per sample", "value_worst": "unbounded"},
        ),
        # smp's smoothing s is added to half-sized terms: what others call 2 s (claims.md).
        (smp("DiceLoss", smooth=0.5), {"smoothing": 1, "form": "Dice"}),
        (
            smp("DiceLoss"),
            {
                "form": "Dice", "denominator": "linear", "smoothing": 0, "pooling": "per batch",
                "absent_class": "counted as perfect", "absent_value": 0, "absent_gradient": "none",
            },
        ),
        (smp("JaccardLoss"), {"form": "Jaccard", "absent_class": "counted as perfect"}),
        (smp("LovaszLoss"), {"form": "other", "value_perfect": 0, "value_worst": 1}),
        (
            CE,
            {
                "form": "other", "pooling": "per voxel", "background_value": "yes",
                "absent_class": "left out", "absent_gradient": "none", "weights": "none",
                "value_perfect": 0, "value_worst": "unbounded",
            },
        ),
        # One mean over the weights of all voxels: so the batch counts, and its size does not.
        (
            index(_target_="torch.nn.CrossEntropyLoss", weight="$inverse_frequency"),
            {"weights": "divided by their sum", "pooling": "per batch"},
        ),
        (
            {"_target_": f"{__name__}.Shared"},
            {"weights": "not divided by their sum"},
        ),
        ({"_target_": f"{__name__}.Summed"}, {"pooling": "sum over samples"}),
        (
            {"_target_": f"{__name__}.ByHand"},
            {"background_value": "unknown", "background_gradient": "yes",
             "form": "other", "absent_class": "unknown", "value_worst": 1},
        ),
        (
            {"_target_": f"{__name__}.OnlyPairs"},
            {"pooling": "unknown", "form": "unknown", "value_perfect": 0},
        ),
    ],
)  # fmt: skip
def test_known_truths(spec, known):
    found = card(spec)
    exact = {key: pytest.approx(v, rel=0.01) if isinstance(v, int | float) else v
             for key, v in known.items()}  # fmt: skip
    assert {key: found[key] for key in known} == exact


@pytest.mark.parametrize("weight", [5.0, 7.0, 10.0, 100.0])
def test_weighted_cross_entropy_of_two_classes_is_no_ratio(weight):
    found = card(index(_target_=CE["_target_"], weight=[1.0, weight]), k=2)
    assert (found["form"], found["denominator"], found["smoothing"]) == ("other", "none", "none")


def test_weights_of_two_libraries_with_the_same_name_differ():
    """Raw weights change MONAI's scale, and neither smp's nor torch's."""
    raw = card({**DICE, "weight": "$inverse_frequency_raw"})
    normal = card({**DICE, "weight": "$inverse_frequency"})
    assert raw["scale"] > 4 * normal["scale"]
    assert raw["cosine"] == normal["cosine"] < 1
    torch_raw, torch_normal = (
        card(index(_target_=CE["_target_"], weight=f"$inverse_frequency{end}"))
        for end in ("_raw", "")
    )
    assert torch_raw["scale"] == torch_normal["scale"]


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.slow
def test_every_entry_of_the_catalogue_has_a_whole_card(name):
    found = card(CATALOGUE[name])
    assert list(found) == list(PROPERTIES)
    assert all(isinstance(value, str | float) for value in found.values())


@pytest.mark.parametrize(("k", "dims"), [(2, 2), (3, 3)])
def test_other_numbers_of_classes_and_dimensions(k, dims):
    found = card(DICE, k, dims)
    expected = card(DICE)
    for key in ("form", "denominator", "smoothing", "pooling", "background_value", "absent_class"):
        assert found[key] == expected[key]
    assert found["absent_value"] == pytest.approx(1 / k, rel=0.01)


def test_measuring_is_repeatable_and_leaves_the_loss_alone():
    loss, reference = build({**DICE, "weight": "$inverse_frequency"}), build(DICE)
    before = copy.deepcopy(loss.state_dict())
    assert measure(loss, reference, K, 2) == measure(loss, reference, K, 2)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)
    assert loss.class_weight.dtype == torch.float32


@pytest.mark.slow
def test_the_page_of_losses_is_what_is_measured():
    """Rows of docs/which_loss.md, made again: same functions under several names among them."""
    script = runpy.run_path(str(CONFIG.parent / "examples/which_loss.py"))
    names = ("dice", "dice_batch", "dice_ce", "smp_dice", "keras_dice", "keras_dice_per_image")
    rows = script["table"]({name: CATALOGUE[name] for name in names})
    page = (CONFIG.parent / "docs/which_loss.md").read_text()
    assert "| `dice_batch` |" in rows["keras_dice"]
    assert "| `dice` |" in rows["keras_dice_per_image"]
    for row in rows.values():
        assert row in page
    assert script["INTRODUCTION"] in page
    missing = [name for name in CATALOGUE if f"| `{name}` |" not in page]
    assert not missing


def test_probabilities_of_flattened_voxels_are_watched():
    logits = torch.randn(5, 3)
    with WatchActivations(3) as watched:
        logits.softmax(1)
        logits[:, 0].softmax(0)
    assert [x.shape for x in watched.probabilities] == [(5, 3)]
    assert len(watched.inputs) == 2
