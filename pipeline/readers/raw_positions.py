"""Positions that lie in a file as they are: read, swapped and scaled while in cache.

One thread does it all: on a machine whose cores all work, handing chunks from a
thread that reads to one that computes costs more than it gains (a third of the
speed), and the kernel fetches from the disk what it is told will be needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.raw_file import fill, raw_file

CHUNK_ROWS = 1 << 16
"""0.75 MiB of float32: a chunk stays in the second-level cache until it is deposited."""

BLOCK_BYTES = 1 << 19
AHEAD_BYTES = 16 << 20
"""What the kernel is asked to fetch while a chunk is computed with."""


@dataclass(frozen=True)
class RawPositions:
    """Positions one after the other in a file.

    Attributes
    ----------
    path : Path
    start : int
        Offset of the first byte.
    n_rows : int
        Number of positions.
    dtype : numpy.dtype
        float32 or float64 as stored, in either byte order.
    factor : float
        What each number is multiplied by, in its own type.
    """

    path: Path
    start: int
    n_rows: int
    dtype: np.dtype
    factor: float

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        """All positions in arrays of at most ``rows``.

        Yields
        ------
        numpy.ndarray
            ``(n, 3)`` in native byte order, valid until the next.

        Raises
        ------
        SnapshotError
            If the file ends before the last position, or cannot be read.
        """
        dtype = self.dtype.newbyteorder("=")
        buffer = np.empty((min(rows, CHUNK_ROWS, self.n_rows), 3), dtype)
        blocks = _blocks(buffer)
        with raw_file(self.path) as stream:
            self._check_inside(stream)
            stream.seek(self.start)
            asked = 0
            for begin in range(0, self.n_rows, len(buffer) or 1):
                asked = _ask_ahead(stream, asked)
                chunk = buffer[: self.n_rows - begin]
                self._fill(stream, blocks if len(chunk) == len(buffer) else _blocks(chunk))
                yield chunk

    def _check_inside(self, stream: FileIO) -> None:
        end = self.start + self.n_rows * 3 * self.dtype.itemsize
        size = os.fstat(stream.fileno()).st_size
        if end > size:
            raise SnapshotError(
                f"{self.path}: truncated: expected at least {end} bytes, found {size}; "
                "it was complete when it was opened: copy it again"
            )

    def _fill(self, stream: FileIO, blocks: list[tuple[memoryview, np.ndarray]]) -> None:
        swap = not self.dtype.isnative
        with np.errstate(invalid="ignore", over="ignore"):  # the deposit counts and refuses
            factor = self.dtype.type(self.factor)
            for view, numbers in blocks:
                filled = stream.readinto(view) or 0
                if filled < len(view):  # a signal, a network file system, or the end
                    fill(stream, numbers.view(np.uint8)[filled:], self.path)
                if swap:
                    numbers.byteswap(inplace=True)
                if self.factor != 1.0:
                    np.multiply(numbers, factor, out=numbers)


def _blocks(chunk: np.ndarray) -> list[tuple[memoryview, np.ndarray]]:
    """Pieces of a chunk, as bytes to read into and as numbers."""
    flat = chunk.reshape(-1)
    size = BLOCK_BYTES // chunk.dtype.itemsize
    pieces = [flat[begin : begin + size] for begin in range(0, len(flat), size)]
    return [(piece.data.cast("B"), piece) for piece in pieces]


def _ask_ahead(stream: FileIO, asked: int) -> int:
    """Have the kernel fetch the next bytes, half of what it was asked before being used up."""
    here = stream.tell()
    if here + AHEAD_BYTES // 2 < asked or not hasattr(os, "posix_fadvise"):
        return asked
    begin = max(here, asked)
    os.posix_fadvise(stream.fileno(), begin, here + AHEAD_BYTES - begin, os.POSIX_FADV_WILLNEED)
    return here + AHEAD_BYTES


def pread_into(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    """Fill ``view`` with the bytes from ``offset`` on; threads may share the descriptor.

    Raises
    ------
    SnapshotError
        If the file ends before.
    """
    filled = 0
    while filled < len(view):  # one read returns at most 2 GiB, less on some file systems
        n = os.preadv(descriptor, [view[filled:]], offset + filled)
        if not n:
            raise SnapshotError(
                f"{path}: truncated while it was read: expected {len(view)} bytes at byte "
                f"{offset}, found {filled}; it was complete when it was opened"
            )
        filled += n


def scale(values: np.ndarray, factor: float) -> None:
    """Multiply in place and in the numbers' own type; what overflows, the deposit refuses."""
    if factor != 1.0:
        with np.errstate(invalid="ignore", over="ignore"):
            np.multiply(values, factor, out=values)
