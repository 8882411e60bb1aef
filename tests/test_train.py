"""Pairing, the store, resuming, divergence: the heart of it, on a real network and real files."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lossbench.train
from lossbench.config import canonical, validate
from lossbench.files import read_json, write_text
from lossbench.provenance import run_digest
from lossbench.train import FILES, finished, learning_rate, train

NETS = "monai.networks.nets"
UNET = {
    "_target_": f"{NETS}.UNet", "spatial_dims": "$spatial_dims", "in_channels": "$in_channels",
    "out_channels": "$num_classes", "channels": [4, 8], "strides": [2], "dropout": 0.2,
}  # fmt: skip
DICE = {"_target_": "monai.losses.DiceLoss", "softmax": True}


class Noisy(nn.Module):
    """A user's loss that draws random numbers, as many as it likes."""

    def forward(self, logits, target):
        torch.manual_seed(int(torch.rand(1) * 1000))
        return ((logits - target) ** 2 * torch.rand_like(logits)).mean()


class Exploding(nn.Module):
    """Finite for some steps, then not."""

    def forward(self, logits, target):
        self.calls = getattr(self, "calls", 0) + 1
        return (logits - target).square().mean() / (0 if self.calls > 12 else 1)


class Interrupted(Exception):
    """Stands for a job that is killed."""


def block(root: Path, data, losses: dict, seed: int = 0, **training) -> Path:
    """Write a block.json as the workflow does."""
    settings = {"steps": 20, "batch_size": 3, "patch_size": [16] * data.info["spatial_dims"]}
    experiment = validate(
        {
            "experiment": "test",
            "matrix": {"dataset": ["d"], "model": ["m"], "loss": list(losses), "seed": [seed]},
            "training": settings | {"log_every": 5, "validate_every": 10} | training,
            "comparison": {"reference": next(iter(losses))},
            "datasets": {"d": {"_target_": "x.Y"}},
            "models": {"m": UNET},
            "losses": losses,
        }
    )
    path = root / f"seed{seed}" / "block.json"
    write_text(path, experiment.block_json(**next(experiment.blocks())))
    return path


def run(path: Path, data) -> Path:
    train(path, data.folder, path.parents[1] / "runs")
    return path.parent


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


LOSSES = {"dice": DICE, "dice_no_background": {**DICE, "include_background": False}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom):
    root = tmp_path_factory.mktemp("trained")
    return run(block(root, phantom, {**LOSSES, "again": DICE}), phantom)


def test_a_block_has_the_files_of_every_run(trained):
    for loss in ("dice", "dice_no_background", "again"):
        assert sorted(p.name for p in (trained / loss).iterdir()) == sorted(FILES)
    status = read_json(trained / "dice" / "status.json")
    assert status["status"] == "finished"
    assert status["steps"] == 20
    assert status["images_per_second"] > 0
    assert status["peak_memory_bytes"] > 1e6
    assert status["versions"]["torch"] == torch.__version__.split("+")[0]
    history = pd.read_csv(trained / "dice" / "history.csv")
    assert history["step"].tolist() == [5, 10, 15, 20]
    assert history["val/dice/class_1"].notna().tolist() == [False, True, False, True]
    assert history["train/learning_rate"].is_monotonic_decreasing
    assert (history["train/gradient_norm"] > 0).all()


def test_losses_of_a_block_start_equal_and_see_the_same_batches(trained):
    status = [read_json(trained / loss / "status.json") for loss in ("dice", "dice_no_background")]
    assert status[0]["init_digest"] == status[1]["init_digest"]
    assert status[0]["batch_digest"] == status[1]["batch_digest"]
    assert not equal(*(weights(trained / loss) for loss in ("dice", "dice_no_background")))


def test_the_same_loss_under_two_names_gives_the_same_bits(trained):
    assert equal(weights(trained / "dice"), weights(trained / "again"))


def test_a_loss_trained_alone_gives_the_bits_that_it_gives_in_a_block(trained, tmp_path, phantom):
    alone = run(block(tmp_path, phantom, {"dice": DICE}), phantom)
    assert equal(weights(alone / "dice"), weights(trained / "dice"))
    keys = ("digest", "init_digest", "batch_digest")
    status = [read_json(folder / "dice" / "status.json") for folder in (alone, trained)]
    assert [status[0][k] for k in keys] == [status[1][k] for k in keys]


def test_a_loss_that_draws_random_numbers_moves_nothing(trained, tmp_path, phantom):
    noisy = {"_target_": f"{__name__}.Noisy"}
    folder = run(block(tmp_path, phantom, {"noisy": noisy, **LOSSES}), phantom)
    assert equal(weights(folder / "dice"), weights(trained / "dice"))
    digest = read_json(folder / "noisy" / "status.json")["batch_digest"]
    assert digest == read_json(trained / "dice" / "status.json")["batch_digest"]


def test_another_seed_gives_other_weights_and_batches(trained, tmp_path, phantom):
    other = run(block(tmp_path, phantom, {"dice": DICE}, seed=1), phantom)
    status = [read_json(folder / "dice" / "status.json") for folder in (other, trained)]
    assert status[0]["init_digest"] != status[1]["init_digest"]
    assert status[0]["batch_digest"] != status[1]["batch_digest"]


def killed_at(monkeypatch, step: int):
    real = lossbench.train.Run._update

    def update(self, at):
        if at == step:
            raise Interrupted
        return real(self, at)

    monkeypatch.setattr(lossbench.train.Run, "_update", update)


@pytest.mark.parametrize("step", [3, 13])
def test_a_killed_run_resumes_to_the_same_bits(step, trained, tmp_path, phantom, monkeypatch):
    path = block(tmp_path, phantom, LOSSES)
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(Interrupted):
            run(path, phantom)
    kept = list((tmp_path / "runs").glob("*/checkpoint.pt"))
    assert len(kept) == (2 if step > 10 else 0)
    folder = run(path, phantom)
    for loss in LOSSES:
        assert equal(weights(folder / loss), weights(trained / loss))
        ours, theirs = (read_json(f / loss / "status.json") for f in (folder, trained))
        assert ours["batch_digest"] == theirs["batch_digest"]
        columns = ["step", "train/loss", "val/dice/class_1"]
        histories = [pd.read_csv(f / loss / "history.csv")[columns] for f in (folder, trained)]
        pd.testing.assert_frame_equal(*histories)
    assert not list((tmp_path / "runs").glob("*/checkpoint.pt"))


def test_a_damaged_checkpoint_is_named_and_trained_again(
    trained, tmp_path, phantom, monkeypatch, caplog
):
    path = block(tmp_path, phantom, {"dice": DICE})
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    (checkpoint,) = (tmp_path / "runs").glob("*/checkpoint.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    folder = run(path, phantom)
    assert "checkpoint.pt cannot be read" in caplog.text
    assert equal(weights(folder / "dice"), weights(trained / "dice"))


def test_the_store_is_looked_up_before_anything_is_trained(trained, tmp_path, phantom, monkeypatch):
    """A second run does nothing; an added loss trains alone; so does one with another keyword."""
    shutil.copytree(trained.parent / "runs", tmp_path / "runs", copy_function=os.link)
    names = []
    real = lossbench.train._train
    monkeypatch.setattr(
        lossbench.train, "_train", lambda runs: (names.append([r.name for r in runs]), real(runs))
    )
    run(block(tmp_path, phantom, LOSSES), phantom)
    assert names == []
    run(block(tmp_path, phantom, {**LOSSES, "smooth": {**DICE, "smooth_nr": 1}}), phantom)
    assert names == [["smooth"]]
    changed = {**LOSSES, "smooth": {**DICE, "smooth_nr": 2}}
    folder = run(block(tmp_path, phantom, changed), phantom)
    assert names == [["smooth"], ["smooth"]]
    assert read_json(folder / "smooth" / "run.json")["loss"]["smooth_nr"] == 2


def test_the_digest_is_of_specification_data_and_code(trained, monkeypatch):
    spec = read_json(trained / "dice" / "run.json")
    digest = run_digest(spec, "data")
    assert digest == run_digest(json.loads(canonical(spec)), "data")
    assert digest != run_digest(spec, "other data")
    monkeypatch.setattr("lossbench.provenance.CODE_VERSION", 2)
    assert digest != run_digest(spec, "data")


def test_a_loss_that_diverges_keeps_its_last_finite_weights(tmp_path, phantom):
    losses = {"bad": {"_target_": f"{__name__}.Exploding"}, "dice": DICE}
    folder = run(block(tmp_path, phantom, losses), phantom)
    status = read_json(folder / "bad" / "status.json")
    assert status["status"] == "diverged"
    assert status["steps"] == 15
    assert all(t.isfinite().all() for t in weights(folder / "bad").values())
    assert read_json(folder / "dice" / "status.json")["status"] == "finished"


def test_an_entry_with_settings_of_its_own_may_see_other_batches(tmp_path, phantom):
    few = {**DICE, "training": {"min_foreground": 0.2, "learning_rate": 0.01}}
    folder = run(block(tmp_path, phantom, {"dice": DICE, "few": few}), phantom)
    status = {loss: read_json(folder / loss / "status.json") for loss in ("dice", "few")}
    assert status["dice"]["batch_digest"] != status["few"]["batch_digest"]


def test_a_run_is_finished_when_all_of_it_is_there(trained, tmp_path):
    stored = trained.parent / "runs" / read_json(trained / "dice" / "status.json")["digest"]
    copy = Path(shutil.copytree(stored, tmp_path / "copy"))
    assert finished(copy)
    (copy / "model.safetensors").unlink()
    assert not finished(copy)


def test_3d_and_sgd_and_clipping(tmp_path, phantom_3d):
    options = {"optimizer": "sgd", "learning_rate": 0.01, "clip_norm": 0.1, "steps": 10}
    folder = run(block(tmp_path, phantom_3d, LOSSES, **options), phantom_3d)
    assert read_json(folder / "dice" / "status.json")["steps"] == 10


def test_learning_rate_decays_to_nothing_as_a_polynomial():
    settings = {"learning_rate": 0.1, "steps": 100, "decay_power": 0.9}
    assert learning_rate(settings, 0) == 0.1
    assert learning_rate(settings, 50) == pytest.approx(0.1 * 0.5**0.9)
    assert 0 < learning_rate(settings, 99) < 0.002
