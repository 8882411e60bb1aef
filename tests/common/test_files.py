"""Files are whole or not there."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lossbench.common.files import altered, checksums, read_json, try_lock, whole, write_json
from lossbench.common.tables import read_csv
from lossbench.config import UserError


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), whole(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="x: is a folder, and a file is to be written there"):
        write_json(tmp_path / "x", {})


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.json: damaged"):
        read_json(path)
    with pytest.raises(UserError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_what_cannot_be_written_is_named_with_its_reason(tmp_path, monkeypatch):
    """A disk that is full, and one that may not be written to (root may write anywhere)."""
    for number in (errno.ENOSPC, errno.EROFS):
        with pytest.raises(UserError) as error, whole(tmp_path / "a.json"):
            raise OSError(number, os.strerror(number))
        reason = os.strerror(number)
        assert str(error.value).startswith(f"{tmp_path}/a.json: cannot be written: {reason}; fix")
    with pytest.raises(OSError, match="something else"), whole(tmp_path / "a.json"):
        raise OSError(errno.EIO, "something else")


def test_a_full_disk(tmp_path):
    """/dev/full takes no byte."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(UserError, match="No space left on device"), whole(tmp_path / "a") as part:
        part.symlink_to("/dev/full")
        part.write_text("x")


WRITERS = """
import sys
from pathlib import Path
import pandas as pd, torch
from safetensors.torch import save_file
from lossbench.common.files import UserError, whole

large = torch.rand(200_000)
writers = {
    "text": lambda path: path.write_text("x" * 800_000),
    "torch": lambda path: torch.save({"a": large}, path),
    "safetensors": lambda path: save_file({"a": large}, path),
    "parquet": lambda path: pd.DataFrame({"a": large.numpy()}).to_parquet(path),
    "csv": lambda path: pd.DataFrame({"a": large.numpy()}).to_csv(path),
}
for name, write in writers.items():
    try:
        with whole(Path(sys.argv[1]) / name) as part:
            write(part)
    except UserError as error:
        print(error)
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.parametrize(
    ("options", "reason"), [("size=300k", errno.ENOSPC), ("ro", errno.EROFS)], ids=["full", "ro"]
)
@pytest.mark.slow
def test_whoever_writes_says_what_is_wrong_with_the_disk(options, reason, tmp_path):
    """A real file system, too small or read-only: torch and safetensors have their own errors."""
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, sys.executable, WRITERS]
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounting wants root")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *lines, rest = result.stdout.splitlines()
    assert rest == "[]"
    names = ("text", "torch", "safetensors", "parquet", "csv")
    for name, line in zip(names, lines, strict=True):
        why = os.strerror(reason)
        assert line.startswith(f"{tmp_path / name}: cannot be written: {why}; fix that"), line


def test_altered_files_are_those_that_differ_or_are_gone(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    expected = checksums(tmp_path, "abc")
    assert altered(tmp_path, expected) == []
    (tmp_path / "b").write_text("B")
    (tmp_path / "c").unlink()
    assert altered(tmp_path, expected) == [tmp_path / "b", tmp_path / "c"]


def test_a_lock_is_held_until_it_is_released(tmp_path):
    lock = try_lock(tmp_path / "folder/lock")
    assert try_lock(tmp_path / "folder/lock") is None
    lock.release()
    assert try_lock(tmp_path / "folder/lock")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nobody(number, tmp_path, monkeypatch):
    """As Lustre is on some clusters."""

    def refuse(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert try_lock(tmp_path / "lock")
    assert try_lock(tmp_path / "lock")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; run the workflow"),
        (b"", "damaged (Expecting value"),
        (b'{"digest": ', "damaged (Expecting value"),
        (b"[]", "damaged (expected keys and values in { })"),
        (b"null", "damaged (expected keys and values in { })"),
        (b"{}", "damaged (lacks 'digest'); delete it"),
        (b"\xff\x00", "damaged ("),
    ],
)
def test_a_json_file_that_does_not_hold_what_it_should_is_named(tmp_path, content, said):
    path = tmp_path / "status.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)["digest"]
    assert str(error.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2,3,4\n1\n5,6,7,8,9,9,9\n", b"\xff\xfe\xfd", None]
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "runs.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: "):
        read_csv(path)


def test_what_the_system_says_of_a_file_is_no_damage(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory; fix that"):
        read_json(tmp_path)
