import hashlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

from lossbench.common.instantiate import instantiate
from lossbench.config import Dataset, UserError
from lossbench.datasets import MNI152, MSD, Decathlon, ImageFolder, NNUNet, Nuclei, Phantom, nuclei
from lossbench.datasets.contract import case_problems, check_dataset, problem_list
from lossbench.datasets.download import fetch
from tests.helpers.files import (
    GREY,
    MASK,
    folder,
    write_image,
    write_msd,
    write_nnunet,
    write_volume,
)

CATALOGUE = yaml.safe_load((Path(__file__).parents[2] / "config/datasets.yaml").read_text())


# The catalogue


@pytest.mark.parametrize("name", CATALOGUE["datasets"])
def test_entry_keeps_the_contract(name, real_data):
    spec = Dataset.model_validate(CATALOGUE["datasets"][name]).spec()
    folders = {"nuclei": "dsb2018"} | dict.fromkeys(
        ("hippocampus", "hippocampus_2d"), "Task04_Hippocampus"
    )
    root = real_data(folders[name]) if name in folders else "unused"
    dataset = instantiate(spec, object, name, {"data_root": str(root)})
    check_dataset(dataset, name)
    for index in (0, len(dataset) - 1):
        case = dataset[index]
        assert (
            case_problems(case, len(dataset.classes), None, getattr(dataset, "sliced", False)) == []
        )
    assert dataset[len(dataset) - 1]["case"] != dataset[0]["case"]


# NIfTI: MSD, Decathlon, nnU-Net


def test_msd_reads_a_case(tmp_path):
    dataset = MSD(write_msd(tmp_path, names=("b", "a")))
    case = dataset[0]
    stored = nibabel.load(tmp_path / "imagesTr/a.nii.gz").get_fdata()
    assert dataset.classes == ["background", "left_part", "edema_t2"]
    assert (len(dataset), case["case"], case["spacing"]) == (2, "a", (1.0, 1.0, 1.0))
    np.testing.assert_allclose(case["image"][0], stored, rtol=1e-6)
    np.testing.assert_array_equal(
        case["label"], nibabel.load(tmp_path / "labelsTr/a.nii.gz").dataobj
    )


def test_msd_puts_channels_first(tmp_path):
    case = MSD(write_msd(tmp_path, channels=4))[1]
    stored = nibabel.load(tmp_path / "imagesTr/b.nii.gz").get_fdata()
    assert case["image"].shape == (4, 5, 6, 7)
    np.testing.assert_allclose(case["image"][2], stored[..., 2], rtol=1e-6)


def test_a_folder_of_nnunet_version_1_names_images_without_their_channels(tmp_path):
    root = write_nnunet(tmp_path, {}, channels=2)
    listing = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "a", "2": "b"},
        "training": [
            {"image": f"./imagesTr/{x}.nii.gz", "label": f"./labelsTr/{x}.nii.gz"} for x in "xy"
        ],
    }
    (root / "dataset.json").write_text(json.dumps(listing))
    case = MSD(root)[0]
    assert case["case"] == "x"
    assert case["image"].shape == (2, 4, 5, 6)
    assert case["image"][1].mean() - case["image"][0].mean() > 0.5, "in the order of the channels"
    (root / "imagesTr/y_0001.nii.gz").unlink()
    with pytest.raises(UserError, match=r"case y: .*y_0001\.nii\.gz: no such file"):
        MSD(root)
    with pytest.raises(UserError, match=r"MSD reads the Decathlon's and nnU-Net's version 1"):
        NNUNet(root)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_put_together_are_the_volume(tmp_path, axis):
    write_msd(tmp_path, channels=2)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    for kind in ("imagesTr", "labelsTr"):
        for path in (tmp_path / kind).iterdir():
            write_volume(path, np.asarray(nibabel.load(path).dataobj), affine)
    whole, slices = MSD(tmp_path), MSD(tmp_path, slice_axis=axis)
    depth = (5, 6, 7)[axis]
    cases = [slices[index] for index in range(len(slices))]
    assert len(cases) == 2 * depth
    second = [case for case in cases if case["subject"] == "b"]
    np.testing.assert_array_equal(np.stack([c["label"] for c in second], axis), whole[1]["label"])
    np.testing.assert_array_equal(
        np.stack([c["image"] for c in second], axis + 1), whole[1]["image"]
    )
    assert second[0]["spacing"] == tuple(np.delete([1.0, 2.0, 3.0], axis))
    assert len({case["case"] for case in cases}) == len(cases)


def test_folds_of_slices_are_those_of_their_volumes(tmp_path):
    splits = [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]
    (write_msd(tmp_path) / "splits_final.json").write_text(json.dumps(splits))
    assert MSD(tmp_path).folds == [["a"], ["b"]]
    folds = MSD(tmp_path, slice_axis=2).folds
    assert folds == [[f"{name}_{n:03d}" for n in range(7)] for name in "ab"]


def test_single_split_is_fold_0_and_the_rest_can_be_trained_on(tmp_path):
    splits = [{"train": ["b", "c"], "val": ["a"]}]
    (write_msd(tmp_path, names="abc") / "splits_final.json").write_text(json.dumps(splits))
    assert MSD(tmp_path).folds == [["a"], ["b", "c"]]


def test_missing_files_of_listed_cases_are_all_named(tmp_path):
    write_msd(tmp_path, names="abc")
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    (tmp_path / "imagesTr/c.nii.gz").unlink()
    with pytest.raises(UserError, match=r"(?s)case a: .*labelsTr/a.nii.gz: no such file.*case c: "):
        MSD(tmp_path)


def test_case_listed_twice(tmp_path):
    listing = json.loads((write_msd(tmp_path) / "dataset.json").read_text())
    listing["training"].append(listing["training"][0])
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    with pytest.raises(UserError, match="case a is listed twice"):
        MSD(tmp_path)


@pytest.mark.parametrize("kind", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_truncated_nifti(tmp_path, kind, ending):
    write_msd(tmp_path)
    text = (tmp_path / "dataset.json").read_text()
    path = tmp_path / kind / f"a{ending}"
    write_volume(path, np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "dataset.json").write_text(text.replace(f"{kind}/a.nii.gz", f"{kind}/a{ending}"))
    with pytest.raises(UserError, match=rf"{kind}/a{ending}: cannot be read"):
        MSD(tmp_path)[0]


def test_image_and_label_of_different_size(tmp_path):
    write_msd(tmp_path)
    write_volume(tmp_path / "labelsTr/b.nii.gz", np.zeros((5, 6, 8), np.uint8))
    with pytest.raises(UserError, match=r"case b: .*differ in size: \(5, 6, 7\) and \(5, 6, 8\)"):
        MSD(tmp_path)[1]


def test_affines_that_differ_are_refused_and_rounded_ones_are_not(tmp_path):
    write_msd(tmp_path)
    path = tmp_path / "labelsTr/b.nii.gz"
    label, moved = np.asarray(nibabel.load(path).dataobj), np.eye(4)
    moved[0, 3] = 1e-3
    write_volume(path, label, moved)
    assert MSD(tmp_path)[1]["case"] == "b"
    moved[0, 3] = 0.5
    write_volume(path, label, moved)
    with pytest.raises(UserError, match=r"case b: .*differ in place.* 0.5 mm apart"):
        MSD(tmp_path)[1]


def test_labels_with_a_gap(tmp_path):
    with pytest.raises(UserError, match=r"labels are \[0, 2\]"):
        MSD(write_msd(tmp_path, labels={"0": "background", "2": "x"}))


def test_folder_of_another_layout(tmp_path):
    with pytest.raises(UserError, match=r"name the folder that holds dataset.json"):
        MSD(tmp_path)
    with pytest.raises(UserError, match="lacks channel_names"):
        NNUNet(write_msd(tmp_path))


def test_nnunet_reads_channels_ignore_and_folds(tmp_path):
    write_nnunet(tmp_path, {"background": 0, "Anterior": 1, "ignore": 2})
    splits = [{"train": ["y"], "val": ["x"]}, {"train": ["x"], "val": ["y"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    dataset = NNUNet(tmp_path)
    assert (dataset.classes, dataset.ignore) == (["background", "anterior"], 2)
    assert dataset.folds == [["x"], ["y"]]
    stored = nibabel.load(tmp_path / "imagesTr/y_0001.nii.gz").get_fdata()
    np.testing.assert_allclose(dataset[1]["image"][1], stored, rtol=1e-6)
    assert len(NNUNet(tmp_path, slice_axis=0)) == 8


def test_nnunet_refuses_other_formats(tmp_path):
    with pytest.raises(UserError, match=r"file_ending is '.png'"):
        NNUNet(write_nnunet(tmp_path / "b", {"background": 0, "x": 1}, ending=".png"))


def test_nnunet_names_missing_partners(tmp_path):
    write_nnunet(tmp_path, {"background": 0, "x": 1, "y": 2}, names="pqr")
    (tmp_path / "labelsTr/p.nii.gz").unlink()
    (tmp_path / "imagesTr/q_0001.nii.gz").unlink()
    with pytest.raises(
        UserError, match=r"(?s)q_0001.nii.gz: no such file.*p_0000.nii.gz: no label"
    ) as error:
        NNUNet(tmp_path)
    assert "numTraining" not in str(error.value)
    for path in (tmp_path / "imagesTr").glob("p_*"):
        path.unlink()
    with pytest.raises(UserError, match="numTraining is 3, and labelsTr has 2"):
        NNUNet(tmp_path)


def test_hippocampus_folds_without_splits_are_nnunets(tmp_path, real_data):
    given = real_data("Task04_Hippocampus") / "Task04_Hippocampus"
    (tmp_path / given.name).mkdir()
    for part in ("dataset.json", "imagesTr", "labelsTr"):
        (tmp_path / given.name / part).symlink_to(given / part)
    splits = json.loads((given / "splits_final.json").read_text())
    copy = Decathlon(given.name, tmp_path)
    assert len(copy) == 260
    assert (
        copy.folds
        == [split["val"] for split in splits]
        == Decathlon(given.name, given.parent).folds
    )


# Downloads


def tar_of(folder, path, extra=()):
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname="Task04_Hippocampus")
        for name in extra:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """A server on 127.0.0.1 of the files of tmp_path, and its address as that of the Decathlon."""
    from monai.apps import DecathlonDataset

    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(archive, md5=None):
        address = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        digest = md5 or hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(DecathlonDataset, "resource", {"Task04_Hippocampus": address})
        monkeypatch.setattr(DecathlonDataset, "md5", {"Task04_Hippocampus": digest})
        return address

    start.requests = requests
    yield start
    server.shutdown()
    server.server_close()


def test_decathlon_is_downloaded_once(tmp_path, offer):
    source = write_msd(tmp_path / "source", names="abcde")
    archive = tar_of(source, tmp_path / "Task04_Hippocampus.tar")
    offer(archive)
    # Two at once: a study's datasets are prepared side by side.
    with ThreadPoolExecutor(2) as pool:
        root = tmp_path / "data" / "deep"
        first, _ = pool.map(lambda _: Decathlon("Task04_Hippocampus", root), range(2))
    np.testing.assert_array_equal(first[2]["image"], MSD(source)[2]["image"])
    assert sorted(name for fold in first.folds for name in fold) == list("abcde")
    archive.unlink()
    assert len(Decathlon("Task04_Hippocampus", tmp_path / "data" / "deep")) == 5
    assert len(offer.requests) == 1


def test_an_archive_that_lies_there_is_used_unless_it_is_damaged(tmp_path, offer):
    archive = tar_of(write_msd(tmp_path / "source", "abcde"), tmp_path / "Task04_Hippocampus.tar")
    offer(archive)
    (tmp_path / "data").mkdir()
    shutil.copy(archive, tmp_path / "data")
    assert len(Decathlon("Task04_Hippocampus", tmp_path / "data")) == 5
    assert not offer.requests
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / archive.name).write_bytes(archive.read_bytes()[:-1000])
    assert len(Decathlon("Task04_Hippocampus", tmp_path / "other")) == 5
    assert len(offer.requests) == 1


def test_download_with_another_md5_leaves_nothing(tmp_path, offer):
    archive = tar_of(write_msd(tmp_path / "source"), tmp_path / "Task04_Hippocampus.tar")
    offer(archive, md5="0" * 32)
    with pytest.raises(UserError, match=r"(?s)could not be fetched: .*hash.*md5:0000"):
        Decathlon("Task04_Hippocampus", tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == [".Task04_Hippocampus.tar.lock"]


def test_archive_cannot_write_outside(tmp_path, offer):
    archive = tar_of(
        write_msd(tmp_path / "source"), tmp_path / "Task04_Hippocampus.tar", ["../../evil"]
    )
    offer(archive)
    with pytest.raises(UserError, match="outside"):
        Decathlon("Task04_Hippocampus", tmp_path / "a" / "data")
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "a" / "data" / "Task04_Hippocampus").exists()


def test_a_zip_cannot_write_outside_either(tmp_path, offer):
    archive = tmp_path / "stage1_train.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../evil", "")
        file.writestr("good", "")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    fetch(offer(archive), f"sha256:{digest}", tmp_path / "a" / "b" / "stage1_train")
    inside = tmp_path / "a" / "b" / "stage1_train"
    assert [path.parent for path in tmp_path.rglob("evil")] == [inside]
    assert (inside / "good").exists()


def test_unknown_task(tmp_path):
    with pytest.raises(UserError, match="did you mean 'Task04_Hippocampus'"):
        Decathlon("Task04_Hippocampos", tmp_path)


# Images


@pytest.mark.parametrize("extension", ["png", "tif", "tiff", "webp", "jpg", "jpeg", "PNG", "bmp"])
def test_formats(tmp_path, extension):
    lossless = {"lossless": True} if extension == "webp" else {}
    colour = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
    write_image(tmp_path / f"i/a.{extension}", colour, **lossless)
    write_image(tmp_path / "m/a.png", MASK)
    case = ImageFolder(["no", "yes"], tmp_path / "i", tmp_path / "m")[0]
    assert case["image"].shape == (3, 6, 8)
    assert case["spacing"] == (1.0, 1.0)
    np.testing.assert_array_equal(case["label"], MASK)
    if "j" not in extension:
        np.testing.assert_array_equal(case["image"], np.moveaxis(colour, 2, 0))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey(tmp_path, extension):
    deep = GREY.astype(np.uint16) * 1000
    arguments = folder(
        tmp_path, {f"a.{extension}": deep}, {f"a.{extension}": MASK.astype(np.uint16)}
    )
    case = ImageFolder(**arguments)[0]
    np.testing.assert_array_equal(case["image"], deep[None])
    np.testing.assert_array_equal(case["label"], MASK)
    np.testing.assert_array_equal(
        ImageFolder(**arguments, channels=3)[0]["image"], np.stack([deep] * 3)
    )


def test_palette_mask_is_read_as_indices(tmp_path):
    arguments = folder(tmp_path, {"a.png": GREY}, {})
    mask = Image.fromarray(MASK, mode=None).convert("P")
    mask.putdata(MASK.reshape(-1).tolist())
    mask.putpalette([10, 20, 30, 200, 0, 0])
    mask.save(tmp_path / "masks/a.png")
    np.testing.assert_array_equal(ImageFolder(**arguments)[0]["label"], MASK)


def test_masks_with_palettes_that_differ_are_refused(tmp_path):
    """An image program sorts the colours of each file: index 1 is the object in one mask alone."""
    arguments = folder(tmp_path, dict.fromkeys(("a.png", "b.png", "c.png"), GREY), {})
    colours = {"a": [0, 0, 0, 255, 0, 0], "b": [0, 0, 0, 255, 0, 0, 9, 9, 9], "c": [255, 0, 0] * 2}
    for name, palette in colours.items():
        mask = Image.fromarray(MASK)
        mask.putpalette(palette)
        mask.save(tmp_path / f"masks/{name}.png")
    dataset = ImageFolder(**arguments)
    for i in (0, 1):  # entries that no pixel has do not count
        np.testing.assert_array_equal(dataset[i]["label"], MASK)
    with pytest.raises(UserError, match=r"c.png: index 0 .* is #ff0000, and of .*a.png #000000"):
        dataset[2]
    by_colour = ImageFolder(**arguments, values={"#000000": 0, "#ff0000": 1})
    np.testing.assert_array_equal(by_colour[2]["label"], np.ones_like(MASK))


def test_values_translate_masks_also_after_json(tmp_path):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": MASK * 255})
    values = json.loads(json.dumps({0: 0, 255: 1}))
    np.testing.assert_array_equal(ImageFolder(**arguments, values=values)[0]["label"], MASK)
    with pytest.raises(UserError, match=r"masks/a.png: holds the values \[255\]"):
        ImageFolder(**arguments, values={0: 0, 1: 1})[0]


def test_alpha_is_dropped_where_opaque(tmp_path):
    opaque = np.dstack([GREY, GREY // 2, GREY, np.full_like(GREY, 255)])
    arguments = folder(tmp_path, {"a.png": opaque}, {"a.png": MASK})
    np.testing.assert_array_equal(ImageFolder(**arguments)[0]["image"][1], GREY // 2)
    opaque[0, 0, 3] = 254
    write_image(tmp_path / "images/a.png", opaque)
    with pytest.raises(UserError, match=r"a.png: has transparent pixels"):
        ImageFolder(**arguments)[0]


def test_colour_mask_is_refused_and_grey_stored_as_colour_is_not(tmp_path):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": np.dstack([MASK] * 3)})
    np.testing.assert_array_equal(ImageFolder(**arguments)[0]["label"], MASK)
    write_image(tmp_path / "masks/a.png", np.dstack([MASK, MASK, 0 * MASK]))
    with pytest.raises(UserError, match=r"masks/a.png: the mask is in colour"):
        ImageFolder(**arguments)[0]


def test_mixed_grey_and_colour_needs_channels(tmp_path):
    colour = np.dstack([GREY, GREY, 0 * GREY])
    arguments = folder(tmp_path, {"a.png": GREY, "b.png": colour}, {"a.png": MASK, "b.png": MASK})
    with pytest.raises(UserError, match=r"a.png is grey and .*b.png is in colour; set channels"):
        ImageFolder(**arguments)
    for channels in (1, 3):
        dataset = ImageFolder(**arguments, channels=channels)
        assert [len(dataset[i]["image"]) for i in (0, 1)] == [channels, channels]


def test_pages_rotation_and_damage_are_refused(tmp_path):
    arguments = folder(tmp_path, {"a.png": GREY, "b.png": GREY}, {"a.png": MASK, "b.png": MASK})
    page = Image.fromarray(GREY)
    (tmp_path / "images/a.png").unlink()
    page.save(tmp_path / "images/a.tif", save_all=True, append_images=[page])
    data = (tmp_path / "images/b.png").read_bytes()
    (tmp_path / "images/b.png").write_bytes(data[: len(data) // 2])
    dataset = ImageFolder(**arguments)
    with pytest.raises(UserError, match=r"a.tif: holds 2 pages"):
        dataset[0]
    with pytest.raises(UserError, match=r"b.png: cannot be read"):
        dataset[1]
    exif = Image.Exif()
    exif[0x0112] = 0  # as some cameras write: it means nothing
    page.save(tmp_path / "images/b.png", exif=exif)
    assert ImageFolder(**arguments)[1]["image"].shape == (1, *GREY.shape)
    exif[0x0112] = 6
    (tmp_path / "images/b.png").unlink()
    page.save(tmp_path / "images/b.jpg", exif=exif)
    with pytest.raises(UserError, match=r"b.jpg: is rotated by its EXIF tag"):
        ImageFolder(**arguments)[1]


def test_problems_of_a_folder_are_all_named(tmp_path):
    images = {"a.png": GREY, "b.png": GREY, "c.png": GREY, "c.tif": GREY}
    arguments = folder(tmp_path, images, {"a.png": MASK, "c.png": MASK, "d.png": MASK})
    with pytest.raises(UserError) as error:
        ImageFolder(**arguments)
    text = str(error.value)
    for part in ("c.tif: another file", "b.png: no mask", "d.png: no image"):
        assert part in text
    with pytest.raises(UserError, match="masks: no folder"):
        ImageFolder(**{**arguments, "masks": tmp_path / "nowhere"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"images: .*empty holds no image"):
        ImageFolder(**{**arguments, "images": tmp_path / "empty"})


def test_masks_beside_the_images_by_suffix(tmp_path):
    write_image(tmp_path / "a.jpg", GREY)
    write_image(tmp_path / "a_mask.png", MASK)
    dataset = ImageFolder(["no", "yes"], tmp_path, tmp_path, mask_suffix="_mask")
    assert [dataset[i]["case"] for i in range(len(dataset))] == ["a"]
    np.testing.assert_array_equal(dataset[0]["label"], MASK)


def test_subjects_and_spacing(tmp_path):
    arguments = folder(tmp_path, {"01.png": GREY, "02.png": GREY}, {"01.png": MASK, "02.png": MASK})
    table = tmp_path / "subjects.csv"
    table.write_text("case,subject\n01,7\n02,07\n")
    dataset = ImageFolder(**arguments, subjects=table, spacing=[0.5, 2])
    assert [dataset[i]["subject"] for i in (0, 1)] == ["7", "07"]
    assert dataset[0]["spacing"] == (0.5, 2)
    table.write_text("case,subject\n01,7\n")
    with pytest.raises(UserError, match="case 02 is not listed"):
        ImageFolder(**arguments, subjects=table)
    table.write_text("name,subject\n01,7\n")
    with pytest.raises(UserError, match="expected one column case"):
        ImageFolder(**arguments, subjects=table)


# Nuclei


def test_boundary_rule_gives_the_stored_labels(real_data):
    root = real_data("dsb2018") / "dsb2018"
    for path in sorted((root / "labels").iterdir())[::60]:
        instances = np.asarray(Image.open(root / "instances" / path.name))
        np.testing.assert_array_equal(
            nuclei.interior_and_boundary(instances), np.asarray(Image.open(path)), err_msg=path.name
        )


def test_nuclei_in_the_official_layout(tmp_path, monkeypatch, offer, real_data):
    root = real_data("dsb2018") / "dsb2018"
    name = "00071198d059ba7f"
    instances = np.asarray(Image.open(root / "instances" / f"{name}.png"))
    official = tmp_path / "official" / (name * 4)
    pixels = np.asarray(Image.open(root / "images" / f"{name}.png"))
    opaque = np.dstack([pixels] * 3 + [np.full_like(pixels, 255)])
    write_image(official / f"images/{name * 4}.png", opaque)
    for number in range(1, instances.max() + 1):
        mask = (instances == number).astype(np.uint8) * 255
        write_image(official / f"masks/{number:03d}.png", mask)
    archive = tmp_path / "stage1_train.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in official.rglob("*.png"):
            file.write(path, path.relative_to(tmp_path / "official"))
    monkeypatch.setattr(nuclei, "URL", offer(archive))
    with pytest.raises(UserError, match=r"could not be fetched: .*hash"):
        Nuclei(tmp_path / "data")
    monkeypatch.setattr(
        nuclei, "HASH", f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    )
    ours, stored = Nuclei(tmp_path / "data")[0], Nuclei(root.parent)[0]
    assert ours["case"] == stored["case"] == name
    np.testing.assert_array_equal(ours["image"], stored["image"])
    np.testing.assert_array_equal(ours["label"], stored["label"])


# MNI152 and phantom


@pytest.mark.slow
def test_mni152_patients_are_brains_that_differ():
    dataset = MNI152(patients=30)
    cases = [dataset[i] for i in range(len(dataset))]
    labels, images = (np.stack([case[key] for case in cases]) for key in ("label", "image"))
    assert labels.shape == (30, 128, 112)
    assert images.shape == (30, 1, 128, 112)
    # Each shows all four, in the order of their shares: a patient without csf would teach nothing.
    shares = np.stack([np.bincount(label.reshape(-1), minlength=4) for label in labels])
    assert (shares > 50).all()
    assert (shares[:, 0] > shares[:, 2]).all()
    # Tissue has its order of brightness in T1 in every patient: csf dark, then grey, then white.
    for image, label in zip(images[:, 0], labels, strict=True):
        means = [image[label == k].mean() for k in range(4)]
        assert means == sorted(means)
    overlap = [np.mean(labels[i] == labels[i + 1]) for i in range(29)]
    assert max(overlap) < 0.97  # no two patients are the same slice


@pytest.mark.slow
def test_mni152_patients_depend_on_their_number_and_the_seed_alone():
    few, many, other = MNI152(patients=3), MNI152(patients=9), MNI152(patients=3, seed=1)
    np.testing.assert_array_equal(few[2]["image"], many[2]["image"])
    np.testing.assert_array_equal(few[2]["label"], many[2]["label"])
    assert not np.array_equal(few[2]["label"], other[2]["label"])
    assert len({case["case"] for case in many}) == 9


def test_mni152_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="spacing is 3"):
        MNI152(spacing=3)
    with pytest.raises(UserError, match="patients is 0"):
        MNI152(patients=0)


@pytest.mark.parametrize("size", [(64, 48), (24, 20, 28)])
def test_phantom_fractions(size):
    fractions = (0.3, 0.05, 0.001)
    dataset = Phantom(fractions, cases=20, size=size, seed=3)
    labels = np.stack([dataset[i]["label"] for i in range(20)])
    realised = np.bincount(labels.reshape(-1))[1:] / labels.size
    np.testing.assert_allclose(realised, fractions, rtol=0.01)
    per_case = [(label == 1).mean() for label in labels]
    assert min(per_case) < 0.27
    assert max(per_case) > 0.33


def test_phantom_dials():
    plain, noisy = Phantom(noise=0, contrast=2), Phantom(noise=0.25, contrast=2)
    case = plain[5]
    np.testing.assert_array_equal(case["image"][0], 2 * case["label"])
    np.testing.assert_array_equal(case["label"], noisy[5]["label"])
    assert np.std(noisy[5]["image"] - case["image"]) == pytest.approx(0.25, rel=0.05)
    assert plain.classes == ["background", "class_1", "class_2"]


def test_phantom_empty_cases():
    full, some = Phantom(cases=20), Phantom(cases=20, empty=0.3)
    empty = [i for i in range(20) if not some[i]["label"].any()]
    assert empty == [3, 6, 9, 13, 16, 19]
    for i in set(range(20)) - set(empty):
        assert (some[i]["label"] == full[i]["label"]).all()
    assert abs(some[3]["image"].mean()) < 0.1


def test_phantom_case_depends_on_seed_and_index_alone():
    one, other = Phantom(cases=9), Phantom(cases=30)
    other[3]
    np.testing.assert_array_equal(one[8]["image"], other[8]["image"])
    assert (Phantom(seed=1)[8]["label"] != one[8]["label"]).any()
    assert (one[7]["label"] != one[8]["label"]).any()


def test_phantom_full_of_foreground_fits_together():
    dataset = Phantom((0.5, 0.4, 0.09), cases=8)
    labels = np.stack([dataset[i]["label"] for i in range(8)])
    np.testing.assert_allclose(
        np.bincount(labels.reshape(-1)) / labels.size, [0.01, 0.5, 0.4, 0.09], atol=1e-3
    )


@pytest.mark.parametrize(
    "bad", [{"fractions": [0.6, 0.5]}, {"size": [64]}, {"cases": 0}, {"empty": 1.0}]
)
def test_phantom_refuses_impossible_dials(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Phantom(**bad)


def test_listed_shows_the_first_and_counts_all():
    text = str(problem_list("wrong", [f"p{n}" for n in range(30)] + ["p0"], most=3))
    assert text == "wrong (30):\n  p0\n  p1\n  p2\n  ... and 27 more"
