"""A run as MLflow should have it. Knows no MLflow."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lossbench.common.provenance import sha256
from lossbench.stages.track.view import clean

# What MLflow never forgets: ("param", key, value), ("metric", key, value, ms, step), ...
Entry = tuple[str | float, ...]


@dataclass(frozen=True)
class Record:
    """A run as MLflow should have it."""

    key: str  # identity within the experiment: a run's digest, or what a parent summarises
    kind: str  # run (one training), loss (dataset x model x loss), or comparison
    name: str
    start: int  # ms since 1970
    end: int | None  # None: under way
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    parent: str | None = None  # key of the parent's record
    dataset: tuple[str, str, int] | None = None  # name, digest and number of cases
    history: bytes = b""  # history.csv, or as much of it as there is
    figures: dict[str, float] = field(default_factory=dict)  # single values, known at the end
    files: dict[str, Path] = field(default_factory=dict)  # artifacts by their name in the run
    provisional: bool = False  # figures are still to come: finished runs of earlier syncs stay

    @cached_property
    def content(self) -> str:
        """Digest of what the record is made of; cheap, as most records are unchanged."""
        own = [self.key, self.kind, self.name, self.start, self.end, self.params, self.tags]
        text = json.dumps([*own, self.figures, self.dataset], sort_keys=True)
        files = (part for name, path in self.files.items() for part in (name, self._digest(path)))
        return sha256(text, self.history, *files)

    @cached_property
    def entries(self) -> list[Entry]:
        """Everything that cannot be taken back, in an order in which a run under way only adds."""
        end = self.start if self.end is None else self.end
        return [
            ("start", self.name, self.start),
            *(("param", key, value) for key, value in self.params.items()),
            *([("dataset", *self.dataset)] if self.dataset else []),
            *self._points(),
            # At step 0 they are bars in the UI; at a later step, lines.
            *(
                ("metric", clean(name), float(value), end, 0)
                for name, value in self.figures.items()
                if math.isfinite(value)  # NaN: the class is absent from every case
            ),
            *(("file", name, self._digest(path)) for name, path in self.files.items()),
        ]

    def _points(self) -> Iterator[Entry]:
        """Points of the curves, row by row of the history."""
        for row in csv.DictReader(io.StringIO(self.history.decode())):
            row.pop("started", None)  # a history under way says when it began
            ms, step = self.start + round(1000 * float(row.pop("seconds"))), int(row.pop("step"))
            for name, text in row.items():
                if text and math.isfinite(float(text)):  # blank where nothing was validated
                    yield "metric", clean(name), float(text), ms, step

    def _digest(self, path: Path) -> str:
        """Digest of a file. Weights are large, and others only where their run ended anew."""
        return str(self.end) if path.suffix == ".safetensors" else sha256(path.read_bytes())
