"""Progress of long work: a bar on a terminal, and a line in the log after 30 s without one."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lossbench.config import duration

log = logging.getLogger(__name__)
INTERVAL = 30.0  # seconds between two lines of the log
Item = TypeVar("Item")
_positions: list[Callable[[], str]] = []  # lines that say how far the loops that run are


class _LastLine(logging.Handler):
    """When the last line was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self.at = time.monotonic()


@contextmanager
def never_silent(stage: str) -> Iterator[None]:
    """Log a line after 30 s without one: how far the stage is, or at least that it goes on."""
    last, ended, begin = _LastLine(), threading.Event(), time.monotonic()

    def speak() -> None:
        while not ended.wait(max(last.at + INTERVAL - time.monotonic(), 0.01)):
            if time.monotonic() - last.at >= INTERVAL:
                at_work = f"{stage}: at work for {duration(time.monotonic() - begin)}"
                log.info("%s", _positions[-1]() if _positions else at_work)

    thread = threading.Thread(target=speak, daemon=True)
    logging.getLogger().addHandler(last)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        logging.getLogger().removeHandler(last)


@contextmanager
def position(line: Callable[[], str]) -> Iterator[None]:
    """Give `never_silent` the line that says how far the loop within is."""
    _positions.append(line)
    try:
        yield
    finally:
        _positions.remove(line)


def time_left(begin: float, done: int, total: int) -> str:
    """How long the rest takes at the pace since `begin`, by time.monotonic(): about 40 s left."""
    return f"about {duration((time.monotonic() - begin) / done * (total - done))} left"


def progress(
    items: Iterable[Item],
    total: int | None,
    what: str,
    size: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Go through cases with a bar; `never_silent` says how far it is, and how long it will take.

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
    begin, number = time.monotonic(), 0

    def line() -> str:
        if total is None or not number:
            return f"{what} {number}{'' if total is None else f' of {total}'} cases"
        return f"{what} {number} of {total} cases, {time_left(begin, number, total)}"

    bar = tqdm(total=total, unit="case", disable=None, leave=False)  # on a terminal
    with bar, logging_redirect_tqdm(), position(line):
        for item in items:
            yield item
            number += size(item)
            bar.update(size(item))
