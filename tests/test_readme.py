"""README.md and its pages: what they show can be used as it stands."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lossbench.__main__ import _parser, main
from lossbench.common.files import write_json
from lossbench.config import validate
from tests.helpers.configs import default, merged

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NAMES = ("README.md", "CONTRIBUTING.md", "*/README.md", "docs/*.md", "docs/*/*.md")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for name in NAMES for path in ROOT.glob(name)
}
PACKAGE = ROOT / "src" / "lossbench"
FOLDERS = tuple(
    f"{path.name}/" for root in (ROOT, PACKAGE) for path in root.iterdir()
    if path.is_dir() and path.name not in ("results", "data")
)  # fmt: skip
EXAMPLE = "examples/own_classes/mine.yaml"


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> Iterator[str]:
    """The lines of all shell blocks, each once, without the comments behind them."""
    lines = [
        line
        for text in PAGES.values()
        for block in blocks("sh", text)
        for line in block.splitlines()
    ]
    yield from dict.fromkeys(line.partition("  #")[0].strip() for line in lines if line.strip())


def arguments(command: str) -> list[str]:
    """The words behind the program, without variables before it; paths of the repository in full."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)][1:]
    return [
        str(ROOT / word) if word.startswith(("config/", "workflow/", "examples/")) else word
        for word in words
    ]


SNAKEMAKE = [command for command in commands() if "bin/snakemake " in command]
LOSSBENCH = [command for command in commands() if "-m lossbench " in command]
OTHERS = [command for command in commands() if command not in (*SNAKEMAKE, *LOSSBENCH)]


def of_its_kind(commands: Iterable[str]) -> list[str]:
    """One of the commands that differ by nothing but the number of cores, and -n, which tests add."""
    kinds = {re.sub(r" -n\b| --cores \d+", "", command): command for command in commands}
    return list(kinds.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the reader's, with the studies that README and the tutorial show."""
    study, *_ = blocks("yaml", PAGES["README.md"])
    (tmp_path / "my_study.yaml").write_text(study)
    (tmp_path / "my_cells.yaml").write_text(*blocks("yaml", PAGES["docs/tutorial.md"]))
    return tmp_path


def snakemake(command: str, folder: Path, *more: str) -> str:
    """Run a command of a page in a folder of the reader's; what it said on stderr."""
    words = [BIN / "snakemake", "--snakefile", ROOT / "Snakefile", *arguments(command), *more]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


def test_every_yaml_block_is_part_of_a_valid_study():
    study, *more = blocks("yaml", PAGES["README.md"])
    raw = merged(default(), yaml.safe_load(study))
    assert validate(raw).matrix.dataset == ["cells"]
    for name in ("docs/data.md", "docs/losses.md", "docs/models.md", "docs/tutorial.md"):
        more += blocks("yaml", PAGES[name])
    for block in more:
        validate(merged(raw, yaml.safe_load(block)))


def test_the_loss_of_the_readme_is_that_of_the_example():
    (code,) = blocks("python", PAGES["README.md"])
    assert code in (ROOT / EXAMPLE).with_suffix(".py").read_text()
    example = yaml.safe_load((ROOT / EXAMPLE).read_text())
    own = yaml.safe_load(blocks("yaml", PAGES["README.md"])[1])
    assert own["losses"] == example["losses"]
    assert own["matrix"].items() <= example["matrix"].items()
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the repository in which the command of the example has run."""
    folder = tmp_path_factory.mktemp("reader")
    (command,) = [command for command in SNAKEMAKE if EXAMPLE in command]
    snakemake(command, folder)
    return folder


@pytest.mark.slow
def test_a_loss_a_model_a_dataset_and_a_metric_of_ones_own(mine, monkeypatch, capsys):
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

    page = PAGES["results/README.md"]
    suffixes = (".csv", ".parquet", ".json", ".npy", ".txt")
    written = {path.name for path in mine.glob("results/**/*") if path.suffix in suffixes}
    assert not [name for name in written if f"{name}`" not in page]
    (plan,) = [command for command in LOSSBENCH if " plan " in command]
    monkeypatch.chdir(mine)
    exec(blocks("python", page)[0].replace("default", "mine"), {})
    assert main(arguments(plan.replace("my_study", "mine"))[2:]) == 0
    assert "dice" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", of_its_kind(c for c in SNAKEMAKE if EXAMPLE not in c))
def test_the_workflow_starts_by_each_command(command, folder):
    assert "runs in" in snakemake(command, folder, "-n", "-q")


@pytest.mark.parametrize("command", LOSSBENCH)
def test_the_stages_take_each_command(command):
    words = arguments(command)[2:]
    assert _parser().parse_args(words[: words.index(">")] if ">" in words else words)


@pytest.mark.slow
def test_results_of_other_programs_are_compared(folder, monkeypatch):
    (command,) = [command for command in LOSSBENCH if "summary.json" in command]
    write_summaries(folder)
    monkeypatch.chdir(folder)
    assert main(arguments(command)[2:]) == 0
    assert (folder / "out/report.html").exists()


@pytest.mark.parametrize("command", OTHERS)
def test_every_other_command_can_start(command, monkeypatch, capsys):
    """make as a dry run; of Python's modules, the options."""
    words = arguments(command)
    program = shlex.split(command)[len(shlex.split(command)) - len(words) - 1]
    monkeypatch.chdir(ROOT)
    if program == "make":
        subprocess.run(["make", "-n", *words], check=True, capture_output=True)
    elif words[:2] == ["-m", "pytest"]:
        assert all(Path(word).exists() for word in words if word.startswith("tests/"))
    elif words[0] == "-m":
        monkeypatch.setattr(sys, "argv", [words[1], "--help"])
        monkeypatch.syspath_prepend(ROOT)
        monkeypatch.delitem(sys.modules, words[1], raising=False)  # another test may have it
        with pytest.raises(SystemExit):
            runpy.run_module(words[1], run_name="__main__")
        usage = capsys.readouterr().out
        assert all(word in usage for word in words if word.startswith("--"))
    else:
        assert shutil.which(program.replace(".venv/bin", str(BIN))), program


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    text, here = PAGES[page], (ROOT / page).parent
    for path in re.findall(r"`([a-z]\w*/[\w/]*(?:\.\w+)?)(?:`|:)", text):
        if path.startswith(FOLDERS) and "NAME" not in path:
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), path
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert path.startswith("https://") or (here / path).exists(), path
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for words in re.findall(r"`(?:python -m )?lossbench ([a-z][\w -]*)`", text):
        assert _parser().parse_args(words.split())
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert f"\n{target}:" in makefile


def test_the_paths_through_the_code_name_what_is_there():
    text = PAGES["docs/design.md"]
    walks = text[text.index("## A batch") : text.index("## Rules")]
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name in re.findall(r"`([A-Za-z_]\w+)`", walks):
        assert re.search(rf"\b{name}\b", source), name


def test_the_page_about_results_is_tracked_and_stays():
    ignored = subprocess.run(
        ["git", "check-ignore", "results/README.md", "results/default"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ignored.stdout.split() == ["results/default"]


@pytest.mark.slow
def test_the_tutorial_leads_to_a_verdict(tmp_path, monkeypatch):
    """Its images, its study with fewer folds and steps, its command up to the page."""
    text = PAGES["docs/tutorial.md"]
    (images,), (study,) = blocks("python", text), blocks("yaml", text)
    (command,) = [line for line in SNAKEMAKE if "my_cells.yaml" in line]
    monkeypatch.chdir(tmp_path)
    exec(images, {})
    few = study
    for many, one in {"steps: 150": "steps: 4", "fold: [0, 1, 2]": "fold: [0]"}.items():
        assert few.count(many) == 1
        few = few.replace(many, one)
    (tmp_path / "my_cells.yaml").write_text(few)
    snakemake(command, tmp_path, "--until", "report")
    report = tmp_path / "results/my_cells/report"
    assert set(pd.read_csv(report / "comparisons.csv")["class"]) == {
        "background",
        "cell",
        "membrane",
    }
    assert (report / "report.html").exists()
    assert (report / "methods.md").exists()


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
