"""The files that user code reads while it runs, by whatever names it makes for them."""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lossbench.common.user_code import is_users

# What the system and its libraries read, such as fonts and certificates.
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", sysconfig.get_path("data"))
_recording: list[dict[str, None]] = []  # names, in the order of opening
_hooked = False


@contextmanager
def record_reads() -> Iterator[list[Path]]:
    """Files that are opened for reading within, and folders that are listed; filled at the end.

    Python tells of them (audit events ``open`` and ``os.scandir``). What a library opens in C, as
    safetensors does, is not seen. Installed files, the system's and those below results/ are left
    out, and a compiled module counts as its source.
    """
    global _hooked
    if not _hooked:  # no hook can be removed
        sys.addaudithook(_note)
        _hooked = True
    names: dict[str, None] = {}
    found: list[Path] = []
    _recording.append(names)
    try:
        yield found
    finally:
        _recording.pop()
        found += dict.fromkeys(path for name in names if (path := _users_path(name)))


def _note(event: str, arguments: tuple) -> None:
    if _recording and event in ("open", "os.scandir", "os.listdir"):
        name = arguments[0]
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if isinstance(name, str | bytes | os.PathLike) and not writes:
            for names in _recording:
                names[str(Path(os.fsdecode(name)).absolute())] = None


def _is_searched(folder: Path) -> bool:
    """Whether Python lists a folder to find modules in it."""
    modules = (getattr(module, "__file__", None) for module in [*sys.modules.values()])
    return str(folder) in {*sys.path, *(str(Path(file).parent) for file in modules if file)}


def _users_path(name: str) -> Path | None:
    """The path of a name that was opened, if it is the user's and still there."""
    if name.endswith(".pyc"):
        with suppress(ValueError):  # not in __pycache__
            name = importlib.util.source_from_cache(name)
    path = Path(name)
    if name.startswith(SYSTEM) or not is_users(path) or not path.exists():
        return None
    if path.is_dir() and _is_searched(path):
        return None
    results = Path("results").resolve()
    return None if path.resolve().is_relative_to(results) else path
