"""README.md: what it shows can be used as it stands."""

import re
from pathlib import Path

import pytest
import yaml

from lossbench.__main__ import _parser
from lossbench.config import validate
from tests.test_config import default, merged

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_yaml_of_a_study_is_valid():
    raw = default()
    for block in blocks("yaml"):
        raw = merged(raw, yaml.safe_load(block))
    assert validate(raw).matrix.dataset == ["cells"]


def test_the_loss_keeps_the_contract():
    import torch

    names: dict = {}
    exec(blocks("python")[0], names)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    target = torch.nn.functional.one_hot(torch.randint(3, (2, 8, 8)), 3).movedim(-1, 1)
    names["Softened"]()(logits, target).backward()
    assert logits.grad.any()


def test_files_and_targets_that_it_names_exist():
    root = Path(__file__).parents[1]
    for name in set(re.findall(r"(?:config|workflow|src)/[\w/.]+\w", README)):
        assert (root / name).exists(), name
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("line", re.findall(r"bin/python -m lossbench (.*?)(?:  |\n)", README))
def test_its_commands_parse(line):
    assert _parser().parse_args(line.split()).stage == line.split()[0]
