"""docs/studies.md: every study on it passes `check`, on its data or on data in their layout."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from lossbench.common.files import read_json, write_text
from lossbench.config import validate
from lossbench.datasets.prepared import Prepared
from lossbench.stages.check import check
from lossbench.stages.check.cost import block_cost
from lossbench.stages.prepare import prepare
from tests.helpers.configs import default, merged
from tests.helpers.files import write_image

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/studies.md").read_text(), flags=re.DOTALL)
STUDIES = {yaml.safe_load(block)["experiment"]: block for block in BLOCKS}
DATA = Path(os.environ.get("LOSSBENCH_DATA", "data"))
REAL = {"vessels": "chase_db1", "hippocampus_2mm": "Task04_Hippocampus"}

SMALL = "batch_size: 2, patch_size: [64, 64]"


def images(names, folder, masks, label_of):
    """Noise with bright stripes, and its masks."""
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        label = np.repeat(np.arange(12), 4)[None].repeat(48, 0)
        label = np.roll(label, rng.integers(48), axis=1)
        pixels = np.stack([label * 20, *rng.integers(0, 255, (2, 48, 48))], axis=2)
        write_image(folder / f"{name}.png", pixels.astype(np.uint8))
        write_image(masks / f"{name}.png", label_of(label))


def camvid(root, in_colour):
    """CamVid's folders and lists, the paths of which are another machine's."""
    table = yaml.safe_load(STUDIES["camvid_colours"])["datasets"]["camvid_colours"]["values"]
    colours = np.array([list(bytes.fromhex(key[1:])) for key in table], dtype=np.uint8)
    for part, n in (("train", 4), ("val", 2), ("test", 3)):
        names = [f"{part}_{i:04d}" for i in range(n)]
        masks = root / f"{part}{'_colours' if in_colour else 'annot'}"
        images(
            names, root / part, masks,
            lambda label: colours[label] if in_colour else label.astype(np.uint8),
        )  # fmt: skip
        lines = [f"/SegNet/CamVid/{part}/{x}.png /SegNet/CamVid/{part}annot/{x}.png" for x in names]
        (root / f"{part}.txt").write_text("\n".join(lines))


def test_every_study_is_valid():
    assert set(STUDIES) == {"camvid", "camvid_colours", "cracks", *REAL}
    for block in STUDIES.values():
        validate(merged(default(), yaml.safe_load(block)))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_passes_check(name, tmp_path, monkeypatch):
    """What `check --configfile` does, without its five processes; tests/stages/check has the command."""
    if name in REAL and not (DATA / REAL[name]).is_dir():
        pytest.skip(f"{REAL[name]} is not in $LOSSBENCH_DATA")
    if name.startswith("camvid"):
        camvid(tmp_path / "CamVid", in_colour=name == "camvid_colours")
    if name == "cracks":
        root = tmp_path / "CrackForest"
        names = [f"{i:03d}" for i in range(10)]
        images(names, root / "image", root / "masks", lambda label: (label == 3).astype(np.uint8))
    # In small patches: the page's own would be most of the test's time.
    small = re.sub(r"batch_size: \d, patch_size: \[\d{3}, \d{3}\]", SMALL, STUDIES[name])
    assert (small == STUDIES[name]) == (name == "hippocampus_2mm"), "whose patches are small"
    monkeypatch.chdir(tmp_path)
    study = validate(merged(default(), yaml.safe_load(small)))
    data = tmp_path / "results/datasets" / name
    write_text(data / "dataset.json", study.dataset_json(name))
    prepare(data / "dataset.json", data)
    root = tmp_path / "results" / name
    write_text(root / "experiment.json", study.experiment_json())
    check(root / "experiment.json", root / "check.json")
    found = read_json(root / "check.json")
    assert found["losses"] == study.matrix.loss
    tried = {f"{name}/{part}" for part in (*study.matrix.loss, *study.matrix.model)}
    assert {*found["tried"]} == tried | {f"{name}/fold{fold}" for fold in study.matrix.fold}
    (model,) = study.matrix.model
    cost = block_cost(study, Prepared(data), model, seconds=1.0)
    assert cost["losses"].keys() == {*study.matrix.loss}
    assert cost["total_seconds"] > 0
