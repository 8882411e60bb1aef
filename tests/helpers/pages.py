"""Report pages of made-up studies, and what stands on them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from tests.helpers.fake_results import write_experiment

LOSSES = ["dice", "dice_no_background", "dice_inverse_frequency"]

CLASSES = ["background", "anterior", "posterior"]


class Page(HTMLParser):
    """Text, tags and every address that a browser would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags, self.addresses, self.alts, self.text = [], [], [], ""
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value)
            if name == "alt":
                self.alts.append(value)

    def handle_data(self, data):
        if self.cdata_elem is None:  # neither style nor script
            self.text += data


def make(root, **options):
    experiment = write_experiment(root, **options)
    return experiment, experiment.parent / "report"


def edit(path, change):
    """Change a table of a report folder."""
    parquet = path.suffix == ".parquet"
    table = pd.read_parquet(path) if parquet else pd.read_csv(path)
    table = change(table)
    table.to_parquet(path, index=False) if parquet else table.to_csv(path, index=False)


def verdict_rows(markdown):
    rows = [line.strip("|").split("|") for line in markdown.splitlines()]
    header, _, *body = [[cell.strip() for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in body]
