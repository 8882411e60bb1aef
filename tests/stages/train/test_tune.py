"""Tuning the learning rate of a fold: real trainings of a tiny network, and what follows them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lossbench.common.files import read_json, write_json, write_text
from lossbench.common.provenance import run_digest
from lossbench.config import validate
from lossbench.datasets.inner_split import InnerSplit
from lossbench.datasets.prepared import Prepared
from lossbench.stages.prepare import prepare
from lossbench.stages.train import train, tune
from tests.helpers.trainings import DICE, UNET, Interrupted, killed_at

SCALED = {"_target_": "lossbench.losses.Scaled", "factor": 10.0**0.5, "loss": DICE}


def experiment(**grid):
    return validate(
        {
            "experiment": "test",
            "matrix": {"dataset": ["d"], "model": ["m"], "loss": ["dice", "scaled"], "seed": [0]},
            "training": {
                "steps": 8, "batch_size": 3, "patch_size": [16, 16], "optimizer": "sgd",
                "momentum": 0.0, "learning_rate": 0.1,
            },
            "execution": {"log_every": 4, "validate_every": 4},
            "comparison": {"reference": "dice"},
            "tuning": {"learning_rate": {"points": 3, "trainings": 2} | grid},
            "datasets": {"d": {"_target_": "x.Y"}},
            "models": {"m": UNET},
            "losses": {"dice": DICE, "scaled": SCALED},
        }
    )  # fmt: skip


def run(root: Path, data, **grid) -> dict:
    """What `tune` writes for fold 0."""
    write_text(root / "tuning.json", experiment(**grid).tuning_json("d", "m", 0))
    tune.tune(root / "tuning.json", data.folder, root.parent / "runs", root / "rates.json")
    return read_json(root / "rates.json")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, phantom):
    root = tmp_path_factory.mktemp("tune") / "fold0"
    return root, run(root, phantom)


def runs_of(root, found):
    folders = [root.parent / "runs" / point["digest"] for point in found["points"]]
    return [(read_json(f / "run.json"), read_json(f / "status.json")) for f in folders]


@pytest.mark.slow
def test_every_loss_is_trained_alike(tuned):
    """The same rates and seeds, with seeds that no evaluation has, and the same batches."""
    root, found = tuned
    points = [(p["loss"], p["learning_rate"], p["seed"]) for p in found["points"]]
    alike = [{p[1:] for p in points if p[0] == loss} for loss in ("dice", "scaled")]
    assert alike[0] == alike[1]
    assert {seed for _, seed in alike[0]} == {-1, -2}
    batches = {}
    for run_json, status in runs_of(root, found):
        assert run_json["part"] == "tuning"
        batches.setdefault(run_json["seed"], set()).add(
            (status["batch_digest"], status["init_digest"])
        )
    assert [len(digests) for digests in batches.values()] == [1, 1]


def test_a_loss_times_a_constant_gets_a_rate_that_is_smaller_by_it(tuned):
    """SGD with the loss times 3.16 at a rate is SGD with the loss at a rate 3.16 times as large."""
    dice = {}
    for point in tuned[1]["points"]:
        dice[point["loss"], point["learning_rate"], point["seed"]] = point["dice"]
    for seed in (-1, -2):
        for rate, larger in ((0.0316, 0.1), (0.1, 0.316)):
            assert dice["scaled", rate, seed] == pytest.approx(dice["dice", larger, seed], abs=2e-3)


@pytest.mark.slow
def test_killed_it_resumes_to_the_same_rates(tuned, tmp_path, phantom, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(Interrupted):
            run(tmp_path / "fold0", phantom)
    assert not (tmp_path / "fold0/rates.json").exists()
    found = run(tmp_path / "fold0", phantom)
    first = [(point["digest"], point["dice"]) for point in tuned[1]["points"]]
    assert [(point["digest"], point["dice"]) for point in found["points"]] == first
    assert found["rates"] == tuned[1]["rates"]
    before = [point["finished"] for point in found["points"]]
    again = run(tmp_path / "fold0", phantom)
    assert [point["finished"] for point in again["points"]] == before, "taken from the store"


def test_a_block_is_trained_with_the_rates_of_its_fold(tuned, tmp_path, phantom):
    fold, study = tmp_path / "fold0", experiment()
    write_json(fold / "rates.json", tuned[1] | {"rates": {"dice": 0.25, "scaled": 0.0625}})
    write_text(fold / "seed0/block.json", study.block_json("d", "m", 0, 0))
    assert '"learning_rate":null' in (fold / "seed0/block.json").read_text()
    train(fold / "seed0/block.json", phantom.folder, tmp_path / "runs")
    for loss, rate in {"dice": 0.1, "dice_tuned": 0.25, "scaled_tuned": 0.0625}.items():
        run_json, status = (
            read_json(fold / "seed0" / loss / f"{name}.json") for name in ("run", "status")
        )
        assert run_json["training"]["learning_rate"] == rate
        assert status["digest"] == run_digest(run_json, phantom.digest)


def images(folder):
    """A folder of images and masks with a split: five to train, two to validate, three to test."""
    parts = {"train": 5, "validation": 2, "test": 3}
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for part, n in parts.items():
        write_text(folder / f"{part}.txt", "".join(f"{part}{i}\n" for i in range(n)))
        for i in range(n):
            label = np.zeros((24, 20), np.uint8)
            label[4 + i : 14 + i, 5:15] = 1
            Image.fromarray(label).save(folder / f"masks/{part}{i}.png")
            Image.fromarray(40 + 160 * label).save(folder / f"images/{part}{i}.png")
    return {
        "_target_": "lossbench.datasets.ImageFolder", "images": str(folder / "images"),
        "masks": str(folder / "masks"), "classes": ["background", "square"],
        "split": {part: str(folder / f"{part}.txt") for part in parts},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["given split", "regions"])
def test_given_splits_and_regions_are_tuned(kind, tmp_path):
    entry = {"name": "d", "folds": None, "fold_seed": 0, "surface_tolerance": 1.0}
    if kind == "regions":
        phantom = {"fractions": [0.15, 0.1], "cases": 8, "size": [24, 20]}
        entry |= {"spec": {"_target_": "lossbench.datasets.Phantom", **phantom}, "folds": 2}
        entry["regions"] = [["whole", [1, 2]], ["core", [2]]]
        measured = ["val/dice/whole", "val/dice/core"]
    else:
        entry |= {"spec": images(tmp_path / "images")}
        measured = ["val/dice/square"]
    data = tmp_path / "data"
    write_json(data / "dataset.json", entry)
    prepare(data / "dataset.json", data)
    found = run(tmp_path / "fold0", Prepared(data))
    assert {*found["rates"]} == {"dice", "scaled"}
    for point in found["points"]:
        history = tmp_path / "runs" / point["digest"] / "history.csv"
        with history.open() as file:
            last = list(csv.DictReader(file))[-1]
        assert point["dice"] == pytest.approx(np.mean([float(last[name]) for name in measured]))
    if kind == "given split":
        split = InnerSplit(data, -1)
        names = split.cases["case"].to_numpy()
        assert {*names[split.training(0)]} == {f"train{i}" for i in range(5)}
        assert {*names[split.validation(0)]} == {"validation0", "validation1"}


def rated(monkeypatch, tmp_path, dice_of):
    """Tune with trainings that are known beforehand: `dice_of` of a loss and the rate."""

    def known(specs, execution, store, data):
        folders = {}
        for loss, spec in specs.items():
            rate = spec["training"]["learning_rate"]
            dice = dice_of(loss, rate)
            folders[loss] = tmp_path / f"{loss}{rate}{spec['seed']}"
            status = {"status": "diverged" if dice is None else "finished", "digest": "d"}
            write_json(folders[loss] / "status.json", status | {"started": "", "finished": ""})
            with (folders[loss] / "history.csv").open("w") as file:
                classes = {f"val/dice/{name}": dice for name in data.classes[1:]}
                writer = csv.DictWriter(file, classes)
                writer.writeheader()
                writer.writerow(classes)
        return folders

    monkeypatch.setattr(tune, "train_missing", known)


def test_a_best_point_at_an_edge_widens_the_grid_for_all(monkeypatch, tmp_path, phantom):
    best = {"dice": 0.1, "scaled": 0.1 * 10**0.6}  # between two points, the last of which is new
    rated(monkeypatch, tmp_path, lambda loss, rate: 0.8 - 0.1 * np.log10(rate / best[loss]) ** 2)
    found = run(tmp_path / "fold0", phantom)
    for loss in ("dice", "scaled"):
        rates = {point["learning_rate"] for point in found["points"] if point["loss"] == loss}
        assert rates == {0.0316, 0.1, 0.316, 1.0}
        assert found["rates"][loss] == pytest.approx(best[loss], rel=0.01)
    assert found["at_edge"] == []


def test_the_grid_is_not_widened_for_ever(monkeypatch, tmp_path, phantom):
    rated(monkeypatch, tmp_path, lambda loss, rate: 0.5 if loss == "dice" else rate**0.1)
    found = run(tmp_path / "fold0", phantom)
    assert {p["learning_rate"] for p in found["points"]} == {0.01, 0.0316, 0.1, 0.316, 1.0}
    assert found["at_edge"] == ["dice", "scaled"]
    assert found["rates"]["scaled"] == 1.0


def test_a_loss_that_always_diverges_keeps_the_common_rate(monkeypatch, tmp_path, phantom):
    rated(
        monkeypatch,
        tmp_path,
        lambda loss, rate: None if loss == "scaled" else 0.5 - np.log10(rate / 0.1) ** 2,
    )
    found = run(tmp_path / "fold0", phantom)
    assert found["rates"] == {"dice": 0.1, "scaled": 0.1}
    assert found["at_edge"] == ["scaled"]
    assert {p["dice"] for p in found["points"] if p["loss"] == "scaled"} == {None}
    assert json.loads((tmp_path / "fold0/rates.json").read_text()) == found
