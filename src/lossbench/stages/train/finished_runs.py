"""results/runs: finished runs by content, whole or not at all."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lossbench.common.files import altered, read_json, whole
from lossbench.config import UserError
from lossbench.models import precision_used

log = logging.getLogger(__name__)
# In the order of writing: the status comes last, with the checksums of the others.
FILES = ("run.json", "model.safetensors", "history.csv", "status.json")


def is_finished(folder: Path, training: Mapping[str, Any]) -> bool:
    """Whether the store holds all of a run, as it was written; what is altered is named.

    A run that was trained in another precision than this machine would use is another run: on a
    CPU bf16 becomes float32. The digest cannot say so, since a dry run knows no device.
    """
    if not (folder / "status.json").is_file():
        return False
    try:
        status = read_json(folder / "status.json")
    except UserError as error:
        log.warning("%s; it is trained again", error)
        return False
    checksums = status.get("sha256", {})
    if set(checksums) != set(FILES) - {"status.json"}:
        log.warning("%s: of another version of lossbench; it is trained again", folder)
        return False
    for file in altered(folder, checksums):
        log.warning("%s: missing, or not as it was written; it is trained again", file)
        return False
    here = precision_used(training, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if (used := status["engine"]["precision"]) != here:
        log.warning(
            "%s: was trained in %s, and here it is %s; it is trained again", folder, used, here
        )
        return False
    return True


def link_run(stored: Path, target: Path) -> None:
    """Link the files of a stored run into a block; copy where links cannot be."""
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        with whole(target / file) as part:
            try:
                os.link(stored / file, part)
            except OSError:
                shutil.copyfile(stored / file, part)
