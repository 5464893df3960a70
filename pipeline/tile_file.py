"""Files of records, one a tile, that one process writes and others read: a scratch format.

::

    records of the tiles, one after the other
    index: a row a tile (INDEX)
    tail: magic, number of tiles, place of the index, CRC32 of the index (TAIL)

Each record has a CRC32 of its own, so that who reads a few tiles checks what
was read and no more.  A file is there whole or not at all, but is not synced:
what a power cut damages, the checksums show, and it is made again.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.errors import CosmoflowError
from pipeline.write.atomic import TEMPORARY_SUFFIX, explained

INDEX = np.dtype(
    [("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("particles", "<u4"), ("kind", "<u4")]
)
TAIL = struct.Struct("<8sQQI")
MAGIC = b"CFtiles1"


class ScratchDamagedError(CosmoflowError):
    """A scratch file is missing or not as it was written; its argument is the file's path."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.args[0])

    def __str__(self) -> str:
        return f"{self.path}: a scratch file is missing or damaged; it is made again"


@dataclass(frozen=True)
class Record:
    """What is kept of one tile.

    Attributes
    ----------
    data : memoryview
        Bytes.
    particles : int
        Particles in them; 0 where they are cells.
    kind : int
        What they are, to those who write and read them.
    """

    data: memoryview
    particles: int = 0
    kind: int = 0


def write_tiles(path: Path, n_tiles: int, records: Iterable[tuple[int, Record]]) -> int:
    """Write the records of ``n_tiles`` tiles, given with their numbers; returns the file's bytes.

    Tiles that are not given have no bytes.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written; nothing is left behind.
    """
    index, at = np.zeros(n_tiles, INDEX), 0
    with _whole(path) as file:
        for tile, record in records:
            crc = zlib.crc32(record.data)
            index[tile] = (at, len(record.data), crc, record.particles, record.kind)
            _write(file, record.data)
            at += len(record.data)
        raw = index.tobytes()
        _write(file, memoryview(raw))
        _write(file, memoryview(TAIL.pack(MAGIC, n_tiles, at, zlib.crc32(raw))))
    return at + len(raw) + TAIL.size


@contextmanager
def _whole(path: Path) -> Iterator[FileIO]:
    """A file that takes its name when the block succeeds."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileIO(draft, "x") as file:
                yield file
            os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()


def _write(file: FileIO, data: memoryview) -> None:
    left = data.cast("B")
    while left:
        left = left[file.write(left) :]


class TileFile:
    """A file of :func:`write_tiles`, opened for the tiles ``begin`` to ``end - 1``.

    Raises
    ------
    ScratchDamagedError
        If the file is missing or its index is not as it was written.
    """

    def __init__(self, path: Path, begin: int, end: int) -> None:
        self.path, self.begin, self.end = path, begin, end
        self._index = self._read_index()

    def _read_index(self) -> np.ndarray:
        with self._opened() as file:
            size = file.seek(0, os.SEEK_END)
            tail = self._read(file, max(size - TAIL.size, 0), TAIL.size)
            magic, n_tiles, at, crc = TAIL.unpack(tail)
            n_bytes = n_tiles * INDEX.itemsize
            if magic != MAGIC or at + n_bytes + TAIL.size != size or n_tiles < self.end:
                raise ScratchDamagedError(str(self.path))
            raw = self._read(file, at, n_bytes)
        if zlib.crc32(raw) != crc:
            raise ScratchDamagedError(str(self.path))
        # a copy: the rest of the index is let go
        return np.frombuffer(raw, INDEX)[self.begin : self.end].copy()

    @property
    def sizes(self) -> np.ndarray:
        """``(end - begin,)`` int64: bytes of each tile."""
        return self._index["size"].astype(np.int64)

    def records(self, begin: int, end: int) -> list[Record]:
        """Records of tiles ``begin`` to ``end - 1``, checked, in order.

        Raises
        ------
        ScratchDamagedError
            If one is not as it was written.
        """
        rows = self._index[begin - self.begin : end - self.begin]
        there = rows[rows["size"] > 0]
        if not len(there):
            return [Record(memoryview(b""))] * len(rows)
        first = int(there["offset"].min())
        last = int((there["offset"] + there["size"]).max())
        with self._opened() as file:
            raw = memoryview(self._read(file, first, last - first))
        return [self._record(raw, first, row) for row in rows]

    def _record(self, raw: memoryview, first: int, row: np.void) -> Record:
        size, at = int(row["size"]), int(row["offset"]) - first
        data = raw[at : at + size] if size else raw[:0]
        if zlib.crc32(data) != int(row["crc"]):
            raise ScratchDamagedError(str(self.path))
        return Record(data, int(row["particles"]), int(row["kind"]))

    @contextmanager
    def _opened(self) -> Iterator[FileIO]:
        try:
            with FileIO(self.path) as file:
                yield file
        except OSError as error:
            raise ScratchDamagedError(str(self.path)) from error

    def _read(self, file: FileIO, at: int, n_bytes: int) -> bytearray:
        """Bytes of the file; one that ends early is damaged."""
        file.seek(at)
        data = bytearray(n_bytes)
        left = memoryview(data)
        while left:
            n = file.readinto(left)
            if not n:
                raise ScratchDamagedError(str(self.path))
            left = left[n:]
        return data
