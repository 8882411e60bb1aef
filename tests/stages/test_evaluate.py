"""evaluate: rows that carry their own keys, and figures of the stored weights."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from lossbench.common.files import checksums, read_json, write_json, write_text
from lossbench.common.provenance import run_digest
from lossbench.common.tables import BACKGROUND, COUNTS
from lossbench.common.user_code import code_of
from lossbench.config import METRICS, UserError, canonical
from lossbench.datasets.prepared import Prepared
from lossbench.datasets.slices import best_slice
from lossbench.metrics import measure
from lossbench.models import build_model, load_run
from lossbench.predictions import predict
from lossbench.stages.evaluate import evaluate
from lossbench.stages.prepare import prepare
from lossbench.stages.train import train
from tests.helpers.trainings import LOSSES, block


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, phantom):
    root = tmp_path_factory.mktemp("evaluated")
    path = block(root, phantom, LOSSES)
    train(path, phantom.folder, root / "runs")
    evaluate(path, phantom.folder, path.parent / "cases.parquet")
    return path


def test_a_row_per_run_case_and_class(evaluated, phantom):
    table = pd.read_parquet(evaluated.parent / "cases.parquet")
    rows = phantom.validation(0)
    assert len(table) == len(LOSSES) * len(rows) * 3
    keys = ["dataset", "model", "loss", "fold", "seed", "case", "subject", "class"]
    assert table.columns.tolist() == [*keys, *(*COUNTS, *METRICS)]
    assert set(table["loss"]) == set(LOSSES)
    assert set(table["case"]) == set(phantom.cases["case"].iloc[rows])
    assert table["class"].tolist()[:3] == phantom.classes
    voxels = table["tp"] + table["fn"]
    expected = np.tile(phantom.voxels()[rows].ravel(), len(LOSSES))
    assert voxels.tolist() == expected.tolist()


def test_the_file_says_which_class_is_the_background(evaluated, phantom, no_background, tmp_path):
    def stored(file):
        return json.loads(pq.read_schema(file).metadata[BACKGROUND])

    assert stored(evaluated.parent / "cases.parquet") == "background"
    path = block(tmp_path, no_background, {"dice": LOSSES["dice"]})
    train(path, no_background.folder, tmp_path / "runs")
    evaluate(path, no_background.folder, path.parent / "cases.parquet")
    assert stored(path.parent / "cases.parquet") is None


def test_figures_are_those_of_the_stored_weights(evaluated, phantom):
    table = pd.read_parquet(evaluated.parent / "cases.parquet")
    mine = table[table["loss"] == "dice_no_background"]
    model = load_run(evaluated.parent / "dice_no_background", phantom)
    rows = phantom.validation(0)
    found = predict(model, phantom, rows[:1], [16, 16])[0]
    expected = measure(found, np.asarray(phantom.label(rows[0])), (1.0, 1.0), 3, 1.0)
    for column in (*COUNTS, *METRICS):
        assert mine[column].to_numpy()[:3] == pytest.approx(expected[column], nan_ok=True)


def test_what_the_report_shows_of_each_prediction_is_kept(evaluated, phantom, phantom_3d, tmp_path):
    kept = np.load(evaluated.parent / "predictions.npz")
    rows = phantom.validation(0)
    assert {*kept} == {f"{loss}/{row}" for loss in LOSSES for row in rows}
    model = load_run(evaluated.parent / "dice", phantom)
    for row, found in zip(rows, predict(model, phantom, rows, [16, 16]), strict=True):
        assert (kept[f"dice/{row}"] == found).all()

    path = block(tmp_path, phantom_3d, {"dice": LOSSES["dice"]}, steps=1)
    train(path, phantom_3d.folder, tmp_path / "runs")
    evaluate(path, phantom_3d.folder, path.parent / "cases.parquet")
    kept, model = (
        np.load(path.parent / "predictions.npz"),
        load_run(path.parent / "dice", phantom_3d),
    )
    row = phantom_3d.validation(0)[0]
    (found,) = predict(model, phantom_3d, [row], [16] * 3)
    number = best_slice(phantom_3d.label(row), phantom_3d.foreground)
    assert (kept[f"dice/{row}"] == np.rot90(found[..., number])).all()


def test_the_last_validation_is_the_evaluation(evaluated, phantom):
    """history.csv and cases.parquet tell the same Dice, by two routes."""
    table = pd.read_parquet(evaluated.parent / "cases.parquet")
    for loss in LOSSES:
        last = pd.read_csv(evaluated.parent / loss / "history.csv").iloc[-1]
        means = table[table["loss"] == loss].groupby("class")["dice"].mean()
        for name in phantom.classes:
            assert last[f"val/dice/{name}"] == pytest.approx(means[name], abs=1e-6)


@pytest.mark.parametrize("name", ["run.json", "model.safetensors"])
def test_altered_files_of_a_run_are_named(name, evaluated, phantom, tmp_path):
    folder = Path(shutil.copytree(evaluated.parent / "dice", tmp_path / "dice"))
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (folder / name).write_bytes(content)
    message = f"{folder / name}: missing, or not as train wrote it; delete it and run"
    with pytest.raises(UserError, match=re.escape(message)):
        load_run(folder, phantom)
    (folder / name).unlink()
    with pytest.raises(UserError, match=re.escape(message)):
        load_run(folder, phantom)


def test_a_run_of_other_settings_is_named(evaluated, phantom, tmp_path):
    """As where a clock jumped, and Snakemake took an old training for a new one."""
    folder = Path(shutil.copytree(evaluated.parent, tmp_path / "block"))
    spec = read_json(folder / "block.json")
    spec["runs"]["dice"]["training"]["steps"] += 1
    write_json(folder / "block.json", spec)
    message = f"{folder / 'dice/status.json'}: not of the settings in block.json and of its data;"
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(folder / "block.json", phantom.folder, folder / "new.parquet")
    assert not (folder / "new.parquet").exists()


def test_a_run_of_other_code_is_never_loaded(evaluated, phantom, tmp_path, monkeypatch):
    """Of a loss or a model that changed since: evaluate names the file, and so does load_run."""
    monkeypatch.setenv("LOSSBENCH_PATH", json.dumps([str(tmp_path)]))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_network.py").write_text("from monai.networks.nets import UNet")
    folder = Path(shutil.copytree(evaluated.parent, tmp_path / "block"))
    spec = read_json(folder / "block.json")
    old, run = read_json(folder / "dice/run.json"), spec["runs"]["dice"]
    run["model"]["_target_"] = old["model"]["_target_"] = "own_network.UNet"
    run["code"], old["code"] = code_of(run["model"]), {"own_network.py": "old"}
    status = read_json(folder / "dice/status.json")
    write_text(folder / "dice/run.json", canonical(old))
    sums = status["sha256"] | checksums(folder / "dice", ["run.json"])
    new = {"digest": run_digest(old, phantom.digest), "sha256": sums}
    (folder / "dice/status.json").unlink()
    write_json(folder / "dice/status.json", status | new)
    write_json(folder / "block.json", spec)
    with pytest.raises(UserError, match=r"status\.json: .*own_network\.py has changed"):
        evaluate(folder / "block.json", phantom.folder, folder / "new.parquet")
    with pytest.raises(UserError, match=r"run\.json: own_network\.py has changed"):
        load_run(folder / "dice", phantom)
    other = Prepared(tmp_path / "other")
    vars(other)["info"] = {**phantom.info, "digest": "0123456789"}
    with pytest.raises(UserError, match="was trained on other data"):
        load_run(folder / "dice", other)


def test_the_table_says_which_runs_it_is_of(evaluated):
    said = json.loads(pq.read_schema(evaluated.parent / "cases.parquet").metadata[b"digests"])
    runs = {loss: read_json(evaluated.parent / loss / "status.json")["digest"] for loss in said}
    assert list(said) == list(read_json(evaluated)["runs"])
    assert said == runs


def test_an_altered_table_is_noticed(evaluated, tmp_path):
    path = evaluated.parent / "cases.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(7)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start + column.total_compressed_size - 1] ^= 1
    (tmp_path / "cases.parquet").write_bytes(content)
    with pytest.raises(OSError, match="could not verify page integrity, CRC checksum"):
        pq.read_table(tmp_path / "cases.parquet", page_checksum_verification=True)


def test_initial_weights_are_a_function_of_model_and_seed(evaluated, phantom):
    spec = read_json(evaluated.parent / "dice" / "run.json")["model"]
    torch.manual_seed(5)
    one = build_model(spec, phantom, 0, 0).state_dict()
    torch.manual_seed(6)
    other, another = (build_model(spec, phantom, 0, seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not all(torch.equal(one[k], another[k]) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("has_validation", [True, False])
def test_a_split_is_validated_and_evaluated_on_its_own_parts(has_validation, real_data, tmp_path):
    """Some images of the Data Science Bowl, by its lists of names."""
    root = real_data("dsb2018") / "dsb2018"
    counts = {"train": 3, "validation": 1, "test": 2} if has_validation else {"train": 3, "test": 2}
    listed, split = {}, {}
    for part, count in counts.items():
        names = (root / f"{part.replace('validation', 'val')}.txt").read_text().split()
        listed[part] = names[:count]
        split[part] = str(tmp_path / f"{part}.txt")
        Path(split[part]).write_text("\n".join(listed[part]))
    spec = {"_target_": "lossbench.datasets.ImageFolder", "channels": 1, "split": split}
    spec |= {"images": str(root / "images"), "masks": str(root / "labels")}
    entry = {"name": "d", "spec": {**spec, "classes": ["no", "interior", "boundary"]}}
    entry |= {"folds": None, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(tmp_path / "d/dataset.json", entry)
    prepare(tmp_path / "d/dataset.json", tmp_path / "d")
    data = Prepared(tmp_path / "d")
    path = block(tmp_path, data, {"dice": LOSSES["dice"]}, patch_size=[64, 64], steps=4,
                 log_every=2, validate_every=2)  # fmt: skip
    train(path, data.folder, tmp_path / "runs")
    evaluate(path, data.folder, path.parent / "cases.parquet")
    table = pd.read_parquet(path.parent / "cases.parquet")
    assert set(table["case"]) == set(listed["test"])
    assert set(table["fold"]) == {0}
    history = pd.read_csv(path.parent / "dice" / "history.csv")
    model = load_run(path.parent / "dice", data)
    if has_validation:
        (row,) = np.flatnonzero(data.cases["case"] == listed["validation"][0])
        found = predict(model, data, [row], [64, 64])[0]
        expected = measure(found, np.asarray(data.label(row)), (1.0, 1.0), 3, 1.0)["dice"]
        assert history.iloc[-1]["val/dice/no"] == pytest.approx(expected[0], abs=1e-6)
    else:
        assert not [column for column in history if column.startswith("val/")]
