"""What a reader sees of a study in rounds: on the page, in the figures, in MLflow."""

import csv
import io

import pandas as pd
import pytest

from lossbench.common.files import write_json
from lossbench.config import load
from lossbench.stages.compare import compare
from lossbench.stages.report import report
from lossbench.stages.track.read_runs import Study
from tests.helpers.rounds import run, write_study


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = write_study(tmp_path_factory.mktemp("rounds"))
    run(path)
    output = path.parent / "report"
    compare(path, output)
    report(path, output)
    return path, (output / "report.html").read_text()


@pytest.mark.slow
def test_a_verdict_says_its_round_and_what_was_saved(done):
    path, page = done
    assert "settled after 2 of at most 6 rounds; 4 of 12 trainings" in page
    n_runs = len(pd.read_csv(path.parent / "report/runs.csv"))
    n_rounds = pd.read_csv(path.parent / "report/runs.csv")["seed"].nunique()
    progress = f"Trained in rounds: {n_rounds} of at most 6, {n_runs} of at most 48 trainings."
    assert progress in page
    assert n_runs < 48
    assert "runs have no result" not in page
    assert "Exploratory" not in page


def test_a_figure_of_each_class_shows_every_look(done):
    path, page = done
    assert len(list((path.parent / "report/figures").glob("rounds_*.svg"))) == 3
    assert 'id="rounds"' in page


def test_the_round_is_the_step_of_curves_of_the_comparison(done):
    path, _ = done
    records = Study(load(path), path.parent).finished()
    rows = list(csv.DictReader(io.StringIO(records[0].history.decode())))
    looks = pd.read_csv(path.parent / "report/looks.csv")
    assert [int(row["step"]) for row in rows] == sorted(looks["round"].unique())
    of = looks[(looks["loss"] == "near") & (looks["class"] == "anterior")]
    for name in ("p_holm", "low", "high", "difference"):
        curve = [float(row[f"rounds/near/dice/anterior/{name}"]) for row in rows]
        assert curve == pytest.approx(of[name].tolist())
    steps = {entry[4] for entry in records[0].entries if entry[0] == "metric"}
    assert steps >= set(looks["round"])


@pytest.mark.slow
def test_an_exploratory_study_is_called_one(done):
    path, _ = done
    output = path.parent / "report"
    write_json(output / "looks.json", {"exploratory": ["2 seeds x 2 folds"], "round": 3})
    report(path, output)
    assert (
        "looked at outside the plan of the study (2 seeds x 2 folds)"
        in (output / "report.html").read_text()
    )
