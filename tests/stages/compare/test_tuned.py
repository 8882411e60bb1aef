"""Verdicts at the common learning rate beside those at each loss's own."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.error_rates import Design
from benchmarks.error_rates import study as draw
from benchmarks.rounds_and_tuning import CLASSES, LOSSES, decided, measured, settings
from lossbench.common.files import read_json, write_json
from lossbench.config import UserError
from lossbench.stages.compare import compare
from lossbench.statistics import paired_difference, share_training_sets
from tests.helpers.fake_results import write_experiment, write_rates

GRID = {"learning_rate": {"points": 3, "trainings": 2}}


@pytest.fixture
def study(tmp_path):
    """Of dice, dice_tuned, ce, ce_tuned, of which each has a Dice .02 above the one before."""
    return write_experiment(tmp_path, losses=("dice", "ce"), n_cases=12, tuning=GRID)


def read(study, name):
    return pd.read_csv(study.parent / "report" / f"{name}.csv", dtype={"class": str})


def test_each_loss_is_compared_at_both_rates(study):
    table = read(study, "comparisons")
    pairs = set(zip(table["loss"], table["reference"], strict=True))
    assert pairs == {("ce", "dice"), ("ce_tuned", "dice_tuned")}
    failed = read(study, "failures")
    assert failed.loc[failed["loss"] == "dice_tuned", "p_mcnemar"].isna().all(), "a reference"


def test_both_stand_side_by_side_and_the_rest_is_explained_by_the_rate(study):
    tuning, compared = (
        read(study, "tuning"),
        read(study, "comparisons").set_index(["loss", "class"]),
    )
    cases = pd.read_parquet(study.parent / "report/cases.parquet")
    for row in tuning.to_dict("records"):
        fixed, tuned = compared.loc["ce", row["class"]], compared.loc["ce_tuned", row["class"]]
        assert (row["verdict_fixed"], row["verdict_tuned"]) == (fixed["verdict"], tuned["verdict"])
        assert row["difference_fixed"] == fixed["difference"]
        assert row["difference_tuned"] == tuned["difference"]
        assert (row["lr_fixed"], row["lr_tuned"], row["lr_tuned_reference"]) == (
            0.001,
            0.002,
            0.001,
        )
        assert row["budget"] == 3 * 2 * 2  # points, trainings, folds
        of_class = cases[cases["class"] == row["class"]]
        wide = of_class.pivot_table(index=["fold", "seed", "case"], columns="loss", values="dice")
        values = (wide["ce"] - wide["dice"]) - (wide["ce_tuned"] - wide["dice_tuned"])
        folds = [fold.unstack("case").to_numpy() for _, fold in values.groupby("fold")]
        expected = paired_difference([fold[:, np.isfinite(fold).any(axis=0)] for fold in folds])
        assert row["explained_by_lr"] == pytest.approx(expected.mean)
        # As wide as that of any difference: at least as trainings and subjects scatter.
        low, high = expected.interval(0.95)
        assert row["ci_low"] <= low + 1e-9
        assert row["ci_high"] >= high - 1e-9


def test_verdict_txt_says_both(study):
    text = (study.parent / "report/verdict.txt").read_text()
    assert "each loss minus dice (with its own learning rate minus dice_tuned)" in text
    row = read(study, "tuning").iloc[0]
    assert (
        f"dice of {row['class']}, ce: at the common learning rate 0.001 {row['verdict_fixed']} "
        f"({row['difference_fixed']:+.4f}); each at its own, 0.002 and 0.001, "
        f"{row['verdict_tuned']} ({row['difference_tuned']:+.4f}). The rate explains"
    ) in text


def test_every_training_of_the_tuning_is_in_a_table(study):
    table = read(study, "tuning_runs")
    assert len(table) == 3 * 2 * 2 * 2
    assert set(table["seed"]) == {-1, -2}


def test_rates_of_another_grid_are_refused(study):
    settings = json.loads(study.read_text())
    settings["tuning"]["learning_rate"]["points"] = 5
    write_json(study, settings)
    with pytest.raises(UserError, match="of other settings or data"):
        compare(study, study.parent / "report")


def test_a_run_with_another_rate_is_refused(study):
    file = next(study.parent.glob("*/*/fold0/rates.json"))
    write_json(file, read_json(file) | {"rates": {"dice": 0.001, "ce": 0.004}})
    with pytest.raises(UserError, match="not of the settings"):
        compare(study, study.parent / "report")


def test_a_best_rate_at_an_edge_is_said(study):
    file = next(study.parent.glob("*/*/fold0/rates.json"))
    write_json(file, read_json(file) | {"at_edge": ["ce"]})
    compare(study, study.parent / "report")
    assert set(read(study, "tuning")["at_edge"]) == {1}
    text = (study.parent / "report/verdict.txt").read_text()
    assert "the best rate is an edge of the grid in 1 fold" in text


def test_the_luck_of_tuned_rates_is_estimated_from_tuned_losses_alone():
    """With those at the common rate, which lack it, 5 instead of 3 % are called winners."""
    rng, own = np.random.default_rng(0), [loss + "_tuned" for loss in LOSSES]
    design, values = Design(5, 4, 20, 0.003), {}
    for loss in LOSSES[1:]:
        values[loss] = [draw(rng, design) for _ in CLASSES]
        luck = rng.normal(0, 0.003, 5)  # of the rate, in each fold
        values[loss + "_tuned"] = [
            [fold + of_fold for fold, of_fold in zip(draw(rng, design), luck, strict=True)]
            for _ in CLASSES
        ]
    found = decided(measured([*LOSSES, *own], values), settings([*LOSSES, *own], tuning={}))
    for losses in (LOSSES[1:], own[1:]):
        alone = [paired_difference(folds) for loss in losses for folds in values[loss]]
        expected = {d.mean: d.variance for d in share_training_sets(alone)}
        of_losses = [x.difference for key, x in found.items() if key[2] in losses]
        assert {d.mean: d.variance for d in of_losses} == pytest.approx(expected)


def test_one_fold_says_that_rates_were_chosen_once(tmp_path):
    path = write_experiment(
        tmp_path, losses=("dice", "ce"), folds=(0,), seeds=(0, 1), n_cases=12, tuning=GRID
    )
    table = read(path, "comparisons").set_index("loss")["caution"]
    assert table["ce_tuned"].str.contains("the learning rates were chosen once").all()
    assert not table["ce"].str.contains("the learning rates were chosen once").any()


@pytest.mark.parametrize(
    ("tuning", "says"),
    [({"points": 5, "trainings": 2}, "at other learning rates"), (None, "at other learning rates")],
)
def test_a_second_tuning_after_a_look_makes_a_study_exploratory(study, tuning, says):
    verdict = study.parent / "report/verdict.txt"
    compare(study, study.parent / "report")
    assert "exploratory" not in verdict.read_text(), "the same tuning again"
    settings = json.loads(study.read_text())
    if tuning:
        settings["tuning"]["learning_rate"] |= tuning
    else:
        settings["tuning"] = None
        settings["matrix"]["loss"] = ["dice", "ce"]
    write_json(study, settings)
    for file in study.parent.glob("*/*/fold?/rates.json"):
        if tuning:
            write_rates(study, "hippocampus", "unet", int(file.parent.name[4:]))
    compare(study, study.parent / "report")
    assert f"outside the plan, 2 seeds x 2 folds, {says}: the error rate" in verdict.read_text()
