"""A job that is told to end, by a scheduler or by Ctrl-C, ends between two steps."""

import signal
from types import FrameType
from typing import Self


class Stop:
    """While it is entered, SIGTERM and SIGINT set `signal`, their name, and nothing else."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._set) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
