import gzip
import json
import struct
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image

from lossbench.config import UserError
from lossbench.datasets import MSD, ImageFolder, NNUNet
from lossbench.datasets.contract import check_dataset
from tests.helpers.files import (
    GREY,
    MASK,
    folder,
    write_image,
    write_msd,
    write_nnunet,
    write_volume,
)


def test_spacing_is_that_of_the_affine_in_mm_whatever_pixdim_says(tmp_path):
    root = write_msd(tmp_path, names="a")
    for kind in ("imagesTr", "labelsTr"):
        path = root / kind / "a.nii.gz"
        file = nibabel.load(path)
        file = nibabel.Nifti1Image(np.asarray(file.dataobj), np.diag([0.7, 2, 5, 1]))
        file.header["pixdim"][1:4] = 1
        file.header.set_xyzt_units("meter")
        nibabel.save(file, path)
    header = bytearray(gzip.decompress((root / "labelsTr/a.nii.gz").read_bytes()))
    header[80:92] = np.ones(3, "<f4").tobytes()  # nibabel writes pixdim anew
    (root / "labelsTr/a.nii.gz").write_bytes(gzip.compress(bytes(header)))
    assert nibabel.load(root / "labelsTr/a.nii.gz").header.get_zooms() == (1, 1, 1)
    assert MSD(root)[0]["spacing"] == (700, 2000, 5000)


@pytest.mark.parametrize("codes", ["LAS", "PIR", "SRP"])
def test_volumes_of_any_orientation_are_brought_to_one(tmp_path, codes):
    root = write_msd(tmp_path, names="ab")
    turned = nibabel.orientations.axcodes2ornt(codes)
    for kind in ("imagesTr", "labelsTr"):
        file = nibabel.load(root / kind / "a.nii.gz")
        canonical = nibabel.Nifti1Image(np.asarray(file.dataobj), np.diag([1, 2, 3, 1]))
        nibabel.save(canonical, root / kind / "a.nii.gz")
        nibabel.save(
            canonical.as_reoriented(
                nibabel.orientations.ornt_transform(nibabel.io_orientation(np.eye(4)), turned)
            ),
            root / kind / "b.nii.gz",
        )
    assert nibabel.aff2axcodes(nibabel.load(root / "labelsTr/b.nii.gz").affine) == tuple(codes)
    first, second = MSD(root)
    assert first["spacing"] == second["spacing"] == (1, 2, 3)
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(first["label"], second["label"])
    slices = MSD(root, slice_axis=0)
    assert len(slices) == 2 * 5
    np.testing.assert_array_equal(slices[1]["label"], slices[6]["label"])


def test_an_affine_with_nan_or_without_volume_is_refused(tmp_path):
    root = write_msd(tmp_path, names="a")
    flat = np.diag([1.0, 0, 1, 1])
    for affine in (np.full((4, 4), np.nan), flat):
        write_volume(root / "labelsTr/a.nii.gz", np.zeros((5, 6, 7), np.uint8))
        data = bytearray(gzip.decompress((root / "labelsTr/a.nii.gz").read_bytes()))
        data[280:328] = affine[:3].astype("<f4").tobytes()
        (root / "labelsTr/a.nii.gz").write_bytes(gzip.compress(bytes(data)))
        with pytest.raises(UserError, match=r"labelsTr/a.nii.gz: its affine"):
            MSD(root)[0]


def test_a_flipped_bit_in_a_compressed_volume_is_found(tmp_path):
    root = write_msd(tmp_path, names="a")
    path = root / "imagesTr/a.nii.gz"
    raw = gzip.decompress(path.read_bytes())
    stored = bytearray(gzip.compress(raw, 0))  # stored as it is: a flip stays a flip
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    with pytest.raises(UserError, match=r"a.nii.gz: cannot be read \(CRC"):
        MSD(root)[0]


def test_a_fourth_axis_of_one_is_dropped_and_of_more_is_named(tmp_path):
    root = write_msd(tmp_path, names="a")
    expected = MSD(root)[0]
    for kind in ("imagesTr", "labelsTr"):
        array = np.asarray(nibabel.load(root / kind / "a.nii.gz").dataobj)
        write_volume(root / kind / "a.nii.gz", array[..., None])
    for key in ("image", "label"):
        np.testing.assert_array_equal(MSD(root)[0][key], expected[key])
    write_volume(root / "labelsTr/a.nii.gz", np.zeros((5, 6, 7, 2), np.uint8))
    with pytest.raises(UserError, match=r"\(5, 6, 7, 2\); a label has 3 axes"):
        MSD(root)[0]


def test_labels_the_wrong_way_round_are_named_with_the_layout(tmp_path):
    write_msd(tmp_path / "msd", labels={"background": 0, "x": 1})
    with pytest.raises(UserError, match=r"nnU-Net's layout: lossbench.datasets.NNUNet"):
        MSD(tmp_path / "msd")
    write_nnunet(tmp_path / "nnunet", {"0": "background", "1": "x"})
    with pytest.raises(UserError, match=r"Decathlon's layout: lossbench.datasets.MSD"):
        NNUNet(tmp_path / "nnunet")


def test_class_names_of_dataset_json_keep_their_letters(tmp_path):
    labels = {"0": "background", "1": "Läsion (Rand)", "2": "β-Zelle"}
    assert MSD(write_msd(tmp_path, labels=labels)).classes == [
        "background",
        "läsion_rand",
        "β_zelle",
    ]


def test_masks_of_jpeg_and_other_lossy_files_are_refused(tmp_path):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.jpg": MASK})
    with pytest.raises(UserError, match=r"a.jpg: the mask is stored with lossy compression"):
        ImageFolder(**arguments)[0]
    (tmp_path / "masks/a.jpg").rename(tmp_path / "masks/a.png")  # by content, not by name
    with pytest.raises(UserError, match="lossy"):
        ImageFolder(**arguments)[0]
    (tmp_path / "masks/a.png").unlink()
    colour = np.repeat(MASK[..., None], 3, axis=2)
    write_image(tmp_path / "masks/a.webp", colour)
    with pytest.raises(UserError, match="lossy"):
        ImageFolder(**arguments)[0]
    write_image(tmp_path / "masks/a.webp", colour, lossless=True)
    np.testing.assert_array_equal(ImageFolder(**arguments)[0]["label"], MASK)


def png(path, array):
    """Write a PNG of 16 bits per channel, which PIL cannot."""
    height, width, channels = array.shape

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_are_refused(tmp_path, channels):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": MASK})
    png(tmp_path / "images/a.png", np.full((6, 8, channels), 4096))
    with pytest.raises(UserError, match=r"a.png: has 16 bits per channel"):
        ImageFolder(**arguments, channels=3)[0]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_is_refused_as_alpha_is(tmp_path, mode):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": MASK})
    image = Image.fromarray(GREY).convert(mode)
    image.save(tmp_path / "images/a.png", transparency=5 if mode == "L" else (5, 5, 5))
    with pytest.raises(UserError, match="transparent pixels"):
        ImageFolder(**arguments)[0]


def test_masks_in_colour_are_read_by_their_colours(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": colours[MASK]})
    values = {"#000000": 0, "#FF0000": 1}
    np.testing.assert_array_equal(ImageFolder(**arguments, values=values)[0]["label"], MASK)
    palette = Image.fromarray(MASK)
    palette.putpalette(colours.tobytes())
    palette.save(tmp_path / "masks/a.png")
    np.testing.assert_array_equal(ImageFolder(**arguments, values=values)[0]["label"], MASK)
    with pytest.raises(UserError, match=r"holds the values \[#ff0000\].*available: #000000"):
        ImageFolder(**arguments, values={"#000000": 0})[0]
    for wrong in ({"#f00": 1}, {"#000000": 0, 255: 1}, {"red": 1}):
        with pytest.raises(UserError, match="values: the keys are"):
            ImageFolder(**arguments, values=wrong)


def test_a_case_has_one_subject(tmp_path):
    arguments = folder(tmp_path, {"a.png": GREY, "b.png": GREY}, {"a.png": MASK, "b.png": MASK})
    table = tmp_path / "subjects.csv"
    table.write_text("case,subject\na,one\nb,one\na,two\n")
    with pytest.raises(UserError, match=r"(?s)listed twice.*a"):
        ImageFolder(**arguments, subjects=table)


NOT_A_NUMBER = [
    {"channels": True},
    {"spacing": True},
    {"spacing": [1, False]},
    {"values": {9: True}},
]
WRONG_SETTINGS = [
    *((setting, next(iter(setting))) for setting in NOT_A_NUMBER),
    *(
        ({"spacing": size}, "spacing is")
        for size in (1e-320, 0, -1, np.nan, np.inf, "1", [1, 1, 1])
    ),
    ({"values": {0: 0, "0255": 0, 255: 1}}, "values: '0255' and 255 are the same"),
    ({"values": {"#FF0000": 0, "#ff0000": 1}}, "values: '#FF0000' and '#ff0000' are the same"),
    ({"values": [0, 255]}, r"values is \[0, 255\]; expected the class of each"),
    ({"values": {1.5: 1}}, "values: the keys are"),
    ({"split": ["train"]}, r"split is \['train'\]"),
    ({"ignore": True}, "its `ignore` must be a whole number"),
    ({"classes": "ab"}, "its `classes` must be a list of names; found 'ab'"),
    ({"classes": {"a": 0, "b": 1}}, "its `classes` must be a list of names"),
    ({"classes": ["no", "x" * 101]}, "has 101 letters; use 100 or less"),
    ({"channels": 1.0}, "channels is 1.0"),
    ({"classes": ["no", "\u00e9", "e\u0301"]}, "class names must differ; more than once: \u00e9"),
]


@pytest.mark.parametrize(("setting", "message"), WRONG_SETTINGS, ids=lambda x: ascii(x))
def test_settings_of_another_kind_are_refused(tmp_path, setting, message):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": MASK})
    with pytest.raises(UserError, match=message):
        check_dataset(ImageFolder(**arguments | setting), "datasets.x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ("case,subject\na,M\u00fcller\n".encode("latin1"), "line 2 is not UTF-8; save it as UTF-8"),
        (
            b"case;subject\na;one\n",
            ".*found case;subject; its separator is ';', save it with commas",
        ),
        (b"case,subject\na,one,two\n", "row 1 has 3 cells, the header 2"),
        (b'case,subject\na,"one\n', "is no valid CSV"),
        (None, "is a folder"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, content, message):
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": MASK})
    table = tmp_path / "s.csv"
    table.mkdir() if content is None else table.write_bytes(content)
    with pytest.raises(UserError, match=rf"subjects: .*s\.csv: {message}"):
        ImageFolder(**arguments, subjects=table)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_lies_in_the_place_of_a_file_is_named(tmp_path, kind):
    def put(path):
        path.unlink(missing_ok=True)
        path.mkdir() if kind == "folder" else path.symlink_to("gone")

    what = "is a folder, and no file" if kind == "folder" else "is a link to gone, which is not"
    arguments = folder(tmp_path, {"a.png": GREY}, {"a.png": MASK})
    put(tmp_path / "masks/a.png")
    with pytest.raises(UserError, match=rf"masks/a\.png: {what}"):
        ImageFolder(**arguments)
    root = write_msd(tmp_path)
    put(root / "splits_final.json")  # and no folds of our own in its place
    with pytest.raises(UserError, match=rf"splits_final\.json: {what}"):
        MSD(root)
    put(root / "labelsTr/a.nii.gz")
    with pytest.raises(UserError, match=rf"case a: .*labelsTr/a\.nii\.gz: {what}"):
        MSD(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["x", "y"]}, r"labels is \['x', 'y'\]; expected keys and values, in { }"),
        ({"training": 3}, r"training is 3; expected a list, in \[ \]"),
        ({"training": [{"image": 1, "label": "a.nii.gz"}]}, "lacks the path of image or label"),
        ({"modality": None}, "modality is None; expected keys and values"),
    ],
)
def test_a_dataset_json_of_other_kinds_names_the_key(tmp_path, change, message):
    path = write_msd(tmp_path) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"(?s)dataset\.json: .*{message}"):
        MSD(tmp_path)


def test_json_that_is_too_deep_is_named(tmp_path):
    (write_msd(tmp_path) / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"dataset\.json: is not valid JSON \(maximum recursion"):
        MSD(tmp_path)


def test_volumes_of_complex_numbers_are_refused(tmp_path):
    """The imaginary part would be dropped without a word."""
    write_volume(write_msd(tmp_path) / "imagesTr/a.nii.gz", np.ones((5, 6, 7), np.complex64) * 1j)
    with pytest.raises(UserError, match=r"imagesTr/a\.nii\.gz: holds complex64; it must hold real"):
        MSD(tmp_path)[0]


def test_a_dataset_json_says_each_thing_once(tmp_path):
    root = write_msd(tmp_path)
    for axis in (True, 1.0):
        with pytest.raises(UserError, match=f"slice_axis is {axis}"):
            MSD(root, slice_axis=axis)
    listing = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(listing.replace('"2"', '"1"'))
    with pytest.raises(UserError, match="a key is there twice: '1'"):
        MSD(root)
    labels = {"background": 0, "Core": [1, 2], "core": [2]}
    with pytest.raises(UserError, match="two regions have one name in lower case: Core, core"):
        NNUNet(write_nnunet(tmp_path / "nnunet", labels))
