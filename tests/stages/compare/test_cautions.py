"""What a reader has to know beside a verdict: folds that dominate, training sets that decide."""

import numpy as np
import pandas as pd
import pytest

from lossbench.common.tables import cautions_of
from lossbench.stages.compare.plan import plan
from tests.helpers.fake_results import compare_files


def compared(tmp_path, sizes, fold_sd=0.0, seeds=3):
    """Two losses that differ by chance; verdict.txt and the row of their comparison."""
    rng, rows = np.random.default_rng(0), []
    for fold, size in enumerate(sizes):
        hard, of_fold = rng.normal(0.8, 0.03, size), fold_sd * (-1) ** fold
        for seed in range(seeds):
            other = hard + of_fold + rng.normal(0, 0.003) + rng.normal(0, 0.01, size)
            for loss, dice in (("dice", hard), ("other", other)):
                keys = {"loss": loss, "fold": fold, "seed": seed}
                rows += [{**keys, "case": f"{fold}_{i}", "dice": x} for i, x in enumerate(dice)]
    pd.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    output = compare_files([str(tmp_path / "all.csv")], "dice", tmp_path / "out").parent
    (row,) = pd.read_csv(output / "comparisons.csv").to_dict("records")
    return (output / "verdict.txt").read_text(), row


@pytest.mark.parametrize(("sizes", "warned"), [((5, 5, 30), True), ((13, 13, 14), False)])
def test_a_fold_with_most_of_the_subjects_is_named(sizes, warned, tmp_path):
    said, row = compared(tmp_path, sizes)
    assert ("caution: fold 2 has 75% of the subjects" in said) == warned
    assert ("fold 2 has 75%" in str(row["caution"])) == warned


@pytest.mark.parametrize(("n_folds", "warned"), [(2, True), (3, True), (4, False)])
def test_few_folds_are_said_not_to_tell_whose_training_sets_matter(n_folds, warned, tmp_path):
    """Half of six comparisons with a component of two blocks: up to 10 % false winners."""
    said, _ = compared(tmp_path, (12,) * n_folds)
    assert ("caution: two or three folds cannot tell" in said) == warned


def shared_luck(tmp_path, luck=(0.03, 0.02, 0.04)):
    """A loss that is higher by the luck of three initial weights, which five folds share."""
    rng, rows = np.random.default_rng(0), []
    for fold, seed in np.ndindex(5, 3):
        for loss in ("dice", "other"):
            dice = 0.8 + (loss == "other") * luck[seed] + rng.normal(0, 0.003, 10)
            keys = {"loss": loss, "fold": fold, "seed": seed}
            rows += [{**keys, "case": f"{fold}_{i}", "dice": x} for i, x in enumerate(dice)]
    pd.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    return str(tmp_path / "all.csv")


@pytest.mark.parametrize("how", ["not told", "flag", "runs.csv"])
def test_shared_initial_weights_are_one_draw_a_seed(how, tmp_path):
    files = shared_luck(tmp_path)
    if how == "runs.csv":  # as lossbench wrote it when weights were a function of model and seed
        runs = pd.DataFrame(list(np.ndindex(5, 3)), columns=["fold", "seed"])
        runs = runs.assign(dataset="d", model="m", init_digest="w" + runs["seed"].astype(str))
        runs.to_csv(tmp_path / "runs.csv", index=False)
    options = {"shared_initial_weights": True} if how == "flag" else {}
    output = compare_files([files], "dice", tmp_path / "out", **options).parent
    (row,) = pd.read_csv(output / "comparisons.csv").to_dict("records")
    told = how != "not told"
    width = row["ci_high"] - row["ci_low"]
    # Student's t on three seeds, whose SD is .01: 4.30 x .01 / sqrt(3) on each side.
    assert width == pytest.approx(2 * 4.30 * 0.01 / 3**0.5, rel=0.1) if told else width < 0.02
    assert ("seeds and folds are crossed" in (output / "verdict.txt").read_text()) == told


def test_ranks_and_plan_know_that_a_seed_is_one_draw(tmp_path, capsys):
    """15 blocks that are independent leave no doubt who is first; three draws leave some."""
    files, first = shared_luck(tmp_path, (0.02, 0.0, 0.04)), {}
    for told in (False, True):
        output = tmp_path / str(told)
        compare_files([files], "dice", output, shared_initial_weights=told)
        ranks = pd.read_csv(output / "ranks.csv").set_index("loss")
        first[told] = ranks.loc["other", "p_first"]
        plan(output, 0.01)
        said = capsys.readouterr().out
        assert ("folds share their initial weights" in said) == told
        assert ("simulated studies" in said) != told
    assert first[False] == 1
    assert first[True] < 1


@pytest.mark.parametrize("sizes", [(20,), (10, 10)])
def test_with_one_fold_all_is_of_one_training_set(sizes, tmp_path):
    said, row = compared(tmp_path, sizes)
    assert ("all trainings have one training set" in said) == (len(sizes) == 1)
    assert ("one training set" in str(row["caution"])) == (len(sizes) == 1)


def test_what_training_sets_leave_undecided_is_said(tmp_path):
    """Folds that differ by more than seeds explain, though not beyond doubt."""
    said, row = compared(tmp_path, (15,) * 4, 0.008)
    assert row["verdict"] == "undecided"
    assert row["reason"] == "more folds, not more seeds"
    assert "more folds" in said


@pytest.mark.parametrize("fold_sd", [0.0, 0.03])
def test_training_sets_that_decide_are_reported_and_planned_for(fold_sd, tmp_path, capsys):
    said, row = compared(tmp_path, (15,) * 4, fold_sd)
    warned = fold_sd > 0
    assert row["sd_fold"] == pytest.approx(fold_sd * (4 / 3) ** 0.5, abs=0.004)
    assert (row["p_fold"] < 0.01) == warned
    assert ("more seeds do not help" in said) == warned
    assert row["verdict"] == "undecided" if warned else "equivalent"
    assert (row["n_blocks_needed"] == np.inf) == warned
    plan(tmp_path / "out", 0.01)
    assert ("more seeds do not help, but more folds" in capsys.readouterr().out) == warned


def test_each_caution_is_said_once_with_what_it_is_about():
    table = pd.DataFrame(
        {
            "dataset": "data",
            "model": "net",
            "metric": "dice",
            "class": ["a", "b", "b"],
            "loss": ["x", "x", "y"],
            "caution": ["one fold", "flips; one fold", "one fold"],
        }
    )
    assert list(cautions_of(table)) == [
        ("one fold", ["all comparisons"]),
        ("flips", ["dice of b, x"]),
    ]
    table.loc[0, "caution"] = None  # as an empty cell is read
    assert list(cautions_of(table)) == [
        ("flips", ["dice of b, x"]),
        ("one fold", ["dice of b, x", "dice of b, y"]),
    ]
    table.loc[0, "model"] = "other"
    assert next(iter(cautions_of(table))) == ("flips", ["dice of b (data, net), x"])
