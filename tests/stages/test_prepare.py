import json
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import lossbench.stages.prepare
from lossbench.common.data_files import sources_version
from lossbench.common.files import read_json
from lossbench.common.provenance import sha256
from lossbench.common.user_code import code_of
from lossbench.config import Training, UserError
from lossbench.datasets import ImageFolder, Phantom
from lossbench.datasets.batches import Batches
from lossbench.datasets.normalisation import normalised
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.stages.prepare import prepare

SIZES = [(6, 8), (7, 5), (9, 9), (4, 6), (5, 5), (8, 8)]


class Made:
    """A dataset as a user would write one, broken in one place on demand."""

    def __init__(
        self, break_case="", own=None, subjects=False, ignore=None, classes=("bg", "a", "b")
    ):
        self.classes, self.folds, self.ignore = list(classes), own, ignore
        self.break_case, self.subjects = break_case, subjects

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        size = SIZES[index]
        label = rng.integers(0, 3, size)
        label[0, :3] = [0, 1, 2]
        image = rng.normal(100, 30, (2, *size))
        case = {"image": image, "label": label, "spacing": (1.0, 2.5), "case": f"case{index}"}
        if self.subjects:
            case["subject"] = f"subject{index // 2}"
        if self.ignore is not None:
            label[0, 3] = self.ignore
        if self.break_case and index in (1, 4):
            case = BREAKS[self.break_case][0](case)
        return case


class Street(Made):
    """Class 0 is a class like the others."""

    background = None


class Named(Made):
    background = "sky"


class Plain:
    """An iterable without index."""

    classes = ("bg", "a", "b")

    def __init__(self, fail=False):
        self.fail = fail

    def __iter__(self):
        made = Made()
        for index in range(len(SIZES)):
            if self.fail and index == 2:
                raise RuntimeError("disk on fire")
            yield made[index]


class Raising(Made):
    def __getitem__(self, index):
        if index in (0, 3):
            raise RuntimeError(f"no luck with {index}")
        return super().__getitem__(index)


class Empty(Made):
    def __len__(self):
        return 0


class NoClasses:
    def __getitem__(self, index):
        raise IndexError


class Bare:
    classes = ("a", "b")


def put(key, change):
    return lambda case: {**case, key: change(case[key])}


def fill(position, value):
    def change(array):
        array = array.astype(type(value)) if isinstance(value, float) else array
        array[position] = value
        return array

    return change


BREAKS = {
    "label shape": (put("label", lambda a: a[:-1]), "the image has size .*, the label"),
    "no channel axis": (put("image", lambda a: a[0]), "needs a channel axis in front"),
    "one dimension": (put("label", lambda a: a[0]), "must have 2 or 3 axes"),
    "class outside": (put("label", fill((1, 1), 3)), "outside the classes 0 to 2: 3"),
    "no ImageFolder": (put("label", fill((1, 1), 7)), "list the class, or set ignore$"),
    "negative class": (put("label", fill((1, 1), -1)), "outside the classes 0 to 2: -1"),
    "half a class": (put("label", fill((1, 1), 0.5)), "no whole numbers, such as 0.5"),
    "NaN in label": (put("label", fill((1, 1), float("nan"))), "no whole numbers, such as nan"),
    "NaN": (
        put("image", fill((0, 1, 1), float("nan"))),
        "1 voxels of the image are NaN or infinite",
    ),
    "infinite": (put("image", fill((1, 1, 1), float("inf"))), "NaN or infinite"),
    "no data": (put("image", fill((0, 1, 1), -3.4e38)), r"values up to 3.4e\+38, as where there"),
    "a mask": (put("image", lambda a: np.ma.masked_less(a, 0)), "image is a masked array"),
    "a gradient": (
        put("image", lambda a: torch.tensor(a).requires_grad_()),
        "no array: RuntimeError: Can't call numpy",
    ),
    "rows of unequal length": (put("label", lambda _: [[0], [0, 1]]), "no array: ValueError"),
    "constant": (put("image", lambda a: 0 * a + 7), r"image is constant \(7 everywhere\)"),
    "constant channel": (put("image", fill(1, 3.0)), r"channel 1 of the image is constant \(3"),
    "name twice": (put("case", lambda _: "case0"), "case case0: is listed twice"),
    "blank subject": (lambda c: {**c, "subject": " "}, "has an empty subject"),
    "no name": (put("case", lambda _: 3), "is named 3"),
    "name of two lines": (put("case", lambda c: f"{c}\r"), r"its name is 'case\d\\r', with char"),
    "name with a tab": (put("case", lambda c: f"{c}\tx"), "characters that cannot be printed"),
    "subject of two lines": (lambda c: {**c, "subject": "a\nb"}, r"its subject is 'a\\nb', with"),
    "channels": (put("image", lambda a: a[:1]), "1 channels and 2 axes, and case case0 has 2"),
    "text": (put("image", lambda a: a.astype(str)), "image holds .U.*must hold numbers"),
    "complex": (put("image", lambda a: a + 1j), "image holds complex128"),
    "spacing length": (put("spacing", lambda _: (1.0,)), r"spacing is \(1.0,\); it must be 2"),
    "spacing zero": (put("spacing", lambda _: (1.0, 0.0)), "must be 2 positive numbers"),
    "spacing None": (put("spacing", lambda _: None), "spacing is None"),
    "lacks label": (lambda c: {k: v for k, v in c.items() if k != "label"}, "lacks label"),
    "a tuple": (lambda c: (c["image"], c["label"]), "case number 4: is a tuple"),
}


@pytest.fixture
def run(tmp_path):
    """Prepare a dataset given by class and arguments; the prepared folder."""

    def prepare_it(cls, output="out", folds=None, fold_seed=0, name="made", keys=None, **arguments):
        spec = {"_target_": f"{cls.__module__}.{cls.__name__}", **arguments}
        entry = {
            "name": name,
            "spec": spec,
            "folds": folds,
            "fold_seed": fold_seed,
            "surface_tolerance": 1.5,
            **(keys or {}),
        }
        (tmp_path / "dataset.json").write_text(json.dumps(entry))
        prepare(tmp_path / "dataset.json", tmp_path / output, str(tmp_path))
        return Prepared(tmp_path / output)

    return prepare_it


# What is written


def test_arrays_and_tables_are_those_of_the_dataset(run):
    prepared, dataset = run(Made), Made()
    assert prepared.info["channels"] == 2
    assert prepared.info["spatial_dims"] == 2
    assert prepared.info["folds"] == 5
    assert prepared.info["surface_tolerance"] == 1.5
    assert prepared.classes == ["bg", "a", "b"]
    assert list(prepared.cases["case"]) == [f"case{i}" for i in range(6)]
    assert (prepared.images.dtype, prepared.labels.dtype) == (np.float32, np.uint8)
    for index in range(len(dataset)):
        case = dataset[index]
        np.testing.assert_array_equal(prepared.label(index), case["label"])
        np.testing.assert_array_equal(
            prepared.voxels()[index], np.bincount(case["label"].reshape(-1))
        )
        for ours, theirs in zip(prepared.image(index), case["image"], strict=True):
            np.testing.assert_allclose(ours, (theirs - theirs.mean()) / theirs.std(), atol=1e-5)
    assert prepared.cases["spacing"][0] == (1.0, 2.5)
    with Image.open(prepared.folder / "cases.png") as picture:
        assert picture.size[0] > 500
    assert not list(prepared.folder.glob(".*"))


def test_columns(run):
    table = pd.read_csv(run(Made).folder / "cases.csv")
    voxels = ["voxels_bg", "voxels_a", "voxels_b"]
    assert list(table) == ["case", "subject", "fold", "shape", "spacing", "offset", *voxels]
    assert (table["shape"][0], table["spacing"][0], table["offset"][1]) == ("6x8", "1.0x2.5", 48)


@pytest.mark.slow
def test_iterable_gives_the_same_as_an_indexed_dataset(run):
    assert run(Plain, "a").digest == run(Made, "b").digest


def test_ignored_voxels_are_marked_and_in_no_class(run):
    prepared = run(Made, ignore=1000)
    assert prepared.info["ignore"] is True
    assert all(prepared.label(i)[0, 3] == IGNORE for i in range(6))
    assert prepared.voxels().sum() == prepared.labels.size - 6


def test_volumes(run):
    prepared = run(Phantom, fractions=[0.1], size=[6, 7, 8], cases=5)
    assert prepared.info["spatial_dims"] == 3
    np.testing.assert_array_equal(prepared.label(3), Phantom([0.1], 5, (6, 7, 8))[3]["label"])


def test_normalised_keeps_small_differences_of_large_numbers():
    image = np.array([[1e6, 1e6 + 1, 1e6 + 2], [0, 1.7e6, 3e6]])
    result = normalised(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(result.std(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(normalised(np.full((1, 2, 2), 0.1)), np.zeros((1, 2, 2)))


class Colours(Made):
    def __getitem__(self, index):
        case = super().__getitem__(index)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (3, *case["label"].shape)).astype(np.uint8)
        return {**case, "image": image}


class Widened(Colours):
    """Some images are float64 with values of 8 bits."""

    def __init__(self, wide):
        super().__init__()
        self.wide = wide

    def __getitem__(self, index):
        case = super().__getitem__(index)
        return {**case, "image": case["image"].astype(float)} if index in self.wide else case


NORMALISED = {
    "z_score": ("z_score", lambda x, all_: (x - x.mean()) / x.std()),
    "none": ("none", lambda x, all_: x),
    "window": ({"window": [70, 200]}, lambda x, all_: (np.clip(x, 70, 200) - 70) / 130),
    "dataset": ("dataset", lambda x, all_: (x - all_.mean()) / all_.std()),
    "imagenet": ("imagenet", None),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_images_are_normalised_as_the_entry_says(name, run):
    setting, expected = NORMALISED[name]
    prepared, dataset = run(Colours, keys={"normalisation": setting}), Colours()
    images = [case["image"].astype(float) for case in (dataset[i] for i in range(len(dataset)))]
    if name == "imagenet":  # as torchvision writes it, for colours from 0 to 1
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for index, image in enumerate(images):
        for c in range(3):
            if name == "imagenet":
                wanted = (image[c] / 255 - mean[c]) / std[c]
            else:
                wanted = expected(image[c], np.concatenate([i[c].ravel() for i in images]))
            np.testing.assert_allclose(prepared.image(index)[c], wanted, atol=1e-5)
        # A new image is normalised by what classes.json says alone.
        stored = json.loads((prepared.folder / "classes.json").read_text())["normalisation"]
        new = normalised(dataset[index]["image"], stored)
        np.testing.assert_array_equal(new, prepared.image(index))
    assert prepared.images.dtype == (np.float32 if name == "window" else np.uint8)
    prepared.verify()


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["z_score", "dataset"])
def test_images_of_8_bits_are_stored_as_they_are_and_the_same_as_others(run, normalisation):
    """Whole images, patches and what is padded, up to rounding; alone and among other images."""
    keys = {"normalisation": normalisation}
    wide = {"out": [], "wide": list(range(6)), "mixed": [3, 4]}
    stored, converted, mixed = (
        run(Widened, out, keys=keys, wide=rows) for out, rows in wide.items()
    )
    assert stored.images.dtype == np.uint8
    assert converted.images.dtype == mixed.images.dtype == np.float32
    for other in (converted, mixed):
        for index in range(6):
            np.testing.assert_allclose(stored.image(index), other.image(index), atol=1e-5)
        for size in ([4, 4], [16, 4]):  # cut out; padded with the background, which is 0
            settings = {"batch_size": 3, "patch_size": size, "augmentation": None}
            training = Training(**settings, min_foreground=0).model_dump()
            one, two = (Batches(d, 0, 0, training, torch.device("cpu")) for d in (stored, other))
            one.key = two.key
            np.testing.assert_allclose(one(0).images, two(0).images, atol=1e-5)
            assert one(0).images.dtype == torch.float32
            assert size[0] < 16 or (one(0).images[:, :, :3] == 0).all()
    assert "mean" in stored.cases
    assert ("mean" in converted.cases) == (normalisation == "dataset")


@pytest.mark.slow
def test_the_default_normalisation_changes_no_digest(run):
    default, named = run(Colours), run(Colours, "b", keys={"normalisation": "z_score"})
    assert default.digest == named.digest
    others = {
        run(Colours, kind, keys={"normalisation": kind}).digest
        for kind in ("dataset", "imagenet", "none")
    }
    assert len(others | {default.digest}) == 4


def test_a_case_in_no_fold_is_not_in_the_statistics_of_the_dataset(run):
    own = [["case0", "case1"], ["case2"]]
    prepared = run(Colours, own=own, keys={"normalisation": "dataset"})
    used = [Colours()[i]["image"][0].ravel() for i in range(3)]
    assert prepared.info["normalisation"]["mean"][0] == pytest.approx(np.concatenate(used).mean())


@pytest.mark.parametrize(
    ("cls", "setting", "message"),
    [
        (
            Made,
            "imagenet",
            "case case0: the image has 2 channels, and normalisation imagenet needs",
        ),
        (Made, {"window": [900, 1000]}, r"all outside the window \[900, 1000\]; fix normalisation"),
    ],
)
def test_a_normalisation_that_does_not_suit_the_images(cls, setting, message, run):
    with pytest.raises(UserError, match=message):
        run(cls, keys={"normalisation": setting})


def test_imagenet_takes_colours_up_to_255(run, monkeypatch):
    real = Colours.__getitem__
    monkeypatch.setattr(
        Colours, "__getitem__", lambda s, i: {**real(s, i), "image": real(s, i)["image"] / 255}
    )
    with pytest.raises(UserError, match="from 0 to 1, and normalisation imagenet takes colours"):
        run(Colours, keys={"normalisation": "imagenet"})


def test_slices_may_be_constant(run, monkeypatch):
    monkeypatch.setattr(Made, "sliced", True, raising=False)
    prepared = run(Made, break_case="constant")
    assert (prepared.image(1) == 0).all()
    assert prepared.image(0).std() == pytest.approx(1)


def test_class_that_never_occurs_is_a_warning(run, caplog):
    with caplog.at_level(logging.INFO):
        run(Made, classes=["bg", "a", "b", "unicorn"])
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "unicorn occurs in no case" in warnings[0]


@pytest.mark.parametrize("spacing", [3.25e-7, 0.1 + 0.2, 1e6 / 3])
def test_spacing_keeps_its_precision(run, monkeypatch, spacing):
    given = Made.__getitem__
    monkeypatch.setattr(
        Made, "__getitem__", lambda self, i: given(self, i) | {"spacing": (1, np.float64(spacing))}
    )
    assert set(run(Made).cases["spacing"]) == {(1.0, spacing)}


LAYOUTS = {
    "channels last": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0),
    "Fortran": np.asfortranarray,
    "mirrored": lambda a: a[..., ::-1].copy()[..., ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "a part": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_arrays_of_any_layout_are_the_same_data(run, monkeypatch, layout):
    expected, given = run(Made, "plain").digest, Made.__getitem__

    def laid_out(self, index):
        case = given(self, index)
        return case | {key: LAYOUTS[layout](case[key]) for key in ("image", "label")}

    monkeypatch.setattr(Made, "__getitem__", laid_out)
    assert run(Made).digest == expected


@pytest.mark.slow
def test_labels_that_are_off_by_rounding_are_rounded(run, monkeypatch):
    expected, given = run(Made, "plain", ignore=-1), Made.__getitem__

    def off(self, index):
        case = given(self, index)
        label = case["label"].astype(float)
        return case | {"label": label + 1e-7 * np.where(label % 2, 1, -1)}

    monkeypatch.setattr(Made, "__getitem__", off)
    assert run(Made, ignore=-1).digest == expected.digest


def test_subjects_that_differ_in_spaces_or_in_unicode_form_are_one(run, monkeypatch):
    given = Made.__getitem__
    names = ["A", "A ", " A", "B\u00e9", "Be\u0301\t", "C"]  # two forms of é
    monkeypatch.setattr(Made, "__getitem__", lambda self, i: given(self, i) | {"subject": names[i]})
    folds = list(run(Made, folds=3).cases["fold"])
    assert len(set(folds[:3])) == len(set(folds[3:5])) == 1
    with pytest.raises(UserError, match="subject A has cases in the folds 0, 1; one is expected"):
        run(Made, "own", own=[["case0", "case3", "case4"], ["case1", "case2", "case5"]])


@pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib's own font lacks some
@pytest.mark.parametrize("name", ["Läsion", "ядро", "腫瘍", "हृदय", "a 1.5-b_c"])
def test_class_names_of_any_letters_are_columns(run, name):
    prepared = run(Made, classes=["bg", "a", name])
    assert prepared.classes == ["bg", "a", name]
    assert (prepared.voxels() > 0).all()


# Digest


@pytest.mark.slow
def test_digest_is_of_the_data_alone(run, tmp_path):
    for folder in ("one", "two"):
        for kind in ("images", "masks"):
            (tmp_path / folder / kind).mkdir(parents=True)
            for n in range(5):
                pixels = np.arange(30, dtype=np.uint8).reshape(5, 6) * (n + 1)
                pixels = pixels if kind == "images" else (pixels > 20).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / kind / f"{n}.png")

    def digest(folder, **more):
        where = {"images": f"$data_root/{folder}/images", "masks": f"$data_root/{folder}/masks"}
        return run(ImageFolder, "out", classes=["no", "yes"], **where, **more).digest

    first = digest("one")
    assert digest("two") == first
    assert digest("one", spacing=2.0) != first
    assert digest("one", fold_seed=1) != first
    assert digest("one", ignore=7) != first
    pixels = np.array(Image.open(tmp_path / "two/masks/3.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "two/masks/3.png")
    assert digest("two") != first


# Folds


OWN_FOLDS = [["case0", "case3"], ["case5"], ["case1"]]  # case2 and case4 are in none


def test_own_folds_with_a_case_in_none(run):
    prepared = run(Made, own=OWN_FOLDS)
    assert list(prepared.cases["fold"]) == [0, 2, -1, 0, -1, 1]
    assert prepared.info["folds"] == 3


@pytest.mark.slow
def test_number_of_folds_overrides_the_datasets_own(run):
    prepared = run(Made, own=OWN_FOLDS, folds=2)
    assert sorted(set(prepared.cases["fold"])) == [0, 1]
    assert run(Made, "again", own=OWN_FOLDS, folds=2).digest == prepared.digest
    assert run(Made, "other", own=OWN_FOLDS, folds=2, fold_seed=1).digest != prepared.digest


def test_a_case_without_a_subject_is_its_own(run, monkeypatch):
    """As a table that was read by pandas has it: None, or NaN."""
    names = ["A", None, float("nan"), "B", "A", "B"]
    given = Made.__getitem__
    monkeypatch.setattr(Made, "__getitem__", lambda self, i: given(self, i) | {"subject": names[i]})
    assert run(Made, folds=2).cases["subject"].tolist() == ["A", "case1", "case2", "B", "A", "B"]


def test_subjects_share_a_fold(run):
    prepared = run(Made, subjects=True, folds=3)
    folds = prepared.cases["fold"].to_numpy()
    assert (folds[::2] == folds[1::2]).all()
    assert sorted(folds[::2]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 7}, "6 cases are too few for 7 folds"),
        ({"folds": 4, "subjects": True}, "3 subjects are too few for 4 folds"),
    ],
)
def test_more_folds_than_cases(run, arguments, message):
    with pytest.raises(UserError, match=f"datasets.made: {message}"):
        run(Made, **arguments)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([["case0"], ["case1", "case9"]], "fold 1 names 'case9'"),
        ([["case0"], ["case0"]], "case case0 is in fold 0 and in fold 1"),
        ([["case0"], []], "fold 1 is empty"),
        ([["case0"]], "2 are needed"),
    ],
)
def test_own_folds_that_do_not_fit(run, own, message):
    with pytest.raises(UserError, match=message):
        run(Made, own=own)


# Bad input


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_cases_are_all_named_and_nothing_is_written(run, tmp_path, kind):
    with pytest.raises(UserError, match=BREAKS[kind][1]) as error:
        run(Made, break_case=kind)
    assert "datasets.made: problems with the data (" in str(error.value)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_two_broken_cases_are_two_problems(run):
    with pytest.raises(UserError, match=r"(?s)\(2\):\n  case case1: .*\n  case case4: "):
        run(Made, break_case="NaN")


def test_what_was_prepared_before_survives_a_broken_dataset(run):
    prepared = run(Made)
    before = {p.name: p.read_bytes() for p in prepared.folder.iterdir()}
    with pytest.raises(UserError):
        run(Made, break_case="NaN")
    assert {p.name: p.read_bytes() for p in prepared.folder.iterdir()} == before


@pytest.mark.slow
def test_what_it_was_prepared_from_is_kept(run, tmp_path, monkeypatch):
    """Only once it is prepared: what failed is tried again, and what was made stays what it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()
    monkeypatch.setattr(Made, "sources", ["cells"], raising=False)
    folder = run(Made).folder
    assert read_json(folder / "sources.json")["sources"] == ["cells"]
    assert sources_version(folder) == ""
    (tmp_path / "cells/new.png").touch()
    with pytest.raises(UserError):
        run(Made, break_case="NaN")
    version = sources_version(folder)
    assert version != ""
    run(Made, keys={"files": version})
    assert sources_version(folder) == version
    monkeypatch.setattr(Made, "sources", "cells")
    with pytest.raises(UserError, match="`sources` must be a list of paths or None; found 'cells'"):
        run(Made)


class Hidden(Made):
    """Reads files that neither a keyword nor `sources` names."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder.removeprefix("in "))

    def __getitem__(self, index):
        names = sorted(path.name for path in self.folder.glob("*.txt"))
        (self.folder / names[0]).read_text()
        return super().__getitem__(index)


def test_files_that_a_dataset_reads_in_secret_are_its_sources(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSBENCH_DATA", str(tmp_path))
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.txt").touch()
    folder = run(Hidden, folder=f"in {tmp_path / 'more'}").folder
    assert "$data_root/more" in read_json(folder / "sources.json")["sources"]
    assert sources_version(folder) == ""
    (tmp_path / "more/b.txt").touch()
    assert sources_version(folder) != ""


class Meddling(Made):
    """Changes what belongs to the process, and ends it at a case."""

    def __getitem__(self, index):
        np.seterr(all="raise")
        os.environ["LOSSBENCH_TEST"] = "1"
        os.chdir("/")
        if index == 3:
            raise SystemExit(0)
        return super().__getitem__(index)


def test_a_dataset_that_meddles_with_the_process(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = np.geterr()
    with pytest.raises(UserError, match=r"case number 3: SystemExit: 0 \(test_prepare.py, line"):
        run(Meddling)
    assert (Path.cwd(), np.geterr()) == (tmp_path, before)
    assert "LOSSBENCH_TEST" not in os.environ


class Stopping(Made):
    def __getitem__(self, index):
        return super().__getitem__(index) if index < 3 else next(iter(()))


def test_stop_iteration_in_a_case_is_no_end_of_the_dataset(run):
    with pytest.raises(UserError, match="case number 3: StopIteration"):
        run(Stopping)


def test_code_that_changed_since_the_workflow_started_is_not_used(run):
    code = code_of({"_target_": f"{Made.__module__}.Made"})
    run(Made, keys={"code": code})
    file = next(name for name in code if name.endswith("test_prepare.py"))
    with pytest.raises(UserError, match=rf"dataset\.json: {file} has changed since it was written"):
        run(Made, keys={"code": {**code, file: "of yesterday"}})


def test_no_classes_json_where_preparation_stops_half_way(run, monkeypatch):
    folder = run(Made).folder
    monkeypatch.setattr(lossbench.stages.prepare, "picture", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(Made)
    assert not (folder / "classes.json").exists()


def test_errors_of_the_users_class_name_case_and_line(run):
    with pytest.raises(
        UserError, match=r"(?s)case number 0: RuntimeError: no luck with 0 .*test_prep"
    ) as e:
        run(Raising)
    assert "case number 3" in str(e.value)
    with pytest.raises(UserError, match="case number 2: RuntimeError: disk on fire"):
        run(Plain, fail=True)


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path, run):
    for folder, pixels in {"images": [[0, 9]], "masks": [[0, 1]]}.items():
        (tmp_path / folder).mkdir()
        for name in (b"caf\xe9.png", b"b.png"):
            with open(os.fsencode(tmp_path / folder) + b"/" + name, "wb") as file:  # noqa: PTH123
                Image.fromarray(np.uint8(pixels)).save(file, "png")
    folders = {folder: str(tmp_path / folder) for folder in ("images", "masks")}
    with pytest.raises(UserError, match=r"its name is 'caf\\udce9', with characters that cannot"):
        run(ImageFolder, classes=["a", "b"], **folders)
    assert sha256("caf\udce9") != sha256("caf\udcea")  # the fingerprint of the files


def test_dataset_without_cases(run):
    with pytest.raises(UserError, match="the dataset has no cases"):
        run(Empty)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["bg"], "1 classes; 2 to 254"),
        ([f"c{n}" for n in range(255)], "255 classes"),
        (["bg", "a", "a"], "more than once: a"),
        (["bg", "a/b"], "class name 'a/b'"),
        (["bg", ""], "class name ''"),
        (["bg", "a "], "class name 'a '"),
        (["bg", "a\n"], "class name 'a"),
        (["bg", 1], "list of names"),
    ],
)
def test_unusable_classes(run, classes, message):
    with pytest.raises(UserError, match=message):
        run(Made, classes=classes)


@pytest.mark.slow
def test_class_0_is_the_background_unless_the_entry_or_the_class_says_null(run):
    """Without one every class is foreground, and the data are others, since batches may be."""
    usual = run(Made)
    assert (usual.background, usual.foreground) == ("bg", [1, 2])
    share = 1 - usual.voxels()[:, 0] / usual.voxels().sum(axis=1)
    kept = usual.training(0, float(np.sort(share)[2]))
    assert 0 < len(kept) < len(usual.training(0))
    by_entry, by_class = run(Made, "entry", keys={"background": None}), run(Street, "class")
    for data in (by_entry, by_class):
        assert data.info["background"] is None
        assert (data.background, data.foreground) == (None, [0, 1, 2])
        assert len(data.training(0, 1.0)) == len(usual.training(0))
        assert data.digest != usual.digest
    assert by_entry.digest == by_class.digest


def test_unusable_attributes(run):
    with pytest.raises(UserError, match="its `classes` must be a list of names"):
        run(NoClasses)
    with pytest.raises(UserError, match="`ignore` 2 is also the label of class 'b'"):
        run(Made, ignore=2)
    with pytest.raises(UserError, match="`ignore` must be a whole number"):
        run(Made, ignore="void")
    with pytest.raises(UserError, match=r"`background` must be 0, or None .*; found 'sky'"):
        run(Named)
    with pytest.raises(UserError, match="it has neither __getitem__ nor __iter__"):
        run(Bare)


# Real data


@pytest.mark.slow
def test_hippocampus(tmp_path, real_data):
    root = real_data("Task04_Hippocampus")
    target = {"_target_": "lossbench.datasets.Decathlon", "task": "Task04_Hippocampus"}
    entry = {"name": "hippocampus", "spec": {**target, "data_root": "$data_root"}, "folds": None}
    entry |= {"fold_seed": 0, "surface_tolerance": 1.0}
    (tmp_path / "dataset.json").write_text(json.dumps(entry))
    prepare(tmp_path / "dataset.json", tmp_path, str(root))
    prepared = Prepared(tmp_path)
    splits = json.loads((root / "Task04_Hippocampus" / "splits_final.json").read_text())
    names = prepared.cases["case"]
    for fold, split in enumerate(splits):
        assert sorted(names[prepared.validation(fold)]) == sorted(split["val"])
    shares = prepared.voxels().sum(axis=0) / prepared.labels.size
    np.testing.assert_allclose(shares, [0.9475, 0.0273, 0.0252], atol=1e-4)
    assert str(root) not in (tmp_path / "classes.json").read_text()
