"""The header of a HACC GenericIO file, checked against the file's size.

The structures are those of ``GenericIO.cxx`` (H. Finkel et al., ANL-15-066):
a global header, a table of variables, a table of ranks with the number of
particles and the first byte of each, a table of blocks if the file may be
compressed, and a CRC-64 of all that.  Every block, one variable of one rank,
is followed by its own CRC-64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.raw_file import fill, raw_file

MAGIC = {b"HACC01L\0": "<", b"HACC01B\0": ">"}
"""First eight bytes, and the byte order that they stand for."""

CRC_BYTES = 8
_GLOBAL_BYTES = 104
"""Up to and including GlobalHeaderSize; later versions add what follows."""

_PHYS_BYTES = 152
_BLOCKS_BYTES = 168

_Fields = Mapping[str, tuple[Any, int]]
"""Names of an entry's fields, each with its type and first byte."""

_VARIABLE_FIELDS: _Fields = {"name": ("S256", 0), "flags": ("u8", 256), "size": ("u8", 264)}
_RANK_FIELDS: _Fields = {"count": ("u8", 24), "start": ("u8", 32)}
_BLOCK_FIELDS: _Fields = {"filter": (("S8", 4), 0), "start": ("u8", 32), "size": ("u8", 40)}
_MAX_ELEMENT = 1 << 16
"""Bytes of one value of a variable."""

_FLOAT, _SIGNED, _GHOST = 1, 2, 32
COORDINATE_FLAGS = (4, 8, 16)
"""Bits of a variable that is the physical x, y or z."""


@dataclass(frozen=True)
class Variable:
    """One variable of the particles.

    Attributes
    ----------
    name : str
        Its name.
    flags : int
        Bits of ``GenericIO.h``: float, signed, coordinate, ghosts.
    size : int
        Bytes a particle.
    """

    name: str
    flags: int
    size: int

    @property
    def is_float(self) -> bool:
        """Whether it is one float32 or float64."""
        return bool(self.flags & _FLOAT) and self.size in (4, 8)

    def dtype(self, byte_order: str) -> np.dtype:
        """Type of one value: a number if it is as large as one, else plain bytes."""
        if self.size not in (1, 2, 4, 8):
            return np.dtype(f"V{self.size}")
        kind = "f" if self.is_float else "i" if self.flags & _SIGNED else "u"
        return np.dtype(f"{byte_order}{kind}{self.size}")

    @property
    def may_be_ghost(self) -> bool:
        """Whether its rank may hold copies of other ranks' particles."""
        return bool(self.flags & _GHOST)


@dataclass(frozen=True)
class Block:
    """One variable of one rank.

    Attributes
    ----------
    start : int
        Offset of its first byte.
    stored : int
        Bytes in the file, without the CRC behind them.
    compressed : bool
        Whether they are compressed with blosc.
    dtype : numpy.dtype
        Of one number, in the file's byte order.
    count : int
        Numbers, one a particle.
    """

    start: int
    stored: int
    compressed: bool
    dtype: np.dtype
    count: int

    @property
    def n_bytes(self) -> int:
        """Bytes of all numbers as they are in memory."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class GenericHeader:
    """What one file says of itself.

    Attributes
    ----------
    path : Path
        The file.
    byte_order : str
        ``<`` or ``>``.
    size : int
        Bytes of the file.
    variables : tuple of Variable
        In the order in which a rank's blocks are.
    counts : tuple of int
        Particles of each rank.
    origin, scale : tuple of float
        ``PhysOrigin`` and ``PhysScale``: corner and sides of the box; 0 if not recorded.
    starts : tuple of int
        First byte of each rank.
    filters : numpy.ndarray or None
        ``(rank, variable)`` table of blocks, if the file has one.
    """

    path: Path
    byte_order: str
    size: int
    variables: tuple[Variable, ...]
    counts: tuple[int, ...]
    origin: tuple[float, float, float]
    scale: tuple[float, float, float]
    starts: tuple[int, ...]
    filters: np.ndarray | None

    @property
    def n_particles(self) -> int:
        """Particles of all ranks of this file."""
        return sum(self.counts)

    def block(self, rank: int, variable: int) -> Block:
        """Where a variable of a rank is."""
        count, dtype = self.counts[rank], self.variables[variable].dtype(self.byte_order)
        if self.filters is None:
            sizes = (other.size for other in self.variables[:variable])
            start = self.starts[rank] + sum(count * size + CRC_BYTES for size in sizes)
            return Block(start, count * dtype.itemsize, False, dtype, count)
        entry = self.filters[rank, variable]
        compressed = bool(entry["filter"].any())
        return Block(int(entry["start"]), int(entry["size"]), compressed, dtype, count)


def read_header(path: Path) -> GenericHeader:
    """Read the header of one file; nothing is believed that the file is too small for.

    Raises
    ------
    SnapshotError
        If it is no GenericIO file, is truncated, or contradicts itself.
    """
    with raw_file(path) as stream:
        data, byte_order, size = _read_checked(stream, path)
    text = _Text(path, data, byte_order)
    words = text.numbers("12Q", 8)
    total, n_variables, n_ranks = words[1], words[5], words[8]
    variables = text.table("variables", words[5:8], _VARIABLE_FIELDS)
    ranks = text.table("ranks", words[8:11], _RANK_FIELDS)
    has = min(words[11], len(data))  # what later versions added to the global header
    header = GenericHeader(
        path=path,
        byte_order=byte_order,
        size=size,
        variables=tuple(_variable(entry, path) for entry in variables),
        counts=tuple(ranks["count"].tolist()),
        origin=text.numbers("3d", _GLOBAL_BYTES) if has >= _PHYS_BYTES else (0.0,) * 3,
        scale=text.numbers("3d", _GLOBAL_BYTES + 24) if has >= _PHYS_BYTES else (0.0,) * 3,
        starts=tuple(ranks["start"].tolist()),
        filters=_block_table(text, n_ranks, n_variables) if has >= _BLOCKS_BYTES else None,
    )
    _check_extent(header, total, len(data) + CRC_BYTES)
    return header


@dataclass(frozen=True)
class _Text:
    """The bytes of a header, and how to read them."""

    path: Path
    data: bytes
    byte_order: str

    def numbers(self, layout: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(f"{self.byte_order}{layout}", self.data, at)

    def table(self, what: str, place: Sequence[int], fields: _Fields) -> np.ndarray:
        """Entries at ``place`` (number of them, bytes of each, first byte)."""
        n, entry, start = place
        formats = [_with_order(format, self.byte_order) for format, _ in fields.values()]
        offsets = [offset for _, offset in fields.values()]
        needed = max(offsets) + np.dtype(formats[offsets.index(max(offsets))]).itemsize
        if n < 1 or entry < needed or start + n * entry > len(self.data):
            raise SnapshotError(
                f"{self.path}: its header has {n} {what} of {entry} bytes at byte {start}, "
                f"expected at least one of {needed} bytes, inside the header's {len(self.data)}; "
                "the file is damaged: copy it again"
            )
        dtype = np.dtype(
            {"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": entry}
        )
        return np.frombuffer(self.data, dtype, n, start)


def _with_order(format: Any, byte_order: str) -> Any:
    return f"{byte_order}{format}" if format == "u8" else format


def _read_checked(stream: FileIO, path: Path) -> tuple[bytes, str, int]:
    """The header's bytes without their CRC, which is right; byte order; the file's size."""
    from pipeline.readers.crc64 import crc64  # noqa: PLC0415  (compiles a kernel)

    size = stream.seek(0, 2)
    stream.seek(0)
    lead = stream.read(_GLOBAL_BYTES)
    byte_order = MAGIC.get(lead[:8])
    if byte_order is None or len(lead) < _GLOBAL_BYTES:
        raise SnapshotError(
            f"{path}: begins with the bytes {lead[:8].hex(' ')} of {size}, expected HACC01L or "
            "HACC01B and a header; it is no GenericIO file or truncated: copy it again"
        )
    (length,) = struct.unpack_from(f"{byte_order}Q", lead, 8)
    if not _GLOBAL_BYTES <= length <= size - CRC_BYTES:
        raise SnapshotError(
            f"{path}: its header takes {length} bytes and {CRC_BYTES} of checksum, expected "
            f"{_GLOBAL_BYTES} to {size - CRC_BYTES} in a file of {size}; it is truncated or "
            "damaged: copy it again"
        )
    data = np.empty(length + CRC_BYTES, np.uint8)
    stream.seek(0)
    fill(stream, data, path)
    check_crc(crc64(data[:length]), data[length:], "the header", path)
    return data[:length].tobytes(), byte_order, size


def check_crc(found: int, check_bytes: np.ndarray, what: str, path: Path) -> None:
    """Compare a CRC with the check bytes behind the data: its complement, low byte first.

    Raises
    ------
    SnapshotError
        If they differ.
    """
    expected = int.from_bytes(check_bytes.tobytes(), "little") ^ 0xFFFF_FFFF_FFFF_FFFF
    if found != expected:
        raise SnapshotError(
            f"{path}: the CRC-64 of {what} is {found:016x}, expected {expected:016x}; the file is "
            "damaged: copy it again"
        )


def _damaged(path: Path, what: str) -> SnapshotError:
    return SnapshotError(f"{path}: its header has {what}; the file is damaged: copy it again")


def _variable(entry: np.void, path: Path) -> Variable:
    name = bytes(entry["name"]).split(b"\0")[0].decode("utf-8", "replace")
    flags, size = int(entry["flags"]), int(entry["size"])
    if not 0 < size <= _MAX_ELEMENT:
        raise _damaged(path, f"{size} bytes a value of {name!r}, expected 1 to {_MAX_ELEMENT}")
    return Variable(name, flags, size)


def _block_table(text: _Text, n_ranks: int, n_variables: int) -> np.ndarray | None:
    """``(rank, variable)`` table of blocks: whether compressed, first byte, bytes."""
    entry, start = text.numbers("2Q", _PHYS_BYTES)
    if not entry:
        return None
    table = text.table("blocks", (n_ranks * n_variables, entry, start), _BLOCK_FIELDS)
    for name in np.unique(table["filter"]).tolist():
        if name not in (b"", b"BLOSC"):
            raise SnapshotError(
                f"{text.path}: compressed with {name.decode(errors='replace')!r}, expected BLOSC "
                "or nothing; write it again with GenericIO's own tools"
            )
    return table.reshape(n_ranks, n_variables)


def _check_extent(header: GenericHeader, total: int, first_byte: int) -> None:
    """All blocks are inside the file, and together not more than the file holds."""
    path, record = header.path, sum(v.size for v in header.variables)
    if header.n_particles != total:
        raise _damaged(
            path, f"{total} particles, but its {len(header.counts)} ranks have {header.n_particles}"
        )
    stored, last = 0, 0
    for start, n_bytes in _extents(header, record):
        if start < first_byte:
            raise _damaged(path, f"data at byte {start}, expected them behind the header")
        stored, last = stored + n_bytes, max(last, start + n_bytes)
    if max(last, first_byte + stored) > header.size:
        raise SnapshotError(
            f"{path}: {header.size} bytes, expected {max(last, first_byte + stored)} by its "
            f"header ({total} particles in {len(header.counts)} ranks); it is truncated or "
            "damaged: copy it again"
        )


def _extents(header: GenericHeader, record: int) -> Iterator[tuple[int, int]]:
    """First byte and length of all that the tables point to, checksums included."""
    if header.filters is not None:
        starts: Sequence[int] = header.filters["start"].ravel().tolist()
        sizes: Sequence[int] = header.filters["size"].ravel().tolist()
        yield from ((s, n + CRC_BYTES) for s, n in zip(starts, sizes, strict=True))
        return
    checks = CRC_BYTES * len(header.variables)
    for start, count in zip(header.starts, header.counts, strict=True):
        yield start, count * record + checks
