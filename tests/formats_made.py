"""Small synthetic GenericIO, Tipsy and Nyx files, and what any reading of a file may do."""

from __future__ import annotations

import lzma
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers import open_snapshot
from pipeline.readers.crc64 import crc64
from pipeline.snapshot import ReadOptions, Snapshot

ALLOCATION_BESIDES_FILE = 4 << 20
"""Bytes that opening any file may take: buffers of libraries and Python."""

CHUNK = 64

crc64(np.zeros(17, np.uint8))  # compiled now: that is no allocation by a file


def read_all(snapshot: Snapshot, chunk_particles: int = 100) -> np.ndarray:
    return np.concatenate([c.copy() for c in snapshot.iter_positions(chunk_particles)])


def read_weighted(snapshot: Snapshot, chunk_particles: int = 100) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(p.copy(), m.copy()) for p, m in snapshot.iter_weighted(chunk_particles)]
    return np.concatenate([p for p, _ in pairs]), np.concatenate([m for _, m in pairs])


def outcome(path: Path, options: ReadOptions) -> str | None:
    """Read all of ``path``: None if it was whole, else the message of its refusal.

    Anything else fails: other exceptions, a message that does not name the file, more memory
    than the file justifies, other numbers of particles than the header tells.
    """
    most = 3 * _size(path) + ALLOCATION_BESIDES_FILE
    message, peak = _measured(path, options)
    if peak >= most:  # the first use of a library imports it; what a file takes, it takes again
        message, peak = _measured(path, options)
    assert message is None or path.name in message
    assert peak < most
    return message


def _measured(path: Path, options: ReadOptions) -> tuple[str | None, int]:
    tracemalloc.start()
    try:
        message = _refusal(path, options)
        return message, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _refusal(path: Path, options: ReadOptions) -> str | None:
    try:
        snapshot = open_snapshot(path, options)
        n = sum(len(chunk) for chunk in snapshot.iter_positions(CHUNK))
    except SnapshotError as error:
        return str(error)
    assert n == snapshot.header.n_particles
    return None


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def with_options(options: ReadOptions, **changes: object) -> ReadOptions:
    return replace(options, **changes)


# --- Tipsy ----------------------------------------------------------------------------------

TIPSY_FLOATS = {0: 12, 1: 9, 4: 11}


def write_tipsy(
    path: Path,
    by_type: Mapping[int, np.ndarray],
    *,
    time: float = 0.5,
    byte_order: str = ">",
    padding: int = 0,
    masses: Mapping[int, np.ndarray] | None = None,
) -> Path:
    """Positions in units of the box; ``padding`` is the header's last four bytes."""
    counts = [len(by_type.get(t, ())) for t in TIPSY_FLOATS]
    data = struct.pack(f"{byte_order}d5i", time, sum(counts), 3, *counts)
    data += struct.pack(f"{byte_order}I", padding)
    for t, floats in TIPSY_FLOATS.items():
        if t in by_type:
            rows = np.full((len(by_type[t]), floats), 7.0)
            rows[:, 0] = 1e-3 if masses is None else masses[t]
            rows[:, 1:4] = by_type[t]
            data += rows.astype(f"{byte_order}f4").tobytes()
    path.write_bytes(data)
    return path


# --- Nyx ------------------------------------------------------------------------------------


def write_nyx(
    path: Path,
    positions: np.ndarray,
    masses: np.ndarray | float = 1e9,
    *,
    dtype: str = "<f8",
) -> Path:
    """Positions in Mpc, masses in Msun."""
    rows = np.zeros((len(positions), 7), dtype)
    rows[:, :3] = positions
    rows[:, 3] = masses
    path.write_bytes(struct.pack(f"{dtype[0]}q2i", len(positions), 3, 4) + rows.tobytes())
    return path


# --- GenericIO ------------------------------------------------------------------------------

COORDINATE_FLAGS = {"x": 4, "y": 8, "z": 16}
ONES = 0xFFFF_FFFF_FFFF_FFFF


def crc64_of_xz(data: bytes) -> int:
    """CRC-64 of ``data``: the check that liblzma puts behind the one block of an xz stream."""
    if not data:
        return 0
    stream = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=0)
    index_size = (struct.unpack("<I", stream[-8:-4])[0] + 1) * 4
    return struct.unpack_from("<Q", stream, len(stream) - 12 - index_size - 8)[0]


def check_bytes(data: bytes) -> bytes:
    return struct.pack("<Q", crc64_of_xz(data) ^ ONES)


def write_genericio(
    path: Path,
    ranks: Sequence[Mapping[str, np.ndarray]],
    *,
    byte_order: str = "<",
    scale: Sequence[float] = (100.0, 100.0, 100.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    blosc: bool = False,
    block_table: bool = False,
    global_bytes: int = 168,
    extra_flags: int = 0,
    flagged: bool = True,
    element_sizes: bool = False,
) -> Path:
    """Variables of each rank, in the structures of GenericIO.cxx.

    ``blosc`` compresses the blocks; ``block_table`` writes the table of blocks also without;
    ``element_sizes`` writes the longer entries of later versions.
    """
    names = list(ranks[0])
    blocks = [[_block(r[n], byte_order, blosc) for n in names] for r in ranks]
    table = blosc or block_table
    variable_bytes = 280 if element_sizes else 272
    ranks_start = global_bytes + variable_bytes * len(names)
    blocks_start = ranks_start + 48 * len(ranks)
    length = blocks_start + (48 * len(ranks) * len(names) if table else 0)
    u8 = f"{byte_order}Q"
    head = b"HACC01L\0" if byte_order == "<" else b"HACC01B\0"
    total = sum(len(r[names[0]]) for r in ranks)
    words = [length, total, len(ranks), 1, 1, len(names), variable_bytes, global_bytes]
    words += [len(ranks), 48, ranks_start, global_bytes]
    head += struct.pack(f"{byte_order}12Q", *words)
    tail = struct.pack(f"{byte_order}6d", *origin, *scale)
    tail += struct.pack(f"{byte_order}2Q", *((48, blocks_start) if table else (0, 0)))
    head += tail[: global_bytes - 104]
    for name in names:
        array = np.asarray(ranks[0][name])
        flags = (1 if array.dtype.kind == "f" else 0) | (2 if array.dtype.kind in "fi" else 0)
        if flagged:
            flags |= COORDINATE_FLAGS.get(name, 0)
        head += name.encode().ljust(256, b"\0")
        head += struct.pack(f"{byte_order}2Q", flags | extra_flags, array.dtype.itemsize)
        head += struct.pack(u8, array.dtype.itemsize) if element_sizes else b""
    body, at, entries = b"", length + 8, b""
    for i, (rank, rank_blocks) in enumerate(zip(ranks, blocks, strict=True)):
        words = [i, 0, 0, len(rank[names[0]]), at + len(body), i]
        head += struct.pack(f"{byte_order}6Q", *words)
        for data, compressed in rank_blocks:
            entries += (b"BLOSC" if compressed else b"").ljust(32, b"\0")
            entries += struct.pack(f"{byte_order}2Q", at + len(body), len(data))
            body += data + check_bytes(data)
    head += entries if table else b""
    path.write_bytes(head + check_bytes(head) + body)
    return path


def _block(array: np.ndarray, byte_order: str, blosc: bool) -> tuple[bytes, bool]:
    data = np.asarray(array).astype(np.asarray(array).dtype.newbyteorder(byte_order)).tobytes()
    if not blosc:
        return data, False
    from numcodecs.blosc import compress

    packed = compress(data, b"blosclz", 9, 1, typesize=np.asarray(array).dtype.itemsize)
    return struct.pack(f"{byte_order}Q", crc64_of_xz(data)) + packed, True


def in_ranks(positions: np.ndarray, bounds: Sequence[int], dtype: str = "f4") -> list[dict]:
    """Ranks of a GenericIO file: x, y, z and an id."""
    ids = np.arange(len(positions))
    return [
        {
            **{name: positions[a:b, k].astype(dtype) for k, name in enumerate("xyz")},
            "id": ids[a:b],
        }
        for a, b in zip([0, *bounds], [*bounds, len(positions)], strict=True)
    ]
