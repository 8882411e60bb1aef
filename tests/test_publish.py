"""examples/publish.py: the results of a study between the lines of its page that wait for them."""

import runpy
from pathlib import Path

from tests.helpers.fake_results import write_experiment

PUBLISH = runpy.run_path(str(Path(__file__).parents[1] / "examples/publish.py"))


def test_results_stand_on_the_page_and_files_next_to_it(tmp_path):
    results = write_experiment(tmp_path).parent
    (results / "report/methods.md").write_text("We compared 3 losses.")
    page = tmp_path / "page"
    page.mkdir()
    readme = page / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    PUBLISH["main"](results, page)
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\n12 trainings (1 data set, 3 losses, 2 folds")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "\nold\n" not in text
    assert "Dice minus" not in text
    assert "hippocampus: dice minus that of dice, with the interval of its verdict" in text
    assert "| dice_no_background " in text
    assert "[the report](report.html)" in text
    assert {x.name for x in page.iterdir()} >= {"report.html", "methods.md", "comparisons.csv"}
    PUBLISH["main"](results, page)
    assert readme.read_text() == text


def test_a_page_of_files_alone(tmp_path):
    results = write_experiment(tmp_path).parent
    (results / "report/methods.md").write_text("We compared 3 losses.")
    PUBLISH["main"](results, tmp_path / "example")
    assert (tmp_path / "example/report.html").exists()
    assert not (tmp_path / "example/README.md").exists()


def test_a_class_that_starts_late_is_told(tmp_path):
    results = write_experiment(tmp_path).parent
    history = PUBLISH["histories"](results)
    assert PUBLISH["starts"](history) == []
    late = (history["loss"] == "dice_no_background") & (history["step"] < 40)
    history.loc[late & history["val/dice/anterior"].notna(), "val/dice/anterior"] = 0.01
    (text,) = PUBLISH["starts"](history)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "step" in line}
    assert "step 40," in rows["dice_no_background"]
    assert "step 40," not in rows["dice"]
