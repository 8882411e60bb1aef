"""gradients: each class's part of a loss, against the same worked out by hand."""

import pytest
import torch
from monai.losses import DiceCELoss, DiceFocalLoss, DiceLoss, FocalLoss
from segmentation_models_pytorch import losses as smp
from torch import nn

from lossbench.losses import IndexTarget, MaskedLoss, one_hot
from lossbench.losses.gradients import class_terms, cosines, flat_gradient, shares

K = 3
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn((2, K, 9, 8), generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(K, (2, 9, 8), generator=GENERATOR)
TARGET = one_hot(LABELS, K).double()
WEIGHT = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


def dice_term(p, g, k):
    """Of a class, per sample, as MONAI smooths it."""
    inside, size = (p * g)[:, k].sum(dim=(1, 2)), (p + g)[:, k].sum(dim=(1, 2))
    return (1 - (2 * inside + 1e-5) / (size + 1e-5)).mean() / K


def entropy_term(p, g, k):
    return -(g * p.log())[:, k].sum() / LABELS.numel()


def weighted_term(p, g, k):
    return -WEIGHT[k] * (g * p.log())[:, k].sum() / (WEIGHT.view(-1, 1, 1) * g).sum()


def by_hand(term, activation=lambda z: z.softmax(dim=1)):
    """Value, L1 and L2 of the gradient of each class's term."""
    logits = LOGITS.clone().requires_grad_()
    p = activation(logits)
    terms = [term(p, TARGET, k) for k in range(K)]
    gradients = [torch.autograd.grad(t, logits, retain_graph=True)[0] for t in terms]
    return (
        torch.stack(terms).detach(),
        torch.stack([g.abs().sum() for g in gradients]),
        torch.stack([g.norm() for g in gradients]),
    )


def both(loss):
    return lambda p, g, k: dice_term(p, g, k) + loss(p, g, k)


@pytest.mark.parametrize(
    ("loss", "term"),
    [
        (DiceLoss(softmax=True), dice_term),
        (nn.CrossEntropyLoss(), entropy_term),
        (IndexTarget(nn.CrossEntropyLoss()), entropy_term),
        (IndexTarget(nn.CrossEntropyLoss(weight=WEIGHT)), weighted_term),
        (DiceCELoss(softmax=True), both(entropy_term)),
        (
            DiceLoss(softmax=True, weight=WEIGHT),
            lambda p, g, k: WEIGHT[k] * dice_term(p, g, k),
        ),
        (
            DiceLoss(softmax=True, include_background=False),
            lambda p, g, k: (k > 0) * K / (K - 1) * dice_term(p, g, k),
        ),
    ],
)
def test_terms_of_classes(loss, term):
    found = class_terms(lambda z: loss(z, TARGET), LOGITS, TARGET)
    for ours, expected in zip(found, by_hand(term), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.value.sum(), loss(LOGITS, TARGET))


def test_terms_of_classes_that_have_a_sigmoid_each():
    found = class_terms(lambda z: DiceLoss(sigmoid=True)(z, TARGET), LOGITS, TARGET)
    for ours, expected in zip(found, by_hand(dice_term, torch.sigmoid), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "loss",
    [
        FocalLoss(use_softmax=True),
        FocalLoss(),
        DiceFocalLoss(softmax=True),  # softmax in one part, sigmoid in the other
        IndexTarget(smp.DiceLoss("multiclass")),
        IndexTarget(smp.FocalLoss("multiclass")),
        IndexTarget(smp.JaccardLoss("multiclass")),
    ],
    ids=lambda loss: type(getattr(loss, "loss", loss)).__name__,
)
def test_values_of_libraries_are_sums_over_classes(loss):
    found = class_terms(lambda z: loss(z, TARGET), LOGITS, TARGET)
    torch.testing.assert_close(found.value.sum(), loss(LOGITS, TARGET), rtol=1e-5, atol=1e-7)
    assert (found.l1 > 0).all()


def test_a_softmax_by_hand_cannot_be_taken_apart():
    def loss_of(z):
        p = z.exp() / z.exp().sum(dim=1, keepdim=True)
        return 1 - (p * TARGET).mean()

    assert all(part.isnan().all() for part in class_terms(loss_of, LOGITS, TARGET))


def test_ignored_pixels_take_no_part():
    loss, valid = DiceLoss(softmax=True), torch.ones((2, 9, 8), dtype=torch.bool)
    valid[:, :3] = False
    ignoring = MaskedLoss(loss, K, 2)
    found = class_terms(lambda z: ignoring(z, TARGET, valid), LOGITS, TARGET)
    logits, target = LOGITS[:, :, 3:], TARGET[:, :, 3:]
    for ours, cut in zip(
        found, class_terms(lambda z: loss(z, target), logits, target), strict=True
    ):
        torch.testing.assert_close(ours, cut)


def test_the_terms_leave_logits_and_graph_alone():
    logits = LOGITS.clone().requires_grad_()
    value = DiceLoss(softmax=True)(logits, TARGET)
    class_terms(lambda z: DiceLoss(softmax=True)(z, TARGET), logits, TARGET)
    assert logits.grad is None
    value.backward()
    assert logits.grad.any()


def test_share_of_cross_entropy_without_knowledge_is_the_frequency():
    found = class_terms(lambda z: nn.CrossEntropyLoss()(z, TARGET), LOGITS * 0, TARGET)
    frequency = TARGET.mean(dim=(0, 2, 3))
    torch.testing.assert_close(shares(found.value), frequency)
    torch.testing.assert_close(shares(found.l1), frequency)


def test_flat_gradient_and_cosines():
    x, y, unused = (torch.ones(n, requires_grad=True) for n in (2, 1, 3))
    gradients = [flat_gradient(a * x.sum() + b * y.sum(), [x, y, unused]) for a, b in
                 ((1.0, 0.0), (3.0, 0.0), (0.0, 2.0), (-1.0, 0.0))]  # fmt: skip
    assert gradients[1].tolist() == [3, 3, 0, 0, 0, 0]
    expected = [[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]]
    torch.testing.assert_close(
        cosines(gradients), torch.tensor(expected).double(), atol=1e-6, rtol=0
    )
    assert cosines([gradients[0], gradients[0] * 0])[0, 1].isnan()
