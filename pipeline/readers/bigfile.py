"""MP-Gadget's and FastPM's snapshots: a folder of blocks in the format bigfile.

``PART_000/Header/attr-v2`` has the attributes, ``PART_000/1/Position`` the
positions of particle type 1.  The snapshot goes by the path of its
``Header/attr-v2``; its parts are that file and all files of the blocks of
positions and masses, of all types.

Lengths are comoving and with 1/h: in ``UnitLength_in_cm`` (MP-Gadget: kpc/h),
or Mpc/h in files of FastPM that do not say.

Sources: ``libgadget/petaio.c`` of https://github.com/MP-Gadget/MP-Gadget (``petaio_write_header``),
``libfastpmio/io.c`` of https://github.com/fastpm/fastpm (``write_snapshot``), and
:mod:`pipeline.readers.bigfile_block`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.bigfile_block import (
    ATTRIBUTES_NAME,
    HEADER_NAME,
    Block,
    iter_rows,
    read_attributes,
    read_block,
)
from pipeline.readers.gadget_header import PartHeader, assemble, selected_types
from pipeline.readers.reach import check_reach
from pipeline.readers.registry import register
from pipeline.readers.scaled import scaled
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES, ReadOptions, Snapshot, SnapshotHeader
from pipeline.units import CM_PER_MPC

N_TYPES = 6
_HEADER_FOLDER = "Header"
_POSITION, _MASS = "Position", "Mass"
_OF_FASTPM = "ScalingFactor"
_OF_GROUPS = "NumFOFGroupsTotal"

_UNIT_MASS_IN_G = 1.989e43
"""1e10 Msun as Gadget's manual rounds it."""

_SAME_MASS = 5e-3
_MAX_MASSES_READ = 10**8
"""Particle masses are summed for the density check unless there are more than these."""


@dataclass(frozen=True)
class _Type:
    """The particles of one type: their positions, and masses or the mass of each.

    ``mass`` is that of the header in the file's unit, 0 if there is none.
    """

    positions: Block
    masses: Block | None
    mass: float


class BigfileSnapshot(Snapshot):
    """An opened snapshot of MP-Gadget or FastPM."""

    def __init__(
        self, header: SnapshotHeader, types: Sequence[_Type], factor: float, mass_unit: float
    ) -> None:
        super().__init__(header)
        self._types = tuple(types)
        self._factor = factor
        self._mass_unit = mass_unit

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of the selected particles; see :meth:`Snapshot.iter_positions`."""
        _check_chunk(chunk_particles)
        for one in self._types:
            yield from scaled(iter_rows(one.positions, chunk_particles), self._factor)

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses; see :meth:`Snapshot.iter_weighted`."""
        _check_chunk(chunk_particles)
        for one in self._types:
            positions = scaled(iter_rows(one.positions, chunk_particles), self._factor)
            if one.masses is not None:
                masses = iter_rows(one.masses, chunk_particles)
                for chunk, mass in zip(positions, masses, strict=True):
                    yield chunk, mass[:, 0].astype(np.float64) * self._mass_unit
            elif one.mass:
                for chunk in positions:
                    yield chunk, np.full(len(chunk), one.mass * self._mass_unit)
            else:
                raise SnapshotError(
                    f"{one.positions.folder}: its particles have no Mass beside it and none in "
                    "MassTable, expected one of them; set grid.weight: count in the recipe"
                )


class BigfileReader:
    """Reader of bigfile snapshots."""

    name = "bigfile"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is ``Header/attr-v2`` of a folder with positions (and no halos)."""
        if (path.parent.name, path.name) != (_HEADER_FOLDER, ATTRIBUTES_NAME):
            return False
        try:
            if _OF_GROUPS in read_attributes(path):
                return False
        except SnapshotError:
            pass  # so that opening it tells what is wrong
        root = path.parent.parent
        return any((root / str(t) / _POSITION / HEADER_NAME).is_file() for t in range(N_TYPES))

    def parts(self, path: Path) -> tuple[Path, ...]:
        """``Header/attr-v2`` and all files of positions and masses of the folder it is in."""
        if (path.parent.name, path.name) != (_HEADER_FOLDER, ATTRIBUTES_NAME):
            raise SnapshotError(
                f"{path}: expected the file {_HEADER_FOLDER}/{ATTRIBUTES_NAME} of a folder like "
                "PART_000; name that one in input.snapshots"
            )
        blocks = _blocks(path.parent.parent, _read_header(path).counts)
        return (path, *(p for _, block in sorted(blocks.items()) for p in block.paths))

    def open(self, files: Sequence[Path], options: ReadOptions) -> BigfileSnapshot:
        """Check the attributes and blocks of the snapshot of ``files[0]`` and open it."""
        part = _read_header(files[0])
        blocks = _blocks(files[0].parent.parent, part.counts)
        _check_files(files, blocks)
        types = {
            t: _Type(blocks[t, _POSITION], blocks.get((t, _MASS)), part.mass_table[t])
            for t, count in enumerate(part.counts)
            if count and (t, _POSITION) in blocks
        }
        chosen = selected_types(N_TYPES, options.particle_types)
        _check_chosen(part, types, chosen)
        masses = _masses_by_type(part, types)
        total = None if masses is None else sum(masses.values())
        header, factor = assemble([part], self.name, options, total)
        header = replace(
            header,
            files=tuple(files),
            selected_mass=None if masses is None else sum(masses.get(t, 0.0) for t in chosen),
        )
        read = [types[t] for t in chosen if t in types]
        snapshot = BigfileSnapshot(header, read, factor, part.unit_mass)
        check_reach(snapshot, options)
        return snapshot


register(BigfileReader())


def _check_chunk(chunk_particles: int) -> None:
    if chunk_particles < 1:
        raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")


def _read_header(path: Path) -> PartHeader:
    attributes = read_attributes(path)
    table = _numbers(attributes, "MassTable", path)
    counts = _counts(attributes, path)
    unit_cm = _number(attributes, ("UnitLength_in_cm",), path)
    if not unit_cm and _OF_FASTPM in attributes:
        unit_cm = CM_PER_MPC
    mass_table = [0.0] * N_TYPES if table is None else [float(mass) for mass in table]
    mass_table[1] = mass_table[1] or _number(attributes, ("M0",), path) or 0.0
    return PartHeader(
        path=path,
        counts=counts,
        totals=counts,
        n_files=1,
        mass_table=tuple(mass_table),
        box_size=_number(attributes, ("BoxSize",), path) or 0.0,
        redshift=None,
        time=_number(attributes, ("Time", _OF_FASTPM), path),
        Omega_m=_number(attributes, ("Omega0", "OmegaM"), path),
        h=_number(attributes, ("HubbleParam",), path),
        unit_cm=unit_cm or None,
        unit_mass=_unit_mass(attributes, path),
    )


def _numbers(attributes: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray | None:
    """An attribute with a number for each type, None if it is not there."""
    values = attributes.get(name)
    if values is not None and len(values) != N_TYPES:
        raise SnapshotError(
            f"{path}: {name} is {values[:10].tolist()}, expected {N_TYPES} numbers; "
            "the file is damaged: copy it again"
        )
    return values


def _number(attributes: dict[str, np.ndarray], names: Sequence[str], path: Path) -> float | None:
    """The first of the attributes ``names`` that is there, as one number."""
    for name in names:
        values = attributes.get(name)
        if values is None:
            continue
        if any(value != values[0] for value in values[1:]) or not len(values):
            raise SnapshotError(
                f"{path}: {name} is {values[:10].tolist()}, expected one number (or equal ones)"
            )
        return float(values[0])
    return None


def _counts(attributes: dict[str, np.ndarray], path: Path) -> tuple[int, ...]:
    """Particles of each type; FastPM's first files leave it to the block of type 1."""
    values = _numbers(attributes, "TotNumPart", path)
    if values is None:
        positions = read_block(path.parent.parent / "1" / _POSITION)
        return (0, 0 if positions is None else positions.rows, 0, 0, 0, 0)
    if values.dtype.kind not in "iu" or (values < 0).any():
        raise SnapshotError(
            f"{path}: TotNumPart is {values.tolist()}, expected {N_TYPES} whole numbers; "
            "the file is damaged: copy it again"
        )
    return tuple(values.tolist())


def _unit_mass(attributes: dict[str, np.ndarray], path: Path) -> float:
    """Unit of mass in 1e10 Msun/h."""
    grams = _number(attributes, ("UnitMass_in_g",), path)
    if not grams or abs(grams / _UNIT_MASS_IN_G - 1) <= _SAME_MASS:
        return 1.0
    if not (math.isfinite(grams) and grams > 0):
        raise SnapshotError(f"{path}: UnitMass_in_g is {grams}, expected a positive number")
    return grams / _UNIT_MASS_IN_G


def _blocks(root: Path, counts: Sequence[int]) -> dict[tuple[int, str], Block]:
    """Blocks of positions and masses of all types that have particles, checked."""
    blocks = {}
    for t, count in enumerate(counts):
        for name, width in ((_MASS, 1), (_POSITION, 3)) if count else ():
            block = read_block(root / str(t) / name)
            if block is not None:
                _check_shape(block, count, width)
                blocks[t, name] = block
    return blocks


def _check_shape(block: Block, rows: int, width: int) -> None:
    if (block.rows, block.width) != (rows, width):
        raise SnapshotError(
            f"{block.folder}: has {block.rows} rows of {block.width}, expected {rows} (TotNumPart) "
            f"of {width}; the snapshot is incomplete or damaged: copy it again"
        )
    if block.dtype.kind != "f" or block.dtype.itemsize not in (4, 8):
        raise SnapshotError(f"{block.folder}: is {block.dtype}, expected float32 or float64")


def _check_files(files: Sequence[Path], blocks: dict[tuple[int, str], Block]) -> None:
    wanted = {path for block in blocks.values() for path in block.paths}
    missing = sorted(wanted - set(files))
    if len(files) > 1 and missing:
        raise SnapshotError(
            f"{files[0]}: {len(missing)} of its files are not among those given, the first is "
            f"{missing[0]}; give {_HEADER_FOLDER}/{ATTRIBUTES_NAME} alone"
        )


def _check_chosen(part: PartHeader, types: dict[int, _Type], chosen: Sequence[int]) -> None:
    for t in chosen:
        if part.counts[t] and t not in types:
            raise SnapshotError(
                f"{part.path}: has no block {t}/{_POSITION}, expected {part.counts[t]} positions "
                "by TotNumPart; the snapshot is incomplete: copy it again"
            )


def _masses_by_type(part: PartHeader, types: dict[int, _Type]) -> dict[int, float] | None:
    """Mass of each type, 1e10 Msun/h; None if it is not recorded or much to read."""
    if sum(one.positions.rows for one in types.values() if one.masses) > _MAX_MASSES_READ:
        return None
    found = {}
    for t, count in enumerate(part.counts):
        one = types.get(t)
        if not count:
            continue
        if one is not None and one.masses is not None:
            chunks = iter_rows(one.masses, DEFAULT_CHUNK_PARTICLES)
            found[t] = sum(float(c.sum(dtype=np.float64)) for c in chunks) * part.unit_mass
        elif part.mass_table[t]:
            found[t] = count * part.mass_table[t] * part.unit_mass
        else:
            return None
    return found
