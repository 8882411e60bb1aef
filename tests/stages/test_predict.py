"""predict: the labels of evaluate for the same files, in the geometry and values of the input."""

import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lossbench.__main__ import main
from lossbench.common.files import read_json, write_json
from lossbench.config import UserError
from lossbench.datasets.nifti import label_file, read_volume
from lossbench.datasets.prepared import Prepared
from lossbench.metrics import counts
from lossbench.stages.evaluate import evaluate
from lossbench.stages.predict import predict
from lossbench.stages.prepare import prepare
from lossbench.stages.train import train
from tests.helpers.files import write_msd, write_nnunet, write_volume
from tests.helpers.trainings import DICE, block


def study(root, spec, folds=2, keys=None, **training):
    """results/ of a study: a prepared dataset, and a run on it that is evaluated."""
    dataset = root / "results/datasets/d"
    entry = {"name": "d", "spec": spec, "folds": folds, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(dataset / "dataset.json", entry | (keys or {}))
    prepare(dataset / "dataset.json", dataset)
    prepared = Prepared(dataset)
    folder = root / "results/test/d/m/fold0"
    path = block(folder, prepared, {"dice": DICE}, **training)
    train(path, dataset, root / "results/runs")
    evaluate(path, dataset, path.parent / "cases.parquet")
    return path.parent / "dice", prepared


def nuclei(root, data_root, values, count=4):
    """A few images of the Data Science Bowl as people store them: masks of 0 and 255, or colours."""
    source = data_root / "dsb2018"
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for path in sorted((source / "images").glob("*.png"))[:count]:
        mask = np.asarray(Image.open(source / "labels" / path.name)) > 0
        table = np.array([[int(v[1:][i : i + 2], 16) for i in (0, 2, 4)] for v in values]
                         if values[0].startswith("#") else [int(v) for v in values], np.uint8)  # fmt: skip
        Image.fromarray(table[mask.astype(int)]).save(root / "masks" / path.name)
        shutil.copy(path, root / "images" / path.name)
    spec = {"_target_": "lossbench.datasets.ImageFolder", "classes": ["no", "yes"]}
    spec |= {"images": str(root / "images"), "masks": str(root / "masks"), "channels": 3}
    return spec | {"values": {value: label for label, value in enumerate(values)}}


@pytest.mark.parametrize(
    ("values", "normalisation"), [(["0", "255"], "imagenet"), (["#000000", "#10ff20"], "dataset")]
)
@pytest.mark.slow
def test_masks_of_images_are_those_that_evaluate_measured(
    values, normalisation, real_data, tmp_path
):
    spec = nuclei(tmp_path, real_data("dsb2018"), values)
    keys = {"normalisation": normalisation}
    run, prepared = study(tmp_path, spec, keys=keys, patch_size=[64, 64], learning_rate=0.01)
    assert main(["predict", "--run", str(run), "--input", str(tmp_path / "images"),
                 "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    table = pd.read_parquet(run.parent / "cases.parquet").set_index(["case", "class"])
    seen = set()
    for row in prepared.validation(0):
        name = prepared.cases["case"][row]
        mask, truth = (
            np.asarray(Image.open(tmp_path / f / f"{name}.png")) for f in ("out", "masks")
        )
        assert mask.shape == truth.shape
        assert {*np.unique(mask)} <= {*np.unique(truth)}
        seen |= {*np.unique(mask)}
        classes = [(a if a.ndim == 2 else a[..., 1]) == 255 for a in (mask, truth)]
        tp, fp, fn = counts(*(c.astype(np.uint8) for c in classes), 2)[:, 1]
        expected = table.loc[name, "yes"]
        assert (tp, fp, fn) == (expected["tp"], expected["fp"], expected["fn"])
    assert len(seen) > 1, "a network that predicts one class everywhere shows nothing"
    assert len(list((tmp_path / "out").iterdir())) == len(prepared.cases)


@pytest.mark.parametrize("slice_axis", [None, 1])
@pytest.mark.slow
def test_volumes_keep_their_grid(slice_axis, real_data, tmp_path):
    """Real volumes, one of them stored left to right and with its axes in another order."""
    task = real_data("Task04_Hippocampus") / "Task04_Hippocampus"
    names = [path.name for path in sorted((task / "labelsTr").glob("*.nii.gz"))[:4]]
    root = tmp_path / "task"
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir(parents=True)
        for number, name in enumerate(names):
            file = nibabel.load(task / kind / name)
            if number == 1:
                file = file.as_reoriented([[1, -1], [2, 1], [0, -1]])
            nibabel.save(file, root / kind / name)
    listing = read_json(task / "dataset.json")
    training = [e for e in listing["training"] if e["label"].split("/")[-1] in names]
    write_json(root / "dataset.json", {"labels": listing["labels"], "training": training})
    spec = {"_target_": "lossbench.datasets.MSD", "root": str(root), "slice_axis": slice_axis}
    run, prepared = study(
        tmp_path, spec, patch_size=[32] * (2 if slice_axis else 3), learning_rate=0.01
    )
    predict(run, root / "imagesTr", tmp_path / "out")
    table = pd.read_parquet(run.parent / "cases.parquet")
    total = np.zeros((3, 3), dtype=int)
    for name in set(prepared.cases["subject"].iloc[prepared.validation(0)]):
        file, truth = (
            nibabel.load(tmp_path / f / f"{name}.nii.gz") for f in ("out", "task/labelsTr")
        )
        assert file.shape == truth.shape
        np.testing.assert_allclose(file.affine, truth.affine)
        assert file.get_data_dtype() == np.uint8
        assert file.header.get_xyzt_units() == truth.header.get_xyzt_units()
        total += counts(np.asarray(file.dataobj), np.asarray(truth.dataobj).astype(np.uint8), 3)
    expected = table.groupby("class", observed=True)[["tp", "fp", "fn"]].sum().loc[prepared.classes]
    assert total.T.tolist() == expected.to_numpy().tolist()
    assert total[0][1:].any(), "a network that predicts background shows nothing"


def test_channels_of_nnunet_belong_together(tmp_path):
    root = write_nnunet(tmp_path / "raw", {"background": 0, "a": 1, "b": 2})
    spec = {"_target_": "lossbench.datasets.NNUNet", "root": str(root)}
    run, _ = study(tmp_path, spec, patch_size=[16] * 3, steps=2)
    predict(run, root / "imagesTr", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.nii.gz", "y.nii.gz"]
    (root / "imagesTr/x_0001.nii.gz").unlink()
    with pytest.raises(
        UserError, match=r"x_0000.nii.gz: has 1 channels, and the run takes 2; call"
    ):
        predict(run, root / "imagesTr", tmp_path / "out2")


def test_a_label_goes_back_to_any_orientation(tmp_path):
    rng = np.random.default_rng(0)
    for axes in ([0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[axes] * [1, -2, 3]
        label = rng.integers(0, 9, (3, 4, 5)).astype(np.uint8)
        write_volume(tmp_path / "in.nii.gz", label, affine)
        image, _ = read_volume([tmp_path / "in.nii.gz"], tmp_path / "in.nii.gz")
        (tmp_path / "out.nii").write_bytes(
            label_file(image[0].astype(np.uint8), tmp_path / "in.nii.gz")
        )
        out = nibabel.load(tmp_path / "out.nii")
        assert np.array_equal(np.asarray(out.dataobj), label)
        np.testing.assert_allclose(out.affine, affine)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    spec = {"_target_": "lossbench.datasets.MSD", "root": str(write_msd(root / "task"))}
    return study(root, spec, patch_size=[16] * 3, steps=2)


def test_files_that_cannot_be_predicted_are_named_and_the_others_are(trained, tmp_path):
    run, prepared = trained
    write_volume(tmp_path / "in/good.nii.gz", np.random.default_rng(0).normal(size=(5, 6, 7)))
    write_volume(tmp_path / "in/nan.nii.gz", np.full((5, 6, 7), np.nan, np.float32))
    (tmp_path / "in/broken.nii.gz").write_bytes(b"no volume")
    with pytest.raises(UserError, match=r"could not be predicted \(2\)") as error:
        predict(run, tmp_path / "in", tmp_path / "out")
    for part in ("broken.nii.gz: cannot be read", "nan.nii.gz: holds voxels that are NaN"):
        assert part in str(error.value)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    # One file, and the dataset named: the run alone may lie elsewhere.
    alone = shutil.copytree(run, tmp_path / "alone")
    predict(alone, tmp_path / "in/good.nii.gz", tmp_path / "two", data=prepared.folder)
    both = [nibabel.load(tmp_path / f / "good.nii.gz") for f in ("out", "two")]
    assert np.array_equal(*(np.asarray(file.dataobj) for file in both))


def test_what_does_not_fit_the_run(trained, phantom, tmp_path):
    run, _ = trained
    (tmp_path / "a.png").write_bytes(b"")
    write_volume(tmp_path / "v/a.nii.gz", np.zeros((5, 6, 7), np.float32))
    cases = [
        ((run, tmp_path / "no", tmp_path), "no: no such file or folder"),
        ((run, tmp_path, tmp_path / "out"), r"holds no volumes \(.nii.gz, .nii\), which the run"),
        ((run, tmp_path / "v", tmp_path / "v"), "v: holds the input; name another folder"),
        ((run, tmp_path / "v", tmp_path, phantom.folder), "is not the dataset, as prepared, that"),
        (
            (shutil.copytree(run, tmp_path / "x"), tmp_path / "v", tmp_path),
            "dataset of the run: --data",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            predict(*arguments)
