"""From a snapshot to the channel of a cube of masses: each particle deposits its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.deposit import CPU, Assigned, Scheme, get_backend
from pipeline.deposit.masses import TOTAL_BITS, bad_masses, mass_unit, quantise
from pipeline.errors import SnapshotError
from pipeline.field import ChannelStatistics, check_mass, check_read, statistics
from pipeline.read_ahead import ahead
from pipeline.snapshot import Snapshot, SnapshotHeader

SUM_TOLERANCE = 1e-9
"""Relative, of a float64 sum of many masses against one taken in another order."""


def fill_masses(
    snapshot: Snapshot,
    channel: np.ndarray,
    scheme: Scheme,
    origin: str,
    threads: int = 1,
    *,
    backend: str = CPU,
) -> ChannelStatistics:
    """Deposit the masses of a whole snapshot into a channel of the cube.

    Where the headers do not tell the mass of the chosen particles
    (``header.selected_mass``) the snapshot is read twice, first to add it up:
    the unit of mass has to be known before the first particle is deposited.

    Parameters
    ----------
    snapshot, scheme, origin, threads, backend
        As for ``field.fill_counts``.
    channel : numpy.ndarray
        View ``cube[..., c]`` of floats; takes units of the mean mass of a particle.

    Raises
    ------
    SnapshotError
        If masses are negative, NaN or all 0, or add up to another mass than
        the header's; and as ``fill_counts``.
    """
    header = snapshot.header
    amounts = Amounts(header, unit_of_mass(header, lambda: read_masses(snapshot)))
    deposit = get_backend(backend)(
        channel.shape[0],
        header.box_size,
        scheme,
        origin=origin,
        weighted=True,
        n_particles=header.n_particles,
        threads=threads,
    )
    with ahead(snapshot.iter_weighted()) as chunks, deposit.running():
        for positions, numbers in amounts.of(chunks):
            deposit.add(positions, numbers)
        assigned = deposit.write(channel, amounts.mean)
    return amounts.measured(assigned, channel.size)


@dataclass(frozen=True)
class MassSums:
    """Masses of some particles.

    Attributes
    ----------
    read, bad : int
        Particles, and those whose mass is NaN, infinite or negative.
    total : int
        Mass in units.
    by_chunk : tuple of float
        Mass of each chunk, 1e10 Msun/h.
    """

    read: int = 0
    bad: int = 0
    total: int = 0
    by_chunk: tuple[float, ...] = ()


class Amounts:
    """Masses of a stream made whole numbers of ``unit``, added up and checked."""

    def __init__(self, header: SnapshotHeader, unit: float) -> None:
        self.header, self.unit = header, unit
        self.bad = self.total = 0
        self.by_chunk: list[float] = []
        self.particle_mass = 0.0

    @property
    def mean(self) -> float:
        """Mean mass of a particle in units; what becomes 1 in a grid."""
        # without mass there is no mean mass, and measured() says so
        return max(self.total, 1) / self.header.n_particles

    def of(
        self, chunks: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and amounts of each chunk."""
        for positions, masses in chunks:
            wrong = bad_masses(masses)
            self.bad += int(np.count_nonzero(wrong))
            numbers = _quantised(self.header, np.where(wrong, 0.0, masses), self.unit)
            self._count(int(numbers.sum()), [float(masses.sum())])
            yield positions, numbers

    def add(self, sums: MassSums) -> None:
        """Count particles that another stream has read."""
        self.bad += sums.bad
        self._count(sums.total, sums.by_chunk)

    def _count(self, total: int, by_chunk: Sequence[float]) -> None:
        self.total += total
        self.by_chunk += by_chunk
        for mass in by_chunk:  # one after the other: another order has other bits
            self.particle_mass += mass
        if self.total >= 1 << TOTAL_BITS:
            raise _changed(self.header, self.particle_mass)

    def sums(self, read: int) -> MassSums:
        """What was counted of ``read`` particles."""
        return MassSums(read, self.bad, self.total, tuple(self.by_chunk))

    def measured(self, assigned: Assigned, n_cells: int) -> ChannelStatistics:
        """What is recorded of the deposit of all particles, if it is as it should be.

        Raises
        ------
        SnapshotError
            As :func:`fill_masses`.
        """
        self._check(assigned)
        return statistics(
            assigned,
            n_cells,
            self.total / self.header.n_particles,
            self.total * self.unit / self.particle_mass - 1,
            self.particle_mass,
        )

    def _check(self, assigned: Assigned) -> None:
        """Refuse what was read, if it is not what it should be."""
        _check_masses(self.header, assigned.n_particles, self.bad)
        check_read(self.header, assigned.n_particles, assigned.not_finite)
        _check_mass(self.header, self.total * self.unit, self.unit)
        check_mass(assigned.total, self.total, self.total / assigned.n_particles)


def unit_of_mass(header: SnapshotHeader, read: Callable[[], MassSums]) -> float:
    """Unit of mass, by the header's mass, or where it does not tell by reading all masses.

    Raises
    ------
    SnapshotError
        If masses are negative, NaN or all 0.
    """
    mass = header.selected_mass
    if mass is None:
        sums = read()
        _check_masses(header, sums.read, sums.bad)
        mass = math.fsum(sums.by_chunk)
    try:
        return mass_unit(mass, header.n_particles)
    except ValueError as error:
        raise SnapshotError(
            f"{header.name}: {error}; set grid.weight: count, or choose particles that have "
            "masses with input.particle_types in the recipe"
        ) from error


def read_masses(snapshot: Snapshot) -> MassSums:
    """Masses of all chosen particles, read and added up; ``total`` is not known yet."""
    read = bad = 0
    by_chunk = []
    for _, masses in snapshot.iter_weighted():
        bad += int(np.count_nonzero(bad_masses(masses)))
        read += len(masses)
        by_chunk.append(float(masses.sum()))
    return MassSums(read, bad, 0, tuple(by_chunk))


def _quantised(header: SnapshotHeader, masses: np.ndarray, unit: float) -> np.ndarray:
    try:
        return quantise(masses, unit)
    except ValueError as error:
        raise _changed(header, float(masses.sum())) from error


def _changed(header: SnapshotHeader, found: float) -> SnapshotError:
    return SnapshotError(
        f"{header.name}: particles of {found:g} x 1e10 Msun/h or more were read, expected "
        f"{header.selected_mass or 0:g}; the file is damaged or was changed: copy it again"
    )


def _check_masses(header: SnapshotHeader, read: int, bad: int) -> None:
    if bad:
        raise SnapshotError(
            f"{header.name}: {bad} of {read} masses are NaN, infinite or negative, expected none; "
            "the snapshot is damaged, write it again, or set grid.weight: count"
        )


def _check_mass(header: SnapshotHeader, found: float, unit: float) -> None:
    """Compare with the header's mass, where it has one, within the rounding to units."""
    expected = header.selected_mass
    if expected is None:
        return
    if abs(found - expected) > header.n_particles * unit / 2 + SUM_TOLERANCE * expected:
        raise SnapshotError(
            f"{header.name}: particles of {found:.9g} x 1e10 Msun/h were read, expected "
            f"{expected:.9g} by the header; the file is damaged or was changed: copy it again"
        )
