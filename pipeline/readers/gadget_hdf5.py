"""HDF5 snapshots of Gadget's family: Gadget-2/3/4, AREPO, Illustris, CAMELS, Quijote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
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
from pipeline.readers.hdf5_chunks import aligned, iter_rows
from pipeline.readers.hdf5_safe import (
    child,
    float_dataset,
    hdf5_file,
    number,
    numbers,
    subgroup,
)
from pipeline.readers.multifile import PartedSnapshot, find_parts
from pipeline.readers.reach import check_reach
from pipeline.readers.registry import register
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES, ReadOptions, SnapshotHeader

_COUNTS = "NumPart_ThisFile"
_GROUPS = ("Header", "Parameters", "Cosmology", "Units")
"""Where cosmology and units may be, in the order in which they are believed."""

_SWIFT_UNIT = "Unit length in cgs (U_L)"
_OMEGA_M_NAMES = ("Omega0", "Omega_m", "OmegaMatter")
_H_NAMES = ("HubbleParam", "h")
_UNIT_LENGTH_NAMES = ("UnitLength_in_cm", "UnitLength_In_CGS")
_UNIT_MASS_NAMES = ("UnitMass_in_g", "UnitMass_In_CGS")

_MAX_TYPES = 8
_UNIT_MASS_IN_G = 1.989e43
"""1e10 Msun as Gadget's manual rounds it."""

_SAME_MASS = 5e-3
"""Relative tolerance of the unit of mass: codes round the solar mass differently."""

_MAX_MASSES_READ = 10**8
"""Particle masses are summed for the density check unless there are more than these."""


class GadgetHdf5Snapshot(PartedSnapshot):
    """An opened HDF5 snapshot of Gadget's family."""

    def __init__(
        self,
        header: SnapshotHeader,
        parts: Sequence[PartHeader],
        particle_types: Sequence[int],
        factor: float,
        mass_factor: float = 1.0,
    ) -> None:
        super().__init__(header)
        self._parts = tuple(parts)
        self._types = selected_types(len(parts[0].counts), particle_types)
        self._factor = factor
        self._mass_factor = mass_factor

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of the selected particles; see :meth:`Snapshot.iter_positions`."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        for part in self._parts:
            for rows in _iter_rows(part, self._types, chunk_particles, self._factor):
                yield rows.positions

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses: the mass table's, or ``Masses`` where that is 0."""
        if chunk_particles < 1:
            raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")
        for part in self._parts:
            for rows in _iter_rows(part, self._types, chunk_particles, self._factor):
                yield rows.positions, rows.masses(part) * (part.unit_mass * self._mass_factor)


class GadgetHdf5Reader:
    """Reader of Gadget-4-like HDF5 snapshots."""

    name = "gadget_hdf5"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is HDF5 with Gadget's header and not SWIFT's, or damaged HDF5."""
        try:
            if not h5py.is_hdf5(path):
                return False
            with hdf5_file(path) as file:
                header = subgroup(file, "Header", path)
                return (
                    header is not None
                    and _COUNTS in header.attrs
                    and not _is_swift(file, header, path)
                )
        except SnapshotError:
            return True  # so that opening it tells what is wrong
        except OSError:
            return False

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files of the snapshot that ``path`` is a part of, in order."""
        if _is_alone(path):
            return (path,)
        header = _read_header(path)
        return find_parts(
            path, header.n_files, sum(header.totals), lambda part: _read_header(part).n_particles
        )

    def open(self, files: Sequence[Path], options: ReadOptions) -> GadgetHdf5Snapshot:
        """Check headers and data sets of ``files`` and open the snapshot."""
        parts = [_read_header(path) for path in files]
        check_complete(parts)
        types = selected_types(len(parts[0].counts), options.particle_types)
        for part in parts:
            _check_positions(part, types)
        by_type = _type_masses(parts)
        mass = _sum_known(by_type)
        header, factor = assemble(
            parts, self.name, options, mass, _sum_known([by_type[t] for t in types])
        )
        snapshot = GadgetHdf5Snapshot(
            header, parts, options.particle_types, factor, mass_factor(header.total_mass, mass)
        )
        check_reach(snapshot, options)
        return snapshot


register(GadgetHdf5Reader())


def _is_swift(file: h5py.File, header: h5py.Group, path: Path) -> bool:
    """SWIFT has the same groups, but its lengths are without 1/h."""
    code = np.ravel(header.attrs.get("Code", "")).tolist()
    if code and str(code[0]).removeprefix("b'").startswith("SWIFT"):
        return True
    units = subgroup(file, "Units", path)
    return "Cosmology" in file and units is not None and _SWIFT_UNIT in units.attrs


def _read_header(path: Path) -> PartHeader:
    with hdf5_file(path) as file:
        header = subgroup(file, "Header", path)
        if header is None:
            raise SnapshotError(f"{path}: has no group Header, expected one as Gadget writes it")
        counts = tuple(_words(header, _COUNTS, path).tolist())
        totals, low_words_only = _totals(header, counts, path)
        table = numbers(header, "MassTable", path)
        mass_table = (0.0,) * len(counts) if table is None else tuple(map(float, table))
        if len(mass_table) != len(counts):
            raise SnapshotError(
                f"{path}: MassTable has {len(mass_table)} types, expected {len(counts)} as in "
                f"{_COUNTS}; the header is damaged"
            )
        unit_cm, unit_per_h = _unit_length(file, counts, path)
        return PartHeader(
            path=path,
            counts=counts,
            totals=totals,
            low_words_only=low_words_only,
            n_files=_n_files(header, path),
            mass_table=mass_table,
            box_size=number(header, "BoxSize", path) or 0.0,
            redshift=number(header, "Redshift", path),
            time=number(header, "Time", path),
            Omega_m=_anywhere(file, _OMEGA_M_NAMES, path),
            h=_anywhere(file, _H_NAMES, path),
            unit_cm=unit_cm,
            unit_per_h=unit_per_h,
            unit_mass=_unit_mass(file, path),
        )


def _words(header: h5py.Group, name: str, path: Path) -> np.ndarray:
    values = numbers(header, name, path)
    if values is None or values.dtype.kind not in "iu" or not 1 <= values.size <= _MAX_TYPES:
        raise SnapshotError(
            f"{path}: {name} is {None if values is None else values.tolist()}, expected 1 to "
            f"{_MAX_TYPES} whole numbers; the header is damaged"
        )
    if values.dtype == np.int32:  # codes with a signed word mean the unsigned one
        values = values.view(np.uint32)
    if (values < 0).any():
        raise SnapshotError(
            f"{path}: {name} is {values.tolist()}, expected no negative numbers; "
            "the header is damaged"
        )
    return values


def _totals(
    header: h5py.Group, counts: tuple[int, ...], path: Path
) -> tuple[tuple[int, ...], bool]:
    """Totals, and whether only their low words are certain (32-bit header)."""
    words = _words(header, "NumPart_Total", path)
    if len(words) != len(counts):
        raise SnapshotError(
            f"{path}: NumPart_Total has {len(words)} types, expected {len(counts)} as in "
            f"{_COUNTS}; the header is damaged"
        )
    totals = tuple(words.tolist())
    low_words_only = words.dtype.itemsize <= 4
    if low_words_only and "NumPart_Total_HighWord" in header.attrs:
        high = _words(header, "NumPart_Total_HighWord", path).tolist()
        if len(high) == len(totals):
            totals = with_high_words(totals, high)
    return totals, low_words_only


def _is_alone(path: Path) -> bool:
    """Whether the snapshot has one file: without reading the whole header, as ``open`` does."""
    with hdf5_file(path) as file:
        header = subgroup(file, "Header", path)
        return header is not None and _n_files(header, path) == 1


def _n_files(header: h5py.Group, path: Path) -> int:
    found = number(header, "NumFilesPerSnapshot", path)
    if found is None or found == 0:  # initial-condition generators leave it out or 0
        return 1
    if found < 0 or not found.is_integer():
        raise SnapshotError(f"{path}: NumFilesPerSnapshot is {found}, expected a whole number")
    return int(found)


def _anywhere(file: h5py.File, names: Sequence[str], path: Path) -> float | None:
    """First of the attributes ``names`` that is set, in any of the groups that may hold it."""
    for group_name in _GROUPS:
        group = subgroup(file, group_name, path)
        for name in names if group is not None else ():
            value = number(group, name, path)
            if value:  # 0 means not set
                return value
    return None


def _unit_mass(file: h5py.File, path: Path) -> float:
    """Unit of mass in 1e10 Msun/h."""
    grams = _anywhere(file, _UNIT_MASS_NAMES, path)
    if grams is None or abs(grams / _UNIT_MASS_IN_G - 1) <= _SAME_MASS:
        return 1.0
    return grams / _UNIT_MASS_IN_G


def _unit_length(file: h5py.File, counts: tuple[int, ...], path: Path) -> tuple[float | None, bool]:
    """Unit of length in cm (or None) and whether it means cm/h."""
    stated = _anywhere(file, _UNIT_LENGTH_NAMES, path)
    if stated is not None:
        return stated, True
    for t, count in enumerate(counts):
        coordinates = _coordinates(file, t, count, path) if count else None
        cm = None if coordinates is None else number(coordinates, "to_cgs", path)
        if cm:  # AREPO writes 0 for "no unit"
            return cm, number(coordinates, "h_scaling", path) == -1
    return None, True


def _coordinates(file: h5py.File, t: int, count: int, path: Path) -> h5py.Dataset | None:
    group = subgroup(file, f"PartType{t}", path)
    return None if group is None else float_dataset(group, "Coordinates", (count, 3), path)


def _check_positions(part: PartHeader, types: Sequence[int]) -> None:
    with hdf5_file(part.path) as file:
        for t in types:
            if part.counts[t]:
                _needed_coordinates(file, t, part)


def _needed_coordinates(file: h5py.File, t: int, part: PartHeader) -> h5py.Dataset:
    found = _coordinates(file, t, part.counts[t], part.path)
    if found is None:
        raise SnapshotError(
            f"{part.path}: has no PartType{t}/Coordinates, expected {part.counts[t]} positions by "
            "its header; the file is damaged: copy it again"
        )
    return found


@dataclass(frozen=True)
class _Rows:
    """Some particles of one type in an open file, from the row ``begin`` on."""

    file: h5py.File
    type: int
    begin: int
    positions: np.ndarray

    def masses(self, part: PartHeader) -> np.ndarray:
        """``(n,)`` float64 masses in the file's unit."""
        n, each = len(self.positions), part.mass_table[self.type]
        if each:
            return np.full(n, each)
        dset = _masses(self.file, self.type, part)
        if dset is None:
            raise SnapshotError(
                f"{part.path}: has no PartType{self.type}/Masses and MassTable is 0, expected the "
                f"masses of {part.counts[self.type]} particles; set grid.weight: count, or choose "
                "others with input.particle_types"
            )
        read: np.ndarray = dset[self.begin : self.begin + n].astype(np.float64)
        return read


def _iter_rows(
    part: PartHeader, types: Sequence[int], chunk_particles: int, factor: float
) -> Iterator[_Rows]:
    """Particles of the chosen types of one file, positions multiplied by ``factor``."""
    with hdf5_file(part.path) as file:
        for t in types:
            if not part.counts[t]:
                continue
            dset, begin = _needed_coordinates(file, t, part), 0
            for positions in iter_rows(dset, chunk_particles, factor, part.path):
                yield _Rows(file, t, begin, positions)
                begin += len(positions)


def _type_masses(parts: Sequence[PartHeader]) -> list[float | None]:
    """Mass of each type in all parts, 1e10 Msun/h; None where it is not cheap to know."""
    own = sum(n for part in parts for t, n in enumerate(part.counts) if not part.mass_table[t])
    return [_type_mass(parts, t, own <= _MAX_MASSES_READ) for t in range(len(parts[0].counts))]


def _type_mass(parts: Sequence[PartHeader], t: int, read: bool) -> float | None:
    masses: list[float | None] = []
    for part in parts:
        if part.mass_table[t] or not part.counts[t]:
            masses.append(table_mass([part], [t]))
        else:
            masses.append(_sum_masses(part, t) if read else None)
    return _sum_known(masses)


def _sum_known(masses: Sequence[float | None]) -> float | None:
    """Sum of masses; None if one of them is not known."""
    known = [mass for mass in masses if mass is not None]
    return sum(known) if len(known) == len(masses) else None


def _masses(file: h5py.File, t: int, part: PartHeader) -> h5py.Dataset | None:
    group = child(file, f"PartType{t}", part.path)
    if not isinstance(group, h5py.Group):
        return None
    return float_dataset(group, "Masses", (part.counts[t],), part.path)


def _sum_masses(part: PartHeader, t: int) -> float | None:
    """Sum of the particle masses of one type in one file, 1e10 Msun/h."""
    with hdf5_file(part.path) as file:
        dset = _masses(file, t, part)
        if dset is None:
            return None
        step = aligned(DEFAULT_CHUNK_PARTICLES, dset)
        total, bad = 0.0, 0
        for begin in range(0, len(dset), step):
            masses = dset[begin : begin + step]
            bad += int(np.count_nonzero(~((masses >= 0) & (masses < np.inf))))
            total += float(np.sum(masses, dtype=np.float64))
        if bad:
            raise SnapshotError(
                f"{part.path}: {bad} of {len(dset)} masses in PartType{t}/Masses are NaN, infinite "
                "or negative, expected none; the file is damaged: copy or write it again"
            )
    return total * part.unit_mass
