"""What several tests share."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lossbench.common.files import write_json
from lossbench.datasets.prepared import Prepared
from lossbench.stages.prepare import prepare

REPOSITORY = Path(__file__).parents[1]
# Figures are those of a CPU, and a worker holds its GPU to its end. Where the variable names one, the
# tests that need one run: CUDA_VISIBLE_DEVICES=0 pytest -n0 -m "not slow" tests/stages/train
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Files and folders of workflows that are run for real.
LONG = {"workflow", "cluster", "test_studies.py", "test_readme.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that two workers end at about the same time."""
    items.sort(key=lambda item: not LONG & {item.path.name, item.path.parent.name})


def pytest_collection_finish() -> None:
    """Nobody looks for garbage in the imports of all tests any more, which takes most of a second."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries complain at the end of what nobody takes apart."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """A function of a dataset's folder name that gives the data root, or skips the test."""

    def root_of(name: str) -> Path:
        root = Path(os.environ.get("LOSSBENCH_DATA") or REPOSITORY.parent / "shared" / "data")
        if not (root / name).is_dir():
            pytest.skip(f"no {root / name}; LOSSBENCH_DATA names the folder that holds {name}")
        return root

    return root_of


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prepared]:
    """A function of a name and the arguments of Phantom that gives the prepared dataset."""

    def make(
        name: str, folds: int = 4, background: int | None = 0, **arguments: object
    ) -> Prepared:
        folder = tmp_path_factory.mktemp("datasets") / name
        spec = {"_target_": "lossbench.datasets.Phantom", **arguments}
        dataset = {"name": name, "spec": spec, "folds": folds, "fold_seed": 0}
        write_json(
            folder / "dataset.json", dataset | {"surface_tolerance": 1.0, "background": background}
        )
        prepare(folder / "dataset.json", folder)
        return Prepared(folder)

    return make


@pytest.fixture(scope="session")
def phantom(prepared: Callable[..., Prepared]) -> Prepared:
    """2D, two foreground classes, 16 cases, 4 folds."""
    return prepared("phantom", fractions=[0.15, 0.05], cases=16, size=[48, 40])


@pytest.fixture(scope="session")
def no_background(prepared: Callable[..., Prepared]) -> Prepared:
    """The same, with a class 0 that is a class like the others."""
    arguments = {"fractions": [0.15, 0.05], "cases": 16, "size": [48, 40]}
    return prepared("no_background", background=None, **arguments)


@pytest.fixture(scope="session")
def phantom_3d(prepared: Callable[..., Prepared]) -> Prepared:
    """3D, two foreground classes, 8 cases, 2 folds."""
    return prepared("phantom_3d", folds=2, fractions=[0.15, 0.05], cases=8, size=[20, 24, 18])
