"""Everything in bad_input.yaml is refused, in exactly the words that stand there."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lossbench.common.files import write_json
from lossbench.config import UserError
from lossbench.stages.prepare import prepare
from tests.helpers.configs import default, merged, problems

TABLE = yaml.safe_load(Path(__file__).with_name("bad_input.yaml").read_text())


@pytest.mark.parametrize("entry", TABLE["configs"], ids=lambda entry: entry["study"])
def test_a_broken_study_is_refused(entry, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(entry["study"])
    message = problems(merged(default(), yaml.safe_load(entry["study"])), **{"study.yaml": study})
    heading, *lines = message.splitlines()
    assert heading == "the config cannot be used:"
    assert [re.sub("^study.yaml(: |, )", "", line) for line in lines] == entry[
        "message"
    ].splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images and their masks, and folders that are wrong in one way each."""
    root, rng = tmp_path_factory.mktemp("broken"), np.random.default_rng(0)
    grey = rng.integers(0, 255, (8, 9), dtype=np.uint8)
    mask = (grey > 99).astype(np.uint8)
    colour = rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)
    images = {
        "images/a.png": grey, "images/b.png": grey, "masks/a.png": mask, "masks/b.png": mask,
        "doubled/a.png": mask * 255, "doubled/b.png": mask * 255, "few/a.png": mask,
        "small/a.png": mask[:4], "small/b.png": mask, "colour/a.png": colour, "colour/b.png": grey,
        "coloured/a.png": colour, "coloured/b.png": mask, "constant/a.png": np.full_like(grey, 7),
        "constant/b.png": grey, "twice/a.png": grey, "twice/a.tif": grey, "twice/b.png": grey,
        "text/b.png": grey,
    }  # fmt: skip
    texts = {
        "text/a.png": "no image", "msd/dataset.json": "{", "subjects.csv": "case,subject\na,1\n",
        "columns.csv": "image,subject\na,1\n",
    }  # fmt: skip
    for name in [*images, *texts, "empty/x", "nothing/x"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(root / name)
    for name, text in texts.items():
        (root / name).write_text(text)
    return root


FOLDER = {"_target_": "lossbench.datasets.ImageFolder", "images": "DIR/images"}
FOLDER |= {"masks": "DIR/masks", "classes": ["no", "yes"]}


@pytest.mark.parametrize("entry", TABLE["datasets"], ids=lambda entry: str(entry["change"]))
def test_a_broken_dataset_is_refused(entry, folder, tmp_path):
    spec = {k: v for k, v in (FOLDER | entry["change"]).items() if v is not None}
    folds = spec.pop("folds", 2)
    spec = {k: v.replace("DIR", str(folder)) if isinstance(v, str) else v for k, v in spec.items()}
    dataset = {"name": "mine", "spec": spec, "folds": folds, "fold_seed": 0}
    write_json(tmp_path / "dataset.json", dataset | {"surface_tolerance": 1.0})
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "dataset.json", tmp_path / "out")
    message = str(error.value).replace(str(folder), "DIR").removeprefix("datasets.mine: ")
    assert message == entry["message"]
    assert not (tmp_path / "out" / "classes.json").exists()
