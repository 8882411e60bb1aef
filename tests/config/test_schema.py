"""config/README.md has every key of the models, with its default and meaning."""

import re

import pytest

from lossbench.__main__ import _parser, main
from lossbench.config import Experiment
from tests.config.test_experiment import CONFIG


def test_the_table_of_keys_is_the_one_of_the_models(capsys):
    assert main(["schema", "--markdown"]) == 0
    table = capsys.readouterr().out
    text = (CONFIG / "README.md").read_text()
    assert table in text, "put the output of python -m lossbench schema --markdown there"
    for name in Experiment.model_fields:
        assert f"| `{name}` |" in table
    for row in (
        '| `training.optimizer` | `"adamw"` | AdamW, or SGD with Nesterov momentum. |',
        "| `training.augmentation` | as below | null: no augmentation. |",
        "| `losses.NAME._target_` | required |",
        "| `claims[].comparison.class` | required |",
    ):
        assert row in table


@pytest.mark.parametrize("name", ["config/README.md", "CONTRIBUTING.md"])
def test_what_the_documents_name_exists(name):
    root = CONFIG.parent
    text = (root / name).read_text()
    for path in re.findall(r"`((?:config|src|tests|workflow)/[\w/.]*)`", text):
        assert (root / path).exists() or "NAME" in path, path
    for path in re.findall(r"\]\(([^)]+)\)", text):
        assert ((root / name).parent / path).exists(), path
    for command in re.findall(r"python -m lossbench ([a-z -]+?)(?: +[>#]|`|\n)", text):
        assert _parser().parse_args(command.split()).stage == command.split()[0]
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", text):
        assert f"\n{target}:" in makefile
