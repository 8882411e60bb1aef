"""Archives from official addresses, checked against a published checksum."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossbench.config import UserError


def fetch(url: str, checksum: str, algorithm: str, folder: Path) -> None:
    """Download an archive, check it and unpack it as `folder`, whole or not at all.

    An archive of the same name that lies beside the folder is used instead of a download. MONAI
    refuses members that would be written elsewhere, and links.

    Parameters
    ----------
    url
        Of a .tar or .zip archive.
    checksum, algorithm
        Of the archive: hexadecimal digits, and md5 or sha256.
    folder
        Where the content goes. A single folder of that name in the archive becomes it.

    Raises
    ------
    UserError
        Where the download fails, the checksum differs or the folder holds something else.
    """
    from monai.apps import download_url, extractall  # imports torch

    archive = folder.parent / url.rsplit("/", 1)[1]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(archive.with_name(f".{archive.name}.lock")):
            if folder.is_dir() and any(folder.iterdir()):
                return  # another process was faster
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                content = Path(scratch) / "content"
                # Not download_and_extract, which asks the server even where the archive is there.
                download_url(url, archive, checksum, algorithm)
                extractall(archive, content, has_base=False)
                inner = content / folder.name
                (inner if inner.is_dir() else content).rename(folder)
    except Exception as error:  # network, disk, checksum, archive: the remedy is one
        raise UserError(
            f"{url} could not be fetched: {type(error).__name__}: {error}; try again, or download "
            f"it by hand to {archive} ({algorithm} {checksum}); a damaged one must be deleted"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock: two datasets may want one archive at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
