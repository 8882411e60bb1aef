"""Who may import whom (DESIGN 3), and how large a file may grow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "lossbench"
STAGES = {"prepare", "check", "train", "evaluate", "compare", "report", "track"}
MODULES = sorted(SOURCE.rglob("*.py"))
# Only these compute; a report draws predictions, so its examples do too.
TORCH = {
    "augment", "batches", "check", "device", "engine", "evaluate", "examples", "gradients",
    "inference", "ledger", "losses", "metrics", "models", "semantics", "train",
}  # fmt: skip


def module_of(path: Path) -> str:
    """`report` for src/lossbench/report/figures.py, `train` for src/lossbench/train.py."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("lossbench.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    module, uses = module_of(path), ours(path) - {module_of(path)}
    outside = {name.split(".")[0] for name in imports(path)}
    if module in ("config", "statistics"):
        assert not uses, f"{module} imports nothing of ours"
    assert not uses & STAGES, "a stage is imported by nobody"
    if "mlflow" in outside:
        assert module == "track", "only track imports mlflow"
    if outside & {"torch", "monai", "segmentation_models_pytorch"}:
        assert TORCH & {module, path.stem} or module == "datasets"


def test_each_stage_is_a_module_a_rule_and_a_test():
    for stage in STAGES:
        assert (SOURCE / f"{stage}.py").exists() or (SOURCE / stage / "__init__.py").exists()
        rules = (SOURCE.parents[1] / f"workflow/rules/{stage}.smk").read_text()
        assert re.search(rf"^(rule|checkpoint) {stage}:", rules, flags=re.MULTILINE)
        assert (Path(__file__).parent / f"test_{stage}.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_outgrows_a_page_of_thought(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lossbench.config", ["torch", "pandas", "mlflow", "monai", "numpy"]),
        ("lossbench.__main__", ["torch", "pandas", "mlflow", "monai"]),
        ("lossbench.compare", ["torch", "mlflow", "monai"]),
        ("lossbench.prepare", ["torch", "mlflow", "monai"]),
        ("lossbench.datasets", ["torch", "mlflow", "monai", "nilearn"]),
        ("lossbench.report", ["torch", "mlflow", "monai"]),
        ("lossbench.train", ["segmentation_models_pytorch"]),
    ],
)
def test_starting_a_stage_does_not_import_what_it_does_not_need(module, absent):
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
