"""What a dry run says of an experiment."""

import json
import re
import shutil

import pytest

from lossbench.common.data_files import source_record
from lossbench.common.files import read_json, write_json
from lossbench.common.provenance import run_digest
from lossbench.config import load
from lossbench.overview import low_power, overview
from lossbench.statistics import Difference, decide
from lossbench.statistics.variance_components import student
from tests.helpers.fake_results import write_experiment


def stored(path):
    """Digests of the runs of an experiment, by loss."""
    settings, root = load(path), path.parents[1]
    digest = read_json(root / "datasets/hippocampus/classes.json")["digest"]
    found = {loss: [] for loss in settings.matrix.loss}
    for keys in settings.blocks():
        for loss in found:
            found[loss].append(run_digest(settings.run(loss=loss, **keys), digest))
    return found


def test_runs_are_stored_begun_or_new(tmp_path):
    path = write_experiment(tmp_path, losses=("dice", "focal"), folds=(0, 1, 3), seeds=(0, 1))
    store = tmp_path / "results/runs"
    shutil.rmtree(store, ignore_errors=True)
    digests = stored(path)
    for digest in [*digests["dice"], digests["focal"][0]]:
        write_json(store / digest / "status.json", {})
    (store / digests["focal"][3]).mkdir()
    (store / digests["focal"][3] / "checkpoint.pt").touch()
    assert overview(load(path), tmp_path / "results").splitlines() == [
        "fake: 12 runs in 6 blocks: dice, focal on folds 0-1, 3, seeds 0-1; compared with dice",
        "  40 steps of 8 images of the largest size, adamw from learning rate 0.001, "
        "validated every 20 steps",
        "  hippocampus, unet: 7 of 12 runs are taken from the store",
        "    focal: 5 to train, 1 from a checkpoint",
    ]


def test_the_digests_are_those_of_the_workflow(tmp_path):
    """As block.json gives them to `train`, whose store it is."""
    path = write_experiment(tmp_path, losses=("dice", "focal"), folds=(0,), seeds=(1,))
    runs = json.loads(load(path).block_json("hippocampus", "unet", 0, 1))["runs"]
    digest = read_json(tmp_path / "results/datasets/hippocampus/classes.json")["digest"]
    assert {x: [run_digest(run, digest)] for x, run in runs.items()} == stored(path)


def test_a_dataset_that_is_not_prepared(tmp_path):
    path = write_experiment(tmp_path, losses=("dice", "focal"))
    shutil.rmtree(tmp_path / "results/datasets")
    line = overview(load(path), tmp_path / "results").splitlines()[-1]
    assert line.startswith("  hippocampus, unet: not prepared yet")


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ({"code": {"mine.py": "old", "helper.py": "same"}}, "mine.py has changed"),
        ({"code": {"helper.py": "same"}}, "mine.py has changed"),
        (
            {"code": {"gone.py": "old", "mine.py": "new", "helper.py": "same"}, "seed": 7},
            "gone.py has changed, its settings have changed",
        ),
        ({"seed": 7}, "its settings have changed"),
        ({}, "its data have changed"),
    ],
)
def test_why_a_run_is_trained_again(tmp_path, before, reason):
    path = write_experiment(tmp_path, losses=("dice", "mine"), folds=(0,), seeds=(0, 1))
    code = {"losses": {"mine": {"mine.py": "new", "helper.py": "same"}}}
    settings, results = load(path).with_code(code), tmp_path / "results"
    for keys in settings.blocks():
        for loss, changed in (("dice", {}), ("mine", before)):
            run = settings.run(loss=loss, **keys) | changed
            folder = results / "fake/hippocampus/unet/fold0" / f"seed{keys['seed']}" / loss
            write_json(folder / "run.json", run)
            write_json(folder / "status.json", {"digest": run_digest(run, "old data")})
            write_json(results / "runs" / run_digest(run, "old data") / "status.json", {})
    classes = results / "datasets/hippocampus/classes.json"
    digest = "old data" if before else "new data"
    write_json(classes, {**read_json(classes), "digest": digest})
    again = f"    mine: 2 to train (retrained: {reason})"
    lines = overview(settings, results).splitlines()  # the last: two blocks decide little
    assert lines[3:-1] == ([again] if before else [again.replace("mine", "dice", 1), again])
    shutil.rmtree(results / "fake/hippocampus")
    assert "retrained" not in overview(settings, results)


def test_with_one_block_no_verdict_on_the_losses_is_announced(tmp_path):
    path = write_experiment(tmp_path, folds=(0,), seeds=(0,))
    sentence = overview(load(path), tmp_path / "results").splitlines()[-1]
    assert sentence.startswith("  With one block (a fold and a seed) no verdict on the losses")
    assert "add seeds (matrix.seed: [0, 1, 2]) or folds" in sentence


@pytest.mark.parametrize(("seeds", "said"), [(2, True), (3, True), (5, False)])
def test_a_family_too_large_for_its_blocks_is_said_with_the_remedy(tmp_path, seeds, said):
    """The figure is what a difference needs to be decided with that many degrees of freedom."""
    path = write_experiment(tmp_path, folds=(0,), seeds=range(seeds), n_cases=2)
    sentence = low_power(load(path), tmp_path / "results")
    assert bool(sentence) == said
    if said:
        assert f"with {seeds} blocks and 6 comparisons" in sentence
        errors, enough = map(
            int, re.findall(r"(\d+) standard errors large \(5 with (\d+)", sentence)[0]
        )
        for n_blocks, size, verdict in [
            (seeds, 0.97 * errors, "undecided"),
            (seeds, 1.03 * errors, "better"),
            (enough - 1, 5, "undecided"),
            (enough, 5, "better"),
        ]:
            noise = student(1.0, n_blocks - 1)
            differences = [Difference(x, noise, 50, n_blocks) for x in (size, 0, 0, 0, 0, 0)]
            found = decide(differences, [1e-3] * 6, [True] * 6, alpha=0.05)
            assert found[0].verdict == verdict


def test_a_figure_of_all_classes_is_one_comparison_of_each_loss(tmp_path):
    path = write_experiment(tmp_path, folds=(0,), seeds=range(2), n_cases=2)
    study = json.loads(path.read_text())
    study["comparison"] |= {"metrics": ["macro_iou"], "margins": {}}
    path.write_text(json.dumps(study))
    assert "with 2 blocks and 2 comparisons" in low_power(load(path), tmp_path / "results")


def test_a_reference_alone_is_not_said_to_be_too_small(tmp_path):
    path = write_experiment(tmp_path, losses=("dice",), folds=(0,), seeds=(0,))
    assert low_power(load(path), tmp_path / "results") == ""


def test_a_dataset_that_is_not_prepared_counts_with_two_classes(tmp_path):
    path = write_experiment(tmp_path, folds=(0,), seeds=(0, 1), n_cases=2)
    shutil.rmtree(tmp_path / "results/datasets")
    assert "2 blocks and 4 comparisons" in low_power(load(path), tmp_path / "results")


def test_why_a_dataset_is_prepared_again(tmp_path, monkeypatch):
    path = write_experiment(tmp_path, losses=("dice", "mine"), folds=(0,), seeds=(0,))
    monkeypatch.chdir(tmp_path)
    settings, results = load(path), tmp_path / "results"
    folder, mask = results / "datasets/hippocampus", tmp_path / "mask.png"
    mask.touch()

    def reason(experiment):
        line = overview(experiment, results).splitlines()[2]
        return line.removeprefix("  hippocampus, unet: prepared again ").partition(";")[0]

    coded = settings.with_code({"datasets": {"hippocampus": {"mine.py": "new"}}})
    assert reason(coded) == "(mine.py has changed)"
    record = source_record(object(), {"file": "mask.png"}, tmp_path, "")
    write_json(folder / "sources.json", record)
    assert "prepared again" not in overview(settings, results)
    mask.write_text("other")
    assert reason(settings) == "(its files have changed)"
    entry = settings.datasets["hippocampus"].model_copy(update={"fold_seed": 7})
    other = coded.model_copy(update={"datasets": {"hippocampus": entry}})
    every = "(mine.py has changed, its settings have changed, its files have changed)"
    assert reason(other) == every
