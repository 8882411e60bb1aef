"""methods.md: what it says of a study is what the study is."""

import re

import numpy as np
import pandas as pd
import pytest

from lossbench import __version__
from lossbench.common.files import read_json, write_json
from lossbench.stages.report import report
from lossbench.stages.report.methods import methods
from lossbench.stages.report.results import Results
from tests.helpers.fake_results import compare_files
from tests.helpers.pages import LOSSES, Page, edit, make

pytestmark = pytest.mark.usefixtures("without_figures")


def text_of(experiment):
    return methods(Results.read(experiment, experiment.parent / "report"))


def number(pattern, text):
    (found,) = re.findall(pattern, text)
    return float(found)


def test_its_figures_are_those_of_the_study(tmp_path):
    experiment, output = make(tmp_path, folds=(0, 1, 2), seeds=(0, 1), n_cases=5)
    settings = read_json(experiment)
    settings["comparison"] |= {"margin": 0.02, "alpha": 0.1}
    settings["training"] |= {"steps": 40, "batch_size": 4, "learning_rate": 0.003, "clip_norm": 12}
    write_json(experiment, settings)
    text = text_of(experiment)
    runs, compared = (pd.read_csv(output / f"{name}.csv") for name in ("runs", "comparisons"))
    cases = pd.read_parquet(output / "cases.parquet")
    assert number(r"compared (\d+) losses", text) == len(LOSSES)
    assert number(r"(\d+) subjects were evaluated", text) == cases["subject"].nunique() == 15
    assert number(r"in (\d+) blocks,", text) == 6
    assert "(3 folds, 2 seeds)" in text
    assert number(r"(\d+) trainings in all", text) == len(runs) == 18
    assert number(r"for (\d+) steps of", text) == 40
    assert number(r"steps of (\d+) images", text) == 4
    assert number(r"learning rate ([\d.]+) times", text) == 0.003
    assert number(r"clipped at norm ([\d.]+),", text) == 12
    assert "by digests in 6 of 6 blocks" in text
    assert number(r"each of the (\d+) comparisons", text) == len(compared) == 6
    assert number(r"margin of ([\d.]+) \(two", text) == 0.02
    assert number(r"at alpha = ([\d.]+),", text) == 0.1
    assert "upper bounds at 90 %" in text
    assert "new subjects of this kind, and new trainings" in text
    assert f"Version {__version__}." in text
    versions = "commit 0123456789abcdef0123456789abcdef01234567, device cpu, python 3.11.7"
    assert f"{versions}, torch 2.15.0, computed in float32, CUDA graph" in text
    for loss in LOSSES:
        keywords = settings["losses"][loss]
        assert f"- {loss}: `monai.losses.DiceLoss(smooth_nr={keywords['smooth_nr']}" in text
    assert "\n " not in text


def test_it_names_what_was_done_in_this_study_alone(tmp_path):
    experiment, output = make(tmp_path)
    settings = read_json(experiment)
    settings["losses"]["dice_no_background"]["training"] = {"learning_rate": 0.1}
    settings["training"]["optimizer"] = "sgd"
    settings["comparison"]["also"] = ["hd95"]
    settings["rounds"] = {"budget": 7, "first": 3}
    settings["losses"]["dice_no_background"]["weight"] = "$inverse_frequency"
    settings["models"]["unet"]["out_channels"] = "$num_classes"
    write_json(experiment, settings)
    plain = text_of(experiment)
    assert "SGD (Nesterov momentum 0.99)" in plain
    assert "dice_no_background had training settings of its own (learning_rate = 0.1)." in plain
    assert "HD95 for information, without a verdict" in plain
    assert "from round 3 to at most round 7" in plain
    assert "Lan, DeMets (1983)" in plain
    assert "`$inverse_frequency`: weights from the voxels of each class" in plain
    assert "$num_classes" not in plain  # it says nothing of the model
    assert "diverged" not in plain
    assert "random-effects" not in plain
    status = ["diverged"] + ["finished"] * 11
    edit(output / "runs.csv", lambda runs: runs.assign(status=status))
    assert "1 training diverged" in text_of(experiment)
    settings["rounds"] = None
    write_json(experiment, settings)
    assert "Lan" not in text_of(experiment)


@pytest.mark.slow
def test_over_data_sets_and_with_one_block(tmp_path):
    datasets = ["hippocampus", "nuclei", "brain"]
    experiment, _ = make(tmp_path / "several", datasets=datasets)
    text = text_of(experiment)
    assert "on 3 data sets" in text
    assert "Over 3 data sets, one value per data set" in text
    assert "Hartung, Knapp (2001)" in text
    experiment, _ = make(tmp_path / "one", folds=(0,), seeds=(0,))
    text = text_of(experiment)
    assert "Since each loss was trained once" in text
    assert "mixture of two Student distributions" not in text


def test_of_results_of_other_programs_it_says_what_is_known(tmp_path):
    random = np.random.default_rng(0)
    keys = [(loss, s, f"c{i}") for loss in ("dice", "ce") for s in range(2) for i in range(9)]
    table = pd.DataFrame(keys, columns=["loss", "seed", "case"])
    table.assign(dice=random.normal(0.8, 0.02, 36)).to_csv(tmp_path / "a.csv", index=False)
    experiment = compare_files([str(tmp_path / "a.csv")], "dice", tmp_path / "out")
    text = methods(Results.read(experiment, experiment.parent))
    assert "The trainings were not run by lossbench [the authors describe them]" in text
    assert "9 subjects were evaluated" in text
    assert "**Training.**" not in text


@pytest.mark.slow
def test_the_page_links_to_it_and_shows_it(tmp_path):
    experiment, output = make(tmp_path)
    report(experiment, output)
    text, page = (output / "methods.md").read_text(), Page(output / "report.html")
    assert text == text_of(experiment)
    assert "methods.md" in page.addresses
    assert re.sub(r"\s+", " ", text).strip() in page.text
