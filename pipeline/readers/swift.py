"""SWIFT's HDF5 snapshots: single files, distributed ones, and virtual files over them.

Units are without 1/h: positions become Mpc/h by the ``h`` of the file.  The
attributes of a data set say whether it is comoving; physical positions are
divided by the scale factor.  Source: see :mod:`pipeline.readers.swift_header`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import SnapshotError
from pipeline.readers.gadget_header import assemble, check_complete, selected_types
from pipeline.readers.hdf5_chunks import aligned, iter_rows
from pipeline.readers.hdf5_safe import float_dataset, hdf5_file, number, subgroup
from pipeline.readers.multifile import PartedSnapshot
from pipeline.readers.reach import check_reach
from pipeline.readers.registry import register
from pipeline.readers.swift_header import (
    SwiftPart,
    is_swift,
    read_part,
    swift_parts,
    without_left_out,
)
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES, ReadOptions, SnapshotHeader

_MASS_NAMES = ("Masses", "DynamicalMasses")
"""Black holes have the latter: the mass that gravity sees."""

_MAX_MASSES_READ = 10**8
"""Particle masses are summed for the density check unless there are more than these."""


class SwiftSnapshot(PartedSnapshot):
    """An opened SWIFT snapshot."""

    def __init__(
        self,
        header: SnapshotHeader,
        parts: Sequence[SwiftPart],
        particle_types: Sequence[int],
        factor: float,
    ) -> None:
        super().__init__(header)
        self._parts = tuple(parts)
        self._types = selected_types(len(parts[0].counts), particle_types)
        self._factor = factor

    def iter_positions(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[np.ndarray]:
        """Positions of the selected particles; see :meth:`Snapshot.iter_positions`."""
        _check_chunk(chunk_particles)
        for part in self._parts:
            with hdf5_file(part.path) as file:
                for t in self._types:
                    if part.counts[t]:
                        dset = _positions(file, t, part)
                        yield from iter_rows(
                            dset, chunk_particles, self._scale(dset, part), part.path
                        )

    def iter_weighted(
        self, chunk_particles: int = DEFAULT_CHUNK_PARTICLES
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and masses; see :meth:`Snapshot.iter_weighted`."""
        _check_chunk(chunk_particles)
        for part in self._parts:
            with hdf5_file(part.path) as file:
                for t in self._types:
                    if part.counts[t]:
                        yield from self._weighted(file, t, part, chunk_particles)

    def _weighted(
        self, file: h5py.File, t: int, part: SwiftPart, chunk_particles: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        dset, masses = _positions(file, t, part), _masses(file, t, part)
        if masses is None:
            raise SnapshotError(
                f"{part.path}: has no PartType{t}/Masses, expected {part.counts[t]} masses; "
                "set grid.weight: count in the recipe, or have SWIFT write them"
            )
        unit = part.mass_unit * (self.header.h or 1.0)
        begin = 0
        for chunk in iter_rows(dset, chunk_particles, self._scale(dset, part), part.path):
            yield chunk, masses[begin : begin + len(chunk)].astype(np.float64) * unit
            begin += len(chunk)

    def _scale(self, dset: h5py.Dataset, part: SwiftPart) -> float:
        if not _is_physical(dset, part.path):
            return self._factor
        a = part.header.time or 1 / (1 + self.header.redshift)
        return self._factor / a


class SwiftReader:
    """Reader of SWIFT's snapshots."""

    name = "swift"

    def sniff(self, path: Path) -> bool:
        """Whether ``path`` is HDF5 with SWIFT's header or units."""
        return is_swift(path)

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files with particles of the snapshot that ``path`` is a part of, or shows."""
        return swift_parts(path)

    def open(self, files: Sequence[Path], options: ReadOptions) -> SwiftSnapshot:
        """Check headers and data sets of ``files`` and open the snapshot."""
        written = [read_part(path) for path in files]
        types = selected_types(len(written[0].counts), options.particle_types)
        parts = without_left_out(written, types)
        check_complete([part.header for part in parts])
        for part in parts:
            _check_data_sets(part, types)
        header, factor = assemble([part.header for part in parts], self.name, options, None)
        masses = _masses_by_type(parts, header.h)
        if masses is not None:
            whole = parts == written and not parts[0].subsampled
            header = replace(
                header,
                total_mass=sum(masses) if whole else None,
                selected_mass=sum(masses[t] for t in types),
            )
        snapshot = SwiftSnapshot(header, parts, options.particle_types, factor)
        check_reach(snapshot, options)
        return snapshot


register(SwiftReader())


def _check_chunk(chunk_particles: int) -> None:
    if chunk_particles < 1:
        raise ValueError(f"chunk_particles is {chunk_particles}, expected at least 1")


def _check_data_sets(part: SwiftPart, types: Sequence[int]) -> None:
    with hdf5_file(part.path) as file:
        for t in types:
            if part.counts[t]:
                _is_physical(_positions(file, t, part), part.path)


def _positions(file: h5py.File, t: int, part: SwiftPart) -> h5py.Dataset:
    group = subgroup(file, f"PartType{t}", part.path)
    shape = (part.counts[t], 3)
    found = None if group is None else float_dataset(group, "Coordinates", shape, part.path)
    if found is None:
        raise SnapshotError(
            f"{part.path}: has no PartType{t}/Coordinates, expected {part.counts[t]} positions by "
            "its header; have SWIFT write them, or copy the file again"
        )
    return found


def _masses(file: h5py.File, t: int, part: SwiftPart) -> h5py.Dataset | None:
    group = subgroup(file, f"PartType{t}", part.path)
    for name in _MASS_NAMES if group is not None else ():
        found = float_dataset(group, name, (part.counts[t],), part.path)
        if found is not None:
            _check_exponents(found, part.path, a_scale=(0.0,), unit="U_M exponent")
            return found
    return None


def _is_physical(positions: h5py.Dataset, path: Path) -> bool:
    """Whether positions are physical; without attributes they are comoving, as in all of SWIFT."""
    a_scale = _check_exponents(positions, path, a_scale=(0.0, 1.0), unit="U_L exponent")
    return a_scale == 0.0 or number(positions, "Value stored as physical", path) == 1.0


def _check_exponents(
    dset: h5py.Dataset, path: Path, a_scale: tuple[float, ...], unit: str
) -> float | None:
    allowed = {"a-scale exponent": a_scale, "h-scale exponent": (0.0,), unit: (1.0,)}
    found = {name: number(dset, name, path) for name in allowed}
    for name, values in allowed.items():
        if found[name] is not None and found[name] not in values:
            raise SnapshotError(
                f"{path}: {name!r} of {dset.name} is {found[name]}, expected "
                f"{' or '.join(f'{value:g}' for value in values)}; its unit is not known"
            )
    return found["a-scale exponent"]


def _masses_by_type(parts: Sequence[SwiftPart], h: float | None) -> list[float] | None:
    """Mass of all particles of each type, 1e10 Msun/h; None if it is not there, or much to read."""
    if h is None or sum(part.header.n_particles for part in parts) > _MAX_MASSES_READ:
        return None
    totals = [0.0] * len(parts[0].counts)
    for part in parts:
        with hdf5_file(part.path) as file:
            for t in (t for t, count in enumerate(part.counts) if count):
                masses = _masses(file, t, part)
                if masses is None:
                    return None
                totals[t] += _sum(masses) * part.mass_unit * h
    return totals


def _sum(masses: h5py.Dataset) -> float:
    step = aligned(DEFAULT_CHUNK_PARTICLES, masses)
    return sum(
        float(np.sum(masses[begin : begin + step], dtype=np.float64))
        for begin in range(0, len(masses), step)
    )
