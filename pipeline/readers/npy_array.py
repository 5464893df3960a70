"""NumPy's npy and npz files, read in pieces and without pickles.

The formats are NumPy's (``numpy.lib.format``; NEP 1): an npy file is a
header, which is a Python literal, and the numbers; an npz file is a zip
archive of them.  A compressed member can only be read from first to last.
"""

from __future__ import annotations

import io
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib import format as npy_format

from pipeline.errors import SnapshotError
from pipeline.readers.raw_file import fill, raw_file
from pipeline.readers.stored_array import StoredArray

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
_SUFFIX = ".npy"
_MAX_HEADER = 10_000
"""Bytes; NumPy's own limit for headers that are not trusted."""

_DEFLATE_AT_MOST = 1032
"""Deflate cannot compress better (RFC 1951: 258 bytes in two bits)."""

_VERSIONS = {(1, 0): "<H", (2, 0): "<I"}
"""Length of the header by version; version 3 is for names of fields, which arrays have not."""

_ENCRYPTED = 0x1

_Stream = FileIO | zipfile.ZipExtFile


@dataclass(frozen=True)
class _Layout:
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def n_bytes(self) -> int:
        n = self.dtype.itemsize
        for length in self.shape:
            n *= length
        return n


class NpyArray(StoredArray):
    """The array of an npy file, or of a member of an npz file."""

    def __init__(self, path: Path, member: str | None = None) -> None:
        self._member = member
        self._start = 0
        name = (member or "").removesuffix(_SUFFIX)
        with _opened(path, member) as (stream, size):
            layout = _read_layout(stream, path, name)
        super().__init__(path, name, layout.shape, layout.dtype)
        self._start = layout.start
        if size != layout.start + layout.n_bytes:
            raise SnapshotError(
                f"{self}: {size} bytes, expected {layout.start + layout.n_bytes} for the shape "
                f"{layout.shape} of {layout.dtype}; it is truncated or damaged: copy it again"
            )

    def pieces(self, rows: int) -> Iterator[np.ndarray]:
        """The numbers in order; see :meth:`StoredArray.pieces`."""
        item = (3,) if self.is_vector else ()
        buffer = np.empty((min(rows, self.rows), *item), self.dtype)
        with _opened(self.path, self._member) as (stream, _):
            stream.read(self._start)
            for begin in range(0, self.rows, rows):
                piece = buffer[: min(rows, self.rows - begin)]
                fill(stream, piece, self.path)
                yield piece
            if stream.read(1):  # reading the end is what compares a member's CRC
                raise SnapshotError(f"{self}: goes on behind its end; it was changed: copy it")


def npz_members(path: Path) -> dict[str, str]:
    """Members of an npz file by the names of their arrays.

    Raises
    ------
    SnapshotError
        If it is no zip archive, or a name stands twice.
    """
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
    if len(set(members)) < len(members):
        raise SnapshotError(f"{path}: holds two arrays of one name; the file is damaged")
    return {member.removesuffix(_SUFFIX): member for member in members}


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[tuple[_Stream, int]]:
    """The bytes of an npy file, and how many there are."""
    if member is None:
        with raw_file(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            yield file, size
        return
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
        _check_entry(entry, path)
        with archive.open(entry) as stream:
            yield cast("zipfile.ZipExtFile", stream), entry.file_size


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        *(OSError, EOFError, KeyError, ValueError, OverflowError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        raise SnapshotError(
            f"{path}: cannot be read as npz ({error or type(error).__name__}); expected a whole "
            "zip archive: it is truncated, damaged or still being written; copy it again"
        ) from error


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    """Refuse what the size of the archive does not justify, before any of it is read."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SnapshotError(
            f"{path}: {entry.filename} is compressed by method {entry.compress_type}, expected "
            "none or deflate, as np.savez and np.savez_compressed write"
        )
    if entry.flag_bits & _ENCRYPTED:
        raise SnapshotError(f"{path}: {entry.filename} is encrypted; write it with np.savez")
    stored = entry.compress_type == zipfile.ZIP_STORED
    most = entry.compress_size * (1 if stored else _DEFLATE_AT_MOST)
    if entry.file_size > most or entry.compress_size > path.stat().st_size:
        raise SnapshotError(
            f"{path}: {entry.filename} says that {entry.compress_size} bytes hold "
            f"{entry.file_size}, expected at most {most} in a file of {path.stat().st_size}; the "
            "file is damaged or hostile"
        )


def _read_layout(stream: _Stream, path: Path, name: str) -> _Layout:
    where = f"{path}: {name}" if name else str(path)
    lead = _exactly(stream, 8, where)
    version = (lead[6], lead[7])
    if not lead.startswith(NPY_MAGIC) or version not in _VERSIONS:
        raise SnapshotError(
            f"{where}: begins with the bytes {lead.hex(' ')}, expected an array that np.save "
            "wrote (npy, version 1 or 2)"
        )
    length_format = _VERSIONS[version]
    length_bytes = _exactly(stream, struct.calcsize(length_format), where)
    (length,) = struct.unpack(length_format, length_bytes)
    if length > _MAX_HEADER:
        raise SnapshotError(f"{where}: a header of {length} bytes, expected at most {_MAX_HEADER}")
    text = _exactly(stream, length, where)
    shape, column_order, dtype = _parsed(length_bytes + text, version, where)
    if dtype.hasobject:
        raise SnapshotError(
            f"{where}: holds Python objects (a pickle), expected float32 or float64 numbers; "
            "pickles are refused, as reading one can run any program: write it again as numbers"
        )
    if column_order and sum(n > 1 for n in shape) > 1:
        raise SnapshotError(
            f"{where}: is stored column by column (Fortran order), expected row by row; save "
            "np.ascontiguousarray of it"
        )
    return _Layout(shape, dtype, len(lead) + len(length_bytes) + length)


def _parsed(
    header: bytes, version: tuple[int, int], where: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
    read = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }[version]
    try:
        with warnings.catch_warnings(action="ignore"):  # NumPy tells of headers of Python 2
            shape, column_order, dtype = read(io.BytesIO(header), max_header_size=_MAX_HEADER)
        if any(isinstance(n, bool) or n < 0 for n in shape):
            raise ValueError(f"the shape {shape}")
    except (
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
        *(SyntaxError, RecursionError, MemoryError, tokenize.TokenError),
    ) as error:
        raise SnapshotError(
            f"{where}: its npy header cannot be read ({error}); the file is damaged: copy it again"
        ) from error
    return shape, column_order, dtype


def _exactly(stream: _Stream, n: int, where: str) -> bytes:
    data = stream.read(n) or b""
    if len(data) != n:
        raise SnapshotError(f"{where}: truncated in its npy header: copy it again")
    return data
