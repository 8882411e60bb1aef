"""Places on the devices of a machine, by file locks: nobody has to give them out."""

import itertools
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from lossbench.common.files import try_lock
from lossbench.config import counted

log = logging.getLogger(__name__)
WAIT_SECONDS = 1.0  # between two looks for a free place


def claim(names: Sequence[str], jobs: int = 1, folder: Path | None = None) -> tuple[int, IO]:
    """Wait for a place on one of several devices.

    Parameters
    ----------
    names
        The devices, by names that are theirs on this machine.
    jobs
        Places on each.
    folder
        For the lock files; None: one of the user's, for all workflows of the machine.

    Returns
    -------
    tuple
        Index of the device, and a locked file. The place is free again when the file is closed,
        also where the process is killed.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"lossbench-gpus-{os.getuid()}"
    waited = False
    while True:
        # The first place of every device before the second of any.
        for place, (index, name) in itertools.product(range(jobs), enumerate(names)):
            if file := try_lock(folder / f"{name}.{place}.lock"):
                return index, file
        if not waited:
            waited = True
            each = counted(jobs, "job")
            log.info("waiting for a free GPU of %d, with %s on each", len(names), each)
        time.sleep(WAIT_SECONDS)
