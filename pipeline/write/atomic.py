"""Files that are there whole or not at all.

A file is written under a temporary name in its own folder, synced, renamed,
and the folder synced, so that a kill at any instant leaves either nothing
under the final name or all of it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import OutputError

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path beside ``path`` that takes its name when the block succeeds.

    Parameters
    ----------
    path : Path
        Final name; its folder is made if missing.

    Yields
    ------
    Path
        Where to write the file, in the same folder.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written; nothing is left behind.
    """
    # a name of its own: another host may have a process of this number
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.parent / f".{path.name}.{token}{TEMPORARY_SUFFIX}"
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write ``data`` as the whole file ``path``; see :func:`atomic_path`."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OutputError as error:
        raise OutputError(f"{error} ({len(data)} bytes were to be written{_free(path)})") from error


def _free(path: Path) -> str:
    """What is free on the disk of a file, for a message."""
    with suppress(OSError):
        return f", {shutil.disk_usage(path.parent).free} are free"
    return ""


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove the temporary files that a kill left below ``folder``; returns them."""
    left = sorted(folder.rglob(f".*{TEMPORARY_SUFFIX}"))
    for path in left:
        path.unlink(missing_ok=True)
    return left


_EXPLANATIONS = {
    errno.ENOSPC: "the disk is full; free space and go on with --resume",
    errno.EDQUOT: "the quota is used up; free space and go on with --resume",
    errno.EFBIG: "the file would be larger than is allowed (ulimit -f); raise that and go on with "
    "--resume",
    errno.EROFS: "the file system is read-only; choose another output",
    errno.EACCES: "permission denied; choose another output or mend its rights",
    errno.EPERM: "permission denied; choose another output or mend its rights",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another output",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses for ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the file system's word: a library's own error
            raise
        reason = _EXPLANATIONS.get(error.errno, f"cannot be written: {error.strerror}")
        raise OutputError(f"{path}: {reason}") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
