"""What produced a result: commit, versions, device; digests of what went in."""

import functools
import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lossbench import __version__
from lossbench.config import canonical

# Part of every run's digest: raise it when a change of the code changes what a training gives.
CODE_VERSION = 2
PACKAGES = ("torch", "monai", "segmentation-models-pytorch", "numpy")


def sha256(*parts: str | bytes) -> str:
    """SHA-256 of the parts, each behind its length, as 64 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        # Names of files may hold bytes that are no UTF-8.
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def run_digest(run: dict[str, Any], data_digest: str) -> str:
    """Digest of a run: its specification, its data and the version of the training code."""
    return sha256(canonical(run), data_digest, str(CODE_VERSION))


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a function of the parts and of nothing else."""
    return int(sha256(*(str(part) for part in parts))[:16], 16) >> 1


def state_digest(state: dict[str, Any]) -> str:
    """Digest of a model's state: names, shapes and bytes of its tensors, in order of name."""
    parts: list[str | bytes] = []
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        parts += [name, str(tuple(tensor.shape)), tensor.numpy().tobytes()]
    return sha256(*parts)


@functools.cache
def commit() -> str:
    """Commit of the code, with a + where files differ from it; empty outside a checkout."""
    here = Path(__file__).parents[1]
    ours = ["git", "-C", str(here)]
    try:
        top = subprocess.run([*ours, "ls-files", "--error-unmatch", __file__], capture_output=True)
        if top.returncode:  # installed somewhere inside a repository of somebody else
            return ""
        head = subprocess.run([*ours, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*ours, "status", "--porcelain", "--untracked-files=no", "--", "."],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:  # no git
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute; empty where one is not known.

    Ours is read from the code itself: it may run from a source tree that is not installed.
    """
    found = {"python": platform.python_version(), "lossbench": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
