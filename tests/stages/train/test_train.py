"""Pairing, the store, resuming, divergence: the heart of it, on a real network and real files."""

import json
import locale
import logging.config
import os
import random
import re
import shutil
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

import lossbench.common.progress
import lossbench.stages.train.loop
import lossbench.stages.train.run
from lossbench.common.files import read_json, write_json
from lossbench.common.provenance import run_digest, state_digest
from lossbench.config import UserError, canonical
from lossbench.datasets.batches import FNV_PRIME, Batches
from lossbench.datasets.prepared import Prepared
from lossbench.losses import build_loss
from lossbench.models import build_model, load_run, to_device
from lossbench.stages.train.cuda_graph import choose_update, warm_up
from lossbench.stages.train.finished_runs import FILES, is_finished
from lossbench.stages.train.loop import learning_rate
from tests.helpers.trainings import (
    DICE,
    LOSSES,
    MODELS,
    NETS,
    UNET,
    Interrupted,
    block,
    equal,
    killed_at,
    run,
    weights,
)


class Noisy(nn.Module):
    """A user's loss that draws random numbers, as many as it likes."""

    def forward(self, logits, target):
        torch.manual_seed(int(torch.rand(1) * 1000))
        return ((logits - target) ** 2 * torch.rand_like(logits)).mean()


class Shared(nn.Module):
    """A network that has the same weights under two names, as MONAI's DynUNet does."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.head = nn.ModuleList([self.layer])

    def forward(self, images):
        return self.head[0](images)


class Exploding(nn.Module):
    """Finite for some steps, then not."""

    def forward(self, logits, target):
        self.calls = getattr(self, "calls", 0) + 1
        return (logits - target).square().mean() / (0 if self.calls > 12 else 1)


def locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    lock.acquire()
    return lock


def finished(folder: Path) -> bool:
    return is_finished(folder, {"precision": "bf16"})


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
    real = lossbench.stages.train.train_runs
    monkeypatch.setattr(
        lossbench.stages.train,
        "train_runs",
        lambda runs, *rest: names.append([r.name for r in runs]) or real(runs, *rest),
    )
    run(block(tmp_path, phantom, LOSSES), phantom)
    assert names == []
    run(block(tmp_path, phantom, {**LOSSES, "smooth": {**DICE, "smooth_nr": 1}}), phantom)
    assert names == [["smooth"]]
    changed = {**LOSSES, "smooth": {**DICE, "smooth_nr": 2}}
    folder = run(block(tmp_path, phantom, changed), phantom)
    assert names == [["smooth"], ["smooth"]]
    assert read_json(folder / "smooth" / "run.json")["loss"]["smooth_nr"] == 2


def test_a_run_that_another_process_trains_is_waited_for(
    trained, tmp_path, phantom, monkeypatch, caplog
):
    """Two experiments at once train what they share once, whichever comes first."""
    caplog.set_level("INFO")
    digest = read_json(trained / "dice" / "status.json")["digest"]
    shared, names = tmp_path / "runs" / digest, []
    other = locked(shared / "lock")

    def sleep(seconds):
        """Meanwhile the other process comes to its end."""
        for file in FILES:
            os.link(trained.parent / "runs" / digest / file, shared / file)
        other.release()

    real = lossbench.stages.train.train_runs
    monkeypatch.setattr(lossbench.stages.train.time, "sleep", sleep)
    monkeypatch.setattr(
        lossbench.stages.train,
        "train_runs",
        lambda runs, *rest: names.append([r.name for r in runs]) or real(runs, *rest),
    )
    folder = run(block(tmp_path, phantom, LOSSES), phantom)
    assert names == [["dice_no_background"]]
    assert "waiting for dice, which another process trains" in caplog.text
    assert (folder / "dice" / "status.json").samefile(shared / "status.json")


def test_a_run_that_another_process_left_is_taken_over(trained, tmp_path, phantom, monkeypatch):
    """It was killed: its lock is free, and its checkpoint is there."""
    digest = read_json(trained / "dice" / "status.json")["digest"]
    other = locked(tmp_path / "runs" / digest / "lock")
    monkeypatch.setattr(lossbench.stages.train.time, "sleep", lambda seconds: other.release())
    folder = run(block(tmp_path, phantom, LOSSES), phantom)
    assert equal(weights(folder / "dice"), weights(trained / "dice"))


def test_the_digest_is_of_specification_data_and_code(trained, monkeypatch):
    spec = read_json(trained / "dice" / "run.json")
    digest = run_digest(spec, "data")
    assert digest == run_digest(json.loads(canonical(spec)), "data")
    assert digest != run_digest(spec, "other data")
    monkeypatch.setattr("lossbench.common.provenance.CODE_VERSION", 999)
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


def test_a_network_with_the_same_weights_under_two_names(tmp_path, phantom):
    model = {
        "_target_": f"{__name__}.Shared",
        "in_channels": "$in_channels",
        "num_classes": "$num_classes",
    }
    folder = run(block(tmp_path, phantom, {"dice": DICE}, model=model), phantom) / "dice"
    found = load_run(folder, phantom)
    assert found.head[0] is found.layer
    assert torch.equal(weights(folder)["head.0.weight"], weights(folder)["layer.weight"])
    assert torch.equal(found.layer.weight, weights(folder)["layer.weight"])


@pytest.mark.parametrize(
    ("dims", "name"),
    [(2, x) for x in MODELS]
    + [(3, x) for x, entry in MODELS.items() if "$spatial_dims" in entry.values()],
)
@pytest.mark.slow
def test_a_network_of_the_catalogue_is_trained_stored_and_read(
    dims, name, tmp_path, phantom, phantom_3d
):
    data, every = {2: phantom, 3: phantom_3d}[dims], {"log_every": 1, "validate_every": 1}
    size = {2: 64, 3: 32}[dims]
    path = block(
        tmp_path,
        data,
        {"dice": DICE},
        model=MODELS[name],
        steps=1,
        patch_size=[size] * dims,
        **every,
    )
    folder = run(path, data) / "dice"
    found = load_run(folder, data).state_dict()
    assert equal(found, weights(folder))


def test_3d_and_sgd_and_clipping(tmp_path, phantom_3d):
    options = {"optimizer": "sgd", "learning_rate": 0.01, "clip_norm": 0.1, "steps": 10}
    folder = run(block(tmp_path, phantom_3d, LOSSES, **options), phantom_3d)
    assert read_json(folder / "dice" / "status.json")["steps"] == 10


def test_gradients_are_clipped_where_their_norm_is_above_the_limit_alone(tmp_path, phantom):
    limits = {"none": None, "far": 1e9, "near": 1e-3}
    losses = {name: {**DICE, "training": {"clip_norm": x}} for name, x in limits.items()}
    folder = run(block(tmp_path, phantom, losses, optimizer="sgd", learning_rate=0.01), phantom)
    none, far, near = (weights(folder / name) for name in losses)
    assert equal(none, far)
    assert not equal(none, near)
    norms = [pd.read_csv(folder / x / "history.csv")["train/gradient_norm"] for x in losses]
    assert norms[0].tolist() == norms[1].tolist()
    assert norms[2][0] > limits["near"]  # as it was before


def test_learning_rate_decays_to_nothing_as_a_polynomial():
    settings = {"learning_rate": 0.1, "steps": 100, "decay_power": 0.9}
    assert learning_rate(settings, 0) == 0.1
    assert learning_rate(settings, 50) == pytest.approx(0.1 * 0.5**0.9)
    assert 0 < learning_rate(settings, 99) < 0.002


RAW = {**DICE, "weight": "$inverse_frequency_raw"}
LEDGER = {"every": 10, "reference": "dice"}


@pytest.fixture(scope="module")
def with_ledger(tmp_path_factory, phantom):
    losses = LOSSES | {"raw": RAW}
    root = tmp_path_factory.mktemp("ledger")
    return run(block(root, phantom, losses, ledger=LEDGER), phantom)


def ledger(folder: Path) -> pd.DataFrame:
    history = pd.read_csv(folder / "history.csv")
    return history.set_index("step").filter(like="ledger/").dropna(how="all")


def test_the_ledger_moves_nothing(with_ledger, trained):
    for loss in LOSSES:
        assert equal(weights(with_ledger / loss), weights(trained / loss))


def test_the_ledger_has_entries_at_its_steps_and_at_both_ends(with_ledger, phantom):
    found = ledger(with_ledger / "dice_no_background")
    assert found.index.tolist() == [0, 10, 20]
    kinds = {f"ledger/{kind}/{c}" for kind in ("value", "l1", "l2") for c in phantom.classes}
    assert set(found) == {"ledger/norm", "ledger/scale", "ledger/cosine"} | kinds
    for kind in ("value", "l1", "l2"):
        assert found.filter(like=f"/{kind}/").sum(axis=1).to_numpy() == pytest.approx(1)
    assert (found["ledger/value/background"] == 0).all()


def test_the_reference_is_itself_in_the_ledger(with_ledger):
    found = ledger(with_ledger / "dice")
    assert found[["ledger/scale", "ledger/cosine"]].to_numpy() == pytest.approx(1)


def test_the_ledger_follows_the_training_of_its_own_loss(with_ledger):
    """At the start all losses look from the same weights: the norms give the scale."""
    dice, raw = (ledger(with_ledger / loss) for loss in ("dice", "raw"))
    ratio = raw["ledger/norm"] / dice["ledger/norm"]
    assert raw.loc[0, "ledger/scale"] == pytest.approx(ratio[0], rel=1e-5)
    assert raw.loc[20, "ledger/scale"] != pytest.approx(ratio[20], rel=1e-3)


def test_a_killed_run_has_the_ledger_of_an_uninterrupted_one(
    with_ledger, tmp_path, phantom, monkeypatch
):
    path = block(tmp_path, phantom, LOSSES, ledger=LEDGER)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    again = run(path, phantom)
    for loss in LOSSES:
        pd.testing.assert_frame_equal(ledger(again / loss), ledger(with_ledger / loss))


class Normalised(nn.Module):
    """A network whose running statistics a pass in training mode moves."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.last = nn.Conv2d(in_channels, num_classes, 3, padding=1)

    def forward(self, images):
        return self.last(self.norm(images))


def test_the_ledger_leaves_running_statistics_alone(tmp_path, phantom, monkeypatch):
    model = {"_target_": f"{__name__}.Normalised"}
    model |= {"in_channels": "$in_channels", "num_classes": "$num_classes"}
    monkeypatch.setitem(UNET, "_target_", model["_target_"])
    for key in set(UNET) - {"_target_"}:
        monkeypatch.delitem(UNET, key)
    for key in ("in_channels", "num_classes"):
        monkeypatch.setitem(UNET, key, f"${key}")
    without = run(block(tmp_path / "a", phantom, {"dice": DICE}), phantom)
    looked = run(block(tmp_path / "b", phantom, {"dice": DICE}, ledger=LEDGER), phantom)
    assert equal(weights(without / "dice"), weights(looked / "dice"))


def scaled(**arguments) -> dict:
    return {"_target_": "lossbench.losses.Scaled", **arguments}


def test_a_loss_times_its_inverse_is_the_loss(tmp_path, phantom, trained):
    losses = {"dice": DICE, "halved": scaled(loss=scaled(loss=DICE, factor=2.0), factor=0.5)}
    folder = run(block(tmp_path, phantom, losses), phantom)
    assert equal(weights(folder / "halved"), weights(trained / "dice"))
    assert read_json(folder / "halved" / "status.json")["loss_factor"] == 0.5


def test_a_matched_loss_starts_with_the_gradient_norm_of_the_other(tmp_path, phantom):
    """Then raw inverse frequency, a plain multiple of its own, trains as the normalised one."""
    mean_1 = {**DICE, "weight": "$inverse_frequency"}
    losses = {"dice": mean_1, "raw": RAW, "matched": scaled(loss=RAW, match=mean_1)}
    path = block(tmp_path, phantom, losses, ledger=LEDGER, optimizer="sgd", learning_rate=0.1)
    folder = run(path, phantom)
    assert ledger(folder / "raw").loc[0, "ledger/scale"] > 2
    assert ledger(folder / "matched")["ledger/scale"].to_numpy() == pytest.approx(1, rel=1e-4)
    factor = read_json(folder / "matched" / "status.json")["loss_factor"]
    assert factor == pytest.approx(1 / ledger(folder / "raw").loc[0, "ledger/scale"], rel=1e-5)
    left, right = weights(folder / "matched"), weights(folder / "dice")
    assert all(torch.allclose(left[k], right[k], atol=1e-4) for k in left)
    far = weights(folder / "raw")
    assert not all(torch.allclose(far[k], right[k], atol=1e-2) for k in far)


class Flat(nn.Module):
    """No gradient at all."""

    def forward(self, logits, target):
        return 0 * logits.sum()


def test_a_loss_without_gradient_cannot_be_matched(tmp_path, phantom):
    flat = {"_target_": f"{__name__}.Flat"}
    path = block(tmp_path, phantom, {"dice": DICE, "flat": scaled(loss=flat, match=DICE)})
    with pytest.raises(UserError, match=r"losses\.flat: the gradient norm of Flat .* is 0;"):
        run(path, phantom)


def test_progress_is_left_while_a_run_trains_and_gone_after(tmp_path, phantom, monkeypatch):
    monkeypatch.setattr(lossbench.stages.train.run, "PROGRESS_SECONDS", 0.0)
    seen, path = [], block(tmp_path, phantom, {"dice": DICE})
    finish = lossbench.stages.train.run.Run.finish

    def look(self):
        seen.append(pd.read_csv(self.folder / "progress.csv")["step"].tolist())
        finish(self)

    monkeypatch.setattr(lossbench.stages.train.run.Run, "finish", look)
    folder = run(path, phantom)
    assert seen == [[5, 10, 15, 20]]
    assert not list((folder.parent / "runs").rglob("progress.csv"))


@pytest.mark.parametrize(("name", "step"), [("SIGTERM", 7), ("SIGINT", 10)])
def test_a_job_that_is_told_to_end_goes_on_from_that_very_step(
    name, step, with_ledger, tmp_path, phantom, monkeypatch
):
    """Weights, digests, and the history with its means, which began before the signal."""
    path = block(tmp_path, phantom, LOSSES, ledger=LEDGER)
    real, steps = lossbench.stages.train.loop.take_step, []

    def signalled(run):
        real(run)
        steps.append((run.name, run.step))
        if len(steps) == step:
            os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(lossbench.stages.train.loop, "take_step", signalled)
    with pytest.raises(SystemExit) as left:
        run(path, phantom)
    assert left.value.code == 1
    assert len(steps) == step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    steps.clear()
    monkeypatch.setattr(lossbench.stages.train.loop, "take_step", real)
    again = run(path, phantom)
    for loss in LOSSES:
        assert equal(weights(again / loss), weights(with_ledger / loss))
        ours, theirs = (pd.read_csv(f / loss / "history.csv") for f in (again, with_ledger))
        pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))
        ours, theirs = (read_json(f / loss / "status.json") for f in (again, with_ledger))
        assert ours["batch_digest"] == theirs["batch_digest"]


def test_checkpoints_come_by_time_alone(tmp_path, phantom, monkeypatch):
    steps, checkpoint = [], lossbench.stages.train.run.Run.checkpoint

    def counted(self):
        steps.append(self.step)
        checkpoint(self)

    monkeypatch.setattr(lossbench.stages.train.run.Run, "checkpoint", counted)
    run(block(tmp_path / "a", phantom, {"dice": DICE}), phantom)
    assert steps == []  # it was over in a minute
    monkeypatch.setattr(lossbench.stages.train.loop, "CHECKPOINT_SECONDS", 0.0)
    run(block(tmp_path / "b", phantom, {"dice": DICE}), phantom)
    assert steps == [5, 10, 15, 20]


class Failing(nn.Module):
    """A user's loss with a mistake that shows late."""

    def forward(self, logits, target):
        self.calls = getattr(self, "calls", 0) + 1
        return logits.mean() if self.calls < 8 else {}["nothing"]


def test_a_loss_that_fails_takes_no_other_with_it(tmp_path, phantom, caplog):
    losses = {"failing": {"_target_": f"{__name__}.Failing"}, **LOSSES}
    with pytest.raises(UserError) as error:
        run(block(tmp_path, phantom, losses), phantom)
    line = Path(__file__).read_text().splitlines().index(
        '        return logits.mean() if self.calls < 8 else {}["nothing"]'
    ) + 1  # fmt: skip
    where = f"test_train.py, line {line}"
    assert str(error.value) == f"losses.failing: failed at step 7: KeyError: 'nothing' ({where})"
    assert "Traceback" in caplog.text
    stored = [f for f in (tmp_path / "runs").iterdir() if finished(f)]
    assert sorted(read_json(f / "run.json")["loss"]["name"] for f in stored) == sorted(LOSSES)
    caplog.set_level("INFO", "lossbench")
    run(block(tmp_path, phantom, LOSSES), phantom)
    assert caplog.text.count("taken from the store") == 2


class Exiting(nn.Module):
    """A user's loss that ends the program."""

    def __init__(self, by=None):
        super().__init__()
        self.by = by

    def forward(self, logits, target):
        if self.by == "os._exit":
            os._exit(0)
        raise KeyboardInterrupt if self.by else SystemExit(0)


@pytest.mark.parametrize(
    ("by", "what"),
    [(None, "SystemExit: 0"), ("os._exit", "SystemExit: 0"), ("Ctrl-C", "KeyboardInterrupt")],
)
def test_a_loss_that_exits_takes_no_other_with_it(tmp_path, phantom, by, what):
    losses = {"exiting": {"_target_": f"{__name__}.Exiting", "by": by}, **LOSSES}
    with pytest.raises(UserError, match=rf"losses\.exiting: failed at step 0: {what}"):
        run(block(tmp_path, phantom, losses), phantom)
    stored = [f for f in (tmp_path / "runs").iterdir() if finished(f)]
    assert sorted(read_json(f / "run.json")["loss"]["name"] for f in stored) == sorted(LOSSES)


class InPlace(nn.Module):
    """A user's network that changes its input: by an operation that torch counts, or behind it."""

    def __init__(self, in_channels, out_channels, hidden=False):
        super().__init__()
        self.layer, self.hidden = nn.Conv2d(in_channels, out_channels, 1), hidden

    def forward(self, images):
        (images.data if self.hidden else images).mul_(1.5)
        return self.layer(images)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("speed", ["auto", "exact"])
def test_a_network_that_changes_the_batch_is_named(tmp_path, phantom, hidden, speed):
    model = {"_target_": f"{__name__}.InPlace", "in_channels": "$in_channels"}
    model |= {"out_channels": "$num_classes", "hidden": hidden}
    path = block(tmp_path, phantom, LOSSES, model=model, speed=speed)
    with pytest.raises(UserError) as error:
        run(path, phantom)
    lines = str(error.value).splitlines()
    assert len(lines) == len(LOSSES)
    assert all(f"models.m: {__name__}.InPlace changes its input in place" in line for line in lines)


class Meddling(nn.Module):
    """A user's loss that sets what torch, numpy and Python keep for the whole process."""

    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails
        torch.set_default_dtype(torch.float64)

    def forward(self, logits, target):
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(2)
        torch.autograd.set_detect_anomaly(True)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        os.chdir("/")
        os.environ["LOSSBENCH_TEST"] = "1"
        os.environ.pop("PATH")
        locale.setlocale(locale.LC_ALL, "C")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.config.dictConfig({"version": 1})
        logging.disable()
        torch.set_flush_denormal(True)
        torch.set_autocast_enabled("cpu", True)
        torch.backends.mkldnn.set_flags(False)
        value = ((logits.softmax(1) - target) ** 2).mean()
        if self.fails:
            torch.set_grad_enabled(False)
            raise ValueError
        return value


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.slow
def test_a_loss_that_changes_global_state_changes_no_other(tmp_path, phantom, fails):
    alone = run(block(tmp_path / "alone", phantom, {"dice": DICE}), phantom)
    losses = {"meddling": {"_target_": f"{__name__}.Meddling", "fails": fails}, "dice": DICE}
    path = block(tmp_path / "beside", phantom, losses)
    before = [repr(x) for x in global_state()]
    with pytest.raises(UserError) if fails else nullcontext():
        run(path, phantom)
    assert [repr(x) for x in global_state()] == before
    folders = [f for f in (tmp_path / "beside/runs").iterdir() if finished(f)]
    (dice,) = [f for f in folders if read_json(f / "run.json")["loss"]["name"] == "dice"]
    assert equal(weights(dice), weights(alone / "dice"))


def global_state():
    return (
        *(torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
        *(torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision()),
        *(torch.get_num_threads(), torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark),
        *(np.geterr(), warnings.filters[:], Path.cwd()),
    )


class Greedy(nn.Module):
    def forward(self, logits, target):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_out_of_memory_says_what_to_lower(tmp_path, phantom, caplog):
    with pytest.raises(UserError) as error:
        run(block(tmp_path, phantom, {"greedy": {"_target_": f"{__name__}.Greedy"}}), phantom)
    assert re.fullmatch(
        r"losses\.greedy: out of memory at step 0, with \d+\.\d GB at the peak of the \d+\.\d GB of "
        r"cpu \(1 threads\); training\.batch_size is 3 and training\.patch_size \[16, 16\]: lower one",
        str(error.value),
    )
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_the_store_that_was_altered_is_named_and_trained_again(
    file, trained, tmp_path, phantom, caplog
):
    shutil.copytree(trained.parent / "runs", tmp_path / "runs")
    folder = tmp_path / "runs" / read_json(trained / "dice" / "status.json")["digest"]
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1 if file != "status.json" else 0x80
    (folder / file).write_bytes(content)
    again = run(block(tmp_path, phantom, LOSSES), phantom)
    assert f"{folder / file}: " in caplog.text
    assert "trained again" in caplog.text
    assert equal(weights(again / "dice"), weights(trained / "dice"))
    assert finished(folder)


def test_a_store_of_another_version_is_named_and_trained_again(trained, tmp_path, phantom, caplog):
    shutil.copytree(trained.parent / "runs", tmp_path / "runs")
    status = (
        tmp_path / "runs" / read_json(trained / "dice" / "status.json")["digest"] / "status.json"
    )
    write_json(status, {k: v for k, v in read_json(status).items() if k != "sha256"})
    assert not finished(status.parent)
    assert f"{status.parent}: of another version of lossbench" in caplog.text


def test_prepared_data_that_was_altered_is_named(tmp_path, phantom):
    data = Prepared(shutil.copytree(phantom.folder, tmp_path / "data"))
    array = np.load(data.folder / "labels.npy", mmap_mode="r+")
    array[7] += 1
    array.flush()
    with pytest.raises(UserError, match=r"labels\.npy: missing, or not as it was written; delete"):
        run(block(tmp_path, data, LOSSES), data)


def curve(folder: Path, loss: str = "dice") -> np.ndarray:
    """Loss and gradient norm along the training."""
    return pd.read_csv(folder / loss / "history.csv")[["train/loss", "train/gradient_norm"]].values


SEGRESNET = {
    "_target_": f"{NETS}.SegResNet", "spatial_dims": "$spatial_dims", "init_filters": 8,
    "in_channels": "$in_channels", "out_channels": "$num_classes",
}  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.slow
def test_channels_last_gives_the_same_figures(dims, tmp_path, phantom, phantom_3d, monkeypatch):
    data = phantom if dims == 2 else phantom_3d
    fast = run(block(tmp_path / "fast", data, {"dice": DICE}, model=SEGRESNET), data)
    monkeypatch.setattr("lossbench.stages.train.run.to_device", lambda model, device: model)
    plain = run(block(tmp_path / "plain", data, {"dice": DICE}, model=SEGRESNET), data)
    np.testing.assert_allclose(curve(fast), curve(plain), rtol=3e-3)


@pytest.mark.parametrize(("norm", "changed"), [("batch", True), ("instance", False)])
def test_channels_last_is_for_networks_whose_normalisation_knows_it(norm, changed):
    from monai.networks.nets import UNet

    model = to_device(UNet(2, 1, 2, [4, 8], [2], norm=norm), torch.device("cpu"))
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1]
    layouts = {w.is_contiguous(memory_format=torch.channels_last) for w in weights}
    assert layouts == {changed}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.slow
def test_a_warm_up_changes_no_bit(optimizer, tmp_path, phantom, monkeypatch):
    """As for a CUDA graph: before the first step, and before the first one after a kill."""
    plain = run(block(tmp_path / "plain", phantom, LOSSES, optimizer=optimizer), phantom)
    shapes = []

    def warmed_up(update, run, images, labels):
        shapes.append(images.shape)
        warm_up(lambda: update(images, labels), run)
        return update

    monkeypatch.setattr("lossbench.stages.train.loop.choose_update", warmed_up)
    path = block(tmp_path / "warm", phantom, LOSSES, optimizer=optimizer)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    again = run(path, phantom)
    assert len(shapes) == 2 * len(LOSSES)
    for loss in LOSSES:
        assert equal(weights(again / loss), weights(plain / loss))


ELSEWHERE = SimpleNamespace(arrays=SimpleNamespace(is_on_device=False))  # than on the GPU


def test_a_step_that_cannot_be_a_graph_is_taken_eagerly(monkeypatch, caplog):
    caplog.set_level("INFO", "lossbench")

    def refused(*given):
        raise RuntimeError("the step copies from the CPU to the GPU")

    monkeypatch.setattr("lossbench.stages.train.cuda_graph.capture_cuda_graph", refused)
    on_gpu = SimpleNamespace(
        name="dice", execution={"speed": "auto"}, device=torch.device("cuda"),
        engine={"graph": False}, loss=nn.Identity(), batches=ELSEWHERE,
    )  # fmt: skip
    update = object()
    assert choose_update(update, on_gpu, None, None) is update
    assert on_gpu.engine == {"graph": False}
    assert "dice: takes its steps without a CUDA graph (the step copies" in caplog.text


def test_the_batch_digest_is_of_all_batches_in_their_order(trained, phantom):
    spec, digest = read_json(trained / "dice" / "run.json"), 0
    batches = Batches(phantom, spec["fold"], spec["seed"], spec["training"], torch.device("cpu"))
    for step in range(spec["training"]["steps"]):
        digest = (digest * FNV_PRIME + batches(step).checksum.item()) % 2**64
    assert read_json(trained / "dice" / "status.json")["batch_digest"] == f"{digest:016x}"


def test_a_row_of_the_history_is_a_mean_since_the_row_before(tmp_path, phantom):
    rows = {}
    for every in (1, 7):
        folder = run(
            block(tmp_path / str(every), phantom, {"dice": DICE}, log_every=every), phantom
        )
        rows[every] = pd.read_csv(folder / "dice/history.csv").set_index("step")
    columns = ["train/loss", "train/gradient_norm"]
    single, means = (rows[every].loc[1:, columns].dropna() for every in (1, 7))
    assert means.index.tolist() == [7, 10, 14, 20], "also where it is validated, and of the last"
    for begin, end in ((1, 7), (8, 10), (11, 14), (15, 20)):
        assert means.loc[end].tolist() == pytest.approx(single.loc[begin:end].mean().tolist())
    assert len(single) == 20
    at = SimpleNamespace(step=20, steps=20, execution={"validate_every": 7}, ledger=None)
    assert lossbench.stages.train.run.Run.is_due(at, "validate_every"), "the last step always"


class Scheduled(nn.Module):
    """A loss that takes the step."""

    called: ClassVar[list[tuple[int, int]]] = []

    def forward(self, logits, target, step, *, steps):
        self.called.append((step, steps))
        return (1 + step / steps) * nn.functional.cross_entropy(logits, target)


def test_a_loss_that_takes_the_step_is_no_graph(monkeypatch, caplog):
    caplog.set_level("INFO", "lossbench")
    captured = []
    monkeypatch.setattr(
        "lossbench.stages.train.cuda_graph.capture_cuda_graph",
        lambda *given: captured.append(given),
    )
    spec = {"_target_": f"{__name__}.Scheduled"}
    for loss in (spec, {"_target_": "lossbench.losses.Scaled", "loss": spec}):
        on_gpu = SimpleNamespace(
            name="it", execution={"speed": "auto"}, device=torch.device("cuda"), batches=ELSEWHERE,
            engine={"graph": False}, loss=build_loss({"name": "it", **loss}, [1, 1], ["a", "b"]),
        )  # fmt: skip
        update = object()
        assert choose_update(update, on_gpu, None, None) is update
    assert not captured
    assert "its loss takes the step" in caplog.text


@pytest.mark.slow
def test_a_loss_gets_the_step_also_after_a_kill(tmp_path, phantom, monkeypatch):
    inner = {"_target_": f"{__name__}.Scheduled"}
    losses = {"it": {"_target_": "lossbench.losses.Scaled", "loss": inner}, "dice": DICE}
    Scheduled.called.clear()
    whole = run(block(tmp_path / "whole", phantom, losses), phantom)
    assert Scheduled.called == [(step, 20) for step in range(20)]
    path = block(tmp_path / "killed", phantom, losses)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    assert equal(weights(run(path, phantom) / "it"), weights(whole / "it"))


@pytest.mark.slow
def test_a_ledger_moves_no_state_of_a_loss(tmp_path, phantom):
    losses = {"annealed": {"_target_": f"{__name__}.Annealed"}, "dice": DICE}
    plain = run(block(tmp_path / "plain", phantom, losses), phantom)
    looked = run(block(tmp_path / "ledger", phantom, losses, ledger=LEDGER), phantom)
    assert equal(weights(looked / "annealed"), weights(plain / "annealed"))


class Counting(nn.Module):
    """A loss that changes from call to call."""

    calls = 0

    def forward(self, logits, target):
        Counting.calls += 1
        return ((logits - target) ** 2).mean() * (1 + Counting.calls)


def test_exact_says_whether_a_step_taken_twice_gives_the_same_bits(tmp_path, phantom, trained):
    losses = {"dice": DICE, "counting": {"_target_": f"{__name__}.Counting"}}
    folder = run(block(tmp_path, phantom, losses, speed="exact", optimizer="sgd"), phantom)
    engines = {loss: read_json(folder / loss / "status.json")["engine"] for loss in losses}
    plain = {"precision": "float32", "graph": False, "compiled": False}
    assert engines == {
        "dice": plain | {"deterministic": True},
        "counting": plain | {"deterministic": False},
    }
    folder = run(block(tmp_path / "again", phantom, {"dice": DICE}, speed="exact"), phantom)
    assert equal(weights(folder / "dice"), weights(trained / "dice"))
    torch.use_deterministic_algorithms(False)


def test_changed_execution_trains_nothing_again(trained, tmp_path, phantom, caplog):
    shutil.copytree(trained.parent / "runs", tmp_path / "runs", copy_function=os.link)
    caplog.set_level("INFO", "lossbench")
    run(block(tmp_path, phantom, LOSSES, log_every=7, validate_every=3, ledger=LEDGER), phantom)
    assert caplog.text.count("taken from the store") == len(LOSSES)


def test_a_run_of_another_precision_is_another_run(trained, tmp_path, phantom, caplog):
    shutil.copytree(trained.parent / "runs", tmp_path / "runs")
    digest = read_json(trained / "dice" / "status.json")["digest"]
    status = read_json(tmp_path / "runs" / digest / "status.json")
    status["engine"]["precision"] = "bf16"
    write_json(tmp_path / "runs" / digest / "status.json", status)
    folder = run(block(tmp_path, phantom, LOSSES), phantom)
    assert "trained in bf16, and here it is float32; it is trained again" in caplog.text
    assert read_json(folder / "dice" / "status.json")["engine"]["precision"] == "float32"


def test_folds_share_no_initial_weights(phantom):
    spec = {"name": "m", **UNET}
    digests = {
        state_digest(build_model(spec, phantom, fold, seed).state_dict())
        for fold in (0, 1)
        for seed in (0, 1)
    }
    assert len(digests) == 4
    again = build_model(spec, phantom, 0, 0).state_dict()
    assert state_digest(again) in digests
    other = build_model(spec | {"name": "n"}, phantom, 0, 0).state_dict()
    assert state_digest(other) not in digests


class Annealed(nn.Module):
    """A loss with a parameter that is to be trained, and a state that counts its steps."""

    def __init__(self):
        super().__init__()
        self.uncertainty = nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, logits, target):
        self.steps += 1
        error = ((logits.softmax(1) - target) ** 2).mean() * (1 + self.steps / 10)
        return error * (-self.uncertainty).exp() + self.uncertainty


@pytest.mark.slow
def test_a_loss_with_parameters_and_a_state_is_trained_and_resumed(tmp_path, phantom, monkeypatch):
    losses = {"annealed": {"_target_": f"{__name__}.Annealed"}, "dice": DICE}
    whole = run(block(tmp_path / "whole", phantom, losses), phantom)
    found, real = [], lossbench.stages.train.run.Run.finish
    monkeypatch.setattr(
        lossbench.stages.train.run.Run,
        "finish",
        lambda self: found.append(self.loss.state_dict()) or real(self),
    )
    path = block(tmp_path / "killed", phantom, losses)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    again = run(path, phantom)
    assert found[0]["steps"] == 20
    assert found[0]["uncertainty"] != 0
    for loss in losses:
        assert equal(weights(again / loss), weights(whole / loss))


def test_an_entry_overrides_single_keys_of_a_nested_section(phantom, tmp_path):
    entry = {**DICE, "training": {"augmentation": {"flip": False}}}
    settings = {"augmentation": {"noise": 0.5, "gamma": 0}}
    specs = read_json(block(tmp_path, phantom, {"dice": DICE, "other": entry}, **settings))["runs"]
    dice, other = (specs[name]["training"]["augmentation"] for name in ("dice", "other"))
    assert other == dice | {"flip": False}
    assert (other["noise"], other["gamma"]) == (0.5, 0)


class Drawing(nn.Module):
    """A loss that draws from numpy and from random."""

    def forward(self, logits, target):
        weight = 0.5 + random.random() + np.random.random()  # noqa: NPY002
        return weight * ((logits - target) ** 2).mean()


def test_a_loss_that_draws_from_numpy_and_random_draws_the_same_in_every_run(tmp_path, phantom):
    drawing = {"_target_": f"{__name__}.Drawing"}
    folder = run(block(tmp_path, phantom, {"one": drawing, "two": drawing}), phantom)
    assert equal(weights(folder / "one"), weights(folder / "two"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_cuda_graph_gives_the_same_figures(optimizer, tmp_path, phantom):
    settings = {"optimizer": optimizer, "precision": "float32"}
    plain, graph = (
        run(block(tmp_path / speed, phantom, LOSSES, speed=speed, **settings), phantom)
        for speed in ("exact", "auto")
    )
    for loss in LOSSES:
        assert read_json(graph / loss / "status.json")["engine"]["graph"]
        np.testing.assert_allclose(curve(graph, loss), curve(plain, loss), rtol=1e-3)


def test_losses_take_each_step_in_turn_and_one_batch_is_alive(tmp_path, phantom, monkeypatch):
    """Also where rows of the history are far apart."""
    order, alive, real = [], [], lossbench.stages.train.loop.take_step

    def noted(run):
        line = lossbench.common.progress._positions[-1]()  # what the log says after 30 s of silence
        assert line.startswith(f"step {run.step + 1} of 20, about ")
        order.append((run.step, run.name))
        real(run)
        alive.append(run.batches.current[0])

    monkeypatch.setattr(lossbench.stages.train.loop, "take_step", noted)
    made = run(block(tmp_path, phantom, LOSSES, log_every=1000, validate_every=1000), phantom)
    assert order == [(step, name) for step in range(20) for name in LOSSES]
    assert alive == [step for step, _ in order]
    for loss in LOSSES:
        assert read_json(made / loss / "status.json")["train_seconds"] > 0
