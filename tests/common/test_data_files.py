"""Whether the files of a dataset have changed on disk since it was prepared."""

import os
import time
from pathlib import Path

import pytest

from lossbench.common.data_files import RECORD, source_record, sources_version
from lossbench.common.files import write_json


class Data:
    """A dataset without `sources`."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with data in it, and beside it a data root."""
    cwd = tmp_path / "work"
    for name in ("cells/images/a.png", "cells/masks/a.png", "cells/subjects.csv", "study.yaml"):
        (cwd / name).parent.mkdir(parents=True, exist_ok=True)
        (cwd / name).write_text(name)
    (tmp_path / "root/task").mkdir(parents=True)
    (tmp_path / "root/task/dataset.json").touch()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("LOSSBENCH_DATA", str(tmp_path / "root"))
    return cwd


def prepare(folder: Path, dataset=None, **keywords) -> Path:
    """What `prepare` leaves: the folder of the prepared dataset."""
    prepared = folder / "results/datasets/cells"
    version = sources_version(prepared)
    root = Path(os.environ["LOSSBENCH_DATA"])
    record = source_record(dataset or Data(), {"_target_": "x.Data", **keywords}, root, version)
    write_json(prepared / RECORD, record)
    return prepared


CHANGES = {
    "overwritten": lambda cells: (cells / "masks/a.png").write_text("other"),
    "of the same size": lambda cells: (cells / "masks/a.png").write_text("cells/masks/b.png"),
    "a new case": lambda cells: (cells / "images/b.png").touch(),
    "gone": lambda cells: (cells / "images/a.png").unlink(),
    "renamed": lambda cells: (cells / "images/a.png").rename(cells / "images/b.png"),
    "moved": lambda cells: (cells / "images/a.png").rename(cells / "masks/b.png"),
    "of deeper folders": lambda cells: (
        (cells / "images/more").mkdir() or (cells / "images/more/c.png").touch()
    ),
    "a file of its own": lambda cells: (cells / "subjects.csv").write_text("other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_once(folder, change):
    """And is none any more where the dataset was prepared from it."""
    keywords = {
        "images": "cells/images",
        "nested": {"_target_": "y.Z", "masks": [str(folder / "cells/masks")]},
        "subjects": "cells/subjects.csv",
    }
    prepared = prepare(folder, **keywords)
    assert sources_version(prepared) == ""
    time.sleep(0.01)  # the clock of some file systems is as coarse
    CHANGES[change](folder / "cells")
    version = sources_version(prepared)
    assert version
    assert sources_version(prepared) == version
    prepare(folder, **keywords)
    assert sources_version(prepared) == version
    CHANGES["a new case" if change != "a new case" else "gone"](folder / "cells")
    assert sources_version(prepared) not in ("", version)


def test_what_is_no_data_is_no_change(folder):
    """The working directory as data, with all that is written there."""
    prepared = prepare(folder, root=".")
    (folder / "results/study").mkdir()
    (folder / "results/study/report.html").touch()
    (folder / ".snakemake").mkdir()
    (folder / ".snakemake/log").touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/mine.pyc").touch()
    assert sources_version(prepared) == ""
    (folder / "new.png").touch()
    assert sources_version(prepared) != ""


def test_texts_that_are_no_data_are_not_looked_at(folder):
    prepare(folder, sep="/", up="..", empty="", name="no/such", nul="a\0b", long="x" * 5000)
    record = (folder / "results/datasets/cells" / RECORD).read_text()
    assert '"sources": []' in record


def test_a_class_may_say_what_it_reads(folder):
    data = Data()
    data.sources = [folder / "cells/images", Path(os.environ["LOSSBENCH_DATA"], "task")]
    prepared = prepare(folder, data, masks="cells/masks", data_root="$data_root")
    assert str(folder.parent / "root") not in (prepared / RECORD).read_text()
    CHANGES["overwritten"](folder / "cells")
    (folder.parent / "root/other").touch()
    assert sources_version(prepared) == ""
    (folder.parent / "root/task/dataset.json").write_text("{}")
    assert sources_version(prepared) != ""


@pytest.mark.parametrize("root", ["$data_root", "$data_root/task"])
def test_the_data_root_may_move(folder, monkeypatch, root):
    prepared = prepare(folder, root=root)
    (folder.parent / "root").rename(folder.parent / "elsewhere")
    assert sources_version(prepared) == "", "results without their data stay as they are"
    monkeypatch.setenv("LOSSBENCH_DATA", str(folder.parent / "elsewhere"))
    assert sources_version(prepared) == ""
    (folder.parent / "elsewhere/task/dataset.json").write_text("{}")
    assert sources_version(prepared) != ""


def test_some_of_the_data_gone_is_a_change(folder):
    prepared = prepare(folder, images="cells/images", subjects="cells/subjects.csv")
    (folder / "cells/subjects.csv").unlink()
    assert sources_version(prepared) != ""


def test_links_are_followed_and_may_go_round_or_nowhere(folder):
    (folder / "linked").mkdir()
    (folder / "linked/all").symlink_to(folder / "cells")
    (folder / "cells/back").symlink_to(folder / "linked")
    (folder / "cells/nowhere").symlink_to(folder / "nowhere")
    prepared = prepare(folder, root="linked")
    CHANGES["overwritten"](folder / "cells")
    assert sources_version(prepared) != ""


@pytest.mark.parametrize("content", ["[]", "{", "{}"])
def test_a_damaged_record_is_none(folder, content):
    prepared = prepare(folder)
    (prepared / RECORD).write_text(content)
    assert sources_version(prepared) == ""
