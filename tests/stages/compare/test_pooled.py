"""Pooled figures: micro, macro and per class, beside the libraries that report them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch.metrics as smp
import torch

from lossbench.stages.compare import compare
from lossbench.stages.compare.plan import plan
from lossbench.stages.report import figure_style
from lossbench.stages.report import report as draw
from tests.helpers.fake_results import compare_files, write_experiment

CLASSES = ("background", "road", "car")


def label_maps(seed):
    """Labels of 8 images and predictions of them by two losses with two seeds each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, (8, 24, 24), p=[0.6, 0.35, 0.05])
    labels[:3][labels[:3] == 2] = 0  # a rare class
    predictions = {}
    for loss, share in (("a", 0.3), ("b", 0.25)):
        for s in range(2):
            noise = rng.choice(3, labels.shape)
            predictions[loss, s] = np.where(rng.random(labels.shape) < share, noise, labels)
    return torch.from_numpy(labels), {k: torch.from_numpy(p) for k, p in predictions.items()}


def stats(prediction, labels):
    return smp.get_stats(prediction, labels, mode="multiclass", num_classes=3)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pooled")
    labels, predictions = label_maps(0)
    rows = []
    for (loss, seed), prediction in predictions.items():
        tp, fp, fn, _ = (x.numpy() for x in stats(prediction, labels))
        for case, k in np.ndindex(tp.shape):
            keys = {"loss": loss, "seed": seed, "case": case, "class": CLASSES[k]}
            rows.append(keys | {"tp": tp[case, k], "fp": fp[case, k], "fn": fn[case, k]})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    file = str(folder / "cases.csv")
    metrics = ["pooled_iou", "pooled_dice"]
    compare_files([file], "a", folder / "all", metrics=metrics, background="none")
    compare_files([file], "a", folder / "foreground", metrics=metrics)
    return folder, labels, predictions


def read(folder, name):
    return pd.read_csv(folder / name)


@pytest.mark.parametrize(("metric", "score"), [("iou", smp.iou_score), ("dice", smp.f1_score)])
@pytest.mark.parametrize("reduction", ["micro", "macro"])
def test_figures_of_runs_are_those_of_segmentation_models_pytorch(tables, reduction, metric, score):
    folder, labels, predictions = tables
    runs = read(folder, "all/runs.csv").set_index(["loss", "seed"])
    foreground = read(folder, "foreground/runs.csv").set_index(["loss", "seed"])
    for key, prediction in predictions.items():
        counts = stats(prediction, labels)
        expected = score(*counts, reduction=reduction).item()
        assert runs.loc[key, f"{reduction}_{metric}"] == pytest.approx(expected, abs=1e-6)
        without = score(*(x[:, 1:] for x in counts), reduction=reduction).item()
        assert foreground.loc[key, f"{reduction}_{metric}"] == pytest.approx(without, abs=1e-6)


def test_micro_and_macro_are_rows_of_the_pooled_table(tables):
    folder, labels, predictions = tables
    pooled = read(folder, "all/pooled.csv").set_index(["loss", "class"])
    both = [torch.cat([predictions["a", 0], predictions["a", 1]]), torch.cat([labels, labels])]
    counts = stats(*both)
    for kind in ("micro", "macro"):
        expected = smp.iou_score(*counts, reduction=kind).item()
        assert pooled.loc[("a", kind), "iou"] == pytest.approx(expected, abs=1e-6)
    assert pooled.loc[("a", "micro"), "tp"] == counts[0].sum()


def test_a_verdict_by_a_pooled_figure_is_of_that_figure(tables):
    """The mean over seeds of the figure of each class, and its difference."""
    folder, labels, predictions = tables
    figures = {}
    for (loss, _), prediction in predictions.items():
        tp, fp, fn, _ = (x.sum(dim=0).double() for x in stats(prediction, labels))
        figures.setdefault(loss, []).append((tp / (tp + fp + fn)).numpy())
    means = {loss: np.mean(values, axis=0) for loss, values in figures.items()}
    table = read(folder, "all/comparisons.csv")
    assert set(table["metric"]) == {"pooled_iou", "pooled_dice"}
    table = table[table["metric"] == "pooled_iou"].set_index("class")
    summary = read(folder, "all/summary.csv").set_index(["loss", "class", "metric"])["mean"]
    for k, name in enumerate(CLASSES):
        difference = means["b"][k] - means["a"][k]
        assert table.loc[name, "difference"] == pytest.approx(difference, abs=1e-9)
        assert summary["a", name, "pooled_iou"] == pytest.approx(means["a"][k], abs=1e-9)
    assert (table["verdict"] != "").all()
    assert np.isfinite(table["ci_low"]).all()


@pytest.mark.parametrize(("where", "first"), [("all", 0), ("foreground", 1)])
def test_verdicts_on_micro_and_macro_figures_are_of_all_classes(tables, where, first):
    """One comparison each, whose difference is that of segmentation_models_pytorch's figures."""
    folder, labels, predictions = tables
    metrics = ["micro_iou", "macro_iou", "micro_dice"]
    background = {"background": "none"} if where == "all" else {}
    output = folder / f"over_{where}"
    compare_files([str(folder / "cases.csv")], "a", output, metrics=metrics, **background)
    table = read(output, "comparisons.csv").set_index("metric")
    assert table["class"].tolist() == ["all classes"] * 3
    summary = read(output, "summary.csv").set_index(["metric", "class", "loss"])["mean"]
    for name in metrics:
        kind, metric = name.split("_")
        score = {"iou": smp.iou_score, "dice": smp.f1_score}[metric]
        means = {"a": [], "b": []}
        for (loss, _), prediction in predictions.items():
            counts = (x.sum(dim=0, keepdim=True)[:, first:] for x in stats(prediction, labels))
            means[loss].append(score(*counts, reduction=kind).item())
        difference = np.mean(means["b"]) - np.mean(means["a"])
        assert table.loc[name, "difference"] == pytest.approx(difference, abs=1e-6)
        assert summary[name, "all classes", "a"] == pytest.approx(np.mean(means["a"]), abs=1e-6)
        assert table.loc[name, "verdict"] != ""
        assert table.loc[name, "ci_low"] < difference < table.loc[name, "ci_high"]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["pooled_iou", "micro_iou"])
def test_a_study_is_compared_by_pooled_figures(tmp_path, metric, monkeypatch):
    monkeypatch.setattr(
        figure_style, "per_class", lambda results, kind, draw: []
    )  # seconds of figures
    experiment = write_experiment(tmp_path, losses=["dice", "other"], n_cases=7)
    study = json.loads(experiment.read_text())
    study["comparison"] |= {"metrics": [metric], "also": ["dice"], "margins": {}}
    experiment.write_text(json.dumps(study))
    compare(experiment, experiment.parent / "report")
    report = experiment.parent / "report"
    table = pd.read_csv(report / "comparisons.csv")
    n_classes = 1 if metric == "micro_iou" else 3
    assert table.groupby("metric").size().to_dict() == {metric: n_classes, "dice": 3}
    assert (table["verdict"][table["metric"] == metric] != "").all()
    plan(report, 0.01, output=tmp_path / "plan.csv")
    assert set(pd.read_csv(tmp_path / "plan.csv")["class"]) == set(
        table["class"][table["metric"] == metric]
    )
    draw(experiment, report)
    page = (report / "report.html").read_text()
    assert ("of all classes together" in page) == (metric == "micro_iou")
    assert bool(re.search(r">\s*all classes\s*<", page)) == (metric == "micro_iou")
    assert {"micro_iou", "macro_dice"} <= set(pd.read_csv(report / "runs.csv"))
