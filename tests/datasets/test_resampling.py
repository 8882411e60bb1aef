"""Another grid for the training, and back: sizes, borders, classes; prepare, evaluate, predict."""

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lossbench.common.files import write_json
from lossbench.config import UserError
from lossbench.datasets import ImageFolder
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.datasets.resampling import resample_image, resample_label, training_shape
from lossbench.metrics import measure
from lossbench.models import load_run
from lossbench.predictions import predict
from lossbench.stages.evaluate import evaluate
from lossbench.stages.predict import predict as predict_files
from lossbench.stages.prepare import prepare
from lossbench.stages.train import train
from tests.helpers.files import write_image, write_volume
from tests.helpers.trainings import DICE, block


def test_the_shape_of_the_training():
    assert training_shape((10, 20), (1, 1), {}) == (10, 20)
    assert training_shape((10, 20), (1, 1), {"resize": [24, 32]}) == (24, 32)
    settings = {"resize": None, "target_spacing": [1, 2.5, 1]}
    assert training_shape((10, 20, 3), (3, 1, 0.1), settings) == (30, 8, 1)


@pytest.mark.parametrize("shape", [(7, 9), (24, 31), (12, 40)])
def test_images_are_resampled_as_torch_does(shape):
    image = np.random.default_rng(0).normal(size=(2, 14, 18)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None], size=shape, mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(resample_image(image, shape), expected[0].numpy(), atol=1e-4)
    label = np.random.default_rng(0).integers(0, 5, (14, 18)).astype(np.uint8)
    nearest = torch.nn.functional.interpolate(
        torch.from_numpy(label)[None, None].float(), size=shape, mode="nearest-exact"
    )
    np.testing.assert_array_equal(resample_label(label, shape), nearest[0, 0].numpy())


@pytest.mark.parametrize("shape", [(5, 6, 7), (20, 9, 13)])
def test_volumes_are_resampled_as_torch_does_and_labels_by_the_largest_indicator(shape):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 10, 12, 13)).astype(np.float32)
    options = {"size": shape, "mode": "trilinear"}
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None], **options)
    np.testing.assert_allclose(resample_image(image, shape), expected[0].numpy(), atol=1e-4)
    label = rng.integers(0, 3, (10, 12, 13)).astype(np.uint8)
    label[:2] = IGNORE
    values = np.array([0, 1, 2, IGNORE])
    onehot = torch.from_numpy((label == values[:, None, None, None]).astype(np.float32))
    share = torch.nn.functional.interpolate(onehot[None], **options)[0].numpy()
    found = resample_label(label, shape)
    highest = np.take_along_axis(share, np.searchsorted(values, found)[None], axis=0)[0]
    np.testing.assert_allclose(highest, share.max(axis=0), atol=1e-4)
    assert IGNORE in found


def test_the_same_grid_is_the_same_array():
    image, label = np.zeros((1, 3, 4), np.uint8), np.zeros((3, 4), np.uint8)
    assert resample_image(image, (3, 4)) is image
    assert resample_label(label, (3, 4)) is label


def prepared(root, spec, keys, folds=2):
    entry = {"name": "d", "spec": spec, "folds": folds, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(root / "dataset.json", entry | keys)
    prepare(root / "dataset.json", root)
    return Prepared(root)


def images(tmp_path, real_data):
    """Real images of two sizes, and masks of their nuclei."""
    root = real_data("dsb2018") / "dsb2018"
    sizes = {}
    for path in sorted((root / "images").glob("*.png"))[:60]:
        with Image.open(path) as image:
            sizes.setdefault(image.size, []).append(path)
    chosen = [path for paths in list(sizes.values())[:2] for path in paths[:2]]
    for path in chosen:
        write_image(tmp_path / f"images/{path.name}", np.asarray(Image.open(path).convert("L")))
        label = np.asarray(Image.open(root / f"labels/{path.name}"))
        write_image(tmp_path / f"masks/{path.name}", (label > 0).astype(np.uint8))
    return {"_target_": "lossbench.datasets.ImageFolder", "classes": ["no", "yes"],
            "images": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}  # fmt: skip


@pytest.mark.slow
def test_images_are_trained_small_and_measured_as_they_are(tmp_path, real_data):
    spec = images(tmp_path, real_data)
    folder = tmp_path / "results/datasets/d"
    data = prepared(folder, spec, {"resize": [48, 64]})
    assert {*data.cases["shape"]} == {(48, 64)}
    source = ImageFolder(**{key: value for key, value in spec.items() if key != "_target_"})
    for row, case in enumerate(source[i] for i in range(len(source))):
        assert data.image(row).mean() == pytest.approx(0, abs=1e-5)
        assert data.image(row).std() == pytest.approx(1, abs=1e-4)
        np.testing.assert_array_equal(data.original_label(row), case["label"])
        assert data.original_spacing(row) == (1.0, 1.0)
        spacing = np.divide(case["label"].shape, (48, 64))
        assert data.cases["spacing"][row] == pytest.approx(tuple(spacing))
    root = tmp_path / "results/test/d/m/fold0"
    path = block(root, data, {"dice": DICE}, patch_size=[48, 64], learning_rate=0.01)
    train(path, folder, tmp_path / "results/runs")
    evaluate(path, folder, path.parent / "cases.parquet")
    table = pd.read_parquet(path.parent / "cases.parquet").set_index("case")
    model, rows = load_run(path.parent / "dice", data), data.validation(0)
    for row, found in zip(rows, predict(model, data, rows, [48, 64]), strict=True):
        label = source[int(row)]["label"]
        assert found.shape == label.shape
        figures = measure(found, label, (1.0, 1.0), 2, 1.0)
        name = data.cases["case"][row]
        for metric in ("tp", "dice", "hd95", "surface_dice"):
            np.testing.assert_allclose(table.loc[name, metric], figures[metric])
        assert table.loc[name, ["tp", "fn"]].to_numpy().sum() == label.size
    last = pd.read_csv(path.parent / "dice/history.csv").iloc[-1]["val/dice/yes"]
    assert last == pytest.approx(table[table["class"] == "yes"]["dice"].mean(), abs=1e-6)
    # A file that is predicted goes the same way.
    predict_files(path.parent / "dice", tmp_path / "images", tmp_path / "out")
    for row, found in zip(rows, predict(model, data, rows, [48, 64]), strict=True):
        mask = np.asarray(Image.open(tmp_path / f"out/{data.cases['case'][row]}.png"))
        np.testing.assert_array_equal(mask, found)
        assert len(np.unique(mask)) == 2, "one class everywhere shows nothing"


@pytest.mark.slow
def test_volumes_have_one_spacing_in_training(tmp_path, real_data):
    task = real_data("Task04_Hippocampus") / "Task04_Hippocampus"
    root, listing = tmp_path / "task", []
    for number, path in enumerate(sorted((task / "labelsTr").glob("*.nii.gz"))[:3]):
        for kind in ("imagesTr", "labelsTr"):
            file = nibabel.load(task / kind / path.name)
            affine = np.diag([1 + number, 1, 1, 1])  # as if the scans had other spacings
            write_volume(root / kind / path.name, np.asarray(file.dataobj), affine)
        listing.append({"image": f"imagesTr/{path.name}", "label": f"labelsTr/{path.name}"})
    labels = {"0": "background", "1": "anterior", "2": "posterior"}
    write_json(root / "dataset.json", {"labels": labels, "training": listing})
    spec = {"_target_": "lossbench.datasets.MSD", "root": str(root)}
    folder = tmp_path / "results/datasets/d"
    data = prepared(folder, spec, {"target_spacing": [2, 2, 2]}, folds=3)
    for row in range(3):
        label = data.original_label(row)
        expected = np.array(label.shape) * [1 + row, 1, 1] / 2
        np.testing.assert_allclose(data.label(row).shape, expected, atol=0.5)
        np.testing.assert_allclose(data.cases["spacing"][row], 2, atol=0.1)
        assert data.original_spacing(row) == (1 + row, 1, 1)
        share = [(x > 0).mean() for x in (label, data.label(row))]
        assert share[0] == pytest.approx(share[1], rel=0.15), "a class keeps its volume"
    path = block(
        tmp_path / "results/test/d/m/fold0", data, {"dice": DICE}, patch_size=[16] * 3, steps=4
    )
    train(path, folder, tmp_path / "results/runs")
    evaluate(path, folder, path.parent / "cases.parquet")
    table = pd.read_parquet(path.parent / "cases.parquet")
    (row,) = data.validation(0)
    assert table[["tp", "fn"]].to_numpy().sum() == data.original_label(row).size
    predict_files(path.parent / "dice", root / "imagesTr", tmp_path / "out")
    name = data.cases["case"][row]
    file = nibabel.load(tmp_path / f"out/{name}.nii.gz")
    (found,) = predict(load_run(path.parent / "dice", data), data, [row], [16] * 3)
    np.testing.assert_array_equal(np.asarray(file.dataobj), found)
    np.testing.assert_array_equal(
        file.affine, nibabel.load(root / f"labelsTr/{name}.nii.gz").affine
    )


@pytest.mark.slow
def test_sizes_and_originals_are_part_of_the_digest(tmp_path, real_data):
    spec = images(tmp_path, real_data)
    digests = [
        prepared(tmp_path / str(n), spec, keys).digest
        for n, keys in enumerate(({}, {"resize": [48, 64]}, {"resize": [64, 48]}))
    ]
    assert len({*digests}) == 3
    (name, *_) = sorted((tmp_path / "masks").iterdir())
    mask = np.array(Image.open(name))
    mask[0, 0] ^= 1  # a pixel that the small mask does not show
    write_image(name, mask)
    again = prepared(tmp_path / "again", spec, {"resize": [48, 64]})
    first = Prepared(tmp_path / "1")
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.digest != first.digest, "what is measured has changed"


def test_a_size_of_other_axes_is_named(tmp_path, real_data):
    spec = images(tmp_path, real_data)
    with pytest.raises(UserError, match=r"has 2 axes, and resize is \[4, 4, 4\]; give a number"):
        prepared(tmp_path, spec, {"resize": [4, 4, 4]})
