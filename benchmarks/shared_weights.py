"""What blocks share in real trainings: python -m benchmarks.shared_weights --output DIR

The same trainings twice, with initial weights of their own for every fold, as lossbench has them, and with one set of
weights for a seed in all folds, as it had before 0.2.0: of DiceCE minus Dice per class, what all folds of a seed
share (the synthetic patients at 4 mm, four folds, six seeds), and what the slices of a subject share (hippocampus_2d).
Some 15 minutes on an idle core. Blocks that are there are not trained again.
"""

import argparse
import json
from pathlib import Path
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq

from lossbench import models
from lossbench.common.files import block_folder, write_text
from lossbench.common.provenance import seed_of
from lossbench.config import Experiment
from lossbench.stages.evaluate import evaluate
from lossbench.stages.prepare import prepare
from lossbench.stages.train import train
from lossbench.workflow import CONFIG_FILES, configure

LOSSES = ["dice", "dice_ce"]
CONFIG = Path(__file__).parents[1] / "config"


STUDIES = {
    "own": ("patients", 4, 6, {"steps": 60, "patch_size": [64, 56]}),
    "shared": ("patients", 4, 6, {"steps": 60, "patch_size": [64, 56]}),
    "slices": ("hippocampus_2d", 3, 3, {"steps": 80, "patch_size": [56, 40]}),
}


def study(name: str) -> Experiment:
    """Short trainings of a small network."""
    dataset, folds, seeds, training = STUDIES[name]
    matrix = {"dataset": [dataset], "model": ["unet_small"], "loss": LOSSES}
    matrix |= {"fold": list(range(folds)), "seed": list(range(seeds))}
    settings = {"experiment": name, "matrix": matrix}
    settings["training"] = {"batch_size": 8, "learning_rate": 0.003, **training}
    settings["training"]["augmentation"] = {"flip": False}
    patients = {"_target_": "lossbench.datasets.MNI152", "patients": 40, "spacing": 4, "folds": 4}
    settings["datasets"] = {"patients": patients}
    execution = {"log_every": training["steps"], "validate_every": training["steps"]}
    settings["execution"] = execution | {"ledger": None}
    return configure(settings, [CONFIG / f"{file}.yaml" for file in CONFIG_FILES], [])


def same_in_all_folds(*parts: object) -> int:
    """The seed of initial weights without the fold; other seeds as ever."""
    return seed_of(*(parts[:3] + parts[4:] if parts[0] == "weights" else parts))


def run(name: str, output: Path) -> pd.DataFrame:
    """Train and evaluate what is not there, and read all of it."""
    experiment, root, tables = study(name), output / name, []
    (dataset,) = experiment.matrix.dataset
    data = output / dataset
    if not (data / "classes.json").exists():
        write_text(output / "dataset.json", experiment.dataset_json(dataset))
        prepare(output / "dataset.json", data)
    seeding = same_in_all_folds if name == "shared" else seed_of
    for keys in experiment.blocks():
        folder = block_folder(root, **keys)
        cases = folder / "cases.parquet"
        if not cases.exists():
            write_text(folder / "block.json", experiment.block_json(**keys))
            with mock.patch.object(models, "seed_of", seeding):
                train(folder / "block.json", data, root / "runs")
            evaluate(folder / "block.json", data, cases)
        tables.append(pq.read_table(cases).to_pandas())
    return pd.concat(tables)


def components(table: pd.DataFrame) -> pd.DataFrame:
    """Standard deviations of the difference, a row per class."""
    rows = []
    for class_, of_class in table.groupby("class", observed=True):
        wide = of_class.pivot(
            index=["fold", "seed", "subject", "case"], columns="loss", values="dice"
        )
        d = (wide["dice_ce"] - wide["dice"]).dropna()
        means = d.groupby(["fold", "seed", "subject"], observed=True).mean()
        blocks = means.groupby(["fold", "seed"]).mean().unstack("seed")
        values = blocks.to_numpy()
        f, s = values.shape
        of_fold, of_seed = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
        rest = values - of_fold - of_seed + values.mean()
        ms_seed = f * ((of_seed - values.mean()) ** 2).sum() / (s - 1)
        ms_fold = s * ((of_fold - values.mean()) ** 2).sum() / (f - 1)
        ms_rest = (rest**2).sum() / ((f - 1) * (s - 1))
        # Between the means of seeds of a subject, against slices of it: one-way, of slice means.
        of_case = d.groupby(["subject", "case"], observed=True).mean()
        groups = of_case.groupby("subject", observed=True)
        n, n_subjects = groups.size(), groups.ngroups
        within = (groups.var() * (n - 1)).sum() / (n.sum() - n_subjects)
        grand = of_case.mean()
        between = (n * (groups.mean() - grand) ** 2).sum() / (n_subjects - 1)
        size = (n.sum() - (n**2).sum() / n.sum()) / (n_subjects - 1)
        subject = max(0.0, (between - within) / size)
        rows.append(
            {
                "class": class_,
                "difference": values.mean(),
                "var_seed": (ms_seed - ms_rest) / f,
                "var_fold": (ms_fold - ms_rest) / s,
                "var_block": ms_rest,
                "f_seed": ms_seed / ms_rest,
                "sd_subject": subject**0.5,
                "sd_slice": within**0.5,
                "icc": subject / (subject + within),
                "slices": size,
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    found = {}
    for name in STUDIES:
        table = run(name, arguments.output)
        found[name] = components(table)
        print(
            f"{name}\n{found[name].to_string(index=False, float_format='{:.3g}'.format)}",
            flush=True,
        )
    as_json = {name: table.to_dict("records") for name, table in found.items()}
    (arguments.output / "shared_weights.json").write_text(json.dumps(as_json, indent=1))


if __name__ == "__main__":
    main()
