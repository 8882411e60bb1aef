"""A study in rounds without any training: fake blocks, real looks."""

import json

import numpy as np
import pandas as pd

from lossbench.common.files import read_json, write_text
from lossbench.common.provenance import seed_of
from lossbench.common.rounds import last_look, planned_blocks
from lossbench.config import load
from lossbench.stages.compare.look import look
from tests.helpers.fake_results import block_folder, write_block, write_experiment

LOSSES = ("dice", "same", "better", "near")
# Of each loss, minus the reference: shift and standard deviation of a block.
EFFECTS = {
    "dice": (0.0, 0.0),
    "same": (0.0, 0.0003),
    "better": (0.05, 0.0003),
    "near": (0.02, 0.008),
}


def write_study(root, budget=6, losses=LOSSES, **sections):
    path = write_experiment(root, losses=losses, folds=(0, 1), seeds=(0,), n_cases=12)
    for file in path.parent.glob("*/*/fold*"):  # of the study without rounds
        for block in file.iterdir():
            (block / "cases.parquet").unlink()
    (path.parent / "looks/record.json").unlink()
    change(
        path,
        rounds={"budget": budget, "first": 2},
        matrix={"seed": list(range(budget))},
        **sections,
    )
    return path


def change(path, **sections):
    settings = json.loads(path.read_text())
    for name, section in sections.items():
        settings[name] = {**(settings[name] or {}), **section}
    write_text(path, json.dumps(settings))


def train(path, effects=EFFECTS):
    """The blocks that the study has so far, those that are there stay."""
    settings = load(path)
    for keys, losses in planned_blocks(settings, path.parent):
        file = block_folder(path, keys) / "cases.parquet"
        if file.exists():
            continue
        write_block(path, keys, losses=losses)
        table = pd.read_parquet(file)
        generator = np.random.default_rng(seed_of(keys["fold"], keys["seed"]))
        base = dict(
            zip(sorted(table["case"].unique()), generator.normal(0.7, 0.05, 99), strict=False)
        )
        for loss, (shift, sd) in effects.items():
            of = (table["loss"] == loss) & table["dice"].notna()
            noise = generator.normal(0, 0.002, of.sum()) + sd * generator.normal()
            table.loc[of, "dice"] = (
                table.loc[of, "case"].astype(str).map(base).astype(float) + shift + noise
            )
        table.to_parquet(file, index=False, write_page_checksum=True)


def write_look(path):
    """The next look; the path of its file."""
    settings = load(path)
    after = max(last_look(settings, path.parent) + 1, settings.rounds.first)
    file = path.parent / f"looks/round{after}.json"
    look(path, after, file)
    return file


def next_look(path):
    return read_json(write_look(path))


def run(path):
    """To the end, as the workflow does."""
    while True:
        train(path)
        found = next_look(path)
        if not found["open"]:
            return found
