"""Reading plain bytes of a file straight into arrays, without mapping it.

A memory map of a file that shrinks while it is read kills the process; a read
that ends early is an error that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.errors import SnapshotError


class ByteStream(Protocol):
    """What :func:`fill` reads from: a file, or a member of a zip archive."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Bytes read into ``buffer``; 0 at the end."""
        ...


@contextmanager
def raw_file(path: Path) -> Iterator[FileIO]:
    """``path`` opened unbuffered for reading; the system's errors become SnapshotError."""
    try:
        with FileIO(path) as stream:
            yield stream
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror or error})") from error


def fill(stream: ByteStream, array: np.ndarray, path: Path) -> None:
    """Read exactly the bytes of ``array`` from where ``stream`` stands.

    Parameters
    ----------
    stream : ByteStream
        Open for reading.
    array : numpy.ndarray
        C-contiguous and not empty; overwritten.
    path : Path
        The file, to show in errors.

    Raises
    ------
    SnapshotError
        If the file ends before that.
    """
    view = array.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view):  # one read gives at most 2 GiB, less on some file systems
        n = stream.readinto(view[filled:])
        if not n:
            raise SnapshotError(
                f"{path}: truncated: expected {len(view)} more bytes of particles, found {filled}; "
                "copy it again"
            )
        filled += n


def file_size(path: Path) -> int:
    """Size of a file in bytes; SnapshotError if it cannot be told."""
    with raw_file(path) as stream:
        return stream.seek(0, 2)


def native(array: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's byte order, swapped in place."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
