"""Nyx's binary particle files, as its initial conditions are.

The header is the number of particles (64 bits), of dimensions, 3, and of
further numbers of a particle (32 bits each).  Each particle is a record
``x, y, z, mass, vx, vy, vz`` of 64-bit (or 32-bit) floats in comoving Mpc,
Msun and km/s, none of them with h (Nyx documentation, "Initial conditions";
AMReX ``InitFromBinaryFile``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.declared import declared_box, declared_scale
from pipeline.readers.raw_file import file_size, raw_file
from pipeline.readers.reach import check_reach
from pipeline.readers.record_snapshot import RecordBlock, RecordSnapshot, sum_masses
from pipeline.readers.redshift_name import named_redshift
from pipeline.readers.registry import register
from pipeline.snapshot import DARK_MATTER, ReadOptions, SnapshotHeader

_HEADER_BYTES = 16
_DIMENSIONS = 3
_EXTRA = 4
"""Mass and velocity."""

_MAX_PARTICLES = 1 << 44
_MSUN = 1e-10
"""In 1e10 Msun."""


class NyxReader:
    """Reader of Nyx's binary particle files."""

    name = "nyx_binary"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` begins with a number of particles, 3 and 4."""
        try:
            with path.open("rb") as stream:
                return _layout(stream.read(_HEADER_BYTES)) is not None
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file itself."""
        return (path,)

    def open(self, files: Sequence[Path], options: ReadOptions) -> RecordSnapshot:
        """Check header and size of the file and open the snapshot."""
        if len(files) != 1:
            raise SnapshotError(f"{files[0]}: given with {len(files) - 1} more, expected one file")
        path = files[0]
        block = _read_block(path)
        if options.h is None:
            raise SnapshotError(
                f"{path}: Nyx writes Mpc and Msun without h and records no h, expected input.h in "
                "the recipe"
            )
        box_size = declared_box(path, options, "Nyx's prob_hi (Mpc) times h")
        scale = declared_scale(path, options, "Mpc")
        mass = _MSUN * options.h
        total = sum_masses(path, [block]) if options.Omega_m else None
        header = SnapshotHeader(
            files=(path,),
            format=self.name,
            box_size=box_size,
            redshift=named_redshift(path, options),
            n_particles=block.count if DARK_MATTER in options.particle_types else 0,
            length_unit=scale.name,
            total_mass=None if total is None else total * mass,
            Omega_m=options.Omega_m,
            h=options.h,
        )
        snapshot = RecordSnapshot(header, [block], scale.in_mpc_h, mass)
        check_reach(snapshot, options)
        return snapshot


register(NyxReader())


@dataclass(frozen=True)
class _Layout:
    byte_order: str
    n_particles: int


def _layout(head: bytes) -> _Layout | None:
    """What a header says, or None if it is not one."""
    if len(head) < _HEADER_BYTES:
        return None
    for order in "<>":
        n, dimensions, extra = struct.unpack(f"{order}q2i", head)
        if 0 < n < _MAX_PARTICLES and (dimensions, extra) == (_DIMENSIONS, _EXTRA):
            return _Layout(order, n)
    return None


def _read_block(path: Path) -> RecordBlock:
    with raw_file(path) as stream:
        head = stream.read(_HEADER_BYTES)
    layout = _layout(head)
    if layout is None:
        raise SnapshotError(
            f"{path}: begins with the bytes {head.hex(' ')}, expected the header of a Nyx particle "
            f"file: the number of particles, {_DIMENSIONS} dimensions and {_EXTRA} more numbers "
            "(mass and velocity)"
        )
    size, numbers = file_size(path), layout.n_particles * (_DIMENSIONS + _EXTRA)
    float_bytes, remainder = divmod(size - _HEADER_BYTES, numbers)
    if remainder or float_bytes not in (4, 8):
        raise SnapshotError(
            f"{path}: {size} bytes, expected {_HEADER_BYTES + 8 * numbers} (float64) or "
            f"{_HEADER_BYTES + 4 * numbers} (float32) for the {layout.n_particles} particles of "
            "its header; it is truncated or damaged: copy it again"
        )
    number = f"{layout.byte_order}f{float_bytes}"
    dtype = np.dtype([("pos", number, 3), ("mass", number), ("velocity", number, 3)])
    return RecordBlock(_HEADER_BYTES, layout.n_particles, dtype)
