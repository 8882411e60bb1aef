"""Progress of long work: a bar on a terminal, and a line in the log at least every 30 s."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lossbench.config import duration

log = logging.getLogger(__name__)
INTERVAL = 30.0  # seconds between two lines of the log
Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """Go through cases and say how far it is, and how long it will take.

    Parameters
    ----------
    items
        What takes long; each is a case.
    total
        How many there are; None where that is not known.
    what
        Begins the lines of the log: ``dice: evaluated``.
    """
    begin = shown = time.monotonic()
    bar = tqdm(items, total=total, unit="case", disable=None, leave=False)  # on a terminal
    with logging_redirect_tqdm():
        for number, item in enumerate(bar, start=1):
            yield item
            if time.monotonic() - shown > INTERVAL:
                shown = time.monotonic()
                if total is None:
                    log.info("%s %d cases", what, number)
                else:
                    left = duration((shown - begin) / number * (total - number))
                    log.info("%s %d of %d cases, about %s left", what, number, total, left)
