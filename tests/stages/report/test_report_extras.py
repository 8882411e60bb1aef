"""What only some experiments have: claims, sensitivity, the ledger, scale controls, external results."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossbench.stages.report import curves, figure_style, report, sensitivity, tables, wording
from lossbench.stages.report.results import Results
from tests.helpers.fake_results import compare_files
from tests.helpers.pages import CLASSES, LOSSES, Page, edit, make, verdict_rows


def write_extras(experiment):
    """What only some experiments have, and a warning of every kind."""
    output = experiment.parent / "report"
    edit(output / "comparisons.csv", with_other_conclusions)
    edit(output / "conventions.csv", another_winner)
    edit(output / "collapses.csv", collapsed)
    claims = [
        ("Weights help small classes", "A. Paper, 2020", "holds", "+0.021", "anterior: better"),
        ("The background does not matter", "a forum", "fails", "+0.009", "anterior: better"),
        ("Gradients are balanced", "A. Paper, 2020", "undecided", "0.4 to 0.6", "the ledger"),
    ]
    columns = ["claim", "source", "verdict", "figure", "evidence"]
    pd.DataFrame(claims, columns=columns).to_csv(output / "claims.csv", index=False)
    scale = pd.read_csv(output / "comparisons.csv")
    scale = scale[["dataset", "model", "loss", "class", "metric", "difference"]]
    scale = scale.assign(matched=0.004, explained=0.017, ci_low=-0.01, ci_high=0.02)
    scale.to_csv(output / "scale.csv", index=False)
    for seed, path in enumerate(sorted(experiment.parent.rglob("history.csv"))):
        write_ledger(path, np.random.default_rng(seed))


def with_other_conclusions(comparisons):
    """The usual test concludes otherwise; a pair is missing; a sign flips."""
    n = len(comparisons)
    return comparisons.assign(
        n_missing=[3] + [0] * (n - 1),
        verdict_cases=(["better", "undecided", "worse"] * n)[:n],
        convention=["monai_count_empty,nnunet"] + [""] * (n - 1),
    )


def another_winner(conventions):
    mine = (conventions["class"] == "posterior") & (conventions["convention"] == "nnunet")
    first = conventions["loss"].iloc[0]
    return conventions.assign(
        winner=conventions["winner"].where(~mine, conventions["loss"] == first)
    )


def collapsed(collapses):
    collapses = collapses.astype({"seeds": object})
    collapses.loc[1, ["n_collapsed", "seeds"]] = [2, "fold 0 seed 1, fold 1 seed 1"]
    return collapses


def write_ledger(path, random):
    history = pd.read_csv(path)
    classes = [c.removeprefix("val/dice/") for c in history if c.startswith("val/dice/")]
    first = pd.DataFrame({"step": [0]})
    history = pd.concat([first, history], ignore_index=True)
    sparse = history["step"] % 20 == 0
    n = len(history)
    ledger = {
        "norm": np.exp(random.normal(0, 0.1, n) - history["step"] / 20),
        "scale": random.uniform(0.5, 2, n),
        "cosine": random.uniform(0.8, 1, n),
    }
    for kind in ("value", "l1", "l2"):
        shares = random.dirichlet(np.arange(1, len(classes) + 1), n)
        ledger |= {f"{kind}/{name}": shares[:, k] for k, name in enumerate(classes)}
    ledger = pd.DataFrame(ledger).add_prefix("ledger/").where(sparse)
    pd.concat([history, ledger], axis=1).to_csv(path, index=False)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The results and the page of an experiment that has all there is."""
    experiment, output = make(tmp_path_factory.mktemp("everything"))
    write_extras(experiment)
    report(experiment, output)
    return Results.read(experiment, output), Page(output / "report.html")


def test_the_usual_test_stands_beside_the_verdicts(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0, 1))
    verdicts = ["better", "undecided", "equivalent", "undecided", "worse", "undecided"]
    usual = ["better", "worse", "better", "undecided", "undecided", "undecided"]
    edit(
        output / "comparisons.csv",
        lambda t: t.assign(verdict=verdicts, verdict_cases=usual, p_holm=0.25, p_cases_holm=3e-7),
    )
    found = sensitivity.usual_test(Results.read(experiment, output))
    assert (found["total"], found["usual"], found["ours"]) == (6, 3, 2)
    rows = found["table"]
    assert rows["usual test"].tolist() == ["worse", "better", "undecided"]
    assert rows["verdict"].tolist() == ["undecided", "equivalent", "worse"]
    assert rows["p, Holm"].tolist() == ["0.25"] * 3
    assert rows["p of the usual test, Holm"].tolist() == ["<0.0001"] * 3


@pytest.mark.slow
def test_other_conclusions_are_on_the_page(everything):
    results, page = everything
    found = sensitivity.usual_test(results)
    assert found["usual"] != found["ours"]
    said = f"calls {found['usual']} of 6 differences, lossbench {found['ours']}"
    assert page.text.count(said) == 2  # the first screen, and the section
    assert "leaves out training noise" in page.text
    assert "the sign or the verdict changes with monai_count_empty, nnunet" in page.text
    assert "depends on empty classes" in page.text
    assert sensitivity.missing_pairs(results)["missing pairs"].tolist() == ["3"]
    assert "These comparisons lack pairs" in page.text


def test_winners_that_change_with_the_convention(everything):
    results, page = everything
    rows = sensitivity.winners_by_convention(results)
    assert set(rows["class"]) == {"posterior"}
    winners = rows.set_index("convention")["winner"]
    assert winners["nnunet"] == LOSSES[0] != winners["monai_ignore_empty"]
    assert "counted: posterior. Details." in page.text


def test_claims_stand_near_the_top(everything):
    _, page = everything
    assert page.text.index("The background does not matter") < page.text.index("A block is one")
    assert "✗ fails" in page.text
    assert "✓ holds" in page.text


def test_collapses_scale_ranks_and_pooled_figures(everything):
    results, page = everything
    assert "2 of 4 runs" in page.text
    assert "fold 0 seed 1, fold 1 seed 1" in page.text
    found = results.table("collapses").loc[1]
    name = f"{found['loss']} on {found['class']}"
    assert f"Some runs never found a class: {name}, 2 of 4 runs." in page.text
    assert set(tables.scale(results)["by scale alone"]) == {"+0.017"}
    assert "Dice and IoU of the pooled counts" in page.text
    ranks = tables.ranks(results)
    assert ranks["loss"].tolist() == LOSSES
    assert ranks.columns.tolist()[-3:] == [*CLASSES[1:], CLASSES[0]]
    first = pd.read_csv(results.output / "ranks.csv").set_index(["class", "loss"])
    best = first.loc[("anterior", LOSSES[2])]
    assert ranks["anterior"].iloc[2].startswith(f"{best['rank']:.3g} (")
    written = {path.stem for path in (results.output / "tables").glob("*.md")}
    assert written == {"verdict", "claims", "comparisons", "means", "cost"}


def test_a_class_has_one_row_of_means_where_losses_have_other_numbers_of_cases(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    fewer = lambda t: t.assign(n_cases=t["n_cases"].where(t["loss"] != "dice", 4))  # noqa: E731
    edit(output / "summary.csv", fewer)
    rows = tables.means(Results.read(experiment, output)).query("metric == 'dice'")
    assert rows["class"].tolist() == [*CLASSES[1:], CLASSES[0]]
    assert rows["cases"].tolist() == ["4 to 6", "4 to 5", "4 to 6"]
    assert (rows[LOSSES] != "\N{EN DASH}").all(axis=None)


def test_the_ledger_is_drawn(everything):
    results, page = everything
    figures = {path.name for path in (results.output / "figures").glob("*.svg")}
    for look in ("norm", "scale", "cosine"):
        assert f"ledger_hippocampus_unet_{look}_1.svg" in figures
    assert sum(name.startswith("shares_") for name in figures) == 3
    assert sum(alt.startswith("gradient ledger") for alt in page.alts) == 3


def test_a_loss_that_cannot_be_taken_apart_has_no_shares(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    write_extras(experiment)
    for path in experiment.parent.rglob("history.csv"):
        edit(path, lambda t: t.assign(**{c: np.nan for c in t if c.startswith("ledger/l")}))
    results = Results.read(experiment, output)
    (figure,) = curves.shares(results, "hippocampus", "unet", "anterior")
    assert [axes.get_title() for axes in figure.axes] == ["of the value"]


@pytest.mark.slow
def test_without_ledger_claims_and_scale_the_page_says_so(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,))
    (output / "ranks.csv").unlink()
    report(experiment, output)
    text = Page(output / "report.html").text
    assert "Statements of others" not in text
    assert "by scale alone" not in text
    assert "because their inputs are missing: Claims under test (from claims.csv);" in text
    assert "How stable the ranks are (from ranks.csv)" in text
    assert "Cost per loss (" not in text


def test_scale_controls_are_no_candidates(tmp_path):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0, 1), losses=["dice", "a", "a_matched"])
    settings = json.loads(experiment.read_text())
    settings["comparison"]["scale_control"] = True
    experiment.write_text(json.dumps(settings))
    edit(output / "comparisons.csv", lambda t: t.assign(verdict="better"))
    results = Results.read(experiment, output)
    assert results.compared == ["a"]
    assert tables.verdict_counts(results)["loss"].tolist() == ["a"]
    assert "a_matched" in tables.comparisons(results)["loss"].tolist()


def test_dice_against_the_size_of_a_class(tmp_path, monkeypatch):
    names = ["one", "two", "three"]
    experiment, output = make(tmp_path, datasets=names, folds=(0,), seeds=(0,), n_cases=4)
    for name, voxels in zip(names, (1, 10, 100), strict=True):
        edit(experiment.parents[1] / "datasets" / name / "cases.csv",
             lambda t, n=voxels: t.assign(voxels_background=900, voxels_anterior=n,
                                          voxels_posterior=100 - n))  # fmt: skip
    results = Results.read(experiment, output)
    share = [curves._share_of_voxels(results, name)["anterior"] for name in names]
    assert share == pytest.approx([0.001, 0.01, 0.1])
    drawn = []

    def keep(_, figure, group, name, *file):
        drawn.append(figure)
        return figure_style.Picture(group, name, "data:,")

    monkeypatch.setattr(curves, "save", keep)
    with figure_style.style():
        pictures = curves.sizes(results)
    assert [picture.name for picture in pictures] == ["anterior", "posterior"]
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_major_formatter()(0.01, None) == "1:100"
    by_loss = results.summary.query("`class` == 'anterior' and metric == 'dice' and loss == 'dice'")
    line = axes.containers[0].lines[0]
    assert line.get_xdata().tolist() == pytest.approx(share)
    assert line.get_ydata() == pytest.approx(by_loss.set_index("dataset").loc[names, "mean"])


def test_two_datasets_make_no_line(tmp_path):
    experiment, output = make(tmp_path, datasets=("one", "two"), folds=(0,), seeds=(0,), n_cases=4)
    assert curves.sizes(Results.read(experiment, output)) == []


@pytest.mark.slow
def test_results_of_others_have_a_page(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        {"loss": loss, "class": name, "case": f"c{i}", "fold": i % 2, "dice": random.uniform(0.7, 0.9)}
        for loss in ("ce", "dice") for name in ("liver", "tumour") for i in range(12)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "theirs.csv", index=False)
    experiment = compare_files([str(tmp_path / "theirs.csv")], "ce", tmp_path / "out")
    report(experiment, tmp_path / "out")
    page = Page(tmp_path / "out/report.html")
    assert "These runs were not trained by lossbench" in page.text
    assert "not paired" not in page.text
    assert "(background)" not in page.text
    assert "theirs.csv" in page.text
    for section in ("curves", "cards", "cost", "examples"):
        assert f'id="{section}"' not in page.source
    assert "Learning curves (from history.csv of the runs)" in page.text
    assert len(verdict_rows((tmp_path / "out/tables/verdict.md").read_text())) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
@pytest.mark.parametrize(
    ("clicks", "order"),
    [
        (1, ["\N{MINUS SIGN}0.5", "0.06", "9 (8 to 10)", "1,200", "\N{EN DASH}"]),
        (2, ["1,200", "9 (8 to 10)", "0.06", "\N{MINUS SIGN}0.5", "\N{EN DASH}"]),
    ],
)
def test_tables_sort_by_value(tmp_path, clicks, order):
    values = ["9 (8 to 10)", "\N{EN DASH}", "1,200", "\N{MINUS SIGN}0.5", "0.06"]
    rows = "".join(f"<tr><th>x</th><td>{value}</td></tr>" for value in values)
    script = Path(figure_style.__file__).with_name("report.js").read_text()
    click = "document.querySelectorAll('button')[1].click();" * clicks
    page = tmp_path / "page.html"
    page.write_text(
        "<meta charset=utf-8><table class=sortable><thead><tr><th>a</th><th>b</th></tr></thead>"
        f"<tbody>{rows}</tbody></table><script>{script}{click}</script>"
    )
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(page)]
    dom = subprocess.check_output(
        [*command, f"--user-data-dir={tmp_path}/profile"], text=True, stderr=subprocess.DEVNULL
    )
    found = [cell.split("</td>")[0] for cell in dom.split("<td>")[1:]]
    assert found == order
    assert f'aria-sort="{["ascending", "descending"][clicks - 1]}"' in dom


@pytest.mark.slow
def test_over_data_sets_there_is_a_table_a_forest_plot_a_loss_and_the_population(tmp_path):
    experiment, output = make(tmp_path, datasets=["hippocampus", "nuclei", "brain"])
    report(experiment, output)
    page = Page(output / "report.html")
    assert 'id="over_datasets"' in page.source
    over = pd.read_csv(output / "over_datasets.csv").set_index("loss")
    rows = verdict_rows((output / "tables/over_datasets.md").read_text())
    assert [row["loss"] for row in rows] == LOSSES[1:]
    for row in rows:
        figures = over.loc[row["loss"]]
        assert row["verdict"].endswith(figures["verdict"])
        assert row["difference"] == f"{figures['difference']:+.3f}"
        ends = (figures[f"prediction_{end}"] for end in ("low", "high"))
        assert row["on a new data set"].replace(wording.MINUS, "-") == " to ".join(
            f"{x:+.3f}" for x in ends
        )
    for loss in LOSSES[1:]:
        text = (output / f"figures/over_datasets_unet_{loss}_dice.svg").read_text()
        assert all(f">{name}<" in text for name in ("brain", "hippocampus", "mean", "new data set"))
    assert "new subjects of this kind, and new trainings on training sets" in page.text
    assert "other data sets nothing is said" not in page.text


@pytest.mark.slow
def test_under_three_data_sets_one_sentence_says_that_nothing_is_said(tmp_path):
    experiment, output = make(tmp_path, datasets=["hippocampus", "nuclei"])
    report(experiment, output)
    page = Page(output / "report.html")
    assert "About other data sets nothing is said" in page.text
    assert 'id="over_datasets"' not in page.source


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_a_given_split_and_another_grid_are_said(tmp_path):
    experiment, output = make(tmp_path, datasets=["hippocampus", "nuclei"])
    for name, keys in {
        "hippocampus": {"target_spacing": [2, 2, 1.5]},
        "nuclei": {"parts": {"train": 9, "test": 1}, "resize": [240, 320]},
    }.items():
        path = experiment.parents[1] / "datasets" / name / "classes.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    report(experiment, output)
    text = " ".join(Page(output / "report.html").text.split()).replace(wording.TIMES, "x")
    for sentence in (
        "nuclei comes with a split: runs are trained on its 9 training cases and evaluated on its 1 "
        "test case, the same for all seeds.",
        "hippocampus is trained at a spacing of 2 x 2 x 1.5; metrics are on the grid of its files",
        "nuclei is trained at a size of 240 x 320; metrics are on the grid",
    ):
        assert sentence in text


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_how_often_a_loss_failed_stands_beside_its_verdict(tmp_path):
    experiment, output = make(tmp_path)
    keys = {"loss": "dice_no_background", "class": "posterior"}

    def failing(failures):
        of = (failures[list(keys)] == pd.Series(keys)).all(axis=1)
        figures = {"n_failed": 3, "n_subjects": 24, "rate_high": 0.29, "n_failed_reference": 1}
        failures.loc[of, list(figures)] = list(figures.values())
        failures.loc[of, ["p_mcnemar", "n_collapsed", "n_runs", "collapse_high"]] = 0.5, 1, 6, 0.582
        return failures

    edit(output / "failures.csv", failing)
    report(experiment, output)
    results = Results.read(experiment, output)
    (row,) = tables.failures(results)["table"].to_dict("records")
    assert row | keys == row
    assert row["subjects without overlap"] == "3 of 24 (at most 29 %)"
    assert (row["with the reference"], row["p, McNemar"]) == ("1", "0.5")
    assert row["runs collapsed"] == "1 of 6 (at most 58 %)"
    page = Page(output / "report.html")
    assert "no overlap: 3 of 24 subjects, reference 1" in page.text
    assert page.text.count("no overlap: ") == 1
    assert (
        "Elsewhere no loss failed. That still allows failures on up to 26 % of subjects"
        in page.text
    )
    assert page.source.index('id="verdicts"') < page.source.index('id="failures"')


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("n_cases", [12, 6])
@pytest.mark.slow
def test_one_block_is_said_of_the_models_and_not_of_the_losses(tmp_path, n_cases):
    experiment, output = make(tmp_path, folds=(0,), seeds=(0,), n_cases=n_cases)
    report(experiment, output)
    page, rows = Page(output / "report.html"), tables.models(Results.read(experiment, output))
    compared = pd.read_csv(output / "comparisons.csv")
    assert "Each loss was trained once: nothing can be said of the losses" in page.text
    assert len(rows) == len(compared) == 6
    for row, expected in zip(rows.to_dict("records"), compared.to_dict("records"), strict=True):
        said = expected["verdict_models"] if n_cases > 9 else wording.NOTHING
        assert row["this model"] == said
        ends = wording.interval(expected["models_low"], expected["models_high"], sign=True)
        assert row["interval"] == ends
        assert f"this model: {f'{said}, ' if n_cases > 9 else ''}{ends}" in page.text
        # The interval agrees with what is said.
        excludes_zero = expected["models_low"] > 0 or expected["models_high"] < 0
        assert n_cases < 10 or excludes_zero == (said in ("higher", "lower"))
    assert "higher" in set(rows["this model"]) or n_cases < 10


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_with_several_blocks_nothing_is_said_of_single_models(tmp_path):
    experiment, output = make(tmp_path)
    report(experiment, output)
    page = Page(output / "report.html")
    assert "trained once" not in page.text
    assert 'id="models"' not in page.source
