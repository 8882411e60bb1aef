"""Class weights from the data; losses of the catalogue; activations; ignored pixels."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.losses import (
    AsymmetricUnifiedFocalLoss,
    BoundaryLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceFocalLoss,
    GeneralizedDiceLoss,
    HausdorffDTLoss,
    MCCLoss,
    SoftDiceclDiceLoss,
    TverskyLoss,
)
from segmentation_models_pytorch import losses as smp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossbench.config import Loss, UserError
from lossbench.losses import (
    ForegroundProbability,
    FScoreLoss,
    IndexTarget,
    MaskedLoss,
    NeighborAwareLoss,
    SyncFreeDice,
    WassersteinDiceLoss,
    activation_problem,
    are_probabilities,
    build_loss,
    class_weights,
    f_score,
    make_sync_free,
    one_hot,
)
from tests.helpers.catalogue import CATALOGUE, TWO_CLASSES_ALONE
from tests.helpers.check_runs import problems

CLASSES, VOXELS = ["background", "a", "b"], [800, 150, 50]
IN_PLACE = {"boundary", "hausdorff", "log_hausdorff", "cldice", "dice_cldice", "nacl"}


def build(name_or_spec, voxels=VOXELS, classes=CLASSES):
    spec = CATALOGUE[name_or_spec] if isinstance(name_or_spec, str) else name_or_spec
    return build_loss({"name": "it", **Loss(**spec).spec()}, voxels, classes)


def build_for(name, k):
    return build(name, [800, 150, 50, 30, 20][:k], ["background", "a", "b", "c", "d"][:k])


def batch(dims=2, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (2, *[{2: 12, 3: 7}[dims]] * dims), generator=generator)
    return torch.randn(2, k, *labels.shape[1:], generator=generator), one_hot(labels, k)


def smallest(name):
    return 2 if name in TWO_CLASSES_ALONE else 3


# --- weights


def test_weights_are_inverse_frequencies_with_mean_1():
    weights = np.array(class_weights("inverse_frequency", VOXELS, CLASSES))
    assert weights.mean() == pytest.approx(1)
    assert weights * VOXELS == pytest.approx(np.full(3, weights[0] * VOXELS[0]))
    assert class_weights("inverse_frequency_raw", VOXELS, CLASSES) == pytest.approx(
        [1.25, 20 / 3, 20]
    )


def test_other_weights():
    root = class_weights("inverse_square_root_raw", VOXELS, CLASSES)
    assert root == pytest.approx(np.sqrt([1.25, 20 / 3, 20]))
    assert class_weights("median_frequency_raw", VOXELS, CLASSES) == pytest.approx([0.1875, 1, 3])
    number = class_weights("effective_number_raw", VOXELS, CLASSES)
    assert number == pytest.approx([1 / (1 - 0.9999**n) for n in VOXELS])


def test_weights_that_cannot_be():
    with pytest.raises(UserError, match=r"\$inverse_frequency of class b is infinite"):
        class_weights("inverse_frequency", [10, 5, 0], CLASSES)
    with pytest.raises(UserError, match=r"did you mean '\$inverse_frequency'"):
        class_weights("inverse_frequencies", VOXELS, CLASSES)


def test_a_cap_is_a_ratio_to_the_smallest_weight():
    capped = class_weights("inverse_frequency_raw", VOXELS, CLASSES, cap=10)
    assert capped == pytest.approx([1.25, 20 / 3, 12.5])
    scaled = class_weights("inverse_frequency", VOXELS, CLASSES, cap=10)
    assert np.mean(scaled) == pytest.approx(1)
    assert scaled[2] / scaled[0] == pytest.approx(10)
    absent = class_weights("inverse_frequency_raw", [800, 200, 0], CLASSES, cap=10)
    assert absent == pytest.approx([1.25, 5, 12.5])


def test_a_cap_is_part_of_an_entry():
    spec = {"_target_": "monai.losses.DiceLoss", "softmax": True, "weight_cap": 4}
    loss = build({**spec, "weight": "$inverse_frequency_raw"})
    assert loss.class_weight.tolist() == pytest.approx([1.25, 5, 5])
    nested = {"_target_": "torch.nn.CrossEntropyLoss", "weight": "$inverse_frequency_raw"}
    loss = build({"_target_": "lossbench.losses.IndexTarget", "loss": nested, "weight_cap": 4})
    assert loss.loss.weight.tolist() == pytest.approx([1.25, 5, 5])
    with pytest.raises(UserError, match="weight_cap is set, but no weight is written"):
        build({**spec, "weight": [1.0, 2.0, 3.0]})


MONAI_DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True}
WITHOUT = {"softmax": True, "include_background": False}


@pytest.mark.parametrize(
    ("spec", "key", "where", "expected"),
    [
        (MONAI_DICE, "weight", "class_weight", [1.25, 20 / 3, 20]),
        ({**MONAI_DICE, **WITHOUT}, "weight", "class_weight", [20 / 3, 20]),
        ({"_target_": "monai.losses.DiceCELoss", **WITHOUT}, "weight", "cross_entropy.weight", [1.25, 20 / 3, 20]),
        ({"_target_": "monai.losses.DiceCELoss", **WITHOUT}, "weight", "dice.class_weight", [20 / 3, 20]),
        ({"_target_": "monai.losses.DiceFocalLoss", **WITHOUT}, "weight", "focal.class_weight", [20 / 3, 20]),
        ({"_target_": "monai.losses.GeneralizedDiceFocalLoss", **WITHOUT}, "weight", "focal.class_weight", [20 / 3, 20]),
        ({"_target_": "monai.losses.FocalLoss", "include_background": False}, "weight", "class_weight", [20 / 3, 20]),
        ({"_target_": "lossbench.losses.FScoreLoss"}, "class_weights", "class_weights", [1.25, 20 / 3, 20]),
        ({"_target_": "lossbench.losses.FScoreLoss", "class_indexes": [2, 1]}, "class_weights", "class_weights", [20, 20 / 3]),
        ({"_target_": "lossbench.losses.FScoreLoss", "class_indexes": 1}, "class_weights", "class_weights", [20 / 3]),
    ],
)  # fmt: skip
def test_weights_have_the_length_that_the_loss_wants(spec, key, where, expected):
    loss = build({**spec, key: "$inverse_frequency_raw"})
    found = loss.get_buffer(where).tolist()
    assert found == pytest.approx(expected)
    assert loss(*batch()).isfinite()
    mean = build({**spec, key: "$inverse_frequency"}).get_buffer(where).tolist()
    if where != "dice.class_weight":  # which is a part of what has mean 1
        assert np.mean(mean) == pytest.approx(1)


def test_weights_of_smp_are_of_all_classes():
    inner = {
        "_target_": "segmentation_models_pytorch.losses.DiceLoss",
        "mode": "multiclass",
        "classes": [1, 2],
    }
    loss = build(index({**inner, "class_weights": "$inverse_frequency_raw"}))
    assert loss.loss.class_weights.tolist() == pytest.approx([1.25, 20 / 3, 20])
    assert loss(*batch()).isfinite()
    with pytest.raises(UserError, match="class_weights has 1 numbers; expected 3, one for each of"):
        build(index({**inner, "class_weights": [3.0]}))  # smp multiplies the loss by C


def index(inner):
    return {"_target_": "lossbench.losses.IndexTarget", "loss": inner}


@pytest.mark.parametrize(
    "weight", ["$inverse_frequency", "$inverse_frequency_raw", [1.0], [3, 7], 5.0]
)
@pytest.mark.parametrize(
    "target", ["monai.losses.DiceLoss", "monai.losses.DiceLoss batch"], ids=["sample", "batch"]
)
def test_a_weight_that_monai_ignores_is_refused(target, weight):
    spec = {"_target_": target.split()[0], "batch": "batch" in target, **WITHOUT}
    with pytest.raises(UserError, match=r"ignored in silence.*one class is left without"):
        build({**spec, "weight": weight}, [9, 1], ["background", "a"])
    build(spec, [9, 1], ["background", "a"])


def test_a_weight_that_normalisation_cancels_is_refused():
    inner = {"_target_": "segmentation_models_pytorch.losses.DiceLoss", "mode": "multiclass"}
    with pytest.raises(UserError, match=r"losses\.it: its weight would be ignored in silence"):
        build(index({**inner, "classes": [1], "class_weights": [1.0, 2.0, 3.0]}))


class Forgetful(nn.Module):
    def __init__(self, class_weights):
        super().__init__()

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target)


def test_a_user_s_loss_that_ignores_its_weight_is_refused():
    with pytest.raises(UserError, match="ignored in silence"):
        build({"_target_": f"{__name__}.Forgetful", "class_weights": [1.0, 2.0, 3.0]})


def test_a_weight_that_has_an_effect_is_kept():
    both = {"_target_": "monai.losses.DiceCELoss", **WITHOUT, "weight": [1.0, 5.0]}
    assert build(both, [9, 1], ["background", "a"]).cross_entropy.weight.tolist() == [1, 5]
    assert build({**MONAI_DICE, "weight": 5.0}).class_weight == 5


@pytest.mark.parametrize(
    "weight", [[0, 0, 0], [0.0, 0.0], [1, -1, 1], [1.0, float("inf"), 1.0], [float("nan"), 1, 1]]
)
def test_literal_weights_that_cannot_be(weight):
    with pytest.raises(
        UserError, match=r"losses.it: weight is .* expected finite numbers, none below 0"
    ):
        build_loss({"name": "it", **MONAI_DICE, "weight": weight}, VOXELS, CLASSES)


def test_weights_that_are_not_finite_are_refused_with_the_config():
    with pytest.raises(ValueError, match=r"weight: .*inf.* is not finite"):
        Loss(**MONAI_DICE, weight=[1.0, float("inf")])
    with pytest.raises(ValueError, match=r"loss: .*nan.* is not finite"):
        Loss(**index({"_target_": "x.Y", "weight": [float("nan")]}))


# --- the contract


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_keeps_the_contract(name, dims, k):
    if name in TWO_CLASSES_ALONE and k > 2:
        with pytest.raises(UserError, match="is for two classes, and there are 5"):
            build_for(name, k)(*batch(dims, k))
        return
    loss, (logits, target) = build_for(name, k), batch(dims, k)
    logits.requires_grad_()
    value, gradient = value_and_gradient(loss, logits, target)
    assert value.shape == ()
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()
    assert loss(10 * target - 5, target) < loss(5 - 10 * target, target)
    assert activation_problem(loss, k, dims) is None


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_is_a_function_of_its_batch_alone(name, dims, k):
    """Not of the order of samples, of autocast, or of random numbers, which it leaves alone."""
    if name in TWO_CLASSES_ALONE and k > 2:
        return
    loss, (logits, target) = build_for(name, k), batch(dims, k)
    value, gradient = value_and_gradient(loss, logits, target)
    other, its_gradient = value_and_gradient(loss, logits.flip(0), target.flip(0))
    assert other.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6)
    torch.testing.assert_close(its_gradient.flip(0), gradient, rtol=1e-5, atol=1e-7)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        again, its_gradient = value_and_gradient(loss, logits, target)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again, value)
    assert again.dtype == torch.float32
    assert torch.equal(its_gradient, gradient)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_bears_an_absent_class(name, dims):
    """Absent from one sample, from the batch, and all but the background."""
    k = smallest(name)
    loss, (logits, target) = build_for(name, k), batch(dims, k)
    labels = target.argmax(1)
    one = torch.cat([labels[:1].clamp(max=k - 2), labels[1:]])
    for present in (one, labels.clamp(max=k - 2), labels * 0):
        value, gradient = value_and_gradient(loss, logits, one_hot(present, k))
        assert value.isfinite()
        assert gradient.isfinite().all()


def value_and_gradient(loss, logits, target):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.slow
def test_importing_the_losses_imports_no_library():
    code = "import sys, lossbench.losses; print([m for m in ('monai', 'segmentation_models_pytorch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_adapters_are_the_libraries_losses():
    (logits, target), indices = batch(k=2), batch(k=2)[1].argmax(1)
    p = logits.softmax(1)[:, 1]
    assert build_for("smp_mcc", 2)(logits, target) == smp.MCCLoss()(p, indices)
    both = AsymmetricUnifiedFocalLoss()(logits.softmax(1), target)
    assert build_for("asymmetric_unified_focal", 2)(logits, target).item() == pytest.approx(
        both.item(), rel=1e-6
    )
    logits, target = batch()
    assert build("smp_dice")(logits, target) == smp.DiceLoss("multiclass")(logits, target.argmax(1))
    equal = WassersteinDiceLoss([[0, 1, 1], [1, 0, 1], [1, 1, 0]])(logits, target)
    assert WassersteinDiceLoss()(logits, target) < equal  # mistakes among the foreground cost half
    with pytest.raises(UserError, match=r"distances: found \[2, 2\], expected \[3, 3\]"):
        WassersteinDiceLoss([[0, 1], [1, 0]])(logits, target)


def test_beta_is_how_much_more_recall_counts_than_precision():
    """As van Rijsbergen has it, from precision and recall."""
    target = torch.tensor([[[1.0, 1, 1, 1, 0, 0]]])
    found = torch.tensor([[[1.0, 0, 0, 0, 1, 0]]])
    precision, recall = 1 / 2, 1 / 4
    for beta in (0.5, 2.0):
        expected = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
        assert f_score(found, target, beta, smooth=0).item() == pytest.approx(expected)


def test_f_score_loss_is_monai_s_dice_but_for_the_constant():
    """1 - mean(w D) = mean(w (1 - D)) + 1 - mean(w); per image as MONAI's default."""
    logits, target = batch()
    weight = torch.tensor([0.5, 2.0, 7.0])
    for per_image in (False, True):
        keras = FScoreLoss(class_weights=weight, per_image=per_image)
        monai = DiceLoss(softmax=True, batch=not per_image, weight=weight)
        (a, da), (b, db) = (value_and_gradient(loss, logits, target) for loss in (keras, monai))
        assert a.item() == pytest.approx((b + 1 - weight.mean()).item(), abs=1e-6)
        torch.testing.assert_close(da, db, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"class_indexes": [0, 3]}, "class_indexes .0, 3.; expected numbers from 0 to 2"),
        (
            {"class_indexes": [1, 2], "class_weights": [1.0, 2.0, 3.0]},
            "class_weights has 3 numbers; expected 2",
        ),
        (
            {"class_indexes": [1], "class_weights": [1.0, 2.0, 3.0]},
            "class_weights has 3 numbers; expected 1",
        ),
    ],
)
def test_what_keras_would_broadcast_or_fail_on(arguments, text):
    with pytest.raises(UserError, match=text):
        FScoreLoss(**arguments)(*batch())


# --- activation


class Twice(nn.Module):
    """As where a network ends in softmax and the loss has its own."""

    def __init__(self, loss, activation="softmax"):
        super().__init__()
        self.loss, self.activation = loss, activation

    def forward(self, logits, target):
        p = logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()
        return self.loss(p, target)


class Score(nn.Module):
    def forward(self, logits, target):
        return 1 - DiceLoss(softmax=True)(logits, target)


class Sum(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, logits, target):
        return sum(part(logits, target) for part in self.parts)


class HandMade(nn.Module):
    """An activation that no operation of torch names; softly thresholded."""

    def forward(self, logits, target):
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        p = 0.5 + 0.5 * (10 * (p - 0.5)).tanh()
        return 1 - 2 * (p * target).sum() / (p + target).sum()


class Learned(nn.Module):
    """Softmax of something that is not a prediction."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.zeros(2))

    def forward(self, logits, target):
        a, b = self.share.softmax(0)
        return a * DiceLoss(softmax=True)(logits, target) + b * FocalLoss()(logits, target)


PROBABILITIES = [
    *(DiceLoss(), DiceLoss(squared_pred=True), DiceLoss(batch=True, include_background=False)),
    *(DiceLoss(jaccard=True), DiceCELoss(), DiceFocalLoss(), GeneralizedDiceLoss()),
    *(GeneralizedDiceFocalLoss(), TverskyLoss(), MCCLoss(), HausdorffDTLoss(), BoundaryLoss()),
    *(SoftDiceclDiceLoss(), nn.MSELoss(), Sum(DiceLoss(), nn.CrossEntropyLoss())),
    *(IndexTarget(nn.NLLLoss()), IndexTarget(smp.DiceLoss("multiclass", from_logits=False))),
    IndexTarget(smp.JaccardLoss("multiclass", from_logits=False)),
    IndexTarget(smp.FocalLoss("multiclass", from_logits=False)),
]
LOGITS = [
    *(DiceLoss(sigmoid=True), DiceLoss(sigmoid=True, include_background=False), FocalLoss()),
    *(
        DiceCELoss(sigmoid=True),
        DiceCELoss(softmax=True, label_smoothing=0.2),
        HandMade(),
        Learned(),
    ),
    *(nn.CrossEntropyLoss(label_smoothing=0.3), nn.BCEWithLogitsLoss(), smp.DiceLoss("multilabel")),
    *(
        NeighborAwareLoss(alpha=1.0),
        NeighborAwareLoss(distance_type="l2"),
        smp.LovaszLoss("multilabel"),
    ),
    *(FScoreLoss(class_weights=0.1), smp.SoftBCEWithLogitsLoss(smooth_factor=0.1)),
    *(Sum(DiceLoss(softmax=True), nn.CrossEntropyLoss()), nn.MultiLabelSoftMarginLoss()),
]


def name_of(loss):
    inner = getattr(loss, "loss", None)
    return type(loss).__name__ + (f"-{type(inner).__name__}" if inner else "")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("loss", PROBABILITIES, ids=name_of)
def test_losses_that_want_probabilities(loss, k, dims):
    assert "takes logits as probabilities" in activation_problem(loss, k, dims)


@pytest.mark.parametrize(
    "loss",
    [
        *(Twice(DiceLoss(softmax=True)), Twice(nn.CrossEntropyLoss()), Twice(FocalLoss())),
        *(Twice(DiceLoss(sigmoid=True), "sigmoid"), Twice(nn.BCEWithLogitsLoss(), "sigmoid")),
        *(Twice(IndexTarget(smp.DiceLoss("multiclass"))), Twice(FScoreLoss())),
        ForegroundProbability(nn.BCEWithLogitsLoss()),
    ],
    ids=name_of,
)
def test_losses_with_two_activations(loss):
    assert "what already are probabilities" in activation_problem(loss, 2, 2)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("loss", LOGITS, ids=name_of)
def test_losses_that_take_logits_their_own_way(loss, k, dims):
    assert activation_problem(loss, k, dims) is None


def test_the_message_names_what_to_set():
    assert activation_problem(DiceCELoss(), 3, 2).startswith("DiceLoss takes logits")
    assert activation_problem(DiceCELoss(), 3, 2).endswith("set softmax: true")
    wrong = IndexTarget(smp.DiceLoss("multiclass", from_logits=False))
    assert activation_problem(wrong, 3, 2).endswith("set from_logits: true")
    assert "lower where the prediction is better" in activation_problem(Score(), 3, 2)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"_target_": "monai.losses.DiceLoss"},
            "losses.it: DiceLoss takes logits as probabilities",
        ),
        (
            {"_target_": "monai.losses.DiceCELoss"},
            "losses.it: DiceLoss takes logits as probabilities",
        ),
        ({"_target_": f"{__name__}.Twice", "loss": MONAI_DICE}, "losses.it: Twice applies softmax"),
        ({"_target_": f"{__name__}.Score"}, "losses.it: Score gives 1 for perfect logits"),
        (CATALOGUE["smp_mcc"], "losses.it: MCCLoss is for two classes, and there are 3"),
    ],
)
def test_check_refuses_them_by_name(tmp_path, phantom, spec, text):
    assert text in problems(tmp_path, phantom, {"it": spec})


class EndsInSoftmax(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 1), nn.Softmax(1))


def test_check_refuses_a_network_that_ends_in_softmax(tmp_path, phantom):
    text = problems(tmp_path, phantom, models={"it": {"_target_": f"{__name__}.EndsInSoftmax"}})
    assert "models.it: gives probabilities, and losses expect logits" in text


def test_probabilities_are_told_from_logits():
    logits = torch.rand(2, 3, 8, 8)
    assert are_probabilities(logits.softmax(1))
    for other in (
        logits,
        logits.log_softmax(1),
        torch.zeros(2, 3, 8, 8),
        logits - logits.mean(1, keepdim=True),
    ):
        assert not are_probabilities(other)


# --- ignored pixels


def without(loss, logits, target, valid):
    """Value and gradient of the loss that leaves pixels out; whatever is predicted in them."""
    noise = 100 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    logits = torch.where(valid[:, None], logits, noise.to(logits))
    ignoring = MaskedLoss(loss, logits.shape[1], logits.ndim - 2)
    return value_and_gradient(lambda z, t: ignoring(z, t, valid), logits, target * valid[:, None])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in IN_PLACE])
def test_ignored_pixels_are_as_if_cut_out(name, dims):
    """The same rows are ignored in both images, so that what is left is a picture again."""
    k = smallest(name)
    loss, (logits, target) = build_for(name, k), batch(dims, k)
    valid = torch.ones(target.shape[0], *target.shape[2:], dtype=torch.bool)
    valid[:, :3] = False
    found, gradient = without(loss, logits, target, valid)
    cut, its_gradient = value_and_gradient(loss, logits[:, :, 3:], target[:, :, 3:])
    assert found.item() == pytest.approx(cut.item(), rel=1e-6, abs=1e-6)
    assert not gradient[:, :, :3].any()
    torch.testing.assert_close(gradient[:, :, 3:], its_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in IN_PLACE])
def test_nothing_ignored_is_the_loss_itself(name):
    k = smallest(name)
    loss, (logits, target) = build_for(name, k), batch(k=k)
    everything = torch.ones(2, *target.shape[2:], dtype=torch.bool)
    found, gradient = without(loss, logits, target, everything)
    value, its_gradient = value_and_gradient(loss, logits, target)
    assert found.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-5, atol=1e-6)


CE = {"ignore_index": 255}
SMP = {"mode": "multiclass", "ignore_index": 255}


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("dice", DiceLoss(softmax=True, to_onehot_y=True, **CE)),
        ("dice_batch", DiceLoss(softmax=True, to_onehot_y=True, batch=True, **CE)),
        (
            "dice_no_background",
            DiceLoss(softmax=True, to_onehot_y=True, include_background=False, **CE),
        ),
        ("tversky", TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7, **CE)),
        ("cross_entropy", nn.CrossEntropyLoss(**CE)),
        ("smp_dice", smp.DiceLoss(**SMP)),
        ("smp_jaccard", smp.JaccardLoss(**SMP)),
        ("smp_focal", smp.FocalLoss(**SMP)),
        ("smp_lovasz", smp.LovaszLoss(**SMP)),
    ],
)
def test_any_pixels_are_ignored_as_the_library_does(name, library):
    """Different numbers of them in each image."""
    logits, target = batch()
    valid = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.3
    valid[0, :6] = False
    labels = target.argmax(1).where(valid, 255)
    wanted = labels[:, None] if type(library).__module__.startswith("monai") else labels
    found, gradient = without(build(name), logits, target, valid)
    expected, its_gradient = value_and_gradient(lambda z, t: library(z, wanted), logits, None)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, its_gradient * valid[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 8.0]])
def test_a_sum_ignores_in_each_part_by_the_part_s_own_rule(weight):
    """Dice is of each sample; cross-entropy is the mean over all the pixels that are left."""
    logits, target = batch()
    valid = torch.ones(2, 12, 12, dtype=torch.bool)
    valid[0, :10] = False
    weights = {} if weight is None else {"weight": torch.tensor(weight)}
    both = build(
        {"_target_": "monai.losses.DiceCELoss", "softmax": True, "lambda_ce": 3.0}
        | ({"weight": weight} if weight else {})
    )
    entropy = nn.CrossEntropyLoss(**CE, **weights)
    dice = DiceLoss(softmax=True, **weights)
    parts = [dice(logits[:1, :, 10:], target[:1, :, 10:]), dice(logits[1:], target[1:])]
    pixels = [t.movedim(1, -1)[valid].T[None] for t in (logits, target)]
    expected = sum(parts) / 2 + 3 * both.cross_entropy(*pixels)
    assert without(both, logits, target, valid)[0].item() == pytest.approx(
        expected.item(), abs=1e-6
    )
    if not weight:  # torch divides otherwise where a weighted target is one-hot
        labels = target.argmax(1).where(valid, 255)
        assert both.cross_entropy(*pixels).item() == pytest.approx(
            entropy(logits, labels).item(), abs=1e-6
        )


def test_a_sample_that_is_ignored_entirely_takes_no_part():
    logits, target = batch()
    valid = torch.ones(2, 12, 12, dtype=torch.bool)
    valid[0] = False
    for name in ("dice", "dice_batch", "cross_entropy", "smp_dice"):
        found, gradient = without(build(name), logits, target, valid)
        assert found.item() == pytest.approx(build(name)(logits[1:], target[1:]).item(), abs=1e-6)
        assert not gradient[0].any()
        found, gradient = without(build(name), logits, target, valid & False)
        assert found == 0
        assert not gradient.any()


class Window(nn.Module):
    def forward(self, logits, target):
        return nn.functional.avg_pool2d(logits - target, 3).abs().mean()


class FirstSample(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits[:1], target[:1])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(IN_PLACE))
def test_entries_that_need_their_pixels_in_place_are_refused(name, dims):
    with pytest.raises(
        UserError, match=f"{type(build(name)).__name__} needs its pixels in place, so"
    ):
        MaskedLoss(build(name), 3, dims)


def test_other_losses_that_cannot_leave_pixels_out_are_refused():
    with pytest.raises(UserError, match="Window needs its pixels in place"):
        MaskedLoss(Window(), 3, 2)
    for loss in (FirstSample(), DiceLoss(softmax=True, reduction="sum")):
        with pytest.raises(UserError, match=r"neither pools the pixels .* set reduction: mean"):
            MaskedLoss(loss, 3, 2)


def test_one_hot_of_ignored_is_zero():
    labels = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    assert one_hot(labels, 3)[0].T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


# --- Dice from sums


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero")
        return func(*args, **(kwargs or {}))


PLAIN = [
    DiceLoss(softmax=True),
    DiceLoss(sigmoid=True, smooth_nr=0.1, smooth_dr=0.2),
    DiceLoss(softmax=True, include_background=False, weight=[1.0, 5.0]),
    DiceLoss(softmax=True, batch=True, weight=[0.1, 1.0, 5.0]),
    DiceLoss(softmax=True, squared_pred=True, reduction="sum"),
    DiceLoss(softmax=True, jaccard=True, weight=2.0),
    DiceLoss(softmax=True, jaccard=True, squared_pred=True, batch=True),
    DiceCELoss(softmax=True, include_background=False),
    DiceFocalLoss(softmax=True, batch=True),
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("loss", PLAIN, ids=range(len(PLAIN)))
def test_dice_of_sums_is_dice(loss, dims):
    sums = make_sync_free(copy.deepcopy(loss))
    assert any(isinstance(part, SyncFreeDice) for part in sums.modules())
    logits, target = batch(dims)
    values, gradients = [], []
    for function in (loss, sums):
        logits = logits.detach().requires_grad_()
        with Reads() as reads:
            values.append(function(logits, target))
            values[-1].backward()
        gradients.append(logits.grad)
    assert reads.count == 0
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6 * gradients[0].abs().max().item())


def test_monai_reads_its_weights_from_the_device():
    """The reason for sums; without it, they can go."""
    with Reads() as reads:
        DiceLoss(softmax=True, weight=[0.1, 1.0, 5.0])(*batch())
    assert reads.count > 0


@pytest.mark.parametrize(
    "loss",
    [DiceLoss(other_act=torch.exp), DiceLoss(softmax=True, soft_label=True), TverskyLoss()],
    ids=["activation", "soft", "tversky"],
)
def test_what_is_no_function_of_these_sums_stays_monais(loss):
    assert make_sync_free(loss) is loss
    assert not any(isinstance(part, SyncFreeDice) for part in loss.modules())
