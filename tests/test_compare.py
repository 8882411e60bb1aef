"""compare: tables that agree with each other and with MONAI, whatever is missing."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import DiceMetric

from lossbench.compare import compare
from lossbench.config import UserError
from lossbench.files import read_json, write_json
from tests.fake_results import write_experiment

KEYS = ["dataset", "model", "loss", "fold", "seed"]


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path, n_cases=8)


def tables(experiment):
    output = experiment.parent / "report"
    compare(experiment, output)
    named = {
        name: pd.read_csv(output / f"{name}.csv") for name in ("runs", "summary", "comparisons")
    }
    return pd.read_parquet(output / "cases.parquet"), *named.values()


def test_columns_are_those_of_the_design(experiment):
    cases, runs, summary, comparisons = tables(experiment)
    assert cases.columns.tolist() == [
        *KEYS, "case", "class", "tp", "fp", "fn", "dice", "iou", "precision", "recall", "hd95", "surface_dice",
    ]  # fmt: skip
    wanted = {
        "digest",
        "status",
        "steps",
        "train_seconds",
        "images_per_second",
        "peak_memory_bytes",
    }
    assert wanted | {"init_digest", "batch_digest", "commit", "versions", "device"} <= {
        *runs.columns
    }
    assert summary.columns.tolist() == [
        "dataset", "model", "loss", "class", "metric",
        "n_cases", "n_seeds", "n_empty", "mean", "ci_low", "ci_high", "sd_case", "sd_seed",
    ]  # fmt: skip
    wanted = {"n_cases", "n_seeds", "difference", "ci_low", "ci_high", "p", "p_holm", "verdict"}
    assert wanted | {"n_cases_needed", "paired"} <= {*comparisons.columns}


def test_counts_cases_summary_and_comparisons_agree(experiment):
    cases, runs, summary, comparisons = tables(experiment)
    present = cases["tp"] + cases["fn"] > 0
    dice = 2 * cases["tp"] / (2 * cases["tp"] + cases["fp"] + cases["fn"])
    assert cases["dice"][present].to_numpy() == pytest.approx(dice[present].to_numpy(), abs=1e-6)
    assert cases["dice"][~present].isna().all()
    for _, row in summary[summary["metric"] == "dice"].iterrows():
        mine = cases[(cases["loss"] == row["loss"]) & (cases["class"] == row["class"])]
        per_case = mine.groupby("case")["dice"].mean()
        assert row["mean"] == pytest.approx(per_case.mean())
        assert row["n_cases"] == per_case.notna().sum()
        assert row["n_empty"] == per_case.isna().sum()
        assert row["ci_low"] <= row["mean"] <= row["ci_high"]
    for _, row in comparisons.iterrows():
        mine = cases[cases["class"] == row["class"]].pivot_table(
            index=["fold", "seed", "case"], columns="loss", values="dice"
        )
        difference = (mine[row["loss"]] - mine[row["reference"]]).mean()
        assert row["difference"] == pytest.approx(difference)
        assert row["ci_low"] <= difference <= row["ci_high"]
        assert row["p_holm"] >= row["p"]
    assert set(comparisons["class"]) == set(cases["class"]), "the background is always shown"
    assert len(runs) == 3 * 2 * 2


def test_dice_of_a_run_is_what_dicemetric_aggregates(experiment):
    cases, runs, _, _ = tables(experiment)
    for _, run in runs.iterrows():
        mine = cases.merge(run[KEYS].to_frame().T.astype({"fold": int, "seed": int}), on=KEYS)
        wide = mine.pivot_table(
            index="case", columns="class", values="dice", sort=False, dropna=False
        )
        for column, buffer in {
            "dice": wide.drop(columns="background"),
            "dice_with_background": wide,
        }.items():
            metric = DiceMetric(reduction="mean")
            metric._buffers = [[torch.tensor(buffer.to_numpy())]]
            metric._synced_tensors = [torch.tensor(buffer.to_numpy())]
            metric._synced = True
            assert run[column] == pytest.approx(metric.aggregate().item(), abs=1e-6)


def test_pairing_is_by_digest(experiment):
    block = next(experiment.parent.glob("*/*/fold1/seed0"))
    status = read_json(block / "dice_no_background" / "status.json")
    write_json(block / "dice_no_background" / "status.json", status | {"batch_digest": "other"})
    comparisons = tables(experiment)[3]
    paired = comparisons.groupby("loss")["paired"].all()
    assert paired.to_dict() == {"dice_no_background": False, "dice_inverse_frequency": True}


def test_a_missing_block_is_named(experiment):
    file = next(experiment.parent.glob("*/*/fold1/seed0/cases.parquet"))
    file.unlink()
    with pytest.raises(UserError, match=r"fold1/seed0/cases\.parquet: no such file \(1 missing\)"):
        tables(experiment)


def test_one_block_gives_no_interval(tmp_path):
    comparisons = tables(write_experiment(tmp_path, folds=[0], seeds=[0]))[3]
    assert (comparisons["verdict"] == "undecided").all()
    assert comparisons[["ci_low", "ci_high", "p"]].isna().all(axis=None)
    assert comparisons["difference"].notna().all()
    text = (tmp_path / "results/fake/report/verdict.txt").read_text()
    assert "unknown: one block" in text


def test_one_loss_alone_is_summarised(tmp_path):
    _, _, summary, comparisons = tables(write_experiment(tmp_path, losses=["dice"]))
    assert comparisons.empty
    assert set(summary["loss"]) == {"dice"}


def test_a_difference_that_is_there_is_found(tmp_path):
    experiment = write_experiment(
        tmp_path, losses=["dice", "other"], folds=range(4), seeds=range(3)
    )
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        generator = np.random.default_rng(len(str(file)))
        shift = np.where(table["loss"] == "other", 0.08, 0.0) + generator.normal(
            0, 0.01, len(table)
        )
        table["dice"] = 0.7 + shift
        table.to_parquet(file)
    comparisons = tables(experiment)[3]
    assert (comparisons["verdict"] == "better").all()
    assert comparisons["n_cases_needed"].isna().all()
