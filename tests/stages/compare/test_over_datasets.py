"""compare over data sets: one value per data set, random effects, nothing under three."""

import numpy as np
import pandas as pd
import pytest

from lossbench.common import tables
from lossbench.stages.compare import compare
from lossbench.statistics import random_effects
from tests.helpers.comparison_tables import change, read
from tests.helpers.fake_results import compare_files, write_experiment

FOUR = ["hippocampus", "nuclei", "brain", "heart"]


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path, datasets=FOUR, n_cases=8)


def test_a_data_set_counts_by_the_mean_of_its_foreground_classes(experiment):
    """Also where some cases lack a class: the last class is absent from the first of a fold."""
    values = read(experiment, "datasets")
    assert values.columns.tolist() == list(tables.DATASETS)
    assert values["dataset"].unique().tolist() == FOUR
    compared = read(experiment, "comparisons").query("`class` != 'background'")
    means = compared.groupby(["dataset", "loss"])["difference"].mean()
    found = values.set_index(["dataset", "loss"])["difference"]
    pd.testing.assert_series_equal(found.sort_index(), means.sort_index())


def test_the_mean_over_data_sets_is_by_random_effects_with_holm_over_losses(experiment):
    values, over = read(experiment, "datasets"), read(experiment, "over_datasets")
    assert over.columns.tolist() == list(tables.OVER_DATASETS)
    assert over["n_datasets"].tolist() == [4, 4]
    for row in over.to_dict("records"):
        of = values[values["loss"] == row["loss"]]
        found = random_effects(of["difference"], of["standard_error"] ** 2)
        assert row["difference"] == pytest.approx(found.difference.mean)
        assert row["p"] == pytest.approx(found.difference.p())
        prediction = row["prediction_low"], row["prediction_high"]
        assert prediction == pytest.approx(found.prediction(0.95))
        differs = row["ci_low"] > 0 or row["ci_high"] < 0
        assert differs == (row["verdict"] in ("better", "worse"))
    # Both losses stay open for equivalent, so that each p counts twice.
    assert over["p_holm"].tolist() == pytest.approx(2 * over["p"])
    text = (experiment.parent / "report/verdict.txt").read_text()
    first = over.iloc[0]
    assert "over 4 data sets, mean dice of the foreground with unet: dice_no_background" in text
    assert f"{first['prediction_low']:+.4f} to {first['prediction_high']:+.4f}" in text


def test_classes_that_move_together_widen_the_standard_error(experiment):
    """Twice the same class has the standard error of that class, not of two independent ones."""
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        table = pd.read_parquet(file)
        first = table[table["class"] == "anterior"].set_index(["loss", "case"])["dice"]
        second = table["class"] == "posterior"
        keys = pd.MultiIndex.from_frame(table.loc[second, ["loss", "case"]])
        table.loc[second, "dice"] = first[keys].to_numpy()
        table.to_parquet(file, index=False)
    compare(experiment, experiment.parent / "report")
    alone = read(experiment, "comparisons").query("`class` == 'anterior' and dataset == 'brain'")
    values = read(experiment, "datasets").query("dataset == 'brain'")
    assert values["difference"].tolist() == pytest.approx(alone["difference"].tolist())
    # The data set is looked at alone, without the other comparisons that tell of training sets.
    widths = [(table["ci_high"] - table["ci_low"]).to_numpy() for table in (values, alone)]
    assert (widths[0] > 0.99 * widths[1]).all()


@pytest.mark.parametrize("datasets", [FOUR[:1], FOUR[:2]])
def test_under_three_data_sets_there_is_no_table(tmp_path, datasets):
    report = write_experiment(tmp_path, datasets=datasets).parent / "report"
    assert not (report / "over_datasets.csv").exists()
    assert not (report / "datasets.csv").exists()
    assert "data sets" not in (report / "verdict.txt").read_text()


def test_a_table_that_no_longer_holds_is_removed(experiment, tmp_path):
    report = experiment.parent / "report"
    (report / "over_datasets.csv").rename(tmp_path / "over_datasets.csv")
    write_experiment(tmp_path, datasets=FOUR[:2])
    (tmp_path / "over_datasets.csv").rename(report / "over_datasets.csv")
    compare(experiment, report)
    assert not (report / "over_datasets.csv").exists()


def test_with_one_block_a_data_set_has_no_standard_error_and_does_not_count(tmp_path):
    report = write_experiment(tmp_path, datasets=FOUR, folds=[0], seeds=[0]).parent / "report"
    assert not (report / "over_datasets.csv").exists()


def test_a_loss_without_values_on_a_data_set_counts_on_the_others(experiment):
    where = "dataset == 'heart' and loss == 'dice_no_background'"
    change(experiment, where, dice=np.nan)
    compare(experiment, experiment.parent / "report")
    over = read(experiment, "over_datasets").set_index("loss")["n_datasets"]
    assert over.to_dict() == {"dice_no_background": 3, "dice_inverse_frequency": 4}


def test_results_of_other_programs_are_combined_too(tmp_path):
    random, rows = np.random.default_rng(0), []
    for dataset, seed in [(d, s) for d in "abc" for s in range(3)]:
        for case in range(10):
            dice = random.normal(0.8, 0.02, 2)
            for loss, value in zip(["dice", "ce"], [dice[0], dice[1] + 0.05], strict=True):
                keys = {"dataset": dataset, "loss": loss, "seed": seed, "case": f"{dataset}{case}"}
                rows += [{**keys, "class": c, "dice": v} for c, v in [("0", 0.1), ("1", value)]]
    pd.DataFrame(rows).to_csv(tmp_path / "results.csv", index=False)
    experiment = compare_files([str(tmp_path / "results.csv")], "dice", tmp_path / "out")
    values = pd.read_csv(experiment.parent / "datasets.csv")
    assert values["difference"].tolist() == pytest.approx([0.05] * 3, abs=0.02)  # without class 0
    assert (pd.read_csv(experiment.parent / "over_datasets.csv")["verdict"] == "better").all()


def test_a_class_that_few_cases_have_counts_as_much_as_the_others(tmp_path):
    """Nothing on class 1 of 40 cases, .2 on class 2 of 12: .1, with half its standard error."""
    rows = []
    for dataset, seed, case in [(d, s, c) for d in "abc" for s in range(2) for c in range(40)]:
        for loss, gain in (("dice", 0.0), ("ce", 0.2 + 0.01 * (case % 4))):
            noise = 0.001 * ((case + 3 * seed + len(loss)) % 4)
            keys = {"dataset": dataset, "loss": loss, "seed": seed, "case": f"{dataset}{case}"}
            rows.append({**keys, "class": "1", "dice": 0.7})
            if case < 12:
                rows.append({**keys, "class": "2", "dice": 0.5 + gain + noise})
    table, values = pd.DataFrame(rows), {}
    for name, part in (("both", table), ("rare", table[table["class"] == "2"])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
        experiment = compare_files([str(tmp_path / f"{name}.csv")], "dice", tmp_path / name)
        values[name] = pd.read_csv(experiment.parent / "datasets.csv")
    for column, tolerance in (("difference", 1e-9), ("standard_error", 0.1)):
        half = values["rare"][column].to_numpy() / 2
        assert values["both"][column].to_numpy() == pytest.approx(half, rel=tolerance)
