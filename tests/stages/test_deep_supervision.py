"""Networks with several outputs: trained on all of them, evaluated on the first."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from monai.losses import DeepSupervisionLoss, DiceLoss
from torch import nn
from torch.nn.functional import avg_pool2d

from lossbench.common.files import read_json, write_json
from lossbench.datasets.batches import Batches
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.losses import MaskedLoss, batch_loss, one_hot
from lossbench.models import build_model, load_run
from lossbench.predictions import predict
from lossbench.stages.evaluate import evaluate
from lossbench.stages.train.run import Run
from tests.helpers import check_runs
from tests.helpers.configs import CONFIG
from tests.helpers.trainings import DICE, LOSSES, Interrupted, block, equal, killed_at, run, weights

# The example of the page, smaller.
PAGE = (CONFIG.parent / "docs" / "models.md").read_text()
(EXAMPLE,) = re.findall(r"```yaml\n(models:\n  dynunet_deep:.+?)```", PAGE, re.DOTALL)
DYNUNET = {**yaml.safe_load(EXAMPLE)["models"]["dynunet_deep"], "filters": [4, 8, 16, 16]}


class Heads(nn.Module):
    """Outputs at full size, at half and at a quarter of it, also where it is evaluated."""

    def __init__(self, in_channels, num_classes, classes_of_second=None, kind="list"):
        super().__init__()
        self.first = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.second = nn.Conv2d(in_channels, classes_of_second or num_classes, 1)
        self.third = nn.Conv2d(in_channels, num_classes, 1)
        self.kind = kind

    def forward(self, images):
        outputs = [self.first(images), self.second(avg_pool2d(images, 2))]
        outputs.append(self.third(avg_pool2d(images, 4)))
        if self.kind == "dict":
            return {"out": outputs[0], "aux": outputs[1]}
        return outputs[::-1] if self.kind == "reversed" else outputs


HEADS = {"_target_": f"{__name__}.Heads", "in_channels": "$in_channels", "num_classes": "$num_classes"}  # fmt: skip


def batch(size=16, k=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (2, size, size), generator=generator, dtype=torch.uint8)
    shapes = [(2, k, size // n, size // n) for n in (1, 2, 4)]
    return [torch.randn(shape, generator=generator) for shape in shapes], labels


@pytest.mark.parametrize("loss", [DiceLoss(softmax=True), nn.CrossEntropyLoss()])
def test_the_value_is_that_of_monai_with_weights_that_sum_to_1(loss):
    logits, labels = batch()
    theirs = DeepSupervisionLoss(loss, weight_mode="exp")(logits, one_hot(labels, 3))
    assert torch.isclose(batch_loss(loss, logits, labels), theirs / 1.75)


def test_one_head_is_a_network_without_deep_supervision():
    (first, *_), labels = batch()
    loss = DiceLoss(softmax=True)
    assert batch_loss(loss, [first], labels) == batch_loss(loss, first, labels)


def test_ignored_pixels_are_left_out_of_every_head():
    logits, labels = batch()
    labels[:, :8] = IGNORE
    loss = MaskedLoss(nn.CrossEntropyLoss(), 3, 2)
    changed = [head.clone() for head in logits]
    for head in changed:
        head[:, :, : head.shape[2] // 2] = 7
    value = batch_loss(loss, logits, labels)
    assert value == batch_loss(loss, changed, labels)
    assert value != batch_loss(loss, [logits[0], *(3 * head for head in logits[1:])], labels)


def test_a_list_of_heads_is_trained_resumed_validated_and_evaluated(tmp_path, phantom, monkeypatch):
    ledger = {"reference": "dice", "every": 10}
    settings = {"model": HEADS, "ledger": ledger, "patch_size": [16, 16]}
    whole = run(block(tmp_path / "whole", phantom, LOSSES, **settings), phantom)
    path = block(tmp_path / "killed", phantom, LOSSES, **settings)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    run(path, phantom)
    for loss in LOSSES:
        assert equal(weights(path.parent / loss), weights(whole / loss))
        trained = load_run(whole / loss, phantom)
        start = build_model(read_json(whole / loss / "run.json")["model"], phantom, 0, 0)
        for head in ("first", "second", "third"):
            before, after = (getattr(model, head).weight for model in (start, trained))
            assert not before.equal(after)
    history = pd.read_csv(whole / "dice/history.csv")
    assert history["val/dice/class_1"].notna().any()
    assert history["ledger/cosine"].dropna().tolist() == pytest.approx([1, 1, 1])
    evaluate(path, phantom.folder, tmp_path / "cases.parquet")
    assert pd.read_parquet(tmp_path / "cases.parquet")["dice"].notna().any()

    alone = nn.Sequential(trained.first)  # the evaluation sees nothing but the first head
    rows = phantom.evaluation(0)
    for a, b in zip(*(predict(m, phantom, rows, [16, 16]) for m in (trained, alone)), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("data", ["phantom", "phantom_3d"])
def test_stacked_heads_of_dynunet_train_all_its_weights(tmp_path, data, request):
    data = request.getfixturevalue(data)
    dims = data.info["spatial_dims"]
    path = block(tmp_path, data, LOSSES, model=DYNUNET, steps=3, patch_size=[16] * dims)
    run(path, data)
    evaluate(path, data.folder, tmp_path / "cases.parquet")
    content = read_json(path)
    spec = content["runs"]["dice"]
    device = torch.device("cpu")
    batches = Batches(data, 0, 0, spec["training"], device)
    fresh = Run(spec, content["execution"], tmp_path / "fresh", data, batches)
    heads = fresh.predict(batches(0).images)
    assert [head.shape for head in heads] == [(3, 3, *[16] * dims)] * 3
    batch_loss(fresh.loss, heads, batches(0).labels).backward()
    assert all(p.grad is not None for p in fresh.parameters)


def test_check_tries_every_head(tmp_path, phantom):
    models = {"heads": HEADS, "dynunet": DYNUNET}
    check_runs.run(tmp_path, phantom, models=models, losses=LOSSES)
    with_two = {"two": {**HEADS, "classes_of_second": 2}}
    text = check_runs.problems(tmp_path / "a", phantom, models=with_two)
    assert (
        "models.two: gives [2, 2, 16, 16] as output 2 for a patch of [32, 32]; expected logits "
        "[2, 3, 32, 32], or smaller along the last 2 axes: several outputs are heads of deep"
    ) in text
    text = check_runs.problems(tmp_path / "b", phantom, models={"x": {**HEADS, "kind": "reversed"}})
    assert "models.x: gives [2, 3, 8, 8] for a patch of [32, 32]; expected logits [2, 3," in text
    text = check_runs.problems(tmp_path / "c", phantom, models={"x": {**HEADS, "kind": "dict"}})
    assert "models.x: gives dict for a patch" in text


def test_the_check_sees_heads_with_ignored_pixels(tmp_path, phantom):
    folder = tmp_path / "ignoring"
    folder.mkdir()
    for name in ("images.npy", "cases.csv"):
        (folder / name).symlink_to(phantom.folder / name)
    labels = np.array(phantom.labels)
    labels[::3] = IGNORE
    np.save(folder / "labels.npy", labels)
    info = {**phantom.info, "ignore": True}
    info.pop("sha256")
    write_json(folder / "classes.json", info)
    check_runs.run(tmp_path, Prepared(folder), models={"heads": HEADS}, losses={"dice": DICE})
