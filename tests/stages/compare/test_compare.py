"""compare: tables that agree with each other and with MONAI, whatever is missing."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import DiceMetric

from lossbench.common.files import read_json, write_json
from lossbench.config import METRICS, UserError
from lossbench.stages.compare import compare
from tests.helpers.comparison_tables import change, read, tables
from tests.helpers.fake_results import write_experiment

KEYS = ["dataset", "model", "loss", "fold", "seed"]


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path, n_cases=8)


def test_columns_are_those_of_the_design(experiment):
    cases, runs, summary, comparisons = tables(experiment)
    assert cases.columns.tolist() == [
        *KEYS, "case", "subject", "class", "tp", "fp", "fn", "dice", "iou", "precision", "recall", "hd95", "surface_dice",
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
        "n_cases", "n_subjects", "n_seeds", "n_empty", "mean", "ci_low", "ci_high", "sd_case", "sd_seed",
        "background",
    ]  # fmt: skip
    assert comparisons.columns.tolist() == [
        "dataset", "model", "loss", "reference", "class", "metric",
        "n_cases", "n_subjects", "n_seeds", "n_blocks", "n_missing", "n_missing_loss", "n_missing_reference", "p_missing", "missing_cases", "difference", "ci_low", "ci_high",
        "simultaneous_low", "simultaneous_high", "p", "p_holm", "p_equivalent_holm", "verdict", "round", "reason", "n_cases_needed", "n_blocks_needed", "improvement",
        "p_cases", "p_cases_holm", "verdict_cases", "convention", "paired",
        "scope", "models_low", "models_high", "p_models", "p_models_holm", "verdict_models",
        "noise_tolerated", "sd_fold", "p_fold", "caution",
    ]  # fmt: skip
    others = {
        "pooled": "dataset model loss class n_cases tp fp fn dice iou precision recall",
        "conventions": "dataset model class convention loss mean n_cases winner",
        "ranks": "dataset model class metric loss rank rank_low rank_high p_first",
        "collapses": "dataset model loss class n_runs n_collapsed seeds",
        "failures": "dataset model loss class n_subjects n_failed rate_high n_failed_reference "
        "p_mcnemar n_runs n_collapsed collapse_high",
    }
    for name, columns in others.items():
        assert read(experiment, name).columns.tolist() == columns.split()
    assert not (experiment.parent / "report/scale.csv").exists()


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


@pytest.mark.slow
def test_without_a_background_means_are_over_all_classes(tmp_path, experiment):
    cases, runs, summary, _ = tables(write_experiment(tmp_path / "street", background=None))
    assert not summary["background"].any()
    for _, run in runs.iterrows():
        mine = cases.merge(run[KEYS].to_frame().T.astype({"fold": int, "seed": int}), on=KEYS)
        expected = mine.groupby("case")["dice"].mean().mean()
        assert run["dice"] == pytest.approx(expected)
        assert run["dice_with_background"] == pytest.approx(expected)
    _, runs, summary, _ = tables(experiment)
    assert set(summary.loc[summary["background"], "class"]) == {"background"}
    assert (runs["dice"] - runs["dice_with_background"]).abs().min() > 1e-3


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
    assert "MLflow:  python -m lossbench ui " in text, "a folder of one's own has no Makefile"


def test_one_loss_alone_is_summarised(tmp_path):
    _, _, summary, comparisons = tables(write_experiment(tmp_path, losses=["dice"]))
    assert comparisons.empty
    assert set(summary["loss"]) == {"dice"}


@pytest.mark.slow
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


def test_no_interval_of_dice_is_wider_than_dice(tmp_path, monkeypatch):
    """Two blocks and two cases: it would reach beyond -1 and 1; the verdicts stay."""

    def compared():
        compare(experiment, experiment.parent / "report")
        return read(experiment, "comparisons"), read(experiment, "scale")

    experiment = write_experiment(
        tmp_path, losses=["a", "b", "b_matched"], folds=(0,), seeds=(0, 1), n_cases=2
    )
    for file, gain in zip(
        sorted(experiment.parent.glob("*/*/*/*/cases.parquet")), (0.4, -0.4), strict=True
    ):
        table = pd.read_parquet(file)
        table["dice"] = 0.5 + gain * (table["loss"] == "b") + 0.01 * np.arange(len(table)) / 10
        table["hd95"] = 10 * table["dice"]
        table.to_parquet(file, index=False)
    settings = read_json(experiment)
    settings["comparison"] |= {"metrics": ["dice", "hd95"], "scale_control": True}
    write_json(experiment, settings)
    table, scale = compared()
    monkeypatch.setitem(METRICS, "dice", METRICS["dice"]._replace(high=np.inf))
    whole, whole_scale = compared()
    ends = ["ci_low", "ci_high", "simultaneous_low", "simultaneous_high"]
    for found, uncut in ((table, whole), (scale, whole_scale)):
        columns = [name for name in ends if name in found]
        dice = uncut["metric"] == "dice"
        assert (uncut.loc[dice, "ci_high"] > 1).any()
        expected = uncut[columns].clip(-1, 1).where(dice, uncut[columns])
        pd.testing.assert_frame_equal(found[columns], expected)
    pd.testing.assert_frame_equal(table.drop(columns=ends), whole.drop(columns=ends))


def test_verdict_of_the_usual_test_stands_beside(tmp_path):
    """A training's luck, the same for all its cases: the usual test calls it a winner."""
    experiment = write_experiment(tmp_path, losses=["dice", "lucky"], n_cases=12)
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        luck = {"seed0": 0.09, "seed1": -0.03}[file.parent.name]
        noise = np.random.default_rng(0).normal(0, 0.001, len(table))
        table["dice"] = 0.7 + np.where(table["loss"] == "lucky", luck + noise, 0)
        table.to_parquet(file)
    comparisons = tables(experiment)[3]
    assert (comparisons["verdict"] == "undecided").all()
    assert (comparisons["verdict_cases"] == "better").all()
    assert (comparisons["p_cases_holm"] < 0.01).all()
    assert (comparisons["p_holm"] > 0.05).all()
    assert comparisons["improvement"].to_numpy() == pytest.approx(0.5)


def test_the_interval_of_a_rank_has_the_error_rate_of_the_study(tmp_path):
    """It is second where three or four of the four blocks drawn are the worse one: 13 of 256."""
    experiment = write_experiment(tmp_path, losses=["dice", "lucky"], n_cases=12)
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        luck = -0.01 if file.parent.parts[-2:] == ("fold1", "seed1") else 0.05
        table["dice"] = 0.7 + np.where(table["loss"] == "lucky", luck, 0)
        table.to_parquet(file)
    highest = {}
    for alpha in (0.05, 0.45):
        settings = read_json(experiment)
        settings["comparison"]["alpha"] = alpha
        write_json(experiment, settings)
        tables(experiment)
        ranks = read(experiment, "ranks")
        highest[alpha] = set(ranks.loc[ranks["loss"] == "lucky", "rank_high"])
    assert highest == {0.05: {2}, 0.45: {1}}


def test_less_is_better_for_a_distance(tmp_path):
    experiment = write_experiment(tmp_path, losses=["dice", "close"], folds=range(3))
    settings = read_json(experiment)
    settings["comparison"]["metrics"] = ["hd95"]
    write_json(experiment, settings)
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        noise = np.random.default_rng(len(str(file))).normal(0, 0.01, len(table))
        table["hd95"] = 3 + noise - (table["loss"] == "close")
        table.to_parquet(file)
    comparisons = tables(experiment)[3]
    assert comparisons["difference"].to_numpy() == pytest.approx(-1, abs=0.05)
    assert (comparisons[["verdict", "verdict_cases"]] == "better").all(axis=None)
    assert (comparisons["improvement"] == 1).all()
    ranks = read(experiment, "ranks")
    assert (ranks.loc[ranks["loss"] == "close", ["rank", "p_first"]] == 1).all(axis=None)


def test_a_metric_may_have_a_margin_of_its_own(tmp_path):
    """A difference of 1 in both, and a margin of 2 for one of them: it alone is equivalent."""
    experiment = write_experiment(tmp_path, losses=["dice", "close"], folds=range(3))
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        noise = np.random.default_rng(len(str(file))).normal(0, 0.01, len(table))
        table["hd95"] = table["surface_dice"] = 3 + noise - (table["loss"] == "close")
        table.to_parquet(file)
    settings = read_json(experiment)
    settings["comparison"] |= {"metrics": ["hd95", "surface_dice"], "margins": {"hd95": 2}}
    write_json(experiment, settings)
    comparisons = tables(experiment)[3].set_index("metric")
    assert (comparisons.loc["hd95", "verdict"] == "equivalent").all()
    assert (comparisons.loc["surface_dice", "verdict"] == "worse").all()
    said = (experiment.parent / "report/verdict.txt").read_text()
    assert "margin 2 of hd95, 0.01 of surface_dice\n" in said


def test_missing_pairs_are_counted(experiment):
    """HD95 has no value where a class is not predicted: a pair is missing then."""
    settings = read_json(experiment)
    settings["comparison"]["metrics"] = ["dice", "hd95"]
    write_json(experiment, settings)
    change(
        experiment,
        "loss == 'dice_no_background' and seed == 1 and case == 'case_003' and `class` == 'anterior'",
        hd95=np.nan,
    )
    comparisons = tables(experiment)[3].set_index(["loss", "class", "metric"])["n_missing"]
    assert comparisons["dice_no_background", "anterior", "hd95"] == 1
    assert comparisons.sum() == 1, "a case without the class is no missing pair"


def test_pooled_figures_are_those_of_the_summed_counts(experiment):
    cases = tables(experiment)[0]
    pooled = read(experiment, "pooled").set_index(["loss", "class"])
    sums = cases.groupby(["loss", "class"])[["tp", "fp", "fn"]].sum()
    for keys, row in sums.iterrows():
        mine = pooled.loc[keys]
        assert mine[["tp", "fp", "fn"]].tolist() == row.tolist()
        assert mine["dice"] == pytest.approx(
            2 * row["tp"] / (2 * row["tp"] + row["fp"] + row["fn"])
        )
        assert mine["n_cases"] == 16


def test_collapses_are_counted_by_their_histories(experiment):
    low = "loss == 'dice' and `class` == 'anterior' and seed == 1"
    change(experiment, low, dice=0.05)
    collapsed, recovered = (
        next(experiment.parent.glob(f"*/*/fold{fold}/seed1/dice/history.csv")) for fold in (0, 1)
    )
    history = pd.read_csv(collapsed)
    history["val/dice/anterior"] = 0.01
    history.to_csv(collapsed, index=False)
    tables(experiment)
    table = read(experiment, "collapses").set_index(["loss", "class"])
    assert table["n_collapsed"].sum() == 1, "the other run had begun, and fell back"
    assert table.loc[("dice", "anterior"), "seeds"] == "fold 0 seed 1"
    assert (table["n_runs"] == 4).all()
    recovered.unlink()
    with pytest.raises(UserError, match=r"fold1/seed1/dice/history\.csv: no such file"):
        tables(experiment)


def test_scale_control_says_what_scale_explains(tmp_path):
    losses = ["dice", "ce", "ce_matched"]
    experiment = write_experiment(tmp_path, losses=losses, folds=range(3))
    reached = {"dice": 0.6, "ce": 0.75, "ce_matched": 0.65}
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        noise = np.random.default_rng(len(str(file))).normal(0, 0.001, len(table))
        table["dice"] = table["loss"].map(reached) + noise
        table.to_parquet(file)
    tables(experiment)
    scale = read(experiment, "scale")
    assert scale["loss"].unique().tolist() == ["ce"]
    found = scale[["difference", "matched", "explained"]].to_numpy()
    assert found == pytest.approx(np.tile([0.15, 0.05, 0.10], (3, 1)), abs=0.005)
    assert (scale["ci_low"] < scale["explained"]).all()
    assert (scale["explained"] < scale["ci_high"]).all()


def test_a_loss_that_left_the_matrix_is_no_damage(experiment):
    settings = read_json(experiment)
    settings["matrix"]["loss"].remove("dice_inverse_frequency")
    write_json(experiment, settings)
    cases, runs, _, comparisons = tables(experiment)
    assert set(cases["loss"]) == set(runs["loss"]) == {"dice", "dice_no_background"}
    assert set(comparisons["loss"]) == {"dice_no_background"}


def test_a_run_that_diverged_counts(tmp_path):
    experiment = write_experiment(tmp_path, diverged=["dice_no_background"])
    _, runs, _, comparisons = tables(experiment)
    assert (runs.loc[runs["loss"] == "dice_no_background", "status"] == "diverged").all()
    assert (comparisons["n_blocks"] == 4).all()
    assert (comparisons["n_missing"] == 0).all()
