"""Whether all chunks of a Zarr array are there, and are as large as they may be.

Zarr fills in what is missing: a chunk that was lost reads as zeros.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.chunk_claim import HEAD_BYTES, SIZED, claimed_bytes
from pipeline.readers.raw_file import fill, raw_file
from pipeline.readers.zarr_layout import ZarrLayout

MAX_FILES = 100_000
"""Files of one snapshot; more belong in larger chunks or in shards."""

_CHUNK_BYTES = 64 << 20
_COMPRESSION = 4
"""A chunk is decoded as a whole, so its size bounds memory; see ``hdf5_safe``."""

_OVERHEAD = 1 << 12
"""Bytes that a stored chunk may have more than its numbers: checksums and headers."""

_CHECKSUM = 4
_INDEX_ENTRY, _INDEX_CRC = 16, 4
_MISSING = np.iinfo(np.uint64).max


def check_chunks(layout: ZarrLayout) -> None:
    """Compare the metadata of an array with its files; no chunk is decoded.

    Raises
    ------
    SnapshotError
        If a chunk is missing, too large, or says that it holds more than it should.
    """
    counts = [-(-n // c) for n, c in zip(layout.shape, layout.file_shape, strict=True)]
    _check_numbers(layout, counts)
    stored = 0
    for place in itertools.product(*map(range, counts)):
        path = layout.file(place)
        if not path.is_file() or path.is_symlink():
            raise SnapshotError(
                f"{path}: missing, expected {math.prod(counts)} chunks; zarr would read zeros for "
                "it: it was lost, or never written: copy it again"
            )
        with raw_file(path) as stream:
            size = stream.seek(0, 2)
            chunks = [(0, size)]
            if layout.index_location is not None:
                chunks = _in_shard(stream, size, layout, place, path)
            _check_claims(stream, chunks, layout, path)
        stored += size
    _check_size(layout, stored)


def _check_numbers(layout: ZarrLayout, counts: list[int]) -> None:
    whole = all(s % c == 0 for s, c in zip(layout.file_shape, layout.chunk_shape, strict=True))
    if math.prod(counts) > MAX_FILES or not whole:
        raise SnapshotError(
            f"{layout.folder}: {math.prod(counts)} files with chunks of {layout.chunk_shape} in "
            f"{layout.file_shape}, expected at most {MAX_FILES}, and whole numbers of chunks in a "
            "shard; its metadata are damaged"
        )


def _check_size(layout: ZarrLayout, stored: int) -> None:
    if _chunk_bytes(layout) > max(_CHUNK_BYTES, _COMPRESSION * stored):
        raise SnapshotError(
            f"{layout.folder}: is stored in chunks of {layout.chunk_shape} in {stored} bytes, "
            "expected smaller ones; write it again in smaller chunks"
        )


def _chunk_bytes(layout: ZarrLayout) -> int:
    return math.prod(layout.chunk_shape) * layout.dtype.itemsize


def _in_shard(
    stream: FileIO, size: int, layout: ZarrLayout, place: tuple[int, ...], path: Path
) -> list[tuple[int, int]]:
    """First byte and length of the chunks of a shard, by its index; all have to be there."""
    inner = [s // c for s, c in zip(layout.file_shape, layout.chunk_shape, strict=True)]
    length = math.prod(inner) * _INDEX_ENTRY
    if length + _INDEX_CRC > size:
        raise SnapshotError(
            f"{path}: {size} bytes, expected an index of {length + _INDEX_CRC} for its "
            f"{math.prod(inner)} chunks; it is truncated or damaged: copy it again"
        )
    entries = np.empty((*inner, 2), "<u8")
    stream.seek(0 if layout.index_location == "start" else size - length - _INDEX_CRC)
    fill(stream, entries, path)
    inside = [
        np.arange(n) * c + p * s < end
        for n, c, p, s, end in zip(
            inner, layout.chunk_shape, place, layout.file_shape, layout.shape, strict=True
        )
    ]
    needed = entries[functools.reduce(np.logical_and.outer, inside)]
    missing = int((needed == _MISSING).all(axis=-1).sum())
    if missing:
        raise SnapshotError(
            f"{path}: {missing} of its {len(needed)} chunks are missing; zarr would read zeros for "
            "them: they were never written: write it again"
        )
    return [(start, n) for start, n in needed.tolist()]


def _check_claims(
    stream: FileIO, chunks: Iterable[tuple[int, int]], layout: ZarrLayout, path: Path
) -> None:
    """Every stored chunk is about as large as its numbers, and says so if it can."""
    n_bytes = _chunk_bytes(layout)
    size = stream.seek(0, 2)
    for start, stored in chunks:
        if start + stored > size or stored > n_bytes + _OVERHEAD:
            raise SnapshotError(
                f"{path}: {stored} bytes of a chunk at byte {start} of {size}, expected at most "
                f"{n_bytes + _OVERHEAD} inside of the file; it is damaged: copy it again"
            )
        if layout.compressor not in SIZED:
            continue
        stream.seek(start)
        claim = claimed_bytes(str(layout.compressor), stream.read(min(HEAD_BYTES, stored)))
        # a checksum of the numbers may be compressed with them
        if claim is None or not n_bytes <= claim <= n_bytes + _CHECKSUM:
            raise SnapshotError(
                f"{path}: a chunk at byte {start} says that {layout.compressor} made it of {claim} "
                f"bytes, expected {n_bytes}; it is damaged: copy it again"
            )
