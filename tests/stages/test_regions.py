"""A study of overlapping regions, stage by stage."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from PIL import Image
from torch import nn

from lossbench.common.files import read_json, write_json
from lossbench.config import UserError
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.metrics import build_metric, counts_of_case, measure_case
from lossbench.models import load_run
from lossbench.predictions import predict as predict_cases
from lossbench.predictions import predict_images
from lossbench.stages.evaluate import evaluate
from lossbench.stages.predict import predict
from lossbench.stages.prepare import prepare
from tests.helpers import check_runs
from tests.helpers.files import write_nnunet
from tests.helpers.trainings import DICE, block, run

DICE_CE = {"_target_": "monai.losses.DiceCELoss", "softmax": True}
LOSSES = {"dice": DICE, "dice_ce": DICE_CE}


def prepared(folder, spec=None, **keys):
    spec = spec or {
        "_target_": "lossbench.datasets.Phantom",
        "fractions": [0.15, 0.1],
        "cases": 12,
        "size": [48, 40],
    }
    entry = {"name": "tumours", "spec": spec, "folds": 3, "fold_seed": 0}
    entry |= {"surface_tolerance": 1.0} | keys
    write_json(folder / "dataset.json", entry)
    prepare(folder / "dataset.json", folder)
    return Prepared(folder)


@pytest.fixture(scope="module")
def tumours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tumours"
    return prepared(folder, regions=[["whole", [1, 2]], ["core", [2]]])


@pytest.fixture(scope="module")
def one_region(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data") / "one", regions=[["lesion", [1, 2]]])


class FirstChannels(nn.Module):
    """A logit of the image for each region."""

    def forward(self, images):
        return torch.cat([images - 0.5, images - 2], dim=1)


def test_predictions_are_sigmoids_above_a_half(tumours):
    image = np.asarray(tumours.image(0))
    (found,) = predict_images(FirstChannels(), image[None], [32, 32], tumours)
    assert (found.dtype, found.shape) == (np.uint8, (2, 48, 40))
    assert (found == np.stack([image[0] > 0.5, image[0] > 2])).all()


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("ignored", [False, True])
def test_metrics_of_each_region_are_those_of_monai(tumours, ignored, monkeypatch):
    label = np.array(tumours.original_label(0))
    if ignored:
        label[:5] = IGNORE
    monkeypatch.setattr(Prepared, "original_label", lambda *_: label)
    rng = np.random.default_rng(0)
    found = np.stack([np.isin(label, region) for region in tumours.regions])
    found = (np.roll(found, 2, axis=1) ^ (rng.random(found.shape) < 0.02)).astype(np.uint8)
    figures = measure_case(found, 0, tumours)
    valid = label != IGNORE
    truth = np.stack([np.isin(label, region) for region in tumours.regions])
    a, b = (torch.from_numpy((x * valid).astype(np.float32))[None] for x in (found, truth))
    dice = DiceMetric(include_background=True, reduction="none")(a, b)[0]
    assert figures["dice"] == pytest.approx(dice.numpy())
    if not ignored:  # their border of the image is no surface of an ignored one
        hd95 = HausdorffDistanceMetric(include_background=True, percentile=95, reduction="none")
        assert figures["hd95"] == pytest.approx(hd95(a, b)[0].numpy())
    tp, fp, fn = counts_of_case(found, 0, tumours)
    assert (2 * tp / (2 * tp + fp + fn)).tolist() == pytest.approx(figures["dice"].tolist())
    assert set(figures) == {"tp", "fp", "fn", "dice", "iou", "precision", "recall", "hd95", "surface_dice"}  # fmt: skip
    assert all(figures[name].shape == (2,) for name in figures)


class Volumes:
    """A user's metric, written for class maps."""

    def __init__(self, num_classes):
        self.num_classes = num_classes

    def __call__(self, prediction, label, spacing):
        return [float((prediction == c).sum()) for c in range(self.num_classes)]


def test_a_metric_of_ones_own_is_called_for_each_region(tumours):
    spec = {"_target_": f"{__name__}.Volumes", "num_classes": "$num_classes"}
    metric = build_metric("volumes", spec, tumours)
    label = np.asarray(tumours.original_label(0))
    found = np.zeros((2, *label.shape), np.uint8)
    found[1, :3, :5] = 1
    assert metric(found, label, [1, 1]).tolist() == [0, 15]


def test_a_block_is_trained_validated_and_evaluated_by_region(tmp_path, tumours):
    path = block(tmp_path, tumours, LOSSES, ledger={"reference": "dice", "every": 10}, steps=40,
                 learning_rate=0.02, patch_size=[32, 32])  # fmt: skip
    folder = run(path, tumours)
    history = pd.read_csv(folder / "dice/history.csv")
    assert history["val/dice/whole"].iloc[-1] > 0.3
    shares = history[["ledger/l1/whole", "ledger/l1/core"]].dropna()
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    evaluate(path, tumours.folder, tmp_path / "cases.parquet")
    cases = pd.read_parquet(tmp_path / "cases.parquet").set_index(["loss", "case", "class"])
    assert {*cases.index.unique("class")} == {"whole", "core"}
    rows = tumours.evaluation(0)
    found = predict_cases(load_run(folder / "dice", tumours), tumours, rows, [32, 32])
    for row, masks in zip(rows, found, strict=True):
        expected = measure_case(masks, row, tumours)
        measured = cases.loc[("dice", tumours.cases["case"][row])]
        for name in ("tp", "dice", "hd95"):
            assert measured.loc[["whole", "core"], name].tolist() == pytest.approx(
                expected[name].tolist(), nan_ok=True
            )


def test_one_region_is_one_channel(tmp_path, one_region):
    path = block(tmp_path, one_region, LOSSES)
    run(path, one_region)
    evaluate(path, one_region.folder, tmp_path / "cases.parquet")
    assert pd.read_parquet(tmp_path / "cases.parquet")["class"].unique().tolist() == ["lesion"]


def test_the_check_looks_at_regions(tmp_path, tumours, one_region):
    metric = {"_target_": f"{__name__}.Volumes", "num_classes": "$num_classes"}
    for data in (tumours, one_region):
        found = check_runs.run(tmp_path / data.info["digest"][:4], data, losses=LOSSES)
        card = found["cards"]["tumours"]["dice"]
        assert (card["form"], card["pooling"]) == ("Dice", "per sample")
        assert card["background_value"] == "none"
        (probe,) = found["gradients"]
        assert probe["classes"] == data.classes
        for row in probe["snapshots"][0]["losses"].values():
            assert sum(row["share_l1"]) == pytest.approx(1, abs=1e-3)
    assert build_metric("volumes", metric, one_region)


def test_losses_that_cannot_be_are_named_before_the_training(tmp_path, tumours):
    losses = {
        "dice": DICE,
        "without": {**DICE, "include_background": False},
        "nacl": {"_target_": "lossbench.losses.NeighborAwareLoss"},
        "both": {"_target_": f"{__name__}.Softmax"},
    }
    text = check_runs.problems(tmp_path, tumours, losses=losses)
    assert "losses.nacl: NeighborAwareLoss takes the softmax over classes" in text
    assert "losses.both: Softmax takes the softmax over the channels" in text
    assert "losses.without: it leaves region 0 out, and tumours has no background: its" in text
    assert "losses.dice" not in text


class Softmax(nn.Module):
    def forward(self, logits, target):
        return -(target * logits.log_softmax(dim=1)).mean()


@pytest.mark.slow
def test_masks_of_new_images_are_in_a_folder_for_each_region(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    rng = np.random.default_rng(0)
    for n in range(6):
        mask = np.zeros((32, 40), np.uint8)
        mask[8:24, 8:30], mask[12:20, 12:20] = 1, 2
        image = 60 * mask + rng.integers(0, 40, mask.shape)
        Image.fromarray(mask).save(tmp_path / f"masks/{n}.png")
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"images/{n}.png")
    spec = {
        "_target_": "lossbench.datasets.ImageFolder", "classes": ["no", "rim", "core"],
        "images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"),
    }  # fmt: skip
    regions = [["whole", [1, 2]], ["core", [2]]]
    dataset = tmp_path / "results/datasets/tumours"
    data = prepared(dataset, spec, regions=regions)
    path = block(tmp_path / "results/test/d/m/fold0", data, LOSSES, steps=60, learning_rate=0.03,
                 patch_size=[32, 32])  # fmt: skip
    folder = run(path, data)
    evaluate(path, dataset, tmp_path / "cases.parquet")
    predict(folder / "dice", tmp_path / "images", tmp_path / "out", dataset)
    cases = pd.read_parquet(tmp_path / "cases.parquet").set_index(["loss", "case", "class"])
    for row in data.evaluation(0):
        case = data.cases["case"][row]
        truth = np.asarray(Image.open(tmp_path / f"masks/{case}.png"))
        for name, labels in regions:
            mask = np.asarray(Image.open(tmp_path / f"out/{name}/{case}.png"))
            assert {*np.unique(mask)} <= {0, 255}
            tp = ((mask == 255) & np.isin(truth, labels)).sum()
            assert tp == cases.loc[("dice", case, name), "tp"]
    assert cases["tp"].max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("slice_axis", [None, 0])
def test_volumes_have_a_mask_for_each_region(tmp_path, slice_axis):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    root = write_nnunet(tmp_path / "raw", labels, names="abcd")
    spec = {"_target_": "lossbench.datasets.NNUNet", "root": str(root), "slice_axis": slice_axis}
    dataset = tmp_path / "results/datasets/tumours"
    data = prepared(dataset, spec, folds=2)
    patch = [8] * data.info["spatial_dims"]
    path = block(tmp_path / "results/test/d/m/fold0", data, LOSSES, steps=2, patch_size=patch)
    run(path, data)
    trained = path.parent / "dice_ce"
    predict(trained, root / "imagesTr", tmp_path / "out", dataset)
    given = nibabel.load(root / "labelsTr/a.nii.gz")
    for region in ("whole", "core"):
        mask = nibabel.load(tmp_path / f"out/{region}/a.nii.gz")
        assert mask.shape == given.shape
        assert np.allclose(mask.affine, given.affine)
        assert {*np.unique(mask.dataobj)} <= {0, 1}
    assert read_json(dataset / "classes.json")["regions"] == [[1, 2], [2]]
    # With an order, one label map as nnU-Net's; it changes nothing that is trained.
    listing = read_json(root / "dataset.json")
    text = json.dumps(listing | {"regions_class_order": [1, 2]})  # the order of regions counts
    (root / "dataset.json").write_text(text)
    ordered = prepared(dataset, spec, folds=2)
    assert ordered.digest == data.digest
    predict(trained, root / "imagesTr", tmp_path / "maps", dataset)
    masks = [nibabel.load(tmp_path / f"out/{name}/a.nii.gz") for name in ("whole", "core")]
    whole, core = (np.asarray(mask.dataobj) for mask in masks)
    found = np.asarray(nibabel.load(tmp_path / "maps/a.nii.gz").dataobj)
    assert np.array_equal(found, np.where(core == 1, 2, whole))
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("order", [[1], [1, 3], 2, [1, [2]]])
def test_an_order_that_does_not_suit_the_regions(order, tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    root = write_nnunet(tmp_path / "raw", labels, names="abcd")
    listing = read_json(root / "dataset.json")
    write_json(root / "dataset.json", listing | {"regions_class_order": order})
    spec = {"_target_": "lossbench.datasets.NNUNet", "root": str(root)}
    wanted = "a list, in" if order == 2 else "a label for each of the 2 reg"
    with pytest.raises(UserError, match=f"regions_class_order is .* {wanted}"):
        prepared(tmp_path / "out", spec, folds=2)
