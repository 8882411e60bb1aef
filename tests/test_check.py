"""check: what cannot be trained is refused before anything is, with all that is wrong."""

import pytest
import torch
import yaml
from torch import nn

from lossbench.check import check
from lossbench.config import ConfigError, validate
from lossbench.files import read_json, write_text
from tests.test_config import CONFIG

MODELS = yaml.safe_load((CONFIG / "models.yaml").read_text())["models"]
SMALL = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": "$spatial_dims", "in_channels": "$in_channels",
    "out_channels": "$num_classes", "channels": [4, 8], "strides": [2],
}  # fmt: skip
DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True}


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


def run(tmp_path, data, losses=None, models=None, folds=(0,), **training):
    losses, models = losses or {"dice": DICE}, models or {"small": SMALL}
    experiment = validate(
        {
            "experiment": "test",
            "matrix": {"dataset": [data.info["name"]], "model": list(models), "loss": list(losses), "fold": list(folds)},
            "training": {"patch_size": [32] * data.info["spatial_dims"], **training},
            "comparison": {"reference": next(iter(losses))},
            "datasets": {data.info["name"]: {"_target_": "x.Y"}},
            "models": models,
            "losses": losses,
        }
    )  # fmt: skip
    root = tmp_path / "results"
    (root / "datasets").mkdir(parents=True, exist_ok=True)
    link = root / "datasets" / data.info["name"]
    if not link.exists():
        link.symlink_to(data.folder)
    write_text(root / "test/experiment.json", experiment.experiment_json())
    check(root / "test/experiment.json", root / "test/check.json")
    return read_json(root / "test/check.json")


def problems(*arguments, **options):
    with pytest.raises(ConfigError) as caught:
        run(*arguments, **options)
    return str(caught.value)


def test_what_can_be_trained_passes(tmp_path, phantom):
    assert run(tmp_path, phantom)["tried"] == ["phantom/fold0", "phantom/dice", "phantom/small"]


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            {"_target_": f"{__name__}.Vector"},
            "losses.it: gives shape [2], and a scalar tensor is wanted",
        ),
        ({"_target_": f"{__name__}.Constant"}, "losses.it: has no gradient"),
        ({"_target_": f"{__name__}.Flat"}, "the gradient is all 0"),
        ({"_target_": f"{__name__}.Indices"}, "losses.it: Indices failed on logits [2, 3, 16, 16]"),
        (
            {"_target_": "monai.losses.DiceLos"},
            "monai.losses has no 'DiceLos'; did you mean 'DiceLoss'?",
        ),
        ({"_target_": "os.getcwd"}, "losses.it: os.getcwd is not a torch.nn.modules.module.Module"),
        ({**DICE, "weight": [1.0, 2.0]}, "The length of the `weight` sequence should be the same"),
        ({**DICE, "weight": "$inverse"}, "losses.it: unknown weights $inverse"),
    ],
)
def test_losses_that_cannot_be_used(tmp_path, phantom, loss, text):
    assert text in problems(tmp_path, phantom, {"it": loss})


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


def test_a_model_with_other_logits(tmp_path, phantom):
    text = problems(tmp_path, phantom, models={"two": {**SMALL, "out_channels": 2}})
    assert (
        "models.two: gives [2, 2, 32, 32] for a patch of [32, 32]; wanted: logits [2, 3, 32, 32]"
        in text
    )


@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_catalogue_2d(tmp_path, phantom, name):
    run(tmp_path, phantom, models={name: MODELS[name]}, patch_size=[64, 64])


@pytest.mark.parametrize("name", [n for n in MODELS if MODELS[n]["_target_"].startswith("monai")])
def test_models_of_the_catalogue_3d(tmp_path, phantom_3d, name):
    run(tmp_path, phantom_3d, models={name: MODELS[name]}, patch_size=[32, 32, 32])
