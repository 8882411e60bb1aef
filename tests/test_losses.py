"""Class weights from the data; losses of the catalogue; ignored pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lossbench.config import Loss, UserError
from lossbench.losses import Ignoring, build_loss, class_weights, one_hot

CATALOGUE = yaml.safe_load((Path(__file__).parent.parent / "config/losses.yaml").read_text())[
    "losses"
]
CLASSES, VOXELS = ["background", "a", "b"], [800, 150, 50]


def build(name_or_spec, voxels=VOXELS, classes=CLASSES):
    spec = CATALOGUE[name_or_spec] if isinstance(name_or_spec, str) else name_or_spec
    return build_loss({"name": "it", **Loss(**spec).spec()}, voxels, classes)


def batch(dims=2, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (2, *[12] * dims), generator=generator)
    return torch.randn(2, k, *labels.shape[1:], generator=generator), one_hot(labels, k)


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


def test_weights_have_the_length_that_the_loss_wants():
    loss = {"_target_": "monai.losses.DiceLoss", "softmax": True, "weight": "$inverse_frequency"}
    assert len(build(loss).class_weight) == 3
    without = build({**loss, "include_background": False}).class_weight
    assert without.tolist() == pytest.approx([0.5, 1.5])
    both = {**loss, "_target_": "monai.losses.DiceCELoss", "include_background": False}
    assert build(both)(*batch()).isfinite()


def test_a_weight_that_would_be_ignored_is_refused():
    loss = {"_target_": "monai.losses.DiceLoss", "softmax": True, "weight": "$inverse_frequency"}
    with pytest.raises(UserError, match="would be ignored in silence"):
        build({**loss, "include_background": False}, [9, 1], ["background", "a"])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_keeps_the_contract(name, dims):
    loss = build(name)
    logits, target = batch(dims)
    logits.requires_grad_()
    value = loss(logits, target)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()
    assert loss(10 * target - 5, target) < loss(5 - 10 * target, target)
    order = torch.tensor([1, 0])
    assert loss(logits[order], target[order]).item() == pytest.approx(value.item(), abs=1e-6)
    absent = one_hot(target.argmax(1).clamp(max=1), 3)
    assert loss(logits, absent).isfinite()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CATALOGUE)
def test_ignored_pixels_are_as_if_cut_out(name, dims):
    """The same rows are ignored in both images, so that what is left is a picture again."""
    loss, (logits, target) = build(name), batch(dims)
    valid = torch.ones(target.shape[0], *target.shape[2:], dtype=torch.bool)
    valid[:, :5] = False
    logits[:, :, :5] = 100 * torch.randn_like(logits[:, :, :5])  # whatever is predicted there
    a, b = logits.clone().requires_grad_(), logits[:, :, 5:].clone().requires_grad_()
    ignoring = Ignoring(loss, 3, dims)(a, target * valid[:, None], valid)
    cut = loss(b, target[:, :, 5:])
    assert ignoring.item() == pytest.approx(cut.item(), abs=1e-6)
    ignoring.backward()
    cut.backward()
    assert not a.grad[:, :, :5].any()
    assert torch.allclose(a.grad[:, :, 5:], b.grad, atol=1e-6)


def test_samples_with_different_numbers_of_ignored_pixels():
    logits, target = batch()
    valid = torch.ones(2, 12, 12, dtype=torch.bool)
    valid[0, :6] = False
    per_sample, pooled = build("dice"), build("dice_batch")
    parts = [per_sample(logits[:1, :, 6:], target[:1, :, 6:]), per_sample(logits[1:], target[1:])]
    found = Ignoring(per_sample, 3, 2)(logits, target, valid)
    assert found.item() == pytest.approx((sum(parts) / 2).item(), abs=1e-6)
    flat = [t.movedim(1, -1)[valid].T[None] for t in (logits, target)]
    found = Ignoring(pooled, 3, 2)(logits, target, valid)
    assert found.item() == pytest.approx(pooled(*flat).item(), abs=1e-6)


def test_a_batch_that_is_ignored_entirely_teaches_nothing():
    logits, target = batch()
    logits.requires_grad_()
    value = Ignoring(build("dice"), 3, 2)(logits, target, torch.zeros(2, 12, 12, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_a_loss_that_needs_its_pixels_in_place_is_refused():
    class Boundary(nn.Module):
        def forward(self, logits, target):
            return nn.functional.avg_pool2d(logits - target, 3).abs().mean()

    with pytest.raises(UserError, match="needs its pixels in place"):
        Ignoring(Boundary(), 3, 2)


def test_one_hot_of_ignored_is_zero():
    labels = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    assert one_hot(labels, 3)[0].T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
