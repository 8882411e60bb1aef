"""A study whose code and data change between two runs of the workflow."""

import os

import numpy as np
import pytest
from PIL import Image

from lossbench.common.files import read_json
from tests.helpers.workflow_runs import MY_LOSSES, STUDY, cells, jobs, snakemake, study, trained

pytestmark = pytest.mark.slow  # starts processes

BLOCK = "results/study/cells/tiny/fold0/seed3"


def test_changed_code_and_data_are_seen_and_only_what_they_change_is_trained(tmp_path):
    cells(tmp_path)
    (tmp_path / "my_losses.py").write_text(f"from smoothing import SMOOTH\n{MY_LOSSES}")
    (tmp_path / "smoothing.py").write_text("SMOOTH = 1\n")
    config = str(study(tmp_path, matrix={**STUDY["matrix"], "fold": [0]}))

    def run(*arguments: str) -> str:
        result = snakemake(tmp_path, "--configfile", config, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stderr

    def digests() -> dict[str, str]:
        files = {loss: tmp_path / BLOCK / loss / "status.json" for loss in ("dice", "my_loss")}
        return {loss: read_json(file)["digest"] for loss, file in files.items()}

    run("--until", "train")
    before, stored = digests(), trained(tmp_path)
    assert "total" not in jobs(run("-n", "--until", "train")), "something is stale at once"

    # A module that the loss imports is another one, and a mask is written again as it was.
    (tmp_path / "smoothing.py").write_text("SMOOTH = 2\n")
    mask = tmp_path / "cells/masks/0.png"
    os.utime(mask)
    plan = run("-n", "--until", "train")
    assert "cells, tiny: prepared again (its files have changed)" in plan
    run("--until", "prepare")
    plan = run("-n", "--until", "train")
    assert "my_loss: 1 to train (retrained: smoothing.py has changed)" in plan
    assert "    dice: " not in plan
    run("--until", "train")
    after = digests()
    assert after["dice"] == before["dice"]
    assert after["my_loss"] != before["my_loss"]
    assert trained(tmp_path).items() > stored.items(), "what was trained before was trained again"
    assert [*read_json(tmp_path / BLOCK / "my_loss/run.json")["code"]] == [
        "my_losses.py",
        "smoothing.py",
    ]

    pixels = np.asarray(Image.open(mask)).copy()
    pixels[30:, 30:] = 1
    Image.fromarray(pixels).save(mask)
    run("--until", "prepare")
    plan = run("-n", "--until", "train")
    assert "dice: 1 to train (retrained: its data have changed)" in plan
    assert "my_loss: 1 to train (retrained: its data have changed)" in plan

    # Snakemake takes what was touched for new; a verdict of other data is not printed as of these.
    verdict = tmp_path / "results/study/report/verdict.txt"
    verdict.parent.mkdir(exist_ok=True)
    verdict.write_text("a verdict\n")
    said = run("--touch", "--until", "train")
    assert "warning: the results are not all of these settings, code and data" in said
    assert "a verdict" not in said
