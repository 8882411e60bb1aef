"""Who may import whom (DESIGN 3), and how large a file may grow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lossbench"
STAGES = {"prepare", "check", "train", "evaluate", "compare", "report", "track"}
MODULES = sorted(SOURCE.rglob("*.py"))
# What a part of the package may import of the others; each may import from itself.
SHELF = {
    "config",
    "common",
    "datasets",
    "losses",
    "models",
    "encoder_weights",
    "predictions",
    "metrics",
    "statistics",
}
MAY_IMPORT = {
    "config": set(),
    "statistics": set(),
    "common": {"config"},
    "datasets": {"config", "common"},
    "losses": {"config", "common", "datasets"},
    "encoder_weights": {"config", "common"},
    "models": {"config", "common", "datasets", "encoder_weights"},
    "predictions": {"config", "common", "datasets", "models"},
    "metrics": {"config", "common", "datasets"},
    "workflow": {"config", "common"},
    "overview": {"config", "common"},
    "__main__": {"config", "common"},
    **{f"stages.{stage}": SHELF for stage in STAGES},
}
MAY_IMPORT["stages.predict"] = SHELF  # for people; no rule
# For people, check shows the plan of the runs; no other stage does.
MAY_IMPORT["stages.check"] = SHELF | {"overview"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(name: str) -> str:
    """`stages.report` for lossbench.stages.report.figures, `common` for lossbench.common.files."""
    first, *rest = name.split(".")[1:]
    return f"stages.{rest[0]}" if first == "stages" and rest else first


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    module = ".".join(["lossbench", *path.relative_to(SOURCE).with_suffix("").parts])
    part, found = part_of(module), imports(path)
    ours = {part_of(name) for name in found if name.startswith("lossbench.")} - {"__version__"}
    assert ours - {part} <= MAY_IMPORT.get(part, set())
    if any(name.split(".")[0] == "mlflow" for name in found):
        assert part == "stages.track", "only track imports mlflow"


def test_no_test_is_imported_by_another():
    """What tests share is in tests/helpers and conftest.py."""
    root = SOURCE.parents[1]
    files = [*root.glob("tests/**/*.py"), *root.glob("benchmarks/*.py")]
    found = {name for path in files for name in imports(path)}
    assert not [name for name in found if re.search(r"(^|\.)test_\w+(\.|$)", name)]


def test_each_stage_is_a_module_a_rule_and_a_test():
    for stage in STAGES:
        stages = SOURCE / "stages"
        assert (stages / f"{stage}.py").exists() or (stages / stage / "__init__.py").exists()
        # The job that has trained a block evaluates it as well.
        rule = "train" if stage == "evaluate" else stage
        rules = (SOURCE.parents[1] / f"workflow/rules/{rule}.smk").read_text()
        assert re.search(rf"^rule {rule}:", rules, flags=re.MULTILINE)
        assert re.search(rf"\b{stage}\b", rules.partition("shell:")[2])
        tests = Path(__file__).parent / "stages"
        assert [*tests.glob(f"test_{stage}.py"), *tests.glob(f"{stage}/test_{stage}.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_outgrows_a_page_of_thought(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lossbench.config", ["torch", "pandas", "mlflow", "monai", "numpy"]),
        ("lossbench.workflow", ["torch", "pandas", "mlflow", "monai", "numpy"]),
        ("lossbench.overview", ["torch", "pandas", "mlflow", "monai", "numpy"]),
        ("lossbench.__main__", ["torch", "pandas", "mlflow", "monai"]),
        ("lossbench.stages.compare", ["torch", "mlflow", "monai"]),
        ("lossbench.stages.prepare", ["torch", "mlflow", "monai"]),
        ("lossbench.datasets", ["torch", "mlflow", "monai", "nilearn"]),
        ("lossbench.stages.report", ["torch", "mlflow", "monai"]),
        ("lossbench.stages.train", ["segmentation_models_pytorch"]),
    ],
)
def test_starting_a_stage_does_not_import_what_it_does_not_need(module, absent):
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
