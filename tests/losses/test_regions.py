"""Losses of regions that overlap: which become sigmoid losses, and what the libraries give."""

import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch
import yaml
from torch import nn

from lossbench.config import UserError
from lossbench.losses import (
    BinaryCrossEntropy,
    DiceBCELoss,
    MaskedLoss,
    RegionLoss,
    activation_problem,
    batch_loss,
    build_loss,
    class_weights,
    make_sync_free,
)
from lossbench.losses.regions import sigmoid_form
from lossbench.losses.targets import multi_hot
from tests.helpers.configs import CONFIG

CATALOGUE = yaml.safe_load((CONFIG / "losses.yaml").read_text())["losses"]
REGIONS = [[1, 2, 3], [2, 3], [3]]
NAMES = ["whole", "core", "enhancing"]
VOXELS, LABELLED = [600, 300, 100], 1000
# What is refused for regions, and where: by name before it is made, by what it takes, or since
# it leaves a class out, all before any training.
REFUSED = {
    "wasserstein_dice": "distances from class to class",
    "nacl": "softmax over classes",
}
LEAVE_OUT = ["dice_no_background", "dice_ce_no_background", "cldice", "dice_cldice"]
ONE_REGION = ["asymmetric_unified_focal", "smp_mcc"]


def build(spec, k=3):
    spec = CATALOGUE[spec] if isinstance(spec, str) else spec
    return build_loss({"name": "it", **spec}, VOXELS[:k], NAMES[:k], LABELLED)


def batch(k=3, dims=2):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (2, *[16] * dims), generator=generator, dtype=torch.uint8)
    return torch.randn((2, k, *[16] * dims), generator=generator), labels


def test_a_target_has_each_region_of_a_voxel():
    labels = torch.tensor([[[0, 1], [2, 3], [4, 255]]], dtype=torch.uint8)
    target = multi_hot(labels, REGIONS)
    assert target.dtype == torch.float32
    whole = [[0, 1], [1, 1], [0, 0]]
    core, enhancing = [[0, 0], [1, 1], [0, 0]], [[0, 0], [0, 1], [0, 0]]
    assert target[0].tolist() == [whole, core, enhancing]


def test_the_catalogue_takes_the_sigmoid_or_is_refused():
    """Each entry is one of these; a new one that is neither is found here."""
    seen = set()
    for name in CATALOGUE:
        if name in REFUSED:
            with pytest.raises(UserError, match=REFUSED[name]):
                build(name)
            continue
        k = 1 if name in ONE_REGION else 3
        loss = build(name, k)
        assert activation_problem(loss, k, 2, overlapping=True) is None, name
        logits, labels = batch(k)
        value = batch_loss(RegionLoss(loss, REGIONS[:k]), logits.requires_grad_(), labels)
        value.backward()
        assert logits.grad.isfinite().all(), name
        moved = batch_loss(RegionLoss(loss, REGIONS[:k]), logits + 1, labels)
        assert not torch.isclose(value, moved), f"{name}: a softmax sees no shift of a voxel"
        seen.add(name)
    assert len(seen) > 30


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("dice", monai.losses.DiceLoss(sigmoid=True)),
        ("dice_batch", monai.losses.DiceLoss(sigmoid=True, batch=True)),
        ("jaccard", monai.losses.DiceLoss(sigmoid=True, jaccard=True)),
        ("generalized_dice", monai.losses.GeneralizedDiceLoss(sigmoid=True)),
        ("tversky", monai.losses.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7)),
        ("mcc", monai.losses.MCCLoss(sigmoid=True)),
        ("dice_focal", monai.losses.DiceFocalLoss(sigmoid=True)),
        ("focal", monai.losses.FocalLoss()),
        ("hausdorff", monai.losses.HausdorffDTLoss(sigmoid=True, include_background=True)),
        ("cross_entropy", nn.BCEWithLogitsLoss()),
        ("smp_dice", smp.DiceLoss("multilabel")),
        ("smp_jaccard", smp.JaccardLoss("multilabel")),
        ("smp_focal", smp.FocalLoss("multilabel")),
        ("smp_lovasz", smp.LovaszLoss("multilabel")),
    ],
)
def test_the_value_is_that_of_the_library(name, theirs, k):
    logits, labels = batch(k)
    value = batch_loss(RegionLoss(make_sync_free(build(name, k)), REGIONS[:k]), logits, labels)
    assert torch.isclose(value, theirs(logits, multi_hot(labels, REGIONS[:k])))


def test_one_region_is_binary_mode():
    """SMP's mode binary and MONAI's one channel."""
    logits, labels = batch(1)
    target = multi_hot(labels, REGIONS[:1])
    for name, theirs in {
        "smp_dice": smp.DiceLoss("binary"),
        "smp_tversky": smp.TverskyLoss("binary", alpha=0.3, beta=0.7),
        "dice_ce": monai.losses.DiceCELoss(sigmoid=True),
        "smp_mcc": lambda z, t: smp.MCCLoss()(z.sigmoid(), t),
    }.items():
        value = batch_loss(RegionLoss(build(name, 1), REGIONS[:1]), logits, labels)
        assert torch.isclose(value, theirs(logits, target)), name


def test_dice_with_cross_entropy_is_that_of_nnu_net():
    """Their DC_and_BCE_loss: Dice of sigmoids and the mean of the binary cross-entropies."""
    logits, labels = batch()
    target = multi_hot(labels, REGIONS)
    value = batch_loss(RegionLoss(build("dice_ce"), REGIONS), logits, labels)
    dice = monai.losses.DiceLoss(sigmoid=True)(logits, target)
    assert torch.isclose(value, dice + nn.BCEWithLogitsLoss()(logits, target))


def test_weights_are_those_of_the_regions_among_all_voxels():
    weight = build("dice_inverse_frequency_raw").class_weight
    assert torch.allclose(weight, torch.tensor([1 / 0.6, 1 / 0.3, 1 / 0.1]))
    weight = build("dice_inverse_frequency").class_weight
    assert torch.allclose(weight, torch.tensor([1 / 6, 1 / 3, 1]) / 0.5)
    logits, labels = batch()
    target = multi_hot(labels, REGIONS)
    each = nn.BCEWithLogitsLoss(reduction="none")(logits, target).mean((0, 2, 3))
    loss = build("cross_entropy_inverse_frequency")
    assert torch.isclose(loss(logits, target), (each * weight).mean())
    with pytest.raises(UserError, match="weight has 2 numbers; expected 3, one per region"):
        BinaryCrossEntropy(torch.ones(2))(logits, target)
    with pytest.raises(UserError, match=r"ignored in silence.*since there is one region"):
        build("dice_inverse_frequency", 1)


def test_a_wrapped_loss_is_converted_within():
    spec = {"_target_": "lossbench.losses.Scaled", "factor": 2, "loss": CATALOGUE["dice"]}
    logits, labels = batch()
    once, twice = (batch_loss(RegionLoss(build(s), REGIONS), logits, labels) for s in ("dice", spec))  # fmt: skip
    assert torch.isclose(2 * once, twice)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}, "label_smoothing"),
        (
            {
                "_target_": "lossbench.losses.IndexTarget",
                "loss": {"_target_": "torch.nn.NLLLoss"},
            },
            "NLLLoss takes class indices, and a voxel may lie in several regions",
        ),
    ],
)
def test_what_has_no_form_is_named(spec, text):
    with pytest.raises(UserError, match=text):
        build(spec)


class HandMade(nn.Module):
    """A softmax that no watcher of functions sees."""

    def forward(self, logits, target):
        e = logits.exp()
        return -(target * (e / e.sum(1, keepdim=True)).log()).mean()


class Half(nn.Module):
    """A sum of which one part takes the softmax."""

    def forward(self, logits, target):
        own = nn.functional.binary_cross_entropy_with_logits(logits, target)
        return own - (target * logits.log_softmax(1)).mean()


@pytest.mark.parametrize("loss", [HandMade(), Half(), monai.losses.DiceCELoss(sigmoid=True)])
def test_a_softmax_of_a_user_is_found(loss):
    assert "takes the softmax over the channels" in activation_problem(loss, 3, 2, True)
    assert activation_problem(loss, 3, 2) is None


def test_ignored_pixels_are_as_cut_out():
    logits, labels = batch()
    labels[:, :, 8:] = 255
    for name in ("dice", "dice_ce", "dice_batch", "cross_entropy"):
        loss = make_sync_free(build(name))
        whole = RegionLoss(MaskedLoss(loss, 3, 2, overlapping=True), REGIONS)
        cut = RegionLoss(loss, REGIONS)
        expected = batch_loss(cut, logits[..., :8], labels[..., :8])
        assert torch.isclose(batch_loss(whole, logits, labels), expected), name


def test_the_form_leaves_an_entry_as_it_is():
    spec = {"_target_": "monai.losses.DiceLoss", "softmax": True}
    assert sigmoid_form(spec) == {
        "_target_": "monai.losses.DiceLoss", "sigmoid": True, "include_background": True,
    }  # fmt: skip
    assert spec == {"_target_": "monai.losses.DiceLoss", "softmax": True}
    assert isinstance(build("dice_ce"), DiceBCELoss)


def test_dice_and_binary_cross_entropy_have_a_factor_each():
    logits, labels = batch()
    target, weight = multi_hot(labels, REGIONS), torch.tensor([1.0, 2.0, 3.0])
    loss = DiceBCELoss(lambda_dice=2.0, lambda_ce=0.5, weight=weight, sigmoid=True)
    dice = monai.losses.DiceLoss(sigmoid=True, weight=weight)(logits, target)
    weighted = nn.BCEWithLogitsLoss(weight.view(3, 1, 1))(logits, target)
    assert torch.isclose(loss(logits, target), 2 * dice + 0.5 * weighted)


def test_frequencies_of_regions_are_shares_of_the_labelled_voxels():
    """Regions overlap: the sum of their voxels says nothing."""
    weights = class_weights("inverse_frequency_raw", VOXELS, NAMES, labelled=2000)
    assert weights == pytest.approx([1 / 0.3, 1 / 0.15, 1 / 0.05])
