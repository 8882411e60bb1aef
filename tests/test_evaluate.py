"""evaluate: rows that carry their own keys, and figures of the stored weights."""

import numpy as np
import pandas as pd
import pytest
import torch

from lossbench.config import UserError
from lossbench.evaluate import evaluate
from lossbench.files import read_json
from lossbench.inference import predict
from lossbench.metrics import COLUMNS, measure
from lossbench.models import load_run
from lossbench.train import train
from tests.test_train import LOSSES, block


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
    assert table.columns.tolist() == [
        "dataset",
        "model",
        "loss",
        "fold",
        "seed",
        "case",
        "class",
        *COLUMNS,
    ]
    assert set(table["loss"]) == set(LOSSES)
    assert set(table["case"]) == set(phantom.cases["case"].iloc[rows])
    assert table["class"].tolist()[:3] == phantom.classes
    voxels = table["tp"] + table["fn"]
    expected = np.tile(phantom.voxels()[rows].ravel(), len(LOSSES))
    assert voxels.tolist() == expected.tolist()


def test_figures_are_those_of_the_stored_weights(evaluated, phantom):
    table = pd.read_parquet(evaluated.parent / "cases.parquet")
    mine = table[table["loss"] == "dice_no_background"]
    model = load_run(evaluated.parent / "dice_no_background", phantom)
    rows = phantom.validation(0)
    found = predict(model, phantom, rows[:1], [16, 16])[0]
    expected = measure(found, np.asarray(phantom.label(rows[0])), (1.0, 1.0), 3, 1.0)
    for column in COLUMNS:
        assert mine[column].to_numpy()[:3] == pytest.approx(expected[column], nan_ok=True)


def test_the_last_validation_is_the_evaluation(evaluated, phantom):
    """history.csv and cases.parquet tell the same Dice, by two routes."""
    table = pd.read_parquet(evaluated.parent / "cases.parquet")
    for loss in LOSSES:
        last = pd.read_csv(evaluated.parent / loss / "history.csv").iloc[-1]
        means = table[table["loss"] == loss].groupby("class")["dice"].mean()
        for name in phantom.classes:
            assert last[f"val/dice/{name}"] == pytest.approx(means[name], abs=1e-6)


def test_damaged_weights_are_named(evaluated, phantom, tmp_path):
    folder = tmp_path / "dice"
    folder.mkdir()
    for name in ("run.json", "model.safetensors"):
        (folder / name).write_bytes((evaluated.parent / "dice" / name).read_bytes()[:2000])
    (folder / "run.json").write_text((evaluated.parent / "dice" / "run.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_run(folder, phantom)


def test_initial_weights_are_a_function_of_model_and_seed(evaluated, phantom):
    from lossbench.models import build_model

    spec = read_json(evaluated.parent / "dice" / "run.json")["model"]
    torch.manual_seed(5)
    one = build_model(spec, phantom, 0).state_dict()
    torch.manual_seed(6)
    other, another = (build_model(spec, phantom, seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not all(torch.equal(one[k], another[k]) for k in one)
