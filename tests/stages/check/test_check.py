"""check: what cannot be trained is refused before anything is, with all that is wrong.

And what can be is looked at: a card for each loss, and its gradients on the data.
"""

import os
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import yaml
from monai.losses import DiceLoss
from torch import nn

from lossbench.common.files import write_json, write_text
from lossbench.config import UserError
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.losses import batch_loss
from lossbench.stages.check import check, preflight
from lossbench.stages.check.try_entries import _check_metric
from lossbench.stages.check.wording import text
from tests.helpers.check_runs import SMALL, experiment_of, problems, run
from tests.helpers.configs import CONFIG

MODELS = yaml.safe_load((CONFIG / "models.yaml").read_text())["models"]
DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True}


class InPlace(nn.Module):
    """A network that changes its input, such that torch does not count it."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, images):
        images.data.mul_(1.5)
        return self.layer(images)


def test_a_network_that_changes_the_batch_is_refused(tmp_path, phantom):
    entry = {"_target_": f"{__name__}.InPlace", "in_channels": "$in_channels"}
    found = problems(tmp_path, phantom, models={"mine": entry | {"out_channels": "$num_classes"}})
    assert f"models.mine: {__name__}.InPlace changes its input in place" in found


class Net(nn.Module):
    """One layer, and what a network should not be."""

    def __init__(self, in_channels, out_channels, kind):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)
        self.kind, self.calls = kind, 0
        if kind == "lazy":
            self.layer = nn.LazyConv2d(out_channels, 1)
        if kind == "unseeded":
            nn.init.constant_(self.layer.bias, int.from_bytes(os.urandom(2)))
        if kind == "uninitialised":
            nn.init.constant_(self.layer.bias, float("nan"))
        if kind == "frozen":
            self.requires_grad_(False)

    def forward(self, images):
        logits = self.layer(images)
        self.calls += 1
        match self.kind, self.training:
            case "sigmoid", _:
                return logits.sigmoid()
            case ("softmax where evaluated", False):
                return logits.softmax(1)
            case ("batch statistics", _):
                return nn.functional.batch_norm(logits, None, None, training=True)
            case ("counts", _):
                return self.calls * logits
            case ("complex", _):
                return logits + 0j
            case ("fails where evaluated", False):
                raise ValueError("it is not finished")
            case ("draws", _):
                return nn.functional.dropout(logits)
        return logits


NETS = {
    "lazy": "has lazy layers",
    "unseeded": "has other initial weights each time",
    "uninitialised": "gives NaN or infinite numbers before any training",
    "frozen": "gives logits without a gradient",
    "sigmoid": "gives probabilities, and losses expect logits; remove its sigmoid",
    "softmax where evaluated": "gives probabilities, and losses expect logits; remove its softmax",
    "batch statistics": "predicts an image otherwise alone than in a batch",
    "counts": "gives other logits for the same weights, batch and seeds",
    "complex": "gives torch.complex64; expected real numbers",
    "fails where evaluated": "ValueError: it is not finished; test_check.py",
}


def test_networks_that_cannot_be_trained_resumed_or_evaluated(tmp_path, phantom):
    entry = {"_target_": f"{__name__}.Net", "in_channels": "$in_channels"}
    entry |= {"out_channels": "$num_classes"}
    nets = {kind.replace(" ", "_"): entry | {"kind": kind} for kind in [*NETS, "plain", "draws"]}
    found = problems(tmp_path, phantom, models=nets)
    for kind, problem in NETS.items():
        assert re.search(rf"models\.{kind.replace(' ', '_')}: .*{re.escape(problem)}", found), kind
    assert found.count("models.") == len(NETS), found


class Exiting(nn.Module):
    def __init__(self):
        torch.set_default_dtype(torch.float64)
        raise SystemExit(0)


def test_an_entry_that_ends_the_program_hides_no_other(tmp_path, phantom):
    losses = {"dice": DICE, "exiting": {"_target_": f"{__name__}.Exiting"}}
    losses |= {"vector": {"_target_": f"{__name__}.Vector"}}
    found = problems(tmp_path, phantom, losses)
    assert "exiting: SystemExit: 0" in found
    assert "losses.vector: gives shape" in found
    assert torch.get_default_dtype() == torch.float32


class Vector(nn.Module):
    def forward(self, logits, target):
        return (logits - target).flatten(1).mean(1)


class Constant(nn.Module):
    def forward(self, logits, target):
        return torch.zeros(())


class Flat(nn.Module):
    def forward(self, logits, target):
        return logits.sum() * 0


class Indices(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target[:, :1, 0])


class WantsIndices(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, logits, target):
        return self.scale * nn.functional.nll_loss(logits.log_softmax(1), target)


class Forgetful(nn.Module):
    """Counts its calls where no checkpoint sees it."""

    calls = 0

    def forward(self, logits, target):
        self.calls += 1
        return self.calls * nn.functional.cross_entropy(logits, target)


class Remembering(nn.Module):
    """Counts its calls in a buffer, where every checkpoint has it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits, target):
        self.calls += 1
        return self.calls * nn.functional.cross_entropy(logits, target)


class Annealed(nn.Module):
    def forward(self, logits, target, step, steps):
        return (1 + step / steps) * nn.functional.cross_entropy(logits, target)


class Smoothed(nn.Module):
    """Label smoothing in place."""

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target.mul_(0.9).add_(0.03))


class Numpy(nn.Module):
    """With a gradient that leads nowhere."""

    def forward(self, logits, target):
        return torch.tensor(float(logits.detach().numpy().mean()), requires_grad=True)


class Holding(nn.Module):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target)


class KeepsGraph(nn.Module):
    """A moving mean of which the graph of the last step is a part."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, logits, target):
        self.mean = 0.9 * self.mean + 0.1 * nn.functional.cross_entropy(logits, target)
        return self.mean


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no gradient here")


class FailsBackward(nn.Module):
    def forward(self, logits, target):
        return NoBackward.apply(logits)


class OneValue(nn.Module):
    """Batch normalisation of one pixel."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(channels), nn.Conv2d(channels, 3, 1)

    def forward(self, x):
        return self.layer(x + self.norm(x.mean((2, 3), keepdim=True)))


class Scaled(nn.Module):
    """A multiple of a loss."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.loss = factor, DiceLoss(softmax=True)

    def forward(self, logits, target):
        return self.factor * self.loss(logits, target)


@pytest.fixture(autouse=True)
def short(monkeypatch, found):
    """Few steps, but in what the module has made before."""
    monkeypatch.setattr(preflight, "STEPS", 2)


def test_what_can_be_trained_passes(tmp_path, phantom):
    assert run(tmp_path, phantom)["tried"] == ["phantom/fold0", "phantom/dice", "phantom/small"]


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            {"_target_": f"{__name__}.Vector"},
            "losses.it: gives shape [2], expected a scalar tensor",
        ),
        ({"_target_": f"{__name__}.Constant"}, "losses.it: has no gradient"),
        (
            {"_target_": f"{__name__}.WantsIndices", "scale": 3},
            "losses.it: it takes class indices, and targets are one-hot; write it: {_target_: "
            "lossbench.losses.IndexTarget, loss: {_target_: tests.stages.check.test_check.WantsIndices, scale: 3}}",
        ),
        ({"_target_": f"{__name__}.Flat"}, "the gradient is all 0"),
        (
            {"_target_": f"{__name__}.FailsBackward"},
            "losses.it: the gradient of FailsBackward failed: ValueError: no gradient here",
        ),
        ({"_target_": f"{__name__}.Numpy"}, "losses.it: has no gradient"),
        ({"_target_": f"{__name__}.Smoothed"}, "losses.it: Smoothed changes its target in place"),
        ({"_target_": f"{__name__}.Holding"}, "losses.it: Holding cannot be copied (TypeError: "),
        (
            {"_target_": f"{__name__}.KeepsGraph"},
            "losses.it: the second step (does it keep what it should detach?) of KeepsGraph failed",
        ),
        ({"_target_": f"{__name__}.Forgetful"}, "state_dict and seeds, so a training that is"),
        (
            {"_target_": "lossbench.losses.Scaled", "loss": {"_target_": f"{__name__}.Forgetful"}},
            "register_buffer",
        ),
        ({"_target_": f"{__name__}.Indices"}, "losses.it: Indices failed on logits [2, 3, 16, 16]"),
        (
            {"_target_": "monai.losses.DiceLos"},
            "monai.losses has no 'DiceLos'; did you mean 'DiceLoss'?",
        ),
        ({"_target_": "os.getcwd"}, "losses.it: os.getcwd is not a torch.nn.Module"),
        ({**DICE, "weight": [1.0, 2.0]}, "The length of the `weight` sequence should be the same"),
        ({**DICE, "weight": "$inverse"}, "losses.it: unknown weights $inverse"),
    ],
)
def test_losses_that_cannot_be_used(tmp_path, phantom, loss, text):
    assert text in problems(tmp_path, phantom, {"it": loss})


def test_losses_with_a_state_that_is_saved_and_with_a_schedule(tmp_path, phantom):
    losses = {n: {"_target_": f"{__name__}.{n.title()}"} for n in ("remembering", "annealed")}
    found = run(tmp_path, phantom, {"ce": {"_target_": "torch.nn.CrossEntropyLoss"}, **losses})
    start, later = found["gradients"][0]["snapshots"]
    for name in losses:  # at the start, both are cross-entropy, however often they are called
        assert found["cards"]["phantom"][name] == found["cards"]["phantom"]["ce"]
        assert start["losses"][name]["scale"] == 1
    assert later["losses"]["remembering"]["scale"] == 1
    assert later["losses"]["annealed"]["scale"] > 1


class Drifting:
    """A metric that counts its calls."""

    calls = 0

    def __call__(self, prediction, label, spacing):
        self.calls += 1
        return [self.calls] * 3


def test_a_metric_that_gives_other_numbers_each_time(phantom):
    with pytest.raises(UserError, match=r"metrics.it: gives \[1.0, 1.0, 1.0\] and then \[2.0, "):
        _check_metric("it", {"_target_": f"{__name__}.Drifting"}, phantom)


def test_batch_normalisation_of_one_value(tmp_path, phantom):
    net = {"_target_": f"{__name__}.OneValue", "channels": "$in_channels"}
    flat = {"_target_": f"{__name__}.Flat"}
    text = problems(tmp_path, phantom, {"flat": flat}, {"net": net}, batch_size=1)
    assert "models.net: its batch normalisation gets one value per channel" in text
    assert "raise training.batch_size" in text
    assert "the gradient is all 0" in text


USERS = """
import torch
from torch import nn

class Loss(nn.Module):
    def forward(self, logits, target):
        return torch.cat([logits, target[:, :1, 0]]).mean()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(5, 3, 1)

    def forward(self, x):
        return self.layer(x)
"""


def test_errors_in_a_users_code_name_its_line(tmp_path, phantom, monkeypatch):
    """Its own line, not the one inside torch that raised."""
    (tmp_path / "users_code.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    loss, net = {"_target_": "users_code.Loss"}, {"_target_": "users_code.Net"}
    text = problems(tmp_path, phantom, {"it": loss}, {"net": net})
    assert "losses.it: Loss failed on" in text
    assert "(users_code.py, line 7)" in text
    assert "models.net: cannot take a patch" in text
    assert text.endswith("; users_code.py, line 15)"), "[32, 32] is not what to try instead"


READS = """
import importlib
from pathlib import Path
from monai.losses import DiceLoss
HERE = Path(__file__).parent

class Loss(DiceLoss):
    def __init__(self, file):
        super().__init__(softmax=True, smooth_nr=float((HERE / f"{file}.txt").read_text()))
"""


def test_a_file_that_no_digest_holds_is_named(tmp_path, phantom, monkeypatch, caplog):
    (tmp_path / "reads_in_secret.py").write_text(READS)
    (tmp_path / "smooth.txt").write_text("1e-3")
    monkeypatch.syspath_prepend(tmp_path)
    run(tmp_path, phantom, {"it": {"_target_": "reads_in_secret.Loss", "file": "smooth"}})
    file = tmp_path / "smooth.txt"
    assert f"phantom/it: reads {file}, which no digest holds" in caplog.text
    assert "reads_in_secret.py, which" not in caplog.text


def test_everything_is_reported_at_once(tmp_path, phantom):
    losses = {"one": {"_target_": "monai.losses.Nope"}, "two": {"_target_": f"{__name__}.Flat"}}
    text = problems(tmp_path, phantom, losses, folds=(0, 7))
    assert "losses.one" in text
    assert "losses.two" in text
    assert "phantom has folds 0 to 3, and the experiment asks for 7" in text


def test_a_patch_that_the_model_cannot_take(tmp_path, phantom):
    text = problems(tmp_path, phantom, models={"it": MODELS["monai_unet"]}, patch_size=[42, 50])
    assert "models.it: cannot take a patch of [42, 50]" in text
    assert "multiples of 32 suit most networks: [64, 64]" in text
    assert "training.patch_size: [8, 8, 8] has 3 numbers" in problems(
        tmp_path, phantom, patch_size=[8, 8, 8]
    )


def test_a_network_for_another_number_of_dimensions(tmp_path, phantom, phantom_3d):
    flat, solid = ({"it": {**SMALL, "spatial_dims": dims}} for dims in (2, 3))
    text = problems(tmp_path, phantom_3d, models=flat)
    assert text.endswith("models.it: it is a 2D network, and phantom_3d is 3D; take another model")
    text = problems(tmp_path, phantom, models=solid)
    assert text.endswith("models.it: it is a 3D network, and phantom is 2D; take another model")
    folder = tmp_path / "volumes"
    shutil.copytree(phantom_3d.folder, folder)
    spec = {"_target_": "lossbench.datasets.MSD", "root": "x"}
    write_json(folder / "classes.json", {**phantom_3d.info, "name": "volumes", "spec": spec})
    text = problems(tmp_path, Prepared(folder), models=flat)
    assert text.endswith("or cut volumes into slices: datasets.volumes.slice_axis, 0 to 2")


def test_a_model_with_other_logits(tmp_path, phantom):
    text = problems(tmp_path, phantom, models={"two": {**SMALL, "out_channels": 2}})
    assert (
        "models.two: gives [2, 2, 32, 32] for a patch of [32, 32]; expected logits [2, 3, 32, 32]"
        in text
    )


def test_claims_about_what_is_not_there(tmp_path, phantom):
    """Before hours of training, not after them."""
    better = {"loss": "dice", "against": "dice", "class": "class_9", "expect": "better"}
    largest = {
        "loss": "dice",
        "share": "l1",
        "at": "end",
        "class": "backgroun",
        "expect": "largest",
    }
    card = {"loss": "dice", "property": "absent_clas", "expect": "counts"}
    claims = [
        {"claim": "it is said", **evidence}
        for evidence in ({"comparison": better}, {"ledger": largest}, {"card": card})
    ]
    ledger = {"reference": "dice", "every": 1}
    assert problems(tmp_path, phantom, claims=claims, ledger=ledger).splitlines()[1:] == [
        "claims.0.comparison.class: phantom has no class 'class_9'; did you mean 'class_2'?",
        "claims.1.ledger.class: phantom has no class 'backgroun'; did you mean 'background'?",
        "claims.2.card.property: no row 'absent_clas'; did you mean 'absent_class'?",
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_models_of_the_catalogue_2d(tmp_path, phantom, name):
    run(tmp_path, phantom, models={name: MODELS[name]}, patch_size=[64, 64])


@pytest.mark.parametrize("name", [n for n in MODELS if MODELS[n]["_target_"].startswith("monai")])
@pytest.mark.slow
def test_models_of_the_catalogue_3d(tmp_path, phantom_3d, name):
    run(tmp_path, phantom_3d, models={name: MODELS[name]}, patch_size=[32, 32, 32])


LOSSES = {
    "dice": DICE,
    "again": DICE,
    "triple": {"_target_": f"{__name__}.Scaled", "factor": 3.0},
    "no_background": {**DICE, "include_background": False},
}


def test_without_a_background_a_loss_may_not_leave_class_0_out(tmp_path, no_background, phantom):
    """Also in one term, by a default of the library, or by another way than MONAI's keyword."""
    losses = {
        "dice": DICE,
        "ce": {"_target_": "torch.nn.CrossEntropyLoss"},
        "without": LOSSES["no_background"],
        "in_a_term": {
            "_target_": "monai.losses.DiceCELoss", "softmax": True, "include_background": False,
        },
        "by_default": {"_target_": "monai.losses.SoftclDiceLoss"},
        "wasserstein": {"_target_": "lossbench.losses.WassersteinDiceLoss"},
        "of_classes": {
            "_target_": "lossbench.losses.IndexTarget",
            "loss": {
                "_target_": "segmentation_models_pytorch.losses.DiceLoss",
                "mode": "multiclass", "classes": [1, 2],
            },
        },
    }  # fmt: skip
    lines = problems(tmp_path, no_background, losses).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "losses.without", "losses.in_a_term", "losses.by_default", "losses.wasserstein",
        "losses.of_classes",
    ]  # fmt: skip
    assert lines[0].strip() == (
        "losses.without: it leaves class 0 out, and no_background has no background (background: "
        "null): its class 0, background, is a class like the others; take include_background: "
        "false (or a weight of 0) away, or choose another loss"
    )
    kept = {name: losses[name] for name in ("dice", "ce")}
    of_losses = run(tmp_path, no_background, kept)["cards"]["no_background"]
    assert {of_losses[name]["background_value"] for name in kept} == {"none"}


@pytest.fixture(scope="module")
def found(tmp_path_factory, phantom):
    """check.json of a loss, its copy, its multiple, and another."""
    return run(tmp_path_factory.mktemp("found"), phantom, LOSSES, batch_size=4)


def test_each_loss_has_a_card(found):
    assert found["losses"] == list(LOSSES)
    cards = found["cards"]["phantom"]
    assert cards["again"] == cards["dice"]
    assert cards["triple"]["scale"] == pytest.approx(3, rel=0.01)
    assert cards["no_background"]["background_value"] == "no"
    assert {name for name, _ in found["properties"]} == set(cards["dice"])


def test_snapshots_at_the_start_and_later(found):
    (flight,) = found["gradients"]
    assert (flight["dataset"], flight["model"]) == ("phantom", "small")
    assert [snapshot["step"] for snapshot in flight["snapshots"]] == [0, 20]
    first, last = (snapshot["losses"]["dice"] for snapshot in flight["snapshots"])
    assert last["value"] < first["value"] - 0.01, "the reference was trained"


def test_a_multiple_is_seen_as_one(found):
    for snapshot in found["gradients"][0]["snapshots"]:
        losses, cosines = snapshot["losses"], snapshot["cosines"]
        assert losses["triple"]["scale"] == pytest.approx(3, rel=1e-3)
        assert losses["triple"]["value"] == pytest.approx(3 * losses["dice"]["value"], rel=1e-3)
        assert losses["triple"]["share_l1"] == pytest.approx(losses["dice"]["share_l1"], rel=1e-2)
        assert cosines["triple"]["dice"] == pytest.approx(1, abs=1e-3)
        assert cosines["again"]["dice"] == pytest.approx(1, abs=1e-3)
    assert found["gradients"][0]["snapshots"][0]["cosines"]["no_background"]["dice"] < 0.99


def test_the_shares_of_the_classes(found):
    for snapshot in found["gradients"][0]["snapshots"]:
        for loss in snapshot["losses"].values():
            for kind in ("share_value", "share_l1", "share_l2"):
                assert sum(loss[kind]) == pytest.approx(1, abs=1e-3)
        assert snapshot["losses"]["no_background"]["share_l1"][0] == 0
        assert snapshot["losses"]["dice"]["share_l1"][0] > 0.1


def test_words_about_scale(found):
    words = found["gradients"][0]["sentences"]
    assert any(
        w.startswith("again and dice are about the same function (cosine 1.000") for w in words
    )
    (scaled,) = [w for w in words if w.startswith("triple is about 3 times dice")]
    assert scaled.endswith("AdamW divides gradients by their size, so the two train alike.")
    assert "learning rate" not in scaled


def test_no_words_about_losses_of_the_scale_control(tmp_path, phantom):
    losses = {name: LOSSES[name] for name in ("dice", "triple")}
    found = run(tmp_path, phantom, losses, control=True)["gradients"][0]
    assert "triple_matched" in found["snapshots"][0]["losses"]
    (words,) = found["sentences"]
    assert words.startswith("triple is about 3 times dice")


def test_words_where_entries_train_differently(tmp_path, phantom):
    losses = {"dice": DICE, "triple": {**LOSSES["triple"], "training": {"optimizer": "sgd"}}}
    (words,) = run(tmp_path, phantom, losses)["gradients"][0]["sentences"]
    assert words.startswith("triple is about 3 times dice (cosine 1.000")
    assert words.endswith("); their training settings differ.")


def test_a_matched_loss_is_looked_at_with_its_factor(tmp_path, phantom):
    matched = {"_target_": "lossbench.losses.Scaled", "loss": LOSSES["triple"], "match": DICE}
    flight = run(tmp_path, phantom, {"dice": DICE, "matched": matched})["gradients"][0]
    assert flight["snapshots"][0]["losses"]["matched"]["scale"] == pytest.approx(1, rel=1e-3)


def test_words_under_sgd(tmp_path, phantom):
    losses = {name: LOSSES[name] for name in ("dice", "triple")}
    options = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9}
    (words,) = run(tmp_path, phantom, losses, **options)["gradients"][0]["sentences"]
    assert "as dice with a learning rate of 0.03 instead of 0.01; compare them at learning" in words


def test_a_check_is_repeatable(tmp_path, phantom):
    losses = {name: LOSSES[name] for name in ("dice", "no_background")}
    assert run(tmp_path, phantom, losses) == run(tmp_path, phantom, losses)


def test_ignored_voxels_take_no_part_in_the_gradients(tmp_path, phantom):
    """What the network says there makes no difference."""
    folder = tmp_path / "ignoring"
    shutil.copytree(phantom.folder, folder)
    labels = np.load(folder / "labels.npy")
    labels[::3] = IGNORE
    np.save(folder / "labels.npy", labels)
    write_json(folder / "classes.json", {**phantom.info, "ignore": True})
    data = Prepared(folder)
    for snapshot in run(tmp_path, data)["gradients"][0]["snapshots"]:
        assert sum(snapshot["losses"]["dice"]["share_value"]) == pytest.approx(1, abs=1e-3)
    flight = preflight.GradientProbe(experiment_of(data), data, "small")
    labels = flight.probe.labels
    logits = torch.randn(2, 3, 32, 32, requires_grad=True)
    batch_loss(flight.losses["dice"], logits, labels).backward()
    gradient = logits.grad.abs().sum(dim=1)
    assert (gradient[labels != IGNORE] > 0).all()
    assert not gradient[labels == IGNORE].any()


def test_no_time_for_steps(tmp_path, phantom, monkeypatch):
    monkeypatch.setattr(preflight, "SECONDS", 0.0)
    (flight,) = run(tmp_path, phantom)["gradients"]
    assert [snapshot["step"] for snapshot in flight["snapshots"]] == [0]


def test_text_for_a_terminal(found):
    shown = text(found, "", [], dict.fromkeys(found["data"]))
    for part in (
        "What each loss computes, on batches like those of phantom",
        "its gradient; vanishing: below a 1,000th of a present class's",
        "Gradients on phantom, small",
        "At the start",
        "After 20 steps of training with dice",
        "triple is about 3 times dice",
        "cosine to dice",
        "L1: background",
    ):
        assert part in shown
    assert "cosine to triple" not in shown  # a terminal is narrow
    assert all(len(line) <= 250 for line in shown.splitlines())


def test_one_of_two_ways_in(tmp_path):
    with pytest.raises(UserError, match="--experiment and --output, or --configfile"):
        check(experiment=tmp_path / "experiment.json")


@pytest.mark.slow
def test_a_config_is_checked_by_the_workflow(tmp_path):
    study = {
        "experiment": "mine",
        "matrix": {"dataset": ["tiny"], "model": ["small"], "loss": ["dice", "cross_entropy"], "fold": [0], "seed": [0]},
        "training": {"patch_size": [32, 32], "batch_size": 2},
        "models": {"small": SMALL},
        "datasets": {
            "tiny": {"_target_": "lossbench.datasets.Phantom", "fractions": [0.2], "cases": 8,
                     "size": [32, 32], "folds": 2}
        },
    }  # fmt: skip
    write_text(tmp_path / "mine.yaml", yaml.safe_dump(study))
    command = [sys.executable, "-m", "lossbench", "check", "--configfile", "mine.yaml"]
    source = os.pathsep.join([str(CONFIG.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "What each loss computes, on batches like those of tiny" in done.stdout
    assert "Gradients on tiny, small" in done.stdout
    assert "mine: 2 runs in 1 block: dice, cross_entropy on folds 0, seeds 0" in done.stdout
    assert "A block of tiny, small" in done.stdout
    assert "GB on cpu" in done.stdout or "GB on NVIDIA" in done.stdout
    assert (tmp_path / "results/mine/check.json").exists()

    study["matrix"]["loss"] = ["dice", "dise"]
    write_text(tmp_path / "mine.yaml", yaml.safe_dump(study))
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1
    assert "no loss 'dise' in losses; did you mean" in done.stderr
    assert "mine.yaml: the check did not pass" in done.stderr

    broken = {name: {"_target_": f"lossbench.datasets.{name}"} for name in ("one", "two")}
    study["matrix"] |= {"dataset": ["one", "two"], "loss": ["dice"]}
    write_text(tmp_path / "mine.yaml", yaml.safe_dump(study | {"datasets": broken}))
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True
    )  # fmt: skip
    assert all(
        f"datasets.{name}: lossbench.datasets has no '{name}'" in done.stderr for name in broken
    )
