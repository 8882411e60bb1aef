"""plan: what it promises is what the statistics say of the pilot, in words and in numbers."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lossbench.__main__ import main
from lossbench.common.files import read_json, write_json
from lossbench.config import UserError
from lossbench.stages.compare import compare
from lossbench.stages.compare.plan import plan
from lossbench.statistics import paired_difference, pairing_gain, planned, share_training_sets
from tests.helpers.fake_results import compare_files, write_experiment
from tests.helpers.rounds import run, write_study

CASE, BLOCK, RESIDUAL = 0.010, 0.003, 0.0125


def pilot(tmp_path, folds=(0, 1, 2), seeds=(0, 1, 2), n_cases=20, **options):
    """A study whose differences have known components; the cases themselves vary more."""
    experiment = write_experiment(
        tmp_path, losses=["dice", "other"], folds=folds, seeds=seeds, n_cases=n_cases, **options
    )
    for file in sorted(experiment.parent.glob("*/*/*/*/cases.parquet")):
        table = pd.read_parquet(file)
        fold, seed = int(table["fold"].iloc[0]), int(table["seed"].iloc[0])
        of_fold, coef_block = np.random.default_rng(fold), np.random.default_rng([1, fold, seed])
        half = len(table) // 2
        hard, suits = of_fold.normal(0, 0.03, half), of_fold.normal(0, CASE, half)
        other = suits + coef_block.normal(0, BLOCK) + coef_block.normal(0, RESIDUAL, half)
        table["dice"] = 0.8 + np.where(
            table["loss"] == "other", np.tile(hard + other, 2), np.tile(hard, 2)
        )
        table.to_parquet(file, index=False)
    compare(experiment, experiment.parent / "report")
    return experiment


def matrices(experiment, name):
    cases = pd.read_parquet(experiment.parent / "report/cases.parquet")
    cases = cases[cases["class"] == name]
    for loss in ("other", "dice"):
        yield [
            fold.pivot(index="seed", columns="case", values="dice").to_numpy()
            for _, fold in cases[cases["loss"] == loss].groupby("fold")
        ]


@pytest.mark.slow
def test_the_table_is_what_the_statistics_plan(tmp_path, capsys):
    experiment = pilot(tmp_path, folds=range(5))
    output = tmp_path / "plan.csv"
    plan(experiment.parent, 0.02, 0.9, output)
    table = pd.read_csv(output)
    assert set(table["class"]) == {"background", "anterior", "posterior"}
    loss, reference = matrices(experiment, "anterior")
    # All classes tell of the training sets, which they share.
    d, *_ = share_training_sets(
        [
            paired_difference([a - b for a, b in zip(*matrices(experiment, name), strict=True)])
            for name in ("anterior", "background", "posterior")
        ]
    )
    mine = table[table["class"] == "anterior"]
    promised = planned(d, 0.02, 0.9, 0.05, tests=3)
    assert mine[["n_seeds", "n_blocks", "n_cases"]].to_numpy().tolist() == [
        [p.n_seeds, p.n_blocks, p.n_cases] for p in promised
    ]
    first = mine.iloc[0]
    assert first["pairing_gain"] == pytest.approx(pairing_gain(loss, reference, paired_difference))
    assert first["pairing_gain"] > 5, "the cases vary more than the differences"
    assert first[["pilot_cases", "pilot_seeds", "pilot_blocks"]].tolist() == [100, 3, 15]
    assert first["sd_residual"] == pytest.approx(RESIDUAL, rel=0.2)
    # A training of 40 steps takes 10 s (fake_results); a block is one of each loss.
    assert mine["hours"].to_numpy() == pytest.approx((mine["n_blocks"] * 20 / 3600).to_numpy())
    assert (mine["n_cases"].diff().dropna() <= 0).all(), "more seeds, fewer cases"
    said = capsys.readouterr().out
    enough = mine[mine["n_cases"] <= 100].iloc[0]
    line = next(x for x in said.splitlines() if "anterior" in x)
    assert f"{enough['n_seeds']} ({enough['n_blocks']})" in line
    assert f"{first['pairing_gain']:.1f} x" in line
    assert f"{enough['hours']:.2f}" in line


@pytest.mark.slow
def test_smaller_differences_and_more_power_take_more(tmp_path):
    experiment = pilot(tmp_path, folds=range(6))

    def cases(difference, power):
        plan(experiment.parent / "report", difference, power, tmp_path / "plan.csv")
        return pd.read_csv(tmp_path / "plan.csv").query("n_seeds == 10")["n_cases"]

    assert (cases(0.01, 0.8) < cases(0.006, 0.8)).all()
    assert (cases(0.01, 0.95) > cases(0.01, 0.8)).all()


@pytest.mark.slow
def test_few_folds_can_leave_open_what_seeds_and_cases_cannot_close(tmp_path, capsys):
    plan(pilot(tmp_path).parent, 0.01, output=tmp_path / "plan.csv")
    line = next(x for x in capsys.readouterr().out.splitlines() if "posterior" in x)
    assert line.count("none: more folds") == 2


def test_one_block_says_nothing(tmp_path, capsys):
    experiment = pilot(tmp_path, folds=(0,), seeds=(0,))
    plan(experiment.parent, 0.005, output=tmp_path / "plan.csv")
    said = capsys.readouterr().out
    assert "Of 3 comparisons nothing can be said: one block" in said
    assert pd.read_csv(tmp_path / "plan.csv")["n_cases"].isna().all()


@pytest.mark.slow
def test_no_number_of_seeds_is_enough(tmp_path, capsys):
    experiment = pilot(tmp_path, n_cases=4)
    plan(experiment.parent, 0.0005)
    said = capsys.readouterr().out
    assert "none: more cases" in said
    assert "3 of 3 comparisons: no number of seeds is enough" in said


@pytest.mark.slow
def test_results_of_others_are_pilots_too(tmp_path, capsys):
    """Without training times there are no hours."""
    experiment = pilot(tmp_path)
    cases = pd.read_parquet(experiment.parent / "report/cases.parquet")
    cases.to_csv(tmp_path / "cases.csv", index=False)
    compare_files([str(tmp_path / "cases.csv")], "dice", tmp_path / "out")
    for results in (experiment.parent, tmp_path / "out"):
        plan(results, 0.005, output=tmp_path / f"{results.name}.csv")
    ours, theirs = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("fake", "out"))
    assert theirs["hours"].isna().all()
    pd.testing.assert_frame_equal(ours.drop(columns="hours"), theirs.drop(columns="hours"))
    assert "nan" not in capsys.readouterr().out


def test_mistakes_are_said(tmp_path):
    experiment = pilot(tmp_path, folds=(0, 1), seeds=(0,), n_cases=3)
    for arguments, said in {
        (0.0, 0.8): "--difference 0: expected",
        (float("nan"), 0.8): "--difference nan: expected",
        (0.01, 1.0): "--power 1: expected",
    }.items():
        with pytest.raises(UserError, match=said):
            plan(experiment.parent, *arguments)
    with pytest.raises(UserError, match=r"nothing/experiment\.json: no such file"):
        plan(tmp_path / "nothing", 0.01)
    cases = experiment.parent / "report/cases.parquet"
    cases.write_bytes(cases.read_bytes()[:100])
    with pytest.raises(UserError, match="report: damaged"):
        plan(experiment.parent, 0.01)
    cases.unlink()
    with pytest.raises(UserError, match=r"cases\.parquet: no such file"):
        plan(experiment.parent, 0.01)


@pytest.mark.slow
def test_the_command_line(tmp_path, capsys, caplog):
    experiment = pilot(tmp_path, folds=(0, 1), seeds=(0, 1), n_cases=4)
    folder = str(experiment.parent)
    assert main(["plan", "--results", folder, "--difference", "0.01", "--power", "0.7"]) == 0
    assert "difference of 0.01 to dice with probability 0.7" in capsys.readouterr().out
    assert main(["plan", "--results", folder, "--difference", "-1"]) == 1
    assert "--difference -1" in caplog.text


def test_folds_of_one_test_set_are_seeds(tmp_path, capsys):
    """Two folds, one seed, the same cases: two blocks, which nobody has to add seeds to."""
    random = np.random.default_rng(0)
    rows = ["loss,fold,seed,case,dice"]
    for loss, fold, case in product("ab", range(2), range(30)):
        rows.append(f"{loss},{fold},0,{case},{0.8 + 0.0001 * case + random.normal(0, 1e-5)}")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    compare_files([str(tmp_path / "cases.csv")], "a", tmp_path / "out")
    capsys.readouterr()
    plan(tmp_path / "out", 0.01)
    said = capsys.readouterr().out
    assert "2 seeds, 30 cases" in said
    assert "> 1,000 x" in said
    assert "more seeds" not in said
    assert "in every fold" not in said
    assert "each fold x seed counts as a seed" in said


@pytest.mark.slow
def test_one_is_no_plural(tmp_path, capsys):
    plan(pilot(tmp_path, seeds=(0,)).parent, 0.5)
    said = capsys.readouterr().out
    assert "1 seed, 60 cases" in said
    assert "1 seed in every fold." in said


def test_one_loss_is_no_pilot(tmp_path):
    experiment = pilot(tmp_path, folds=(0, 1), seeds=(0,), n_cases=3)
    settings = read_json(experiment)
    settings["matrix"]["loss"] = ["dice"]
    write_json(experiment, settings)
    with pytest.raises(UserError, match="one loss alone"):
        plan(experiment.parent, 0.01)


@pytest.mark.slow
def test_it_says_what_rounds_would_cost(tmp_path, capsys):
    experiment = pilot(tmp_path)
    capsys.readouterr()
    plan(experiment.parent, 0.005)
    text = capsys.readouterr().out.partition("In rounds ({budget: 10, first: 2})")[2]
    assert "if all true differences are as large (a margin is 0.01)" in text
    rows = [line.split() for line in text.splitlines() if " margins " in line]
    assert [row[0] for row in rows] == ["0", "0.5", "1", "2"]
    blocks = [int(row[2]) for row in rows]
    assert 6 <= min(blocks) <= max(blocks) <= 30
    assert blocks[3] == min(blocks)
    trainings = [int(row[3]) for row in rows]  # of a loss and the reference, rounded
    assert trainings == pytest.approx([2 * n for n in blocks], abs=1)
    assert "At most 30 blocks, 60 trainings" in text


@pytest.mark.slow
def test_a_study_in_rounds_is_a_pilot_though_its_losses_ended_at_different_rounds(tmp_path, capsys):
    study = write_study(tmp_path)
    run(study)
    compare(study, study.parent / "report")
    plan(study.parent, 0.02, output=tmp_path / "plan.csv")
    assert "At most 12 blocks, 48 trainings" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "plan.csv").groupby("loss")[["pilot_seeds", "pilot_blocks"]]
    ended = table.first()
    assert ended.loc["better"].tolist() == [2, 4], "the reference went on with others"
    assert (ended["pilot_blocks"] == 2 * ended["pilot_seeds"]).all()
    assert ended["pilot_seeds"].nunique() > 1
