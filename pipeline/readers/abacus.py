"""AbacusSummit's ASDF: time slices (pack9) and the A and B subsamples (rvint).

A time slice is complete: its particles are those of the field and of L0 groups
together, and their number is in the header.  A subsample holds a few per cent of the
particles: its header gives no total mass, and its particles have their own mass,
so that a mass weighted grid has the mean of the subsample.

Positions are fractions of the box in float32, in ``[-box_size/2, box_size/2]``.
Memory is one Blosc frame (4 MiB) and one chunk, whatever the slab's size.

Sources: see :mod:`pipeline.readers.abacus_files`, :mod:`pipeline.readers.pack9`
and :mod:`pipeline.readers.asdf_block`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.abacus_files import find_slabs, parse_name
from pipeline.readers.asdf_block import MAGIC, Block, iter_block, read_tree
from pipeline.readers.registry import register
from pipeline.snapshot import (
    DARK_MATTER,
    DEFAULT_CHUNK_PARTICLES,
    ReadOptions,
    Snapshot,
    SnapshotHeader,
)

_DTYPES = {"pack9": ("int8", 9), "rvint": ("int32", 3)}
"""Columns: type and numbers a row."""

_SAME_FACTS = ("SimName", "NP", "Redshift", "BoxSize", "H0", "Omega_M", "ParticleMassHMsun")
_MAX_BOX = 1e6
_MAX_PARTICLES = 1 << 50


@dataclass(frozen=True)
class _Slab:
    """One file: its column, rows, block and the simulation's facts."""

    path: Path
    column: str
    dtype: np.dtype
    rows: int
    block: Block
    facts: dict[str, Any]

    @property
    def row_bytes(self) -> int:
        return _DTYPES[self.column][1] * self.dtype.itemsize


class AbacusSnapshot(Snapshot):
    """An opened time slice or subsample of Abacus."""

    def __init__(
        self, header: SnapshotHeader, slabs: Sequence[_Slab], particle_mass: float | None
    ) -> None:
        super().__init__(header)
        self._slabs = tuple(slabs)
        self._particle_mass = particle_mass

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of all particles; see :meth:`Snapshot.iter_positions`."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        rows = min(chunk_particles, max(slab.rows for slab in self._slabs))
        buffer = np.empty((rows, 3), np.float32)
        unpack = _unpack_pack9 if self._slabs[0].column == "pack9" else _unpack_rvint
        found = 0
        for slab in self._slabs:
            for positions in unpack(slab, self.header.box_size, buffer):
                found += len(positions)
                yield positions
        if found != self.header.n_particles:
            raise SnapshotError(
                f"{self.header.name}: its slabs hold {found} particles, expected "
                f"{self.header.n_particles} by their header (NP); slabs are missing or of "
                "another simulation: copy them again"
            )

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses, all equal; see :meth:`Snapshot.iter_weighted`."""
        if self._particle_mass is None:
            raise SnapshotError(
                f"{self.header.name}: the header has no ParticleMassHMsun, expected the mass of "
                "a particle; set grid.weight: count in the recipe"
            )
        for positions in self.iter_positions(chunk_particles):
            yield positions, np.full(len(positions), self._particle_mass)


class AbacusReader:
    """Reader of Abacus's pack9 and rvint files."""

    name = "abacus"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is ASDF and has the name of a slab of particles."""
        if parse_name(path.name) is None:
            return False
        try:
            with path.open("rb") as stream:
                return stream.read(len(MAGIC)) == MAGIC
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All slabs of the output that ``path`` is a slab of, field and groups."""
        return find_slabs(path)

    def open(self, files: Sequence[Path], options: ReadOptions) -> AbacusSnapshot:
        """Check the trees and blocks of ``files`` and open the snapshot."""
        slabs = [_read_slab(path) for path in files]
        for slab in slabs[1:]:
            _check_same(slabs[0], slab)
        header, particle_mass = _header(slabs, options)
        return AbacusSnapshot(header, slabs, particle_mass)


register(AbacusReader())


def _read_slab(path: Path) -> _Slab:
    tree, block = read_tree(path)
    data, facts = tree.get("data"), tree.get("header")
    if not isinstance(data, dict) or not isinstance(facts, dict):
        raise SnapshotError(f"{path}: has no data and header, expected both as Abacus writes them")
    columns = [name for name in _DTYPES if name in data]
    if len(columns) != 1 or len(data) != 1:
        raise SnapshotError(
            f"{path}: has the columns {', '.join(map(str, data))[:200]}, expected one of "
            f"{', '.join(_DTYPES)}; halos and particle ids hold no positions"
        )
    dtype, rows = _check_column(data[columns[0]], columns[0], block)
    return _Slab(path, columns[0], dtype, rows, block, facts)


def _check_column(array: Any, column: str, block: Block) -> tuple[np.dtype, int]:
    """Type and number of rows, after comparing them with the size of the block.

    The block may be longer: Abacus leaves the room of a header behind pack9 data.
    """
    name, width = _DTYPES[column]
    found = array if isinstance(array, dict) else {}
    dtype = np.dtype(name).newbyteorder(">" if found.get("byteorder") == "big" else "<")
    shape = found.get("shape")
    room = block.size // (width * dtype.itemsize)
    rows = int(shape[0]) if isinstance(shape, list) and _is_count(*shape[:1]) else -1
    expected: dict[str, Any] = {"source": "0", "datatype": name, "shape": [str(rows), str(width)]}
    expected |= {"offset": None, "strides": None}  # views of a larger array
    if not 0 <= rows <= room or any(found.get(key) != value for key, value in expected.items()):
        shown = {key: found.get(key) for key in expected}
        raise SnapshotError(
            f"{block.path}: its column {column} is {str(shown)[:200]}, expected {name} in rows of "
            f"{width}, at most {room} by the {block.size} bytes of its block; the file is damaged: "
            "copy it again"
        )
    return dtype, rows


def _is_count(text: Any = None) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18


def _check_same(first: _Slab, slab: _Slab) -> None:
    pairs = {name: (first.facts.get(name), slab.facts.get(name)) for name in _SAME_FACTS}
    pairs["column"] = (first.column, slab.column)
    for name, (expected, found) in pairs.items():
        if expected != found:
            raise SnapshotError(
                f"{slab.path}: its {name} is {str(found)[:80]}, expected {str(expected)[:80]} as "
                f"in {first.path.name}; slabs of several outputs are mixed"
            )


def _header(slabs: Sequence[_Slab], options: ReadOptions) -> tuple[SnapshotHeader, float | None]:
    """One header for all slabs, and the mass of a particle in 1e10 Msun/h."""
    first = slabs[0]
    _check_whole_box(first, options)
    box_size, redshift = options.box_size, options.redshift
    mass, hubble = _fact(first, "ParticleMassHMsun"), _fact(first, "H0")
    particle_mass = None if mass is None else mass / 1e10
    n_particles = _count(slabs)
    whole = first.column == "pack9" and particle_mass is not None
    header = SnapshotHeader(
        files=tuple(slab.path for slab in slabs),
        format=AbacusReader.name,
        box_size=_box_size(first) if box_size is None else box_size,
        redshift=_needed(first, "Redshift") if redshift is None else redshift,
        n_particles=n_particles if DARK_MATTER in options.particle_types else 0,
        length_unit="box",
        total_mass=n_particles * particle_mass if whole and particle_mass else None,
        Omega_m=_fact(first, "Omega_M") if options.Omega_m is None else options.Omega_m,
        h=(hubble and hubble / 100) if options.h is None else options.h,
        selected_mass=n_particles * particle_mass if particle_mass else None,
    )
    return header, particle_mass


def _check_whole_box(slab: _Slab, options: ReadOptions) -> None:
    if slab.facts.get("OutputType") == "LightCone":
        raise SnapshotError(
            f"{slab.path}: its OutputType is LightCone, expected a slice of the whole box; "
            "light cones do not fill their box"
        )
    if options.length_unit not in (None, "box"):
        raise SnapshotError(
            f"{slab.path}: positions of Abacus are fractions of the box, expected "
            f"input.length_unit: box or none, not {options.length_unit}"
        )


def _count(slabs: Sequence[_Slab]) -> int:
    """Particles; of a time slice by its header, as its rows are cells and particles."""
    rows = sum(slab.rows for slab in slabs)
    if slabs[0].column == "rvint":
        return rows
    found = _needed(slabs[0], "NP")
    if not 0 < found < _MAX_PARTICLES or found > rows:
        raise SnapshotError(
            f"{slabs[0].path}: NP is {found:g} particles, expected 1 to {rows}, the rows of its "
            f"{len(slabs)} slabs; slabs are missing or damaged: copy them again"
        )
    return int(found)


def _box_size(slab: _Slab) -> float:
    """Side of the box in Mpc/h."""
    found = _fact(slab, "BoxSizeHMpc")
    if found is None and _fact(slab, "hMpc") == 1:
        found = _fact(slab, "BoxSize")
    if found is None or not 0 < found <= _MAX_BOX:
        raise SnapshotError(
            f"{slab.path}: BoxSizeHMpc is {found}, expected a side in Mpc/h; "
            "give input.box_size in the recipe"
        )
    return found


def _needed(slab: _Slab, name: str) -> float:
    found = _fact(slab, name)
    if found is None:
        raise SnapshotError(
            f"{slab.path}: its header has no {name}, expected it as Abacus writes it; "
            "the file is damaged: copy it again"
        )
    return found


def _fact(slab: _Slab, name: str) -> float | None:
    """A number of the header, None if it is not there."""
    text = slab.facts.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise SnapshotError(
            f"{slab.path}: {name} in its header is {str(text)[:80]!r}, expected a number; "
            "the file is damaged: copy it again"
        )
    return value


def _iter_rows(slab: _Slab, most: int) -> Iterator[np.ndarray]:
    """At most ``most`` rows of a slab at a time, ``(n, row_bytes)`` uint8."""
    carry, left = b"", slab.rows
    for piece in iter_block(slab.block):
        data = carry + piece
        n = min(len(data) // slab.row_bytes, left)
        rows = np.frombuffer(data, np.uint8, n * slab.row_bytes).reshape(n, slab.row_bytes)
        for begin in range(0, n, most):
            yield rows[begin : begin + most]
        left -= n
        carry = data[n * slab.row_bytes :] if left else b""  # frames do not end with rows


def _unpack_pack9(slab: _Slab, box_size: float, buffer: np.ndarray) -> Iterator[np.ndarray]:
    # imported here: numba is heavy
    from pipeline.readers.pack9 import BAD_CELL, NO_CELL, no_cell, unpack_pack9  # noqa: PLC0415

    cell = no_cell()
    faults = {NO_CELL: "a particle before any cell", BAD_CELL: "a cell outside of the box"}
    for rows in _iter_rows(slab, len(buffer)):
        n = unpack_pack9(rows, box_size, cell, buffer)
        if n < 0:
            raise SnapshotError(
                f"{slab.path}: its pack9 data have {faults[n]}, expected cells and their "
                "particles; the file is damaged: copy it again"
            )
        if n:
            yield buffer[:n]


def _unpack_rvint(slab: _Slab, box_size: float, buffer: np.ndarray) -> Iterator[np.ndarray]:
    from pipeline.readers.pack9 import unpack_rvint  # noqa: PLC0415

    for rows in _iter_rows(slab, len(buffer)):
        positions = buffer[: len(rows)]
        unpack_rvint(rows.view(slab.dtype), box_size, positions)
        yield positions
