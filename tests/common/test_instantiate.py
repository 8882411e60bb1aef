"""Making objects from dotted paths; what a user reads when that fails."""

import json
import pathlib
import sys

import pytest
from torch import nn

from lossbench.common.instantiate import instantiate
from lossbench.config import UserError


def message(spec: dict, expects: type = nn.Module) -> str:
    with pytest.raises(UserError) as caught:
        instantiate(spec, expects, "losses.mine", {"num_classes": 3})
    return str(caught.value)


def test_arguments_are_passed_and_filled():
    conv = {
        "_target_": "torch.nn.Conv2d",
        "in_channels": 1,
        "out_channels": "$num_classes",
        "kernel_size": 3,
    }
    made = instantiate(conv, nn.Module, "models.mine", {"num_classes": 3})
    assert made.out_channels == 3


def test_a_placeholder_may_begin_a_path():
    spec = {"_target_": "types.SimpleNamespace", "path": "$root/a/b", "name": "b"}
    made = instantiate(spec, object, "x", {"root": "/data"})
    assert (made.path, made.name) == ("/data/a/b", "b")
    assert "unknown '$rooot/a'" in message({**spec, "path": "$rooot/a"}, object)


def test_an_argument_that_is_a_component_is_made_first():
    spec = {
        "_target_": "lossbench.losses.IndexTarget",
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    }
    assert isinstance(instantiate(spec, nn.Module, "losses.mine").loss, nn.CrossEntropyLoss)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"_target_": "torch.nn.CrosEntropyLoss"}, "has no 'CrosEntropyLoss'; did you mean 'CrossEntropyLoss'?"),
        ({"_target_": "torchh.nn.Loss"}, "no module 'torchh'"),
        ({"_target_": "DiceLoss"}, "is not a dotted path"),
        ({"_target_": "os.system", "command": "true"}, "os.system is not a torch.nn.Module; name a class"),
        ({"_target_": "pathlib.Path"}, "pathlib.Path is not a torch.nn.Module"),
        ({"_target_": "torch.nn.Dropout", "q": 1}, "Dropout takes no argument 'q'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1}, "Linear needs the argument 'out_features'"),
        ({"_target_": "torch.nn.Dropout", "p": 7}, "torch.nn.Dropout(p=7) failed: ValueError"),
    ],
)  # fmt: skip
def test_mistakes_name_the_entry(spec, text):
    found = message(spec)
    assert found.startswith("losses.mine: ")
    assert text in found


def test_an_error_in_a_users_file_points_at_its_line(tmp_path, monkeypatch):
    module = tmp_path / "my_broken_losses.py"
    module.write_text(
        "import torch\nclass Mine(torch.nn.Module):\n    def __init__(self):\n        1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = message({"_target_": "my_broken_losses.Mine"})
    assert "ZeroDivisionError: division by zero (my_broken_losses.py, line 4)" in found
    (tmp_path / "my_other_losses.py").write_text("import torch\nraise OSError('no disk')\n")
    found = message({"_target_": "my_other_losses.Mine"})
    assert (
        "importing my_other_losses failed: OSError: no disk (my_other_losses.py, line 2)" in found
    )


def test_nothing_is_called_that_is_of_another_kind(tmp_path):
    file = tmp_path / "made"
    message({"_target_": "os.mkdir", "path": str(file)})
    assert not file.exists()
    assert isinstance(
        instantiate({"_target_": "pathlib.PurePath"}, pathlib.PurePath, "x"), pathlib.PurePath
    )


def test_modules_of_the_user_hide_none_of_others(tmp_path, monkeypatch):
    folder = tmp_path / "my:study"
    folder.mkdir()
    (folder / "sched.py").write_text("raise RuntimeError")
    (folder / "users_own.py").write_text("class Thing: pass")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    monkeypatch.setenv("LOSSBENCH_PATH", json.dumps([str(folder)]))
    made = instantiate({"_target_": "users_own.Thing"}, object, "losses.mine")
    assert type(made).__name__ == "Thing"
    assert instantiate({"_target_": "sched.scheduler"}, object, "x").empty()
    found = message({"_target_": "sched.Mine"})
    assert found.startswith(f"losses.mine: {folder}/sched.py has the name of another module")
