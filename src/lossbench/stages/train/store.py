"""results/runs: finished runs by content, whole or not at all."""

import logging
import os
import shutil
from pathlib import Path

from lossbench.common.files import altered, read_json, whole
from lossbench.config import UserError

log = logging.getLogger(__name__)
# In the order of writing: the status comes last, with the checksums of the others.
FILES = ("run.json", "model.safetensors", "history.csv", "status.json")


def finished(folder: Path) -> bool:
    """Whether the store holds all of a run, as it was written; what is altered is named."""
    if not (folder / "status.json").is_file():
        return False
    try:
        checksums = read_json(folder / "status.json").get("sha256", {})
    except UserError as error:
        log.warning("%s; it is trained again", error)
        return False
    if set(checksums) != set(FILES) - {"status.json"}:
        log.warning("%s: of another version of lossbench; it is trained again", folder)
        return False
    for file in altered(folder, checksums):
        log.warning("%s: missing, or not as it was written; it is trained again", file)
        return False
    return True


def lay(stored: Path, target: Path) -> None:
    """Link the files of a stored run into a block; copy where links cannot be."""
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        with whole(target / file) as part:
            try:
                os.link(stored / file, part)
            except OSError:
                shutil.copyfile(stored / file, part)
