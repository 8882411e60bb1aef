"""Regions of a dataset: from the config, from nnU-Net's dataset.json, from a user's class."""

import json

import numpy as np
import pytest

from lossbench.common.files import read_json, write_json
from lossbench.config import ConfigError, UserError, merged, validate
from lossbench.datasets import NNUNet, Phantom
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.datasets.regions import region_map, region_masks
from lossbench.stages.check.data import survey
from lossbench.stages.prepare import prepare
from tests.helpers.configs import default
from tests.helpers.files import write_nnunet

REGIONS = [["whole", [1, 2]], ["core", [2]]]


class Own(Phantom):
    """A user's data set that knows its regions and an ignore label."""

    ignore = 2
    regions = {"first": [1]}  # noqa: RUF012


def prepared(folder, regions=None, spec=None, **keys):
    spec = spec or {"_target_": "lossbench.datasets.Phantom", "fractions": [0.2, 0.1], "cases": 6}
    entry = {"name": "d", "spec": spec, "folds": 3, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(folder / "dataset.json", entry | ({"regions": regions} if regions else {}) | keys)
    prepare(folder / "dataset.json", folder)
    return Prepared(folder)


@pytest.mark.slow
def test_classes_are_the_regions_in_their_order(tmp_path):
    plain, data = prepared(tmp_path / "a"), prepared(tmp_path / "b", REGIONS)
    assert (data.classes, data.regions, data.background) == (["whole", "core"], [[1, 2], [2]], None)
    assert (data.labels == plain.labels).all()
    assert data.digest != plain.digest
    voxels = plain.voxels()
    assert (data.voxels() == np.stack([voxels[:, 1] + voxels[:, 2], voxels[:, 2]], 1)).all()
    assert (data.labelled() == plain.labelled()).all()
    assert (data.foreground_voxels() == plain.foreground_voxels()).all()
    assert (data.ignored() == 0).all()
    assert data.pads_with_background
    share = survey(data, [0])["classes"]
    assert [row["share"] for row in share] == pytest.approx([0.3, 0.1], abs=1e-3)
    # A class in few voxels: rows by the union of the regions, not by their sum.
    assert len(data.training(0, 0.3)) == len(plain.training(0, 0.3))


def test_a_dataset_of_ones_own_may_have_regions_and_an_ignore_label(tmp_path):
    data = prepared(tmp_path, spec={"_target_": f"{__name__}.Own", "cases": 6, "fractions": [0.2]})
    assert (data.classes, data.regions) == (["first"], [[1]])


def test_masks_and_pictures():
    label = np.array([[0, 1, 2], [3, IGNORE, 1]], np.uint8)
    masks = region_masks(label, [[2], [1, 2]])
    assert masks.tolist() == [
        [[0, 0, 1], [0, IGNORE, 0]],
        [[0, 1, 1], [0, IGNORE, 1]],
    ]
    # The smaller region is painted last, whatever their order.
    assert region_map(masks, [[2], [1, 2]]).tolist() == [[0, 2, 1], [0, IGNORE, 2]]


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        ([["a", [1, 3]]], r"a: the data set has no label 3; available: 0 \(background\), 1 "),
        ([["a", [1]], ["b", [1]]], "b has the labels of a"),
        ([["a/b", [1]]], "class name 'a/b'"),
    ],
)
def test_regions_that_cannot_be(tmp_path, regions, text):
    with pytest.raises(UserError, match=text):
        prepared(tmp_path, regions)


def test_the_config_keeps_the_order(tmp_path):
    entry = {"regions": {"whole": [1, 2], "core": 2}}
    raw = merged(default(), {"datasets": {"mni152": entry}})
    experiment = validate(raw)
    own = json.loads(experiment.dataset_json("mni152"))
    assert own["regions"] == [["whole", [1, 2]], ["core", [2]]]
    for wrong in ({}, {"a": []}, {"a": [-1]}, {"a": ["1"]}, {"a": True}):
        with pytest.raises(ConfigError, match=r"datasets.mni152.regions"):
            validate(merged(default(), {"datasets": {"mni152": {"regions": wrong}}}))


def test_labels_of_nnu_net_that_are_lists_are_regions(tmp_path):
    labels = {"background": 0, "whole tumour": [1, 2], "core": [2], "ignore": 3}
    dataset = NNUNet(write_nnunet(tmp_path / "a", labels))
    assert dataset.regions == {"whole_tumour": [1, 2], "core": [2]}
    assert (dataset.classes, dataset.ignore) == (["background", "label_1", "label_2"], 3)
    spec = {"_target_": "lossbench.datasets.NNUNet", "root": str(tmp_path / "a")}
    data = prepared(tmp_path / "d", spec=spec, folds=2)
    assert (data.classes, data.regions) == (["whole_tumour", "core"], [[1, 2], [2]])
    assert read_json(tmp_path / "d/classes.json")["ignore"]
    numbers = NNUNet(write_nnunet(tmp_path / "b", {"background": 0, "all": [1, 2], "second": 2}))
    assert numbers.regions == {"all": [1, 2], "second": [2]}
    with pytest.raises(UserError, match="without a gap"):
        NNUNet(write_nnunet(tmp_path / "c", {"background": 0, "all": [1, 4]}))
