"""What means hide: missing values, total failures, classes that nothing learned."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from lossbench.common.files import read_json, write_json
from lossbench.config import Comparison, UserError
from lossbench.stages.compare import compare
from lossbench.stages.compare.failures import Missing
from lossbench.stages.compare.plan import plan
from lossbench.statistics import paired_difference
from tests.helpers.fake_results import compare_files, write_experiment


def results(values, folds=1):
    """Rows of losses from (loss, seed) -> the Dice of each case; NaN is written as an empty cell."""
    rows = [
        {"loss": loss, "case": f"c{i:02d}", "fold": i % folds, "seed": seed, "dice": x}
        for (loss, seed), dice in values.items()
        for i, x in enumerate(dice)
    ]
    return pd.DataFrame(rows)


def compared(table, tmp_path, **options):
    table.to_csv(tmp_path / "results.csv", index=False)
    output = compare_files([str(tmp_path / "results.csv")], "dice", tmp_path / "out", **options)
    return pd.read_csv(output.parent / "comparisons.csv").to_dict("records"), output.parent


EASY, HARD = [0.85] * 6, [0.30] * 6


def easy_and_hard(ce_on_hard, seeds=3, drop=False):
    """Six easy and six hard cases, on each of which ce is .03 higher where it has a value."""
    generator = np.random.default_rng(0)
    values = {}
    for seed in range(seeds):
        values["dice", seed] = np.array(EASY + HARD) + generator.normal(0, 0.001, 12)
        values["ce", seed] = np.array([x + 0.03 for x in EASY] + ce_on_hard)
        values["ce", seed] = values["ce", seed] + generator.normal(0, 0.001, 12)
    table = results(values)
    return table.dropna() if drop else table


@pytest.mark.parametrize("drop", [False, True])
def test_no_loss_wins_by_the_cases_that_it_misses(tmp_path, drop):
    (row,), _ = compared(easy_and_hard([x + 0.03 for x in HARD]), tmp_path)
    assert (row["verdict"], row["n_missing"]) == ("better", 0)
    (row,), output = compared(easy_and_hard([np.nan] * 6, drop=drop), tmp_path)
    assert (row["n_missing"], row["n_missing_loss"], row["n_missing_reference"]) == (18, 18, 0)
    assert row["p_missing"] == pytest.approx(2 * 0.5**6)
    assert row["missing_cases"] == "c06, c07, c08, c09, c10, c11"
    assert row["verdict"] == "undecided"
    said = (output / "verdict.txt").read_text()
    assert "ce lacks 18 values, dice 0, where the class is there (c06, c07, c08 and 3 more)" in said
    assert "no winner by results that miss more" in said


def test_results_that_miss_more_take_the_verdict_that_they_gain_by():
    for n_loss, taken in ((5, {"better", "equivalent"}), (0, {"worse", "equivalent"}), (1, set())):
        lacks = Missing(n_loss, 1, 0.01, [])
        verdicts = ("better", "worse", "equivalent", "undecided")
        assert {verdict for verdict in verdicts if lacks.contradicts(verdict, 0.05)} == taken
        assert not any(lacks.contradicts(verdict, 0.005) for verdict in verdicts)


def test_a_case_that_a_loss_was_not_tried_on_is_no_failure_of_the_other(tmp_path):
    values = {("dice", 0): [0.0] * 8 + [0.8] * 8, ("ce", 0): [np.nan] * 8 + [0.8] * 8}
    _, output = compared(results(values), tmp_path)
    ce = pd.read_csv(output / "failures.csv").set_index("loss").loc["ce"]
    assert (ce["n_subjects"], ce["n_failed_reference"], ce["p_mcnemar"]) == (8, 8, 1)


def test_a_miss_is_counted_with_one_seed(tmp_path):
    assert paired_difference([np.array([[np.nan, np.nan, 0.1, 0.2, 0.3]])]).n_missing == 2
    (row,), _ = compared(easy_and_hard([np.nan] * 6, seeds=1), tmp_path)
    assert row["n_missing"] == row["n_missing_loss"] == 6


def test_a_diverged_run_is_one_event_and_takes_no_verdict(tmp_path):
    table = easy_and_hard([x + 0.03 for x in HARD], seeds=5)
    table.loc[(table["loss"] == "ce") & (table["seed"] == 0), "dice"] = np.nan
    (row,), _ = compared(table, tmp_path)
    assert (row["verdict"], row["n_missing_loss"], row["p_missing"]) == ("better", 12, 1)


def test_a_single_failure_is_named(tmp_path):
    table = easy_and_hard([0.33] * 6)
    table.loc[(table["loss"] == "ce") & (table["case"] == "c06"), "dice"] = 0.0
    _, output = compared(table, tmp_path)
    assert "ce on 1 of 12, dice on 0" in (output / "verdict.txt").read_text()


def test_failures_are_counted_by_subject_and_tested(tmp_path):
    table = easy_and_hard([0.33] * 5 + [0.0])
    table.loc[(table["loss"] == "ce") & (table["case"] >= "c06"), "dice"] = 0.0
    _, output = compared(table, tmp_path)
    found = pd.read_csv(output / "failures.csv").set_index("loss")
    ce, dice = found.loc["ce"], found.loc["dice"]
    assert (ce["n_subjects"], ce["n_failed"], ce["n_failed_reference"]) == (12, 6, 0)
    assert ce["p_mcnemar"] == pytest.approx(2 * 0.5**6)
    assert (dice["n_failed"], np.isnan(dice["p_mcnemar"])) == (0, True)
    assert dice["rate_high"] == pytest.approx(1 - 0.05 ** (1 / 12))
    assert (ce["n_runs"], ce["n_collapsed"]) == (3, 0)
    assert ce["collapse_high"] == pytest.approx(1 - 0.05 ** (1 / 3))


def test_a_class_that_neither_learned_is_not_equivalent(tmp_path):
    table = results({(loss, s): [0.0] * 12 for loss in ("dice", "ce") for s in range(3)})
    (row,), _ = compared(table, tmp_path)
    assert row["verdict"] == "not learned"
    table["dice"] += 0.5
    (row,), _ = compared(table, tmp_path)
    assert row["verdict"] == "equivalent"


def test_what_has_no_value_is_no_comparison(tmp_path):
    """Two comparisons, of which one has values: it is tested alone."""
    table = pd.concat(
        [easy_and_hard([x + 0.03 for x in HARD]).assign(**{"class": name}) for name in "ab"]
    )
    table.loc[table["class"] == "b", "dice"] = np.nan
    (row,), _ = compared(table, tmp_path)
    assert (row["class"], row["p_holm"]) == ("a", pytest.approx(row["p"]))


def test_a_metric_is_compared_once(tmp_path):
    with pytest.raises(UserError, match="dice is named twice"):
        compared(easy_and_hard([0.33] * 6), tmp_path, metrics=["dice", "dice"])
    with pytest.raises(ValidationError, match="iou is named twice"):
        Comparison(reference="dice", metrics=["dice", "iou"], also=["iou"])


def test_a_metric_that_is_reported_only_has_an_interval_and_costs_no_test(tmp_path):
    experiment = write_experiment(tmp_path, losses=["dice", "other"], n_cases=7)
    compare(experiment, experiment.parent / "report")
    alone = pd.read_csv(experiment.parent / "report/comparisons.csv")
    settings = read_json(experiment)
    settings["comparison"]["also"] = ["iou"]
    write_json(experiment, settings)
    compare(experiment, experiment.parent / "report")
    both = pd.read_csv(experiment.parent / "report/comparisons.csv")
    dice, iou = (both[both["metric"] == name] for name in ("dice", "iou"))
    pd.testing.assert_frame_equal(dice.reset_index(drop=True), alone)
    assert len(iou) == len(dice)
    assert iou[["verdict", "verdict_cases", "p_holm"]].isna().all(axis=None)
    assert iou[["ci_low", "ci_high", "p"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("n", "gain", "verdict"), [(10, 0.02, "higher"), (30, 0.0, "same"), (9, 0.02, None)]
)
def test_one_block_says_something_of_the_models_and_nothing_of_the_losses(
    n, gain, verdict, tmp_path
):
    generator = np.random.default_rng(0)
    dice = generator.normal(0.8, 0.05, n)
    ce = dice + gain + generator.normal(0, 0.01, n)
    (row,), output = compared(results({("dice", 0): dice, ("ce", 0): ce}), tmp_path)
    assert (row["scope"], row["verdict"]) == ("models", "undecided")
    expected = stats.ttest_1samp(ce - dice, 0)
    assert row["p_models"] == pytest.approx(expected.pvalue)
    ends = (row["models_low"], row["models_high"])
    confidence = 0.9 if verdict == "same" else 0.95  # two one-sided tests
    assert ends == pytest.approx(tuple(expected.confidence_interval(confidence)))
    assert row["verdict_models"] == verdict or (verdict is None and pd.isna(row["verdict_models"]))
    said = (output / "verdict.txt").read_text()
    assert ("this ce model is higher than this dice model on new subjects" in said) == (
        verdict == "higher"
    )
    if verdict == "higher":  # with that much luck of a training it is no more than chance
        se = (ce - dice).std(ddof=1) / n**0.5
        assert abs(row["difference"]) == pytest.approx(
            stats.t.isf(0.025, n - 1) * (se**2 + row["noise_tolerated"] ** 2) ** 0.5
        )


@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.slow
def test_a_loss_pays_for_what_it_does_not_find_with_the_diagonal(penalised, tmp_path):
    """`other` is a bit nearer where it finds the class, and finds it in half of the cases."""
    experiment = write_experiment(tmp_path, losses=["dice", "other"], n_cases=9, seeds=(0, 1, 2))
    settings = read_json(experiment)
    settings["comparison"] |= {"metrics": ["hd95"], "margins": {"hd95": 0.1}}
    write_json(experiment, settings)
    file = experiment.parents[1] / "datasets/hippocampus/cases.csv"
    if penalised:
        pd.read_csv(file).assign(spacing="0.5x2.0").to_csv(file, index=False)
    else:  # then the cases are missing, and count as that
        file.unlink()
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        rng = np.random.default_rng(int(table["seed"].iloc[0]))
        other = table["loss"] == "other"
        table["hd95"] = 3 - 0.5 * other + rng.normal(0, 0.02, len(table))
        table.loc[table["tp"] + table["fn"] == 0, "hd95"] = np.nan
        hard = table["case"].isin(sorted(table["case"].unique())[4:])
        missed = other & hard & (table["class"] == "anterior")
        table.loc[missed, "fn"] += table.loc[missed, "tp"]
        table.loc[missed, ["tp", "fp", "dice", "iou"]] = 0
        table.loc[missed, "hd95"] = np.nan
        table.to_parquet(file, index=False, write_page_checksum=True)
    output = experiment.parent / "report"
    compare(experiment, output)
    rows = pd.read_csv(output / "comparisons.csv").set_index("class")
    assert rows.loc["background", "verdict"] == "better"
    row, said = rows.loc["anterior"], (output / "verdict.txt").read_text()
    assert row["n_missing"] == (0 if penalised else 30)
    assert row["verdict"] in (("worse", "undecided") if penalised else ("undecided",))
    assert ("30 predictions without the class" in said) == penalised
    means = pd.read_csv(output / "summary.csv").set_index(["loss", "class", "metric"])["mean"]
    assert means["other", "anterior", "hd95"] == pytest.approx(2.5, abs=0.05)
    assert np.isnan(pd.read_parquet(output / "cases.parquet")["hd95"]).any(), "plain in the table"
    plan(experiment.parent, 0.5, output=tmp_path / "plan.csv")
    pilot = pd.read_csv(tmp_path / "plan.csv").set_index("class").loc["anterior"].iloc[0]
    assert pilot["pilot_cases"] == (18 if penalised else 8), "as compare has it"
    if penalised:
        paid = (8 * 2.5 + 10 * np.hypot(8, 32)) / 18  # of 16 x 16 pixels of 0.5 x 2
        assert means["other", "anterior", "hd95_penalised"] == pytest.approx(paid, abs=0.05)
        assert row["difference"] == pytest.approx(paid - 3, abs=0.05)


def test_infinite_distances_of_other_programs_are_misses(tmp_path):
    """There is no diagonal: no winner by results that miss more."""
    table = easy_and_hard([x + 0.03 for x in HARD]).rename(columns={"dice": "hd95"})
    table.loc[table["loss"] == "ce", "hd95"] -= 0.1
    (row,), _ = compared(table, tmp_path)
    assert row["verdict"] == "better"
    table.loc[(table["loss"] == "ce") & (table["case"] >= "c06"), "hd95"] = np.inf
    (row,), output = compared(table, tmp_path)
    assert (row["n_missing_loss"], row["verdict"]) == (18, "undecided")
    assert "no winner by results that miss more" in (output / "verdict.txt").read_text()
