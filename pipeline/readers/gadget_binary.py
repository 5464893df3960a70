"""Gadget-2 binary snapshots: SnapFormat 1 and 2, both byte orders, any number of files."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.gadget_header import (
    PartHeader,
    assemble,
    check_complete,
    mass_factor,
    selected_types,
    table_mass,
    with_high_words,
)
from pipeline.readers.multifile import PartedSnapshot, find_parts
from pipeline.readers.raw_positions import RawPositions
from pipeline.readers.reach import check_reach
from pipeline.readers.records import Record, read_exactly, walk_records
from pipeline.readers.registry import register
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES, ReadOptions, SnapshotHeader

N_TYPES = 6
HEADER_BYTES = 256
NAME_BYTES = 8
"""Record of SnapFormat 2 before each block: four letters and the block's length."""

_ORDER = ("HEAD", "POS", "VEL", "ID", "MASS")
"""Blocks of SnapFormat 1 by their place; MASS only where particles have masses of their own."""

_HEADER = "6I6d2d2i6I2i4d2i6I64x"
_FIRST_MARKERS = {
    struct.pack(f"{order}I", size): (order, size)
    for order in "<>"
    for size in (HEADER_BYTES, NAME_BYTES)
}


@dataclass(frozen=True)
class _Part:
    """One file: its header, where and what its positions are, and where its masses are."""

    header: PartHeader
    start: int
    dtype: np.dtype
    masses: Record | None = None

    @property
    def weighed(self) -> tuple[int, ...]:
        """Particles of each type that have masses of their own."""
        pairs = zip(self.header.counts, self.header.mass_table, strict=True)
        return tuple(0 if mass else count for count, mass in pairs)


class GadgetBinarySnapshot(PartedSnapshot):
    """An opened Gadget-2 binary snapshot."""

    def __init__(
        self,
        header: SnapshotHeader,
        parts: Sequence[_Part],
        particle_types: Sequence[int],
        factor: float,
        mass_factor: float = 1.0,
    ) -> None:
        super().__init__(header)
        self._parts = tuple(parts)
        self._types = selected_types(N_TYPES, particle_types)
        self._factor = factor
        self._mass_factor = mass_factor

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of the selected particles; see :meth:`Snapshot.iter_positions`."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        for part in self._parts:
            yield from _iter_part(part, self._types, chunk_particles, self._factor)

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses: the mass table's, or the block MASS where that is 0."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        for part in self._parts:
            for t in self._types:
                chunks = _iter_part(part, (t,), chunk_particles, self._factor)
                masses = _Masses(part, t)
                for positions in chunks:
                    yield positions, masses.read(len(positions)) * self._mass_factor


class GadgetBinaryReader:
    """Reader of Gadget-2's binary formats 1 and 2."""

    name = "gadget_binary"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` begins with a record of 256 bytes, or with the name HEAD."""
        try:
            with path.open("rb") as stream:
                head = stream.read(8)
        except OSError:
            return False
        _, size = _FIRST_MARKERS.get(head[:4], ("", 0))
        return size == HEADER_BYTES or (size == NAME_BYTES and head[4:8] == b"HEAD")

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files of the snapshot that ``path`` is a part of, in order."""
        header = _read_header(path)
        return find_parts(
            path, header.n_files, sum(header.totals), lambda part: _read_header(part).n_particles
        )

    def open(self, files: Sequence[Path], options: ReadOptions) -> GadgetBinarySnapshot:
        """Check all records and headers of ``files`` and open the snapshot."""
        headers = [_read_header(path) for path in files]
        check_complete(headers)
        parts = [_scan(header) for header in headers]
        mass = table_mass(headers)
        chosen = table_mass(headers, options.particle_types)
        header, factor = assemble(headers, self.name, options, mass, chosen)
        snapshot = GadgetBinarySnapshot(
            header, parts, options.particle_types, factor, mass_factor(header.total_mass, mass)
        )
        check_reach(snapshot, options)
        return snapshot


register(GadgetBinaryReader())


@contextmanager
def _open(path: Path) -> Iterator[FileIO]:
    try:
        with FileIO(path) as stream:  # unbuffered: reads go straight into the caller's array
            yield stream
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror or error})") from error


def _layout(stream: FileIO, path: Path) -> tuple[str, bool]:
    """Byte order, and whether blocks have names (SnapFormat 2)."""
    stream.seek(0)
    marker = stream.read(4)
    if marker not in _FIRST_MARKERS:
        raise SnapshotError(
            f"{path}: begins with the bytes {marker.hex(' ')}, expected a record of 256 bytes "
            "(SnapFormat 1) or of 8 (SnapFormat 2); it is not a Gadget binary file"
        )
    byte_order, size = _FIRST_MARKERS[marker]
    return byte_order, size == NAME_BYTES


def _blocks(stream: FileIO, path: Path) -> Iterator[tuple[str, Record]]:
    """All blocks with their names, by position in the file if it has none."""
    byte_order, named = _layout(stream, path)
    records = walk_records(stream, byte_order, path)
    for i, record in enumerate(records):
        if not named:
            yield _ORDER[i] if i < len(_ORDER) else "", record
            continue
        name = _block_name(stream, record, path)
        block = next(records, None)
        if block is None:
            raise SnapshotError(f"{path}: ends after the name of block {name}; copy it again")
        yield name, block


def _block_name(stream: FileIO, record: Record, path: Path) -> str:
    if record.size != NAME_BYTES:
        raise SnapshotError(
            f"{path}: a record of {record.size} bytes at byte {record.start}, expected the "
            f"{NAME_BYTES} bytes of a block's name; the file is damaged: copy it again"
        )
    return read_exactly(stream, record, path)[:4].decode("ascii", "replace").strip()


def _read_header(path: Path) -> PartHeader:
    with _open(path) as stream:
        byte_order, _ = _layout(stream, path)
        name, record = next(_blocks(stream, path))
        if name != "HEAD" or record.size != HEADER_BYTES:
            raise SnapshotError(
                f"{path}: the first block is {name!r} of {record.size} bytes, expected the header "
                f"of {HEADER_BYTES}; it is not a Gadget-2 snapshot"
            )
        return _parse_header(path, read_exactly(stream, record, path), byte_order)


def _parse_header(path: Path, data: bytes, byte_order: str) -> PartHeader:
    words = struct.unpack(byte_order + _HEADER, data)
    n_files = words[23]
    if n_files < 0:
        raise SnapshotError(f"{path}: the number of files is {n_files}, expected at least 1")
    return PartHeader(
        path=path,
        counts=words[0:6],
        mass_table=words[6:12],
        time=words[12],
        redshift=words[13],
        totals=with_high_words(words[16:22], words[30:36]),
        n_files=n_files or 1,  # initial-condition generators leave 0
        box_size=words[24],
        Omega_m=words[25],
        h=words[27],
        low_words_only=True,
    )


def _scan(header: PartHeader) -> _Part:
    """Walk all records of a file and find its positions."""
    path = header.path
    with _open(path) as stream:
        byte_order, _ = _layout(stream, path)
        blocks = list(_blocks(stream, path))
    found = [record for name, record in blocks if name == "POS"]
    if not header.n_particles:
        return _Part(header, 0, np.dtype(f"{byte_order}f4"))
    if len(found) != 1:
        raise SnapshotError(f"{path}: found {len(found)} blocks of positions (POS), expected one")
    item_bytes, remainder = divmod(found[0].size, 3 * header.n_particles)
    if remainder or item_bytes not in (4, 8):
        raise SnapshotError(
            f"{path}: its positions take {found[0].size} bytes, expected "
            f"{12 * header.n_particles} (float32) or {24 * header.n_particles} (float64) for the "
            f"{header.n_particles} particles of its header; the file is damaged: copy it again"
        )
    masses = next((record for name, record in blocks if name == "MASS"), None)
    return _Part(header, found[0].start, np.dtype(f"{byte_order}f{item_bytes}"), masses)


class _Masses:
    """Masses of one type in one file, read in the order of its particles.

    Attributes
    ----------
    part : _Part
    type : int
    """

    def __init__(self, part: _Part, particle_type: int) -> None:
        self.part, self.type = part, particle_type
        self._done = sum(part.weighed[:particle_type])

    def read(self, n: int) -> np.ndarray:
        """``(n,)`` float64 masses of the next ``n`` particles, in the file's unit."""
        each = self.part.header.mass_table[self.type]
        if each:
            return np.full(n, each)
        record, path = self.part.masses, self.part.header.path
        dtype = self._dtype(record)
        stored = np.empty(n, dtype)
        with _open(path) as stream:
            stream.seek((record.start if record else 0) + self._done * dtype.itemsize)
            _fill(stream, stored, path)
        self._done += n
        return stored.astype(np.float64)

    def _dtype(self, record: Record | None) -> np.dtype:
        """Type of the stored masses, by the size of their block."""
        own, size = sum(self.part.weighed), 0 if record is None else record.size
        item_bytes, remainder = divmod(size, own)
        if remainder or item_bytes not in (4, 8):
            raise SnapshotError(
                f"{self.part.header.path}: its block of masses (MASS) takes {size} bytes, "
                f"expected {4 * own} (float32) or {8 * own} (float64) for the {own} particles "
                "without a mass in the header; the file is damaged or of another code: set "
                "grid.weight: count, or choose others with input.particle_types"
            )
        return np.dtype(f"{self.part.dtype.str[0]}f{item_bytes}")


def _iter_part(
    part: _Part, types: Sequence[int], chunk_particles: int, factor: float
) -> Iterator[np.ndarray]:
    """Positions of the chosen types of one file, times ``factor``, native byte order."""
    counts, row_bytes = part.header.counts, 3 * part.dtype.itemsize
    for t in types:
        start = part.start + sum(counts[:t]) * row_bytes
        stored = RawPositions(part.header.path, start, counts[t], part.dtype, factor)
        yield from stored.chunks(chunk_particles)


def _fill(stream: FileIO, numbers: np.ndarray, path: Path) -> None:
    view = numbers.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view):  # one read returns at most 2 GiB, less on some file systems
        n = stream.readinto(view[filled:])
        if not n:
            raise SnapshotError(
                f"{path}: truncated while it was read: expected {len(view)} more bytes of "
                f"a block, found {filled}; it was complete when it was opened"
            )
        filled += n
