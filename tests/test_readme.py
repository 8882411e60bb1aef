"""README.md: what it shows can be used as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lossbench.__main__ import _parser
from lossbench.common.files import write_json
from lossbench.config import validate
from tests.config.test_experiment import default, merged

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [
    line.partition("  ")[0] for block in blocks("sh") for line in block.splitlines() if line.strip()
]


def test_the_yaml_of_a_study_is_valid():
    """All blocks but that of mine.yaml, which is a study of its own and is run below."""
    raw = default()
    for block in blocks("yaml"):
        if "experiment: mine" not in block:
            raw = merged(raw, yaml.safe_load(block))
    assert validate(raw).matrix.dataset == ["cells"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A folder outside the repository, with mine.py and mine.yaml, run by the command there."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "mine.py").write_text(blocks("python")[0])
    (study,) = [block for block in blocks("yaml") if "experiment: mine" in block]
    (folder / "mine.yaml").write_text(study)
    (command,) = [line for line in COMMANDS if "mine.yaml" in line]
    result = run(command, folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_loss_a_model_a_dataset_and_a_metric_of_ones_own(mine):
    report = mine / "results/mine/report"
    cases = pd.read_parquet(report / "cases.parquet")
    assert set(cases["class"]) == {"background", "square"}
    error = (cases["fp"] - cases["fn"]).abs() / (cases["tp"] + cases["fn"])
    assert cases["volume_error"].to_numpy() == pytest.approx(error.to_numpy())
    table = pd.read_csv(report / "comparisons.csv")
    assert set(table["metric"]) == {"dice", "volume_error"}
    of_error = table[(table["metric"] == "volume_error") & (table["class"] == "square")].iloc[0]
    wide = cases[cases["class"] == "square"].pivot(
        index=["case", "seed"], columns="loss", values="volume_error"
    )
    gains = wide["dice"] - wide["log_cosh"]  # less is better
    assert of_error["difference"] == pytest.approx(-gains.mean())
    assert (of_error["improvement"] > 0.5) == ((np.sign(gains) + 1).mean() > 1)
    summary = pd.read_csv(report / "summary.csv")
    assert (summary["metric"] == "volume_error").sum() == 4
    assert "volume_error" in (report / "report.html").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command, mine):
    """As they stand; what takes long or never ends, as a dry run."""
    if "summary.json" in command:
        write_summaries(mine)
    if " check " in command:  # of the study that has its data here
        command = command.replace("my_study.yaml", "mine.yaml")
    if "snakemake" in command and "mine.yaml" not in command:
        command += " -n"
    if command.startswith("make"):
        command = f"make -n -C {ROOT} {command.split()[1]}"
    if "--follow" in command:  # it ends with the workflow
        assert _parser().parse_args(command.split("-m lossbench ")[1].split())
        return
    result = run(command, mine)
    assert result.returncode == 0, result.stderr + result.stdout


def test_files_and_targets_that_it_names_exist():
    for name in set(re.findall(r"(?:config|workflow|src)/[\w/.]+\w", README)):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """A command of README.md, in a folder of the reader's; my_study.yaml is the one it shows."""
    (study, *_) = blocks("yaml")
    (folder / "my_study.yaml").write_text(study)
    words = command.replace("results/my_study", "results/mine").split()
    if words[0].endswith("snakemake"):
        words[1:1] = ["--snakefile", str(ROOT / "Snakefile")]
    words = [str(ROOT / w) if w.startswith(("config/", "workflow/")) else w for w in words]
    words[0] = words[0].replace(".venv/bin", str(Path(sys.executable).parent))
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def write_summaries(folder: Path) -> None:
    """As nnU-Net writes them."""
    for name, gain in {"a": 0.0, "b": 0.02}.items():
        rng = np.random.default_rng(1)
        cases = [
            {
                "prediction_file": f"case_{i}.nii.gz",
                "reference_file": f"case_{i}.nii.gz",
                "metrics": {"1": {"Dice": rng.uniform(0.7, 0.9) + gain, "TP": 9, "FP": 1, "FN": 1}},
            }
            for i in range(6)
        ]
        write_json(folder / name / "summary.json", {"metric_per_case": cases})
