"""The user's files behind a `_target_`."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lossbench.common.user_code
from lossbench.common.user_code import changed_files, code_of, is_users, refuse_other_code
from lossbench.config import UserError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A folder of the user's, on LOSSBENCH_PATH; a function that writes files there."""
    monkeypatch.setenv("LOSSBENCH_PATH", json.dumps([str(tmp_path)]))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return tmp_path

    return write


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files_of(target: str) -> list[str]:
    return list(code_of({"_target_": target}))


def test_a_class_of_the_user_s_is_its_file(write):
    folder = write(own_loss="import torch\nclass Loss: pass\n")
    digest = hashlib.sha256((folder / "own_loss.py").read_bytes()).hexdigest()
    assert code_of({"_target_": "own_loss.Loss", "smooth": 1.0}) == {"own_loss.py": digest}
    write(own_loss="import torch\nclass Loss: pass  # a comment\n")
    assert code_of({"_target_": "own_loss.Loss"}) != {"own_loss.py": digest}


@pytest.mark.parametrize(
    "target", ["torch.nn.CrossEntropyLoss", "lossbench.losses.Scaled", "random.Random", "no.Such"]
)
def test_what_is_installed_has_no_files(write, target):
    write(random="class Random: pass", torch="class nn: pass")  # the job does not find these
    assert code_of({"_target_": target}) == {}


def test_nested_components_count(write):
    write(own_inner="", own_outer="", own_listed="")
    inner = {"_target_": "own_inner.A"}
    spec = {"_target_": "own_outer.B", "loss": inner, "more": [{"_target_": "own_listed.C"}]}
    assert list(code_of(spec)) == ["own_inner.py", "own_listed.py", "own_outer.py"]
    wrapped = {"_target_": "lossbench.losses.IndexTarget", "loss": inner}
    assert list(code_of(wrapped, {"_target_": "own_outer.B"})) == ["own_inner.py", "own_outer.py"]


IMPORTS = {
    "import own_helper": ["own_helper.py"],
    "import own_helper as h": ["own_helper.py"],
    "from own_helper import f": ["own_helper.py"],
    "def f():\n    from own_helper import f": ["own_helper.py"],
    "try:\n    import own_helper\nexcept ImportError:\n    pass": ["own_helper.py"],
    "import own_package": ["own_package/__init__.py"],
    "from own_package import sub": ["own_package/__init__.py", "own_package/sub.py"],
    "import own_package.deep.er": [
        "own_package/__init__.py", "own_package/deep/__init__.py", "own_package/deep/er.py",
        "own_package/sub.py",
    ],
    "from own_package import *": [
        "own_package/__init__.py", "own_package/deep/__init__.py", "own_package/sub.py"
    ],
    "from own_namespace import part": ["own_namespace/part.py"],
    "import importlib\nimportlib.import_module('own_package.sub')": [
        "own_helper.py", "own_package/__init__.py", "own_package/sub.py"
    ],
    "h = __import__('own_' + name)": ["own_helper.py"],
    "exec(open('own_helper.py').read())": ["own_helper.py"],
    "import sys\nsys.path.insert(0, 'lib')\nimport own_far": ["own_far.py"],
    "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))\n"
    "from own_far import f": ["own_far.py"],
}  # fmt: skip


@pytest.mark.parametrize("text", IMPORTS)
def test_imports_are_followed(write, text):
    put(
        write(),
        {
            "own_loss.py": text,
            "own_helper.py": "import numpy",
            "own_package/__init__.py": "",
            "own_package/sub.py": "",
            "own_package/deep/__init__.py": "",
            "own_package/deep/er.py": "from ..sub import f",
            "own_namespace/part.py": "",
            "lib/own_far.py": "",
        },
    )
    assert files_of("own_loss.Loss") == sorted([*IMPORTS[text], "own_loss.py"])


def test_imports_of_imports_and_of_packages_are_followed(write):
    put(
        write(),
        {
            "own_package/__init__.py": "from . import base",
            "own_package/base.py": "from .. import nothing\nfrom .parts.one import x",
            "own_package/parts/__init__.py": "",
            "own_package/parts/one.py": "from ..base import x  # round in a circle",
            "own_package/losses/__init__.py": "",
            "own_package/losses/mine.py": "import own_top",
            "own_package/unused.py": "",
            "own_top.py": "import own_package.losses.mine",
        },
    )
    assert files_of("own_package.losses.mine.Loss") == [
        "own_package/__init__.py",
        "own_package/base.py",
        "own_package/losses/__init__.py",
        "own_package/losses/mine.py",
        "own_package/parts/__init__.py",
        "own_package/parts/one.py",
        "own_top.py",
    ]


def test_folders_in_folders_need_no_init_file(write):
    files = ["study/losses/edges/own.py", "study/losses/parts.py"]
    put(write(), {files[0]: "from ..parts import f\nimport study.models.none", files[1]: ""})
    assert files_of("study.losses.edges.own.Loss") == files


NAMED = {
    "open('table.csv')": ["./table.csv"],
    "Path(__file__).with_name('table.csv')": ["table.csv"],
    "Path(__file__).parent / 'weights' / 'a.npy'": ["weights/a.npy"],
    "Path(__file__).parent / 'weights/a.npy'": ["weights/a.npy"],
    "print('weights are nowhere.npy')": [],
    "print('weights')": [],
}


@pytest.mark.parametrize("text", NAMED)
def test_files_that_a_text_names_are_followed(write, tmp_path, monkeypatch, text):
    folder = write(own_loss=text)
    put(folder, {"weights/a.npy": "1"})
    put(tmp_path / ("cwd" if "./" in str(NAMED[text]) else "."), {"table.csv": "1"})
    (tmp_path / "cwd").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "cwd")
    assert files_of("own_loss.Loss") == sorted([*NAMED[text], "own_loss.py"])
    assert [*code_of({"_target_": "own_loss.Loss"}, with_data=False)] == ["own_loss.py"]


def test_a_file_of_two_packages_is_two_files(write):
    text = "open('a.csv')"
    put(write(), {f"own_{x}/{y}": text for x in "ab" for y in ("__init__.py", "a.csv")})
    assert list(code_of({"_target_": "own_a.A"}, {"_target_": "own_b.B"})) == [
        *("own_a/__init__.py", "own_a/a.csv", "own_b/__init__.py", "own_b/a.csv")
    ]


def test_files_and_folders_that_a_keyword_names_are_followed(write, tmp_path, monkeypatch):
    put(write(own_loss=""), {"costs.csv": "1", "w/a.bin": "1", "w/.b": "1", "results/r": "1"})
    monkeypatch.chdir(tmp_path)
    keywords = {"table": "costs.csv", "inner": {"where": ["w"]}, "x": "results", "y": ".", "z": ""}
    spec = {"_target_": "own_loss.Loss", "mode": "mean", "alpha": 0.5, **keywords}
    before = code_of(spec)
    assert list(before) == ["costs.csv", "own_loss.py", "w/a.bin"]
    (tmp_path / "w/a.bin").write_text("2")
    assert changed_files(before, code_of(spec)) == ["w/a.bin"]
    with pytest.raises(UserError, match=r"run\.json: w/a\.bin has changed since"):
        refuse_other_code(before, "run.json", spec)
    refuse_other_code(code_of(spec, with_data=False), "dataset.json", spec, with_data=False)


def test_a_folder_whose_name_begins_like_ours_is_the_user_s(tmp_path):
    package = Path(lossbench.common.user_code.__file__).parents[1]
    assert is_users(package.with_name("lossbench_more") / "mine.py")
    assert not is_users(package / "losses" / "build.py")
    assert not is_users(tmp_path / ".venv/lib/python3.11/site-packages/monai/losses.py")


def test_a_file_that_python_cannot_read_counts(write):
    write(own_loss="class Loss(:")
    assert files_of("own_loss.Loss") == ["own_loss.py"]


def test_a_file_that_comes_or_goes_is_a_change(write):
    folder = write(own_loss="try:\n    import own_optional\nexcept ImportError: pass")
    before = code_of({"_target_": "own_loss.Loss"})
    write(own_optional="")
    after = code_of({"_target_": "own_loss.Loss"})
    assert changed_files(before, after) == changed_files(after, before) == ["own_optional.py"]
    assert changed_files(after, after) == []
    refuse_other_code(after, "run.json", {"_target_": "own_loss.Loss"})
    refuse_other_code({**after, "of_the_loss.py": ""}, "run.json", {"_target_": "own_loss.Loss"})
    with pytest.raises(UserError, match=r"^run\.json: own_optional\.py has changed since"):
        refuse_other_code(before, "run.json", {"_target_": "own_loss.Loss"})
    (folder / "own_loss.py").write_text("import own_optional")
    with pytest.raises(UserError, match=r"own_loss\.py, own_optional\.py have changed"):
        refuse_other_code(before, "run.json", {"_target_": "own_loss.Loss"})


@pytest.mark.slow
def test_files_are_found_as_jobs_find_them_without_an_import(tmp_path):
    """Also on PYTHONPATH, in front of others, and where the module itself would fail."""
    put(tmp_path, {"a/own.py": "1 / 0\nimport own_too", "b/own.py": "", "b/own_too.py": ""})
    code = (
        "import sys; from lossbench.common.user_code import code_of; "
        "print(sorted(code_of({'_target_': 'own.Loss'}))); print('own' in sys.modules)"
    )
    environment = {
        "PYTHONPATH": f"{tmp_path / 'a'}:{Path(__file__).parents[2] / 'src'}",
        "LOSSBENCH_PATH": json.dumps([str(tmp_path / "b")]),
    }
    command = [sys.executable, "-P", "-c", code]
    found = subprocess.check_output(command, text=True, env=environment)
    assert found.splitlines() == ["['own.py', 'own_too.py']", "False"]


def test_the_name_of_an_entry_is_no_file_of_it(write, monkeypatch):
    """In run.json a loss has its name, and a folder may hold a file of that name."""
    monkeypatch.chdir(write(own_loss="class Loss: pass\n"))
    expected = code_of({"_target_": "own_loss.Loss"})
    Path("slow").touch()
    refuse_other_code(expected, "run.json", {"name": "slow", "_target_": "own_loss.Loss"})
