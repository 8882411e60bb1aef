"""What user code reads is seen, by whatever name it comes to it."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import torch

from lossbench.common.files_read import record_reads


def test_files_that_are_read_and_folders_that_are_listed_are_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "code")
    for name in (
        "a.txt",
        "b",
        "code/own_read_here.py",
        "cells/c.png",
        "results/r.npy",
        "later.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    np.save("d.npy", np.zeros(2))
    torch.save({}, "e.pt")
    with record_reads() as reads:
        Path("a.txt").read_text()
        os.close(os.open("b", os.O_RDONLY))
        np.load("d.npy", mmap_mode="r")
        torch.load("e.pt")
        [*Path("cells").iterdir()]
        importlib.import_module("own_" + "read_here")
        Path("written.txt").write_text("")
        Path("results/r.npy").read_bytes()
        Path(os.__file__).read_bytes()
    Path("later.txt").read_text()
    names = ("a.txt", "b", "d.npy", "e.pt", "cells", "code/own_read_here.py")
    assert reads == [tmp_path / name for name in names]
    importlib.invalidate_caches()
    del sys.modules["own_read_here"]
    with record_reads() as again:  # from its .pyc, where there is one
        importlib.import_module("own_" + "read_here")
    assert again == [tmp_path / "code/own_read_here.py"]
