"""What a reader sees of tuned learning rates: on the page, in the figures, in MLflow."""

import pandas as pd
import pytest

from lossbench.config import load
from lossbench.stages.report import report
from lossbench.stages.track.read_runs import Study
from tests.helpers.fake_results import write_experiment


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    grid = {"learning_rate": {"points": 3, "trainings": 2}}
    root = tmp_path_factory.mktemp("tuned")
    path = write_experiment(root, losses=("dice", "ce"), n_cases=12, tuning=grid)
    report(path, path.parent / "report")
    return path, (path.parent / "report/report.html").read_text()


@pytest.mark.slow
def test_the_first_screen_answers_at_both_rates(done):
    _, page = done
    first = page[: page.index("<nav")]
    assert "<b>By Dice, at the common learning rate.</b>" in first
    assert "<b>By Dice, each loss at its own learning rate.</b>" in first
    headings = first[first.index("<table") : first.index("</table>")].replace("<wbr>", "")
    assert headings.index(">ce<") < headings.index(">ce_tuned<")
    assert "dice_tuned<" not in headings, "a reference is no column"


def test_a_section_shows_the_table_and_the_expected_best(done):
    path, page = done
    assert 'id="tuning"' in page
    assert "Dodge et al. 2019" in page
    assert "0.001, 0.002, 0.001" in page
    (figure,) = (path.parent / "report/figures").glob("tuning_*.svg")
    assert "expected best of them" in figure.read_text()
    methods = (path.parent / "report/methods.md").read_text()
    assert "were compared with dice_tuned. It was tuned in each fold" in methods


def test_mlflow_shows_the_trainings_of_the_tuning_as_such(done):
    path, _ = done
    records = Study(load(path), path.parent).finished()
    tuning = [record for record in records if record.kind == "tuning"]
    assert len(tuning) == 3 * 2 * 2 * 2
    assert {record.key for record in records if record.kind == "loss"} >= {r.parent for r in tuning}
    first = tuning[0]
    assert first.params["seed"].startswith("-")
    assert {r.params["learning_rate"] for r in tuning} == {"0.000316", "0.001", "0.00316"}
    assert first.figures["tuning/dice"] == pytest.approx(0.8, abs=0.1)
    rates = {r.params["loss"]: r.params["learning_rate"] for r in records if r.kind == "run"}
    assert rates == {"dice": "0.001", "dice_tuned": "0.001", "ce": "0.001", "ce_tuned": "0.002"}
    parents = {r.params["loss"]: r for r in records if r.kind == "loss"}
    assert parents["dice_tuned"].tags["lossbench.verdict"] == "the reference"
    runs = pd.read_csv(path.parent / "report/runs.csv")
    assert len(runs) == sum(record.kind == "run" for record in records), "no run of the matrix"
