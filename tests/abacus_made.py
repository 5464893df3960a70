"""Small synthetic outputs as Abacus writes them, for tests: pack9 slices and rvint subsamples.

Written by hand after the ASDF standard (file layout) and the sources that
:mod:`pipeline.readers.pack9` names; ``tests/test_readers_abacus.py`` compares with
abacusutils where it is installed, and with a real output where there is one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.blosc import SHUFFLE, compress

from pipeline.units import mean_matter_density

ROOM_OF_HEADER = 40960
"""Zeros that Abacus leaves behind pack9 data in their block."""

CPD = 15


def write_slices(
    root: Path,
    positions: np.ndarray,
    *,
    box_size: float = 32.0,
    n_slabs: int = 3,
    facts: Mapping[str, Any] | None = None,
    listing: bool = True,
    frame_bytes: int = 4 << 20,
) -> list[Path]:
    """A time slice of ``(n, 3)`` positions in ``[-box/2, box/2]``; field and L0 in turn.

    Returns the slabs, slab by slab, field before L0.
    """
    header = {**header_facts(len(positions), box_size), **(facts or {})}
    paths = []
    for i, piece in enumerate(np.array_split(positions, n_slabs)):
        for kind, chosen in (("field", piece[::2]), ("L0", piece[1::2])):
            path = root / f"{kind}_pack9" / f"slab{i:03}.{kind}.pack9.asdf"
            data = pack9(chosen, box_size)
            write_asdf(path, "pack9", data, header, bytes(ROOM_OF_HEADER), frame_bytes)
            paths.append(path)
    if listing:
        write_listings(paths)
    return paths


def write_subsample(
    root: Path,
    positions: np.ndarray,
    letter: str = "A",
    *,
    box_size: float = 32.0,
    n_slabs: int = 3,
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """A subsample of ``(n, 3)`` positions; returns the slabs, field before halo."""
    header = {**header_facts(100 * len(positions), box_size), "OutputType": "GroupOutput"}
    paths = []
    for i, piece in enumerate(np.array_split(positions, n_slabs)):
        for kind, chosen in (("field", piece[::2]), ("halo", piece[1::2])):
            path = root / f"{kind}_rv_{letter}" / f"{kind}_rv_{letter}_{i:03}.asdf"
            write_asdf(path, "rvint", rvint(chosen, box_size), {**header, **(facts or {})})
            paths.append(path)
    write_listings(paths)
    return paths


def header_facts(n_particles: int, box_size: float, Omega_m: float = 0.3) -> dict[str, Any]:
    """The facts that the reader uses, and some that it does not."""
    mass = mean_matter_density(Omega_m) * box_size**3 / n_particles * 1e10
    return {
        "BoxSize": box_size,
        "BoxSizeHMpc": box_size,
        "BoxSizeMpc": box_size / 0.7,
        "CPD": CPD,
        "FoFLinkingLength": "[0.25, 0.25, 0.25]",
        "H0": 70.0,
        "NP": n_particles,
        "Omega_M": Omega_m,
        "OutputFormat": "Pack9",
        "ParticleMassHMsun": repr(mass),
        "Redshift": 0.5,
        "ScaleFactor": 2 / 3,
        "SimName": "made",
        "VelZSpace_to_kms": 3200.0,
        "hMpc": 1,
    }


def pack9(positions: np.ndarray, box_size: float, cpd: int = CPD) -> np.ndarray:
    """``(rows, 9)`` int8: cells and their particles, in the order of the cells."""
    unit = (positions / box_size + 0.5) * cpd
    cells = np.clip(np.floor(unit).astype(int), 0, cpd - 1)
    offsets = np.rint((unit - cells - 0.5) * 2000).astype(int)
    rows = []
    for cell in np.unique(cells, axis=0):
        rows.append(_row([2047, cpd - 2000, 1, *(cell - 2000)], first_byte=255))
        for offset in offsets[(cells == cell).all(axis=1)]:
            rows.append(_row([*offset, 5, -7, 9]))
    return np.array(rows, np.uint8).reshape(-1, 9).view(np.int8)


def _row(numbers: Sequence[int], first_byte: int | None = None) -> list[int]:
    out = []
    unsigned = [number + 2048 for number in numbers]
    for a, b in zip(unsigned[::2], unsigned[1::2], strict=True):
        out += [a >> 4, (a & 15) | (b >> 8) << 4, b & 255]
    return out if first_byte is None else [first_byte, *out[1:]]


def rvint(positions: np.ndarray, box_size: float) -> np.ndarray:
    """``(n, 3)`` int32."""
    whole = np.rint(positions / box_size * 1e6).astype(np.int32)
    return (whole << 12) | np.int32(2048 + 17)


def write_asdf(
    path: Path,
    column: str,
    data: np.ndarray,
    facts: Mapping[str, Any],
    behind: bytes = b"",
    frame_bytes: int = 4 << 20,
    compressed: bool = True,
) -> None:
    """An ASDF file with one array, as abacusutils writes it."""
    raw = data.tobytes() + behind
    stored = raw
    if compressed:
        frames = [raw[i : i + frame_bytes] for i in range(0, len(raw), frame_bytes)]
        packed = [compress(frame, b"zstd", 1, SHUFFLE, 0, typesize=9) for frame in frames]
        stored = b"".join(struct.pack(">I", len(frame)) + frame for frame in packed)
    head = tree(column, data, facts)
    checksum = hashlib.md5(raw).digest()
    kind = b"blsc" if compressed else b"\0\0\0\0"
    sizes = (0, kind, len(stored), len(stored), len(raw), checksum)
    block = b"\xd3BLK" + struct.pack(">HI4sQQQ16s", 48, *sizes)
    path.parent.mkdir(parents=True, exist_ok=True)
    index = f"#ASDF BLOCK INDEX\n%YAML 1.1\n---\n- {len(head)}\n...\n".encode()
    path.write_bytes(head + block + stored + index)


def tree(column: str, data: np.ndarray, facts: Mapping[str, Any]) -> bytes:
    """The YAML before the block."""
    lines = [
        "#ASDF 1.0.0",
        "#ASDF_STANDARD 1.5.0",
        "%YAML 1.1",
        "%TAG ! tag:stsci.edu:asdf/",
        "--- !core/asdf-1.1.0",
        "asdf_library: !core/software-1.0.0 {name: asdf, version: 2.9.0}",
        "data:",
        f"  {column}: !core/ndarray-1.0.0",
        "    source: 0",
        f"    datatype: {data.dtype.name}",
        f"    byteorder: {'big' if data.dtype.itemsize == 1 else 'little'}",
        f"    shape: {list(data.shape)}",
        "header:",
        *(f"  {name}: {value}" for name, value in facts.items() if value is not None),
        "...",
        "",
    ]
    return "\n".join(lines).encode()


def write_listings(paths: Sequence[Path]) -> None:
    """``checksums.crc32`` of each folder; the checksums themselves are not looked at."""
    for folder in {path.parent for path in paths}:
        files = [path for path in sorted(paths) if path.parent == folder]
        lines = [f"12345 {path.stat().st_size} {path.name}\n" for path in files]
        (folder / "checksums.crc32").write_text("".join(lines))
