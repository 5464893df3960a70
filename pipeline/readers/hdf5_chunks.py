"""Positions of an HDF5 data set, as fast as the machine allows.

HDF5 decodes on one thread at a time, whoever calls it.  What is stored plainly
is therefore read at its offset in the file, and chunks compressed with deflate
(``gzip``), shuffled or not, with a checksum (``fletcher32``) or without, are
decoded here by several threads.  All other filters, byte orders and layouts go
through h5py: the result is the same to the last bit.
"""

from __future__ import annotations

import math
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.raw_file import raw_file
from pipeline.readers.raw_positions import RawPositions, pread_into, scale
from pipeline.readers.read_ahead import Jobs, n_threads, read_ahead
from pipeline.readers.scaled import scaled

_zlib: Any
try:  # Intel's library: two to three times as fast, the same bytes
    from isal import isal_zlib as _zlib
except ImportError:
    _zlib = zlib

_DEFLATE, _SHUFFLE, _CHECKSUM = (
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
)
_IN_ORDER = (_SHUFFLE, _DEFLATE, _CHECKSUM)
"""Filters that are undone here; each may be left out, the order may not change."""

_CHECKSUM_BYTES = 4
_JOBS_PER_THREAD = 2


def iter_rows(
    dset: h5py.Dataset, chunk_particles: int, factor: float, path: Path
) -> Iterator[np.ndarray]:
    """All rows of a data set in order.

    Parameters
    ----------
    dset : h5py.Dataset
        ``(n, 3)`` float32 or float64 that :func:`pipeline.readers.hdf5_safe.float_dataset`
        accepted.
    chunk_particles : int
        Most rows in one chunk.
    factor : float
        What each number is multiplied by, in its own type.
    path : Path
        The file.

    Yields
    ------
    numpy.ndarray
        ``(n, 3)`` in native byte order, valid until the next.

    Raises
    ------
    SnapshotError
        If the file is truncated or a chunk is damaged.
    """
    offset = dset.id.get_offset() if dset.chunks is None else None
    if offset is not None and _is_plain(dset):
        stored = RawPositions(path, offset, len(dset), dset.dtype, factor)
        yield from stored.chunks(chunk_particles)
    elif dset.chunks is not None and _is_plain(dset) and _is_undone_here(dset):
        yield from _iter_chunked(dset, chunk_particles, factor, path)
    else:
        yield from scaled(_iter_h5py(dset, chunk_particles), factor)


def aligned(chunk_particles: int, dset: h5py.Dataset) -> int:
    """At most ``chunk_particles``, in whole storage chunks so that none is decoded twice."""
    stored = dset.chunks[0] if dset.chunks is not None else 1
    return chunk_particles if stored > chunk_particles else chunk_particles // stored * stored


def _is_plain(dset: h5py.Dataset) -> bool:
    """Whether the numbers are the machine's own and offsets count from the file's first byte."""
    return bool(
        dset.dtype.isnative
        and sys.byteorder == "little"
        and dset.file.userblock_size == 0
        and hasattr(dset.id, "chunk_iter")
    )


def _is_undone_here(dset: h5py.Dataset) -> bool:
    """Whether the filters are known, in the known order, and shuffle whole numbers."""
    filters = _filters(dset)
    if filters != tuple(f for f in _IN_ORDER if f in filters):
        return False
    properties = dset.id.get_create_plist()
    shuffles = [properties.get_filter(i)[2] for i, f in enumerate(filters) if f == _SHUFFLE]
    return all(values == (dset.dtype.itemsize,) for values in shuffles)


def _filters(dset: h5py.Dataset) -> tuple[int, ...]:
    properties = dset.id.get_create_plist()
    return tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))


def _iter_h5py(dset: h5py.Dataset, chunk_particles: int) -> Iterator[np.ndarray]:
    rows = min(aligned(chunk_particles, dset), len(dset))
    buffer = np.empty((rows, 3), dset.dtype.newbyteorder("="))
    for begin in range(0, len(dset), rows):
        n = min(rows, len(dset) - begin)
        dset.read_direct(buffer, np.s_[begin : begin + n], np.s_[:n])
        yield buffer[:n]


@dataclass(frozen=True)
class _StoredChunk:
    """One storage chunk: where it is in the file, and in the data set."""

    row: int
    column: int
    offset: int
    n_bytes: int
    filters: tuple[int, ...]
    """That were applied to it; a chunk may leave out filters of its data set."""


def _iter_chunked(
    dset: h5py.Dataset, chunk_particles: int, factor: float, path: Path
) -> Iterator[np.ndarray]:
    stored_rows = dset.chunks[0]
    rows = max(stored_rows, aligned(chunk_particles, dset))
    with raw_file(path) as stream:
        descriptor = stream.fileno()
        chunks = _stored_chunks(dset, path, os.fstat(descriptor).st_size)

        def jobs(out: np.ndarray, begin: int) -> Jobs:
            wanted = [c for r in range(begin, begin + len(out), stored_rows) for c in chunks[r]]
            each = -(-len(wanted) // (_JOBS_PER_THREAD * n_threads()))
            decoder = _Decoder(descriptor, dset.chunks, out, begin, factor, path)
            return [
                partial(decoder.decode, wanted[i : i + each]) for i in range(0, len(wanted), each)
            ]

        slabs = read_ahead(len(dset), rows, dset.dtype, jobs)
        with closing(slabs):
            yield from slabs if stored_rows <= chunk_particles else _cut(slabs, chunk_particles)


def _stored_chunks(dset: h5py.Dataset, path: Path, file_size: int) -> dict[int, list[_StoredChunk]]:
    """All storage chunks by their first row; every one is there and lies inside the file."""
    filters = _filters(dset)
    shape, chunk_shape = dset.shape, dset.chunks
    found: dict[int, list[_StoredChunk]] = {r: [] for r in range(0, shape[0], chunk_shape[0])}
    infos: list[Any] = []
    dset.id.chunk_iter(infos.append)
    for info in infos:
        row, column = info.chunk_offset
        if row not in found or column % chunk_shape[1] or column >= shape[1]:
            continue  # beyond the end, left from when the data set was larger
        end = (info.byte_offset or 0) + info.size
        if not info.byte_offset or end > file_size:
            raise SnapshotError(
                f"{path}: {dset.name} has a chunk that ends at byte {end}, expected it inside "
                f"the file of {file_size}; the file is truncated: copy it again"
            )
        applied = tuple(f for i, f in enumerate(filters) if not info.filter_mask >> i & 1)
        found[row].append(_StoredChunk(row, column, info.byte_offset, info.size, applied))
    seen = {(chunk.row, chunk.column) for chunks in found.values() for chunk in chunks}
    expected = math.prod(-(-n // c) for n, c in zip(shape, chunk_shape, strict=True))
    n_found = sum(len(chunks) for chunks in found.values())
    if not n_found == len(seen) == expected:
        raise SnapshotError(
            f"{path}: {dset.name} has {len(seen)} of its {expected} chunks, {n_found} in all; "
            "the file is damaged or was never written in full: copy it again"
        )
    return found


@dataclass(frozen=True)
class _Decoder:
    """Decodes storage chunks into the rows of ``out``, which begin at row ``begin``."""

    descriptor: int
    chunk_shape: tuple[int, int]
    out: np.ndarray
    begin: int
    factor: float
    path: Path

    def decode(self, chunks: Sequence[_StoredChunk]) -> None:
        """Read, decompress, unshuffle, place and scale ``chunks``, one after the other."""
        decoded = np.empty(self.chunk_shape, self.out.dtype)
        for chunk in chunks:
            first = chunk.row - self.begin
            target = self.out[
                first : first + self.chunk_shape[0],
                chunk.column : chunk.column + self.chunk_shape[1],
            ]
            whole = target.shape == decoded.shape and target.flags.c_contiguous
            values = target if whole else decoded
            self._read(chunk, values)
            if not whole:  # at an edge, or not as wide as a position
                target[...] = values[: target.shape[0], : target.shape[1]]
            scale(target, self.factor)

    def _read(self, chunk: _StoredChunk, values: np.ndarray) -> None:
        """Numbers of a whole storage chunk."""
        data = bytearray(chunk.n_bytes)
        pread_into(self.descriptor, memoryview(data), chunk.offset, self.path)
        if _CHECKSUM in chunk.filters:
            self._check_sum(chunk, data)
            del data[-_CHECKSUM_BYTES:]
        plain = self._inflated(chunk, data, values.nbytes)
        if len(plain) != values.nbytes:
            raise self._damaged(chunk, f"holds {len(plain)} bytes, expected {values.nbytes}")
        stored = np.frombuffer(plain, np.uint8)
        flat = values.reshape(-1)
        if _SHUFFLE in chunk.filters:
            from pipeline.readers.hdf5_filters import unshuffle  # noqa: PLC0415  (imports numba)

            unshuffle(stored, flat)
        else:
            flat.view(np.uint8)[...] = stored

    def _check_sum(self, chunk: _StoredChunk, data: bytearray) -> None:
        from pipeline.readers.hdf5_filters import fletcher32  # noqa: PLC0415  (imports numba)

        stored = int.from_bytes(data[-_CHECKSUM_BYTES:], "little")
        found = fletcher32(np.frombuffer(data, np.uint8)[:-_CHECKSUM_BYTES])
        # libraries before 1.6.3 swapped the bytes of each half on such machines
        swapped = (found & 0x00FF00FF) << 8 | (found >> 8) & 0x00FF00FF
        if stored not in (found, swapped):
            raise self._damaged(chunk, f"has the checksum {stored:08x}, expected {found:08x}")

    def _inflated(self, chunk: _StoredChunk, data: bytearray, n_bytes: int) -> bytes | bytearray:
        if _DEFLATE not in chunk.filters:
            return data
        stream = _zlib.decompressobj()
        try:
            # a byte more than there may be shows a stream that is too long, at no cost in memory
            plain: bytes = stream.decompress(data, n_bytes + 1)
        except (zlib.error, _zlib.error) as error:
            raise self._damaged(chunk, f"cannot be decompressed ({error})") from error
        if not stream.eof:
            raise self._damaged(chunk, f"does not end after {n_bytes} bytes")
        return plain

    def _damaged(self, chunk: _StoredChunk, what: str) -> SnapshotError:
        return SnapshotError(
            f"{self.path}: the chunk of row {chunk.row} at byte {chunk.offset} {what}; "
            "the file is damaged: copy it again"
        )


def _cut(slabs: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows in arrays of ``rows``, whatever the sizes of ``slabs``; the last is shorter."""
    buffer: np.ndarray | None = None
    filled = 0
    for slab in slabs:
        if buffer is None:
            buffer = np.empty((rows, 3), slab.dtype)
        taken = 0
        while taken < len(slab):
            n = min(rows - filled, len(slab) - taken)
            buffer[filled : filled + n] = slab[taken : taken + n]
            filled, taken = filled + n, taken + n
            if filled == rows:
                yield buffer
                filled = 0
    if buffer is not None and filled:
        yield buffer[:filled]
