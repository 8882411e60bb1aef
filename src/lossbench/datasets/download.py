"""Archives from official addresses, checked against a published checksum."""

import tarfile
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from lossbench.config import UserError


def fetch(url: str, known_hash: str, folder: Path) -> None:
    """Download an archive, check it and unpack it as `folder`, whole or not at all.

    An archive of the same name and checksum that lies next to the folder is used instead.

    Parameters
    ----------
    url
        Address of a .tar or .zip archive.
    known_hash
        Its checksum, as pooch writes it: ``md5:`` or ``sha256:`` and hexadecimal digits.
    folder
        Where the content goes. A single folder of that name in the archive becomes it.

    Raises
    ------
    UserError
        Where the download fails, the checksum differs or the archive would write elsewhere.
    """
    import pooch  # half a second that only a download pays

    archive = folder.parent / url.rsplit("/", 1)[1]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(archive.with_name(f".{archive.name}.lock")):  # others may want it as well
            if folder.is_dir() and any(folder.iterdir()):
                return  # another process was faster
            pooch.retrieve(url, known_hash, archive.name, archive.parent, progressbar=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                content = Path(scratch) / "content"
                # pooch's own Untar filters members from Python 3.12 on only.
                if zipfile.is_zipfile(archive):
                    with zipfile.ZipFile(archive) as members:
                        members.extractall(content)  # which drops .. and roots of paths
                else:
                    with tarfile.open(archive) as members:
                        _extract(members, content)
                inner = content / folder.name
                (inner if inner.is_dir() else content).rename(folder)
    except Exception as error:  # network, disk, checksum, archive: the remedy is one
        raise UserError(
            f"{url} could not be fetched: {type(error).__name__}: {error}; try again, or download "
            f"it by hand to {archive} ({known_hash})"
        ) from error


def _extract(members: tarfile.TarFile, content: Path) -> None:
    """Extract what stays in a folder; the rest is refused."""
    if hasattr(tarfile, "data_filter"):
        members.extractall(content, filter="data")
        return
    root = content.resolve()  # Python before 3.11.4
    for member in members:
        stays = (root / member.name).resolve().is_relative_to(root)
        if not stays or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name} would be extracted outside of the folder")
    members.extractall(content)
