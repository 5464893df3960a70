"""Fortran records, as Gadget's binary files consist of: length, data, length.

The lengths are 32-bit words that wrap in records over 4 GiB; both must agree,
and every record must lie inside the file, before anything is read from it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pipeline.errors import SnapshotError

MARKER_BYTES = 4
_WRAP = 1 << 32
_MAX_RECORDS = 1000
"""Ten times what any snapshot has; a file of empty records would be walked for hours."""


@dataclass(frozen=True)
class Record:
    """Where the data of one record are.

    Attributes
    ----------
    start : int
        Offset of the first data byte.
    size : int
        Number of data bytes.
    """

    start: int
    size: int


def walk_records(stream: FileIO, byte_order: str, path: Path) -> Iterator[Record]:
    """All records of a file, from its first byte to its last; reads only the markers.

    Parameters
    ----------
    stream : binary file
        Open for reading; its position is moved.
    byte_order : str
        ``<`` or ``>``.
    path : Path
        The file, to show in errors.

    Raises
    ------
    SnapshotError
        If the file is truncated or two markers differ.
    """
    file_size = stream.seek(0, 2)
    offset = 0
    for _ in range(_MAX_RECORDS):
        if offset == file_size:
            return
        record = _record_at(stream, offset, file_size, byte_order, path)
        yield record
        offset = record.start + record.size + MARKER_BYTES
    raise SnapshotError(
        f"{path}: more than {_MAX_RECORDS} records, expected a few blocks of particles; "
        "the file is damaged: copy it again"
    )


def read_exactly(stream: FileIO, record: Record, path: Path) -> bytes:
    """The data of a small record."""
    stream.seek(record.start)
    data = stream.read(record.size)
    if len(data) != record.size:
        raise SnapshotError(_truncated(path, record.start, record.size, len(data)))
    return data


def _record_at(stream: FileIO, offset: int, file_size: int, byte_order: str, path: Path) -> Record:
    start = offset + MARKER_BYTES
    leading = _marker(stream, offset, byte_order)
    room = file_size - start - MARKER_BYTES
    if leading is None or leading > room:
        raise SnapshotError(_truncated(path, start, leading or MARKER_BYTES, max(room, 0)))
    for size in range(leading, room + 1, _WRAP):
        if _marker(stream, start + size, byte_order) == leading:
            return Record(start, size)
    trailing = _marker(stream, start + leading, byte_order)
    raise SnapshotError(
        f"{path}: the record at byte {offset} begins with the length {leading} and ends with "
        f"{trailing}, expected the same twice; the file is damaged (or its records over 2 GiB are "
        "split, which is not supported): copy it again"
    )


def _marker(stream: FileIO, offset: int, byte_order: str) -> int | None:
    stream.seek(offset)
    data = stream.read(MARKER_BYTES)
    return struct.unpack(f"{byte_order}I", data)[0] if len(data) == MARKER_BYTES else None


def _truncated(path: Path, start: int, expected: int, found: int) -> str:
    return (
        f"{path}: truncated in the record at byte {start}: expected {expected} bytes, "
        f"found {found}; copy it again"
    )
