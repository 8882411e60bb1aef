"""A job that gets SIGTERM or SIGINT, from a scheduler or by Ctrl-C, ends between two steps."""

import signal
from types import FrameType
from typing import Self


class StopSignal:
    """While it is entered, SIGTERM and SIGINT set `signal`, their name, and nothing else."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._previous: dict = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
