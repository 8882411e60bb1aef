import json
import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from lossbench.common.files import block_folder, read_json, write_json
from lossbench.common.provenance import seed_of
from lossbench.common.tables import PREDICTIONS, RUN
from lossbench.config import UserError
from lossbench.datasets.slices import best_slice, plane
from lossbench.stages.compare import compare
from lossbench.stages.report import (
    curves,
    examples,
    figure_style,
    figures,
    first_screen,
    report,
    tables,
    wording,
)
from lossbench.stages.report.results import Results
from tests.helpers import fake_results
from tests.helpers.browser import CHROMIUM, browser_page
from tests.helpers.pages import CLASSES, LOSSES, Page, edit, make, verdict_rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    experiment, output = make(tmp_path_factory.mktemp("finished"))
    verdicts = ["better", "worse", "equivalent", "undecided", "undecided", "better"]
    needed = {"n_cases_needed": 30, "n_blocks_needed": 8}
    edit(output / "comparisons.csv", lambda t: t.assign(verdict=verdicts, **needed))
    report(experiment, output)
    return output


@pytest.mark.slow
def test_page_has_every_loss_class_and_verdict(finished):
    page = Page(finished / "report.html")
    assert "Which loss should I train with?" in page.text
    for name in [*LOSSES, *CLASSES]:
        assert name in page.text
    for verdict, symbol in wording.SYMBOLS.items():
        assert f"{symbol} {verdict}" in page.text
    assert "needs about 8 blocks (has 4)" in page.text
    assert "4 of 4 blocks are paired" in page.text
    assert "alpha) of 0.05" in page.text
    assert "±0.01" in page.text


def test_cells_agree_with_comparisons(finished):
    rows = {row["class"]: row for row in verdict_rows((finished / "tables/verdict.md").read_text())}
    for _, row in pd.read_csv(finished / "comparisons.csv").iterrows():
        cell = rows[row["class"]][row["loss"]]
        assert cell.split()[:2] == [wording.SYMBOLS[row["verdict"]], row["verdict"]]
        found = float(cell.split()[2].replace(wording.MINUS, "-"))
        assert found == pytest.approx(row["difference"], abs=6e-4)
    assert list(rows) == ["anterior", "posterior", "background"]


def test_page_fetches_nothing(finished):
    page = Page(finished / "report.html")
    assert all(x.startswith(("data:", "#")) or x == "methods.md" for x in page.addresses)
    assert page.tags.count("script") == 1
    assert "default-src 'none'" in page.source
    assert not re.search(r"url\(|@import|https?://", page.source)


def test_every_link_has_its_target(finished):
    page = Page(finished / "report.html")
    for address in page.addresses:
        if address.startswith("#"):
            assert f'id="{address[1:]}"' in page.source
    assert (finished / "methods.md").exists()


def test_every_class_has_its_figures(finished):
    files = {path.name for path in (finished / "figures").iterdir()}
    for kind in ("differences", "cases", "pairs", "curves"):
        for name in CLASSES:
            assert any(f.startswith(kind) and name in f and f.endswith("svg") for f in files)
    for path in (finished / "figures").iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_every_figure_is_in_the_page(finished):
    pages = Page(finished / "report.html")
    assert len(pages.alts) == len(list((finished / "figures").glob("*.svg"))) == 12


def test_tables_parse(finished):
    lengths = {"verdict": 3, "means": 3 * 6, "comparisons": 6, "cost": 3}
    for name, length in lengths.items():
        assert len(verdict_rows((finished / f"tables/{name}.md").read_text())) == length
        latex = (finished / f"tables/{name}.tex").read_text()
        assert latex.count(r"\\") == length + 1
        assert r"dice\_no\_background" in latex
        assert latex.isascii()


@pytest.mark.slow
def test_the_same_results_give_the_same_page(finished):
    before = (finished / "report.html").read_bytes()
    report(finished.parent / "experiment.json", finished)
    assert (finished / "report.html").read_bytes() == before


@pytest.mark.slow
def test_hostile_text_is_only_text(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    hostile = "</td><script>alert('$x_$|\\')</script>"
    for path in (output / "cases.parquet", *output.glob("*.csv")):
        edit(path, lambda t: t.replace({"class": {"anterior": hostile}} if "class" in t else {}))
    settings = json.loads(experiment.read_text())
    settings["losses"]["dice"]["note"] = "</pre><script>alert(2)</script>"
    experiment.write_text(json.dumps(settings))
    report(experiment, output)
    page = Page(output / "report.html")
    assert page.tags.count("script") == 1
    assert hostile in page.text
    assert "</pre><script>alert(2)</script>" in page.text
    assert len(verdict_rows((output / "tables/verdict.md").read_text().replace("\\|", ""))) == 3


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("name", ["cases.parquet", "runs.csv", "summary.csv", "comparisons.csv"])
def test_missing_table_is_named(tmp_path, name):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    (output / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file; run the workflow"):
        report(experiment, output)


@pytest.mark.usefixtures("without_figures")
def test_damaged_tables_are_named(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    edit(output / "comparisons.csv", lambda t: t.drop(columns="verdict"))
    with pytest.raises(UserError, match=r"comparisons\.csv: lacks the column 'verdict'"):
        report(experiment, output)
    (output / "cases.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cases\.parquet: damaged"):
        report(experiment, output)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_missing_pieces_are_said(tmp_path):
    experiment, output = make(tmp_path)
    for path in experiment.parent.rglob("fold0/seed0/*/history.csv"):
        path.unlink()
    (experiment.parents[1] / "datasets/hippocampus/classes.json").unlink()
    report(experiment, output)
    page = Page(output / "report.html")
    assert "3 of 12 runs have no validation" in page.text
    assert "No examples for hippocampus, unet: the prepared dataset" in page.text


@pytest.mark.slow
def test_images_of_other_data_are_not_drawn(tmp_path, monkeypatch):
    """Prepared under the same name since the training, with other cases."""
    experiment, output = make(tmp_path)
    (folder,) = experiment.parents[1].glob("datasets/*")
    info = read_json(folder / "classes.json")
    write_json(folder / "classes.json", {**info, "digest": "0123456789abcdef"})
    cases = pd.read_csv(folder / "cases.csv")
    cases.assign(case="other_" + cases["case"]).to_csv(folder / "cases.csv", index=False)
    report(experiment, output)
    text = Page(output / "report.html").text
    assert f"other data were prepared in {folder} (01234567) than the runs were trained on" in text
    assert f"({info['digest'][:8]}); run the workflow again" in text
    assert not list((output / "figures").glob("examples*"))


@pytest.mark.slow
def test_a_check_of_other_runs_is_refused(tmp_path):
    experiment, output = make(tmp_path)
    run = pd.read_csv(output / "runs.csv").iloc[0][[*RUN, "digest"]].to_dict()
    write_json(experiment.parent / "check.json", {"digests": [run]})
    report(experiment, output)
    write_json(experiment.parent / "check.json", {"digests": [{**run, "digest": "0123456789"}]})
    message = rf"check\.json: other settings.*\(digest 01234567 of dice, not {run['digest'][:8]}\)"
    for stage in (report, compare):
        with pytest.raises(UserError, match=message):
            stage(experiment, output)


def test_a_failure_leaves_the_old_page(tmp_path, monkeypatch):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    (output / "report.html").write_text("old")

    def fails(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(figure_style, "per_class", fails)
    with pytest.raises(OSError, match="disk full"):
        report(experiment, output)
    assert (output / "report.html").read_text() == "old"


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_what_went_wrong_is_on_the_page(tmp_path):
    experiment, output = make(tmp_path)

    def spoil(runs):
        runs.loc[0, "init_digest"] = "other"
        runs.loc[3, "batch_digest"] = "other"
        runs.loc[1, "status"] = "diverged"
        runs.loc[2, "commit"] = "f00"
        runs.loc[4, "versions"] = json.dumps({"torch": "1.0"})
        return runs.drop(index=11)

    edit(output / "runs.csv", spoil)
    report(experiment, output)
    text = Page(output / "report.html").text
    run = "dice_no_background on hippocampus, unet, fold 0, seed 0"
    assert f"1 of 11 runs diverged: {run}" in text
    run = "dice_inverse_frequency on hippocampus, unet, fold 1, seed 1"
    assert f"1 of 12 runs have no result: {run}." in text
    assert "2 of 4 blocks are not paired: hippocampus, unet, fold 0, seed 0" in text
    assert "2 of 4 blocks are paired" in text
    assert "fold 0, seed 0: initial weights differ" in text
    assert "fold 0, seed 1: batches differ" in text
    assert "dice_no_background on hippocampus, unet, fold 0, seed 0: diverged" in text
    assert "The runs come from 2 commits" in text
    assert "several versions: torch 1.0 and 2.15.0" in text
    assert "dice_inverse_frequency on hippocampus, unet, fold 1, seed 1" in text


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_a_loss_with_batches_of_its_own_is_named_and_left_out_of_the_certificate(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0, 1))
    settings = json.loads(experiment.read_text())
    settings["losses"]["dice_no_background"]["training"] = {"min_foreground": 0.1}
    settings["losses"]["dice_inverse_frequency"]["training"] = {"learning_rate": 0.1}
    experiment.write_text(json.dumps(settings))
    mine = "dice_no_background"
    edit(
        output / "runs.csv",
        lambda t: t.assign(batch_digest=t["batch_digest"].where(t["loss"] != mine, "own")),
    )
    report(experiment, output)
    text = Page(output / "report.html").text
    assert "2 of 2 blocks are paired" in text
    assert "dice_no_background (min_foreground = 0.1): does not share the batch stream" in text
    assert "dice_inverse_frequency (learning_rate = 0.1): sees the same batches" in text


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(("target", "noted"), [("MNI152", True), ("Phantom", False)])
@pytest.mark.slow
def test_demonstration_data_is_called_that(tmp_path, target, noted):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    settings = json.loads(experiment.read_text())
    settings["datasets"]["hippocampus"]["_target_"] = f"lossbench.datasets.{target}"
    experiment.write_text(json.dumps(settings))
    report(experiment, output)
    assert ("one averaged brain" in Page(output / "report.html").text) == noted


@pytest.mark.slow
def test_only_the_reference(tmp_path):
    experiment, output = make(tmp_path, losses=["dice"], folds=(0,), seeds=(0,))
    columns = ["dataset", "model", "loss", "reference", "class", "metric", "n_cases", "n_seeds"]
    columns += ["n_blocks", "difference", "ci_low", "ci_high", "p", "p_holm", "verdict"]
    columns += ["n_cases_needed", "n_blocks_needed", "paired"]
    pd.DataFrame(columns=columns).to_csv(output / "comparisons.csv", index=False)
    report(experiment, output)
    assert (
        "dice is the only loss: there is nothing to compare it with"
        in Page(output / "report.html").text
    )


@pytest.mark.slow
def test_several_datasets_and_models_are_kept_apart(tmp_path, monkeypatch):
    def not_rendered(_, figure, group, name, *file):
        return figure_style.Picture(group, name, "data:,")

    monkeypatch.setattr(figure_style, "save", not_rendered)
    experiment, output = make(
        tmp_path, losses=LOSSES[:2], folds=(0,), seeds=(0,), datasets=("brain", "heart"),
        models=("unet", "segresnet"),
    )  # fmt: skip
    report(experiment, output)
    page = Page(output / "report.html")
    for dataset in ("brain", "heart"):
        for model in ("unet", "segresnet"):
            assert sum(f": {dataset}, {model}, " in alt for alt in page.alts) == 12
            assert f"{dataset}, {model}." in page.text


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_twenty_losses_and_thirty_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_results, "SIZE", (4, 64))
    losses = [f"loss_{i}" for i in range(20)]
    classes = ["background", *(f"organ_{i}" for i in range(29))]
    experiment, output = make(tmp_path, losses=losses, classes=classes, folds=(0,), seeds=(0,))
    report(experiment, output)
    page = Page(output / "report.html")
    rows = verdict_rows((output / "tables/verdict.md").read_text())
    assert [row["class"] for row in rows] == [*classes[1:], "background"]
    assert set(rows[0]) == {"dataset", "model", "class", *losses[1:]}
    counts = tables.verdict_counts(Results.read(experiment, output)).to_dict("records")
    assert len(counts) == 19
    gains = [(int(row["better"]), -int(row["worse"])) for row in counts]
    assert gains == sorted(gains, reverse=True)
    assert sum(int(row[verdict]) for row in counts for verdict in wording.SYMBOLS) == 30 * 19
    for name in [*losses, *classes]:
        assert name in page.text
    assert page.tags.count("td") > 30 * 19


@pytest.mark.slow
def test_twenty_losses_are_told_apart(tmp_path):
    losses = [f"a_loss_with_a_long_name_{i}" for i in range(20)]
    experiment, output = make(
        tmp_path, losses=losses, classes=CLASSES[:2], folds=(0,), seeds=(0,), n_cases=4
    )
    results = Results.read(experiment, output)
    for group in (losses[1:8], losses[8:15], losses[15:]):
        colours = {figure_style.colour(results, loss) for loss in [losses[0], *group]}
        assert len(colours) == len(group) + 1
    kinds = {"curves": curves.curves, "cases": figures.distributions, "pairs": figures.pairs}
    with figure_style.style():
        drawn = [figure_style.per_class(results, *kind) for kind in kinds.items()]
    assert [len(pictures) for pictures in drawn] == [2 * 3, 2, 2]
    height = {}
    for kind in kinds:
        file = next((output / "figures").glob(f"{kind}_*_1_anterior*.svg"))
        box = ElementTree.parse(file).getroot().get("viewBox").split()
        height[kind] = float(box[3]) / float(box[2])
    assert height["cases"] > 2  # a row for each loss
    assert height["pairs"] > 2  # seven rows of three
    assert height["curves"] < 1.2


def test_a_notebook_that_asks_for_an_unknown_class_learns_the_available_ones(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0, 1))
    results = Results.read(experiment, output)
    (figure,) = figures.differences(results, "hippocampus", "unet", "anterior")
    assert figure.axes
    available = r"available: hippocampus, unet, anterior \| posterior \| background"
    for names in (("brain", "unet", "anterior"), ("hippocampus", "unet", "nucleus")):
        with pytest.raises(UserError, match=f"no results of {', '.join(names)}; {available}"):
            list(figures.differences(results, *names))


def test_axes_of_pairs_end_where_the_metric_does(tmp_path):
    experiment, output = make(tmp_path, losses=["a", "b"], folds=(0,), seeds=(0,))

    def limits(first, last):
        edit(output / "cases.parquet", lambda t: t.assign(dice=np.resize([first, last], len(t))))
        results = Results.read(experiment, output)
        (figure,) = figures.pairs(results, "hippocampus", "unet", "background")
        return [text.get_text() for text in figure.axes[0].texts[1:]]

    assert limits(0, 1) == ["0.00", "1.00"]
    assert float(limits(-1, 2)[1]) > 1
    assert limits(0.00001, 0.00002) == ["0.00", "0.00"]


def keep_predictions(experiment, output) -> dict[tuple[str, int], np.ndarray]:
    """Write what `evaluate` keeps of each prediction, all different, by loss and case."""
    results = Results.read(experiment, output)
    data, kept = results.prepared("hippocampus"), {}
    keys = results.runs[["fold", "seed"]].drop_duplicates().itertuples(index=False)
    for fold, seed in keys:
        shown = {}
        for row in data.validation(fold):
            for loss in LOSSES:
                label = data.original_label(row)
                flat = plane(label, best_slice(label, data.foreground))
                rng = np.random.default_rng(seed_of(loss, int(row), int(seed)))
                shown[f"{loss}/{row}"] = rng.integers(0, 3, flat.shape).astype(np.uint8)
                if seed == 0:
                    kept[loss, row] = shown[f"{loss}/{row}"]
        block = block_folder(results.folder, "hippocampus", "unet", fold, seed)
        np.savez_compressed(block / PREDICTIONS, **shown)
    return kept


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_examples_show_the_predictions_of_each_loss(tmp_path, monkeypatch):
    experiment, output = make(tmp_path)
    kept, drawn = keep_predictions(experiment, output), []
    real = examples._draw

    def draw(data, index, predictions, *rest):
        drawn.append((index, predictions))
        return real(data, index, predictions, *rest)

    monkeypatch.setattr(examples, "_draw", draw)
    report(experiment, output)
    page = Page(output / "report.html")
    alts = [alt for alt in page.alts if alt.startswith("image, ground truth and predictions")]
    results = Results.read(experiment, output)
    cases = list(examples.chosen(results, "hippocampus", "unet").values())
    assert [alt.split(": ")[-1] for alt in alts] == cases
    names = results.prepared("hippocampus").cases["case"]
    assert [names[index] for index, _ in drawn] == cases
    assert len(set(cases)) == 3
    for index, predictions in drawn:  # of the first seed
        assert [*predictions] == LOSSES
        assert all((shown == kept[loss, index]).all() for loss, shown in predictions.items())
    assert len(list((output / "figures").glob("examples_*.png"))) == 3


@pytest.mark.slow
def test_a_report_with_examples_imports_no_torch(tmp_path):
    experiment, output = make(tmp_path)
    keep_predictions(experiment, output)
    code = f"""
import sys
class Absent:
    def find_spec(name, *rest):
        if name in ("torch", "monai"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
from lossbench.__main__ import main
sys.exit(main(["report", "--experiment", {str(experiment)!r}, "--output", {str(output)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((output / "figures").glob("examples_*.png"))) == 3


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("damage", ["missing", "cut short", "of other losses"])
def test_a_page_without_predictions_says_why(damage, tmp_path):
    experiment, output = make(tmp_path)
    keep_predictions(experiment, output)
    for path in experiment.parent.rglob(PREDICTIONS):
        if damage == "missing":
            path.unlink()
        elif damage == "cut short":
            path.write_bytes(path.read_bytes()[:-30])
        else:
            np.savez_compressed(path, **{"other/0": np.zeros((2, 2), np.uint8)})
    report(experiment, output)
    text = Page(output / "report.html").text
    reason = "the predictions" if damage == "missing" else ""
    assert f"No examples for hippocampus, unet: {reason}" in text
    assert "predictions.npz" in text
    assert ("damaged" in text) == (damage != "missing")


def test_examples_are_the_worst_median_and_best_by_difference(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0, 1), n_cases=5)
    gain = dict(
        zip([f"case_{i:03d}" for i in (0, 2, 4, 6, 8)], (0.1, -0.2, 0, 0.3, -0.1), strict=True)
    )

    def set_dice(table):
        other = (table["loss"] != "dice") & (table["class"] != "background")
        dice = 0.5 + table["case"].map(gain).where(other, 0)
        return table.assign(dice=dice.where(table["class"] != "background", np.nan))

    edit(output / "cases.parquet", set_dice)
    found = examples.chosen(Results.read(experiment, output), "hippocampus", "unet")
    assert found == {
        f"worst ({wording.MINUS}0.200)": "case_002",
        "median (0.000)": "case_004",
        "best (+0.300)": "case_006",
    }


def test_a_volume_is_cut_where_it_has_most_foreground():
    label = np.zeros((6, 5, 4), np.uint8)
    label[0, 0, 1], label[1:4, 1:3, 2] = 1, 2
    image = np.arange(label.size, dtype=np.float32).reshape(1, *label.shape)
    shown, truth, prediction = examples._planes(image, label, [plane(label, 2)], [1, 2])
    assert set(np.unique(truth)) == {0, 2}
    assert (truth == 2).sum() == 6
    assert shown.shape[:2] == truth.shape == prediction.shape == (5, 6)


def row(verdict="undecided", loss="a", name="x", **values):
    defaults = {"difference": 0.02, "ci_low": 0.01, "ci_high": 0.03, "n_cases": 20, "n_blocks": 4}
    needed = {"n_cases_needed": np.nan, "n_blocks_needed": np.nan}
    return {"loss": loss, "class": name, "verdict": verdict, **defaults, **needed, **values}


@pytest.mark.parametrize(
    ("blocks", "cases", "texts"),
    [
        (12, np.nan, ["about 12 blocks (has 4)"]),
        (3, 1e7, ["a few more blocks (has 4)"]),
        (12, 90, ["about 12 blocks (has 4)", "about 90 cases (has 20)"]),
        (np.nan, np.nan, []),
    ],
)
def test_what_would_decide(blocks, cases, texts):
    values = row(n_blocks_needed=blocks, n_cases_needed=cases)
    assert wording.needed(pd.Series(values)) == texts


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({"b": ("better", "undecided"), "c": ("worse", "better")}, "Train with b: better on x"),
        (
            {"b": ("better", "equivalent"), "c": ("better", "better")},
            "Train with c (better on all 2 classes) or b (better on x): none",
        ),
        (
            {"b": ("better", "worse"), "c": ("worse", "worse")},
            "It depends on the class. Compared with a, b is better on x and is worse on y.",
        ),
        ({"b": ("worse", "undecided"), "c": ("worse", "worse")}, "Keep a for now: no other loss"),
        (
            {"b": ("worse", "equivalent"), "c": ("worse", "worse")},
            "Keep a: no other loss is better",
        ),
    ],
)
def test_answers(tmp_path, verdicts, said):
    experiment, output = make(tmp_path, losses=["a", "b", "c"], folds=(0,), seeds=(0,))
    rows = [row(v, x, n) for x, both in verdicts.items() for n, v in zip("xy", both, strict=True)]
    names = {"background": "z", "anterior": "x", "posterior": "y"}
    edit(output / "cases.parquet", lambda t: t.replace({"class": names}))
    keys = {"dataset": "hippocampus", "model": "unet", "metric": "dice", "paired": True}
    pd.DataFrame(rows).assign(**keys).to_csv(output / "comparisons.csv", index=False)
    results = Results.read(experiment, output)
    assert wording.answer(results, "hippocampus", "unet", "dice").startswith(said)


@pytest.mark.usefixtures("without_figures")
def test_every_metric_has_its_answer(tmp_path):
    experiment, output = make(tmp_path, losses=["a", "b"], folds=(0,), seeds=(0,))
    settings = json.loads(experiment.read_text())
    settings["comparison"]["metrics"] = ["dice", "hd95"]
    write_json(experiment, settings)

    def by_metric(table):
        hd95 = table.assign(metric="hd95", verdict="better")
        return pd.concat([table.assign(verdict="equivalent"), hd95])

    edit(output / "comparisons.csv", by_metric)
    report(experiment, output)
    page = Page(output / "report.html")
    assert "by its Dice and HD95 on each class" in page.text
    assert (
        "By Dice. Keep a: no other loss is better on any class. "
        "By HD95. Train with b: better on all 3 classes, worse on none. Its verdicts."
    ) in page.text
    assert "Verdicts by Dice" in page.text
    assert '<h2 id="comparisons">' in page.source


@pytest.mark.usefixtures("without_figures")
def test_the_margin_of_each_metric_is_told(tmp_path):
    experiment, output = make(tmp_path, losses=["a", "b"], folds=(0,), seeds=(0,))
    settings = json.loads(experiment.read_text())
    settings["comparison"] |= {"metrics": ["hd95", "dice"], "margins": {"hd95": 2.5}}
    write_json(experiment, settings)
    compare(experiment, output)
    edit(
        output / "comparisons.csv",
        lambda t: t.assign(verdict="equivalent", simultaneous_low=-1, simultaneous_high=1),
    )
    report(experiment, output)
    page = Page(output / "report.html")
    assert (
        "smaller than this experiment's margin, ±2.5 of HD95, 0.01 of Dice: by two one-sided tests"
        in page.text
    )
    assert "equivalent: shown to be smaller than ±2.5." in page.text
    assert f"{wording.MINUS}1.000 to +1.000" in page.text


@pytest.mark.parametrize(
    ("value", "width", "sign", "said"),
    [
        (0.0123, 0.1, True, "+0.012"),
        (-0.0123, 0.1, False, f"{wording.MINUS}0.012"),
        (-0.0001, 0.1, True, "0.000"),
        (0.00012, 0.001, True, "+0.0001"),
        (np.nan, np.nan, True, wording.NOTHING),
    ],
)
def test_numbers(value, width, sign, said):
    assert wording.number(value, width, sign) == said


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_lost_and_unlearned_classes_of_eleven(tmp_path):
    experiment = fake_results.write_street_study(tmp_path)
    report(experiment, experiment.parent / "report")
    results = Results.read(experiment, experiment.parent / "report")
    (lost,) = wording.lost_classes(results, "hippocampus", "unet")
    assert lost.startswith("dice_no_background does not find sky (Dice 0.00")
    page = Page(experiment.parent / "report/report.html")
    assert lost in page.text
    assert "not learned: by the loss and the reference alike" in page.text
    assert "nearest to a verdict: dice_" in page.text
    table = first_screen.verdict_table(results, "hippocampus", "unet")
    assert [row["name"] for row in table["rows"]][:3] == ["sky", "building", "pole"]
    kinds = {row["name"]: [cell["kind"] for cell in row["cells"]] for row in table["rows"]}
    assert kinds["sky"][0] == "lost"
    assert kinds["sky"][1] in wording.SYMBOLS
    assert kinds["pole"] == ["not-learned", "not-learned"]
    means = results.summary.query("loss == 'dice' and metric == 'dice'").set_index("class")["mean"]
    for row in table["rows"]:
        assert row["mean"] == wording.number(means[row["name"]])
    assert page.text.index("sky background") < page.text.index("building")


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_classes_that_no_loss_found_are_named_once(tmp_path):
    classes = ["background", *(f"organ_{n}" for n in range(1, 11))]
    experiment = fake_results.write_experiment(tmp_path, classes=classes)
    report(experiment, experiment.parent / "report")
    text = Page(experiment.parent / "report/report.html").text
    warning = re.search(r"Some runs never found a class: (.*?)\. Details", text)[1]
    assert "no loss found organ_" in warning
    assert not re.search("on organ_10", warning)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_without_a_background_class_0_stands_among_the_others(tmp_path):
    experiment = fake_results.write_street_study(tmp_path, background=None)
    output = experiment.parent / "report"
    report(experiment, output)
    results = Results.read(experiment, output)
    assert results.background("hippocampus") is None
    assert results.classes("hippocampus")[0] == "sky"
    table = first_screen.verdict_table(results, "hippocampus", "unet")
    assert not any(row["background"] for row in table["rows"])
    text = Page(output / "report.html").text
    assert "sky background" not in text
    assert "without background" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_loss_that_lost_a_class_is_not_recommended(tmp_path):
    experiment = fake_results.write_street_study(tmp_path)
    output = experiment.parent / "report"
    better = lambda t: t.assign(  # noqa: E731
        verdict=["better" if name == "car" else "undecided" for name in t["class"]]
    )
    edit(output / "comparisons.csv", better)
    text = wording.answer(Results.read(experiment, output), "hippocampus", "unet", "dice")
    assert text == (
        "Train with dice_inverse_frequency: better on car, not shown to be worse on any class "
        "(undecided on 9 of 11 classes)."
    )
    only_lost = lambda t: t[t["loss"] == "dice_no_background"]  # noqa: E731
    edit(output / "comparisons.csv", only_lost)
    text = wording.answer(Results.read(experiment, output), "hippocampus", "unet", "dice")
    assert text == (
        "It depends on the class. Compared with dice, dice_no_background is better on car and "
        "does not find sky."
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
@pytest.mark.skipif(not CHROMIUM.exists(), reason="no chromium")
def test_eleven_classes_fit_the_first_screen(tmp_path):
    experiment = fake_results.write_street_study(tmp_path)
    report(experiment, experiment.parent / "report")
    address = (experiment.parent / "report/report.html").resolve().as_uri()
    box = "document.querySelector('table.verdicts tbody').getBoundingClientRect()"
    with browser_page(1280, 900) as page:
        page.goto(address)
        assert page.evaluate(f"{box}.bottom") < 900
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(f"{box}.bottom - {box}.top") < 900
        scroll = "document.querySelector('.scroll').scrollLeft = 500"
        left = "document.querySelector('table.verdicts tbody th').getBoundingClientRect().left"
        before = page.evaluate(left)
        page.evaluate(scroll)
        assert page.evaluate(left) == before


def test_long_names_are_wrapped_without_loss():
    name = "generalized_wasserstein_dice_focal_loss"
    lines = figure_style.wrapped(name).split("\n")
    assert "".join(lines) == name
    assert all(len(a) + len(b) > 16 for a, b in pairwise(lines))
    assert {len(line) for line in figure_style.wrapped("x" * 64).split("\n")} == {16}


def test_a_file_of_long_names_has_a_name_that_file_systems_take():
    names = [figure_style.stem("cases", "x" * 300, end) for end in "ab"]
    assert names[0] != names[1]
    assert max(map(len, names)) <= 200
    assert figure_style.stem("cases", "My data", 1) == "cases_my_data_1"


def checked(folder, losses=LOSSES):
    """A check.json as `check` writes it, with two properties."""
    look = {
        "losses": {
            name: {
                "value": 0.5, "gradient_norm": 0.25 * n, "scale": 1.0 * n,
                "share_value": [0.1, 0.2, 0.7], "share_l1": [None] * 3, "share_l2": [0.3, 0.3, 0.4],
            }
            for n, name in enumerate(losses, 1)
        },
        "cosines": {a: {b: 0.998 if a != b else 1.0 for b in losses} for a in losses},
    }  # fmt: skip
    flight = {
        "dataset": "hippocampus", "model": "unet", "classes": CLASSES, "reference": "dice",
        "snapshots": [{"step": 0, **look}, {"step": 20, **look}], "sentences": ["b is twice a <really>."],
    }  # fmt: skip
    cards = {name: {"pooling": "per sample", "scale": -0.123456} for name in losses}
    found = {
        "losses": losses,
        "properties": [["pooling", "how samples are pooled"], ["scale", "of the gradient"]],
        "cards": {"hippocampus": cards},
        "gradients": [flight],
    }
    write_json(folder / "check.json", found)


@pytest.mark.slow
def test_what_each_loss_computes_and_its_gradients(tmp_path):
    experiment, output = make(tmp_path)
    checked(experiment.parent)
    report(experiment, output)
    page = Page(output / "report.html")
    for part in (
        "What each loss computes",
        "how samples are pooled",
        "per sample",
        f"{wording.MINUS}0.123",
        "b is twice a <really>.",
        "At the start",
        "After 20 steps of training with dice",
        "cosine to dice_no_background",
        "70.0%",
    ):
        assert part in page.text


@pytest.mark.slow
def test_an_experiment_without_cards_has_a_report(tmp_path):
    experiment, output = make(tmp_path)
    write_json(experiment.parent / "check.json", {"tried": ["a/b"]})
    report(experiment, output)
    assert "Measured on small batches" not in Page(output / "report.html").text
