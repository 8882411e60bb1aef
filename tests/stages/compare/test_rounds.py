"""Studies in rounds: what is decided when, what is trained on, and what is on record."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import drawn_means, rounds_and_tuning
from lossbench.common.files import read_json
from lossbench.common.provenance import seed_of
from lossbench.common.rounds import last_look, planned_blocks
from lossbench.config import UserError, load
from lossbench.stages.compare import compare
from lossbench.stages.compare.look import look
from tests.helpers.fake_results import block_folder, write_block, write_experiment
from tests.helpers.rounds import LOSSES, change, next_look, run, train, write_study


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = write_study(tmp_path_factory.mktemp("rounds"))
    found = run(path)
    compare(path, path.parent / "report")
    return path, found


def report(path, name):
    return pd.read_csv(path.parent / f"report/{name}.csv", keep_default_na=False, na_values="")


def test_a_loss_that_is_decided_is_trained_no_more_and_the_reference_goes_on(done):
    path, found = done
    n_rounds = found["rounds"]["hippocampus"]["unet"]
    assert n_rounds["better"] == n_rounds["same"] == 2
    assert 2 < n_rounds["near"] < 6
    assert n_rounds["dice"] == n_rounds["near"]
    trained = report(path, "runs").groupby("loss")["seed"].nunique().to_dict()
    assert trained == n_rounds
    blocks = {
        (b["fold"], b["seed"]): losses for b, losses in planned_blocks(load(path), path.parent)
    }
    assert blocks[0, 1] == list(LOSSES)
    assert blocks[1, 2] == ["dice", "near"]


def test_verdicts_say_their_round_and_intervals_agree(done):
    path, found = done
    table = report(path, "comparisons").set_index(["loss", "class"])
    for loss, verdict in (("better", "better"), ("same", "equivalent")):
        rows = table.loc[loss]
        assert (rows["verdict"] == verdict).all()
        assert (rows["round"] == 2).all()
        assert (rows["n_seeds"] == 2).all()
        assert (rows["n_missing"] == 0).all()
    near = table.loc["near"]
    assert near["n_seeds"].eq(found["round"]).all()
    decided = table[table["verdict"] != "undecided"]
    excludes = (decided["simultaneous_low"] > 0) | (decided["simultaneous_high"] < 0)
    assert excludes.eq(decided["verdict"] != "equivalent").all()
    summary = report(path, "summary").set_index("loss")["n_seeds"]
    assert set(summary["same"]) == {2}
    assert set(summary["dice"]) == {found["round"]}


def test_every_look_is_a_row_of_each_comparison(done):
    path, found = done
    looks = report(path, "looks")
    assert set(looks["round"]) == set(range(2, found["round"] + 1))
    n = len(report(path, "comparisons"))
    assert (looks.groupby("round").size() == n).all()
    first = looks.groupby(["loss", "class"])["round"].min()
    rounds = looks[looks["verdict"] != "undecided"].groupby(["loss", "class"])["round"].min()
    stated = report(path, "comparisons").set_index(["loss", "class"])["round"].dropna()
    assert rounds.to_dict() == stated.to_dict()
    assert (first == 2).all()
    of_round = read_json(path.parent / "looks/round2.json")["decisions"]
    same = looks[looks["round"] == 2].reset_index(drop=True)
    assert [row["verdict"] for row in of_round] == same["verdict"].tolist()
    assert [row["p_holm"] for row in of_round] == pytest.approx(same["p_holm"].tolist())


def test_looking_again_changes_and_records_nothing(done):
    path, found = done
    record = (path.parent / "looks/record.json").read_text()
    before = {file: file.read_bytes() for file in (path.parent / "report").glob("*.csv")}
    look(path, found["round"], path.parent / f"looks/round{found['round']}.json")
    compare(path, path.parent / "report")
    assert (path.parent / "looks/record.json").read_text() == record
    assert {file: file.read_bytes() for file in (path.parent / "report").glob("*.csv")} == before
    assert len(json.loads(record)["looks"]) == found["round"] - 1
    assert read_json(path.parent / "report/looks.json")["exploratory"] == []


@pytest.mark.slow
def test_a_look_that_is_not_due_is_refused(done, tmp_path):
    path, found = done
    with pytest.raises(UserError, match=f"nothing was open after round {found['round']}"):
        look(path, found["round"] + 1, tmp_path / "x.json")
    with pytest.raises(UserError, match="looks are after rounds 2 to 6"):
        look(path, 1, tmp_path / "x.json")
    new = write_study(tmp_path)
    train(new)
    with pytest.raises(UserError, match="no look was taken yet"):
        compare(new, new.parent / "report")
    with pytest.raises(UserError, match=r"looks/round3\.json: no look of this plan"):
        look(new, 4, tmp_path / "x.json")


@pytest.mark.slow
def test_looks_of_another_plan_are_not_looks_of_this_and_make_it_exploratory(tmp_path):
    path = write_study(tmp_path, budget=3, losses=("dice", "near"))
    found = run(path)
    assert found["round"] == 3
    change(path, rounds={"budget": 6}, matrix={"seed": list(range(6))})
    assert last_look(load(path), path.parent) == 0
    run(path)
    compare(path, path.parent / "report")
    exploratory = read_json(path.parent / "report/looks.json")["exploratory"]
    assert exploratory == [
        "2 seeds x 2 folds, in a plan of at most 3 rounds",
        "3 seeds x 2 folds, in a plan of at most 3 rounds",
    ]
    assert "exploratory" in (path.parent / "report/verdict.txt").read_text()


def test_seeds_that_are_added_by_hand_make_a_study_exploratory(tmp_path):
    path = write_experiment(tmp_path, losses=("dice", "focal"), folds=(0, 1), seeds=(0, 1))
    verdict = path.parent / "report/verdict.txt"
    assert "exploratory" not in verdict.read_text()
    change(path, matrix={"seed": [0, 1, 2]})
    for fold in (0, 1):
        keys = {"dataset": "hippocampus", "model": "unet", "fold": fold, "seed": 2}
        write_block(path, keys)
    compare(path, path.parent / "report")
    assert "exploratory" in verdict.read_text()
    assert "2 seeds x 2 folds" in verdict.read_text()


@pytest.mark.slow
def test_where_cases_are_too_few_training_ends_early(tmp_path):
    path = write_study(tmp_path, losses=("dice", "near"), comparison={"margin": 0.001})
    settings = load(path)
    for keys in settings.blocks():
        write_block(path, keys)
        file = block_folder(path, keys) / "cases.parquet"
        table = pd.read_parquet(file)
        of_case = np.array(
            [np.random.default_rng(seed_of(x)).normal(0, 0.1) for x in table["case"]]
        )
        generator = np.random.default_rng(seed_of(*keys.values()))
        noise = generator.normal(0, 0.002, len(table))
        table["dice"] = table["dice"].where(
            table["dice"].isna(), 0.6 + of_case * (table["loss"] == "near") + noise
        )
        table.to_parquet(file, index=False, write_page_checksum=True)
    found = next_look(path)
    compare(path, path.parent / "report")
    rows = report(path, "comparisons")
    assert found["round"] == 2
    assert not found["open"]
    assert set(rows["verdict"]) == {"undecided"}
    assert set(rows["reason"]) == {"more cases, not more seeds"}


def test_simulated_studies_take_as_many_blocks_as_the_docs_say():
    """docs/verdicts.md, SD .003, no difference; without what training sets add it is 15."""
    name = "blocks of a comparison"
    drawn, of_cases = (
        drawn_means.rounds_row(0.003, 0, 100),
        rounds_and_tuning.rounds_row(5, False, 0.003, 0, 12),
    )
    assert drawn[name] == pytest.approx(19, abs=1)
    error = (drawn["error"] ** 2 + of_cases["error"] ** 2) ** 0.5
    assert drawn[name] == pytest.approx(of_cases[name], abs=3 * error)
    assert drawn["false winners"] < 0.1
