"""Progress of long work: a bar on a terminal, and a line in the log at least every 30 s."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lossbench.config import duration

log = logging.getLogger(__name__)
INTERVAL = 30.0  # seconds between two lines of the log
Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    total: int | None,
    what: str,
    size: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Go through cases and say how far it is, and how long it will take.

    Parameters
    ----------
    items
        What takes long; each is a case, or several.
    total
        How many cases there are; None where that is not known.
    what
        Begins the lines of the log: ``dice: evaluated``.
    size
        How many cases an item is.
    """
    begin = shown = time.monotonic()
    number = 0
    bar = tqdm(total=total, unit="case", disable=None, leave=False)  # on a terminal
    with bar, logging_redirect_tqdm():
        for item in items:
            yield item
            number += size(item)
            bar.update(size(item))
            if time.monotonic() - shown > INTERVAL:
                shown = time.monotonic()
                if total is None:
                    log.info("%s %d cases", what, number)
                else:
                    left = duration((shown - begin) / number * (total - number))
                    log.info("%s %d of %d cases, about %s left", what, number, total, left)
