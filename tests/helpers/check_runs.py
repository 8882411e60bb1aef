"""Experiments for `check`, and what it says of them."""

import pytest

from lossbench.common.files import read_json, write_text
from lossbench.config import ConfigError, validate
from lossbench.stages.check import check
from lossbench.workflow import with_code
from tests.helpers.trainings import DICE

SMALL = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": "$spatial_dims", "in_channels": "$in_channels",
    "out_channels": "$num_classes", "channels": [4, 8], "strides": [2],
}  # fmt: skip


def experiment_of(data, losses=None, models=None, folds=(0,), claims=(), control=False, **training):
    losses, models = losses or {"dice": DICE}, models or {"small": SMALL}
    execution = {
        k: training.pop(k) for k in ("validate_every", "log_every", "ledger") if k in training
    }
    return validate(
        {
            "experiment": "test",
            "matrix": {"dataset": [data.info["name"]], "model": list(models), "loss": list(losses), "fold": list(folds), "seed": [0]},
            "training": {"patch_size": [32] * data.info["spatial_dims"], "batch_size": 2, **training},
            "execution": execution,
            "comparison": {"reference": next(iter(losses)), "scale_control": control},
            "datasets": {data.info["name"]: {"_target_": "x.Y"}},
            "models": models,
            "losses": losses,
            "claims": list(claims),
        }
    )  # fmt: skip


def run(tmp_path, data, *arguments, **options):
    experiment = with_code(experiment_of(data, *arguments, **options))
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
