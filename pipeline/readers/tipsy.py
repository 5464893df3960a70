"""Tipsy snapshots of PKDGRAV, Gasoline and ChaNGa: standard (big-endian XDR) and native.

The format is that of the TIPSY tools (N. Katz & T. Quinn, tipsydefs.h): a
header, then gas, dark matter and stars as records of 32-bit floats.  With
periodic boxes lengths are in units of the box, from -1/2 to 1/2, and masses
such that the critical density is 1 (H_0 = sqrt(8 pi / 3), G = 1), so that all
particles together have the mass Omega_m.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.declared import declared_box, declared_scale
from pipeline.readers.raw_file import file_size, raw_file
from pipeline.readers.reach import check_reach
from pipeline.readers.record_snapshot import RecordBlock, RecordSnapshot, sum_masses
from pipeline.readers.registry import register
from pipeline.snapshot import DARK_MATTER, ReadOptions, SnapshotHeader
from pipeline.units import RHO_CRIT

_HEADER = "d5I"
_HEADER_BYTES = 32
"""With the four bytes that pad it to a multiple of eight; without them (as 32-bit machines
wrote it natively) a file could not be told from one that lacks its last four bytes."""

_WORD = 1 << 32
_GAS, _STARS = 0, 4
_FLOATS = {_GAS: 12, DARK_MATTER: 9, _STARS: 11}
"""Floats in a record of each type, in the order of the file: mass, position, velocity, others."""

_MAX_TIME = 1.01
"""Expansion factors are at most 1, but for rounding of the last step."""

_MIN_TIME = 1e-4


@dataclass(frozen=True)
class _Header:
    path: Path
    byte_order: str
    time: float
    counts: Mapping[int, int]


class TipsyReader:
    """Reader of Tipsy's binary formats."""

    name = "tipsy"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` begins with three dimensions and counts that add up."""
        try:
            with path.open("rb") as stream:
                return _byte_order(stream.read(_HEADER_BYTES)) is not None
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file itself: Tipsy snapshots have one."""
        return (path,)

    def open(self, files: Sequence[Path], options: ReadOptions) -> RecordSnapshot:
        """Check header and size of the file and open the snapshot."""
        if len(files) != 1:
            raise SnapshotError(f"{files[0]}: given with {len(files) - 1} more, expected one file")
        found = _read_header(files[0])
        box_size = declared_box(
            found.path,
            options,
            "the box side is 1 in Tipsy's own units; with a parameter file (.param) it is "
            "dPeriod * dKpcUnit / 1000 * h",
        )
        scale = declared_scale(found.path, options, "box")
        in_box_units = scale.name == "box"
        mass = RHO_CRIT * box_size * box_size * box_size if in_box_units else None
        blocks = _blocks(found)
        chosen = [blocks[t] for t in _FLOATS if t in options.particle_types]
        header = SnapshotHeader(
            files=(found.path,),
            format=self.name,
            box_size=box_size,
            redshift=_redshift(found, options),
            n_particles=sum(block.count for block in chosen),
            length_unit=scale.name,
            total_mass=_total_mass(found.path, list(blocks.values()), mass, options),
            Omega_m=options.Omega_m,
            h=options.h,
        )
        snapshot = RecordSnapshot(header, chosen, scale.in_mpc_h, mass)
        check_reach(snapshot, options)
        return snapshot


register(TipsyReader())


def _byte_order(head: bytes) -> str | None:
    """Byte order in which ``head`` is a header, or None."""
    if len(head) < _HEADER_BYTES:
        return None
    for order in "><":
        _, total, dimensions, *counts = struct.unpack_from(order + _HEADER, head)
        if dimensions == 3 and any(counts) and (total - sum(counts)) % _WORD == 0:
            return order
    return None


def _read_header(path: Path) -> _Header:
    with raw_file(path) as stream:
        head = stream.read(_HEADER_BYTES)
    order = _byte_order(head)
    if order is None:
        raise SnapshotError(
            f"{path}: begins with the bytes {head.hex(' ')}, expected the header of a Tipsy file: "
            "time, number of particles, 3 dimensions, and the numbers of gas, dark matter and "
            "star particles, which add up"
        )
    time, _, _, *low = struct.unpack_from(order + _HEADER, head)
    words = dict(zip(_FLOATS, low, strict=True))
    size = file_size(path)
    for counts in (words, _with_high_bits(words, head, order)):
        if size == _file_bytes(counts):
            return _Header(path, order, time, counts)
    raise SnapshotError(
        f"{path}: {size} bytes, expected {_file_bytes(words)} for the {words[_GAS]} gas, "
        f"{words[DARK_MATTER]} dark matter and {words[_STARS]} star particles of its header in "
        "single precision; it is truncated, damaged or has other records: copy it again"
    )


def _file_bytes(counts: Mapping[int, int]) -> int:
    return _HEADER_BYTES + sum(4 * _FLOATS[t] * count for t, count in counts.items())


def _with_high_bits(words: Mapping[int, int], head: bytes, order: str) -> dict[int, int]:
    """Counts above 2^32, as PKDGRAV3 puts eight more bits of each into the padding."""
    (padding,) = struct.unpack_from(f"{order}I", head, struct.calcsize(order + _HEADER))
    bits = {_GAS: 8, DARK_MATTER: 16, _STARS: 24}
    return {t: word + ((padding >> bits[t]) & 0xFF) * _WORD for t, word in words.items()}


def _blocks(header: _Header) -> dict[int, RecordBlock]:
    """Records of each type, in the order of the file."""
    blocks, start = {}, _HEADER_BYTES
    for t, floats in _FLOATS.items():
        dtype = np.dtype(
            {
                "names": ["mass", "pos"],
                "formats": [f"{header.byte_order}f4", (f"{header.byte_order}f4", 3)],
                "offsets": [0, 4],
                "itemsize": 4 * floats,
            }
        )
        blocks[t] = RecordBlock(start, header.counts[t], dtype)
        start += header.counts[t] * dtype.itemsize
    return blocks


def _redshift(header: _Header, options: ReadOptions) -> float:
    if options.redshift is not None:
        return options.redshift
    if not _MIN_TIME <= header.time <= _MAX_TIME:
        raise SnapshotError(
            f"{header.path}: the header's time is {header.time:g}, expected an expansion factor "
            f"between {_MIN_TIME:g} and 1; give input.redshift in the recipe"
        )
    return 1 / header.time - 1


def _total_mass(
    path: Path, blocks: Sequence[RecordBlock], unit: float | None, options: ReadOptions
) -> float | None:
    """Mass of all particles in 1e10 Msun/h, if there is something to compare it with."""
    if unit is None or not options.Omega_m:
        return None
    total = sum_masses(path, blocks)
    return None if total is None else total * unit
