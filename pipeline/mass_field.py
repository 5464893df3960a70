"""From a snapshot to the channel of a cube of masses: each particle deposits its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.deposit import Assigned, Deposit, Scheme
from pipeline.deposit.masses import TOTAL_BITS, bad_masses, mass_unit, quantise
from pipeline.errors import SnapshotError
from pipeline.field import ChannelStatistics, check_mass, check_read, statistics
from pipeline.read_ahead import ahead
from pipeline.snapshot import Snapshot, SnapshotHeader

SUM_TOLERANCE = 1e-9
"""Relative, of a float64 sum of many masses against one taken in another order."""


def fill_masses(
    snapshot: Snapshot, channel: np.ndarray, scheme: Scheme, origin: str, threads: int = 1
) -> ChannelStatistics:
    """Deposit the masses of a whole snapshot into a channel of the cube.

    Where the headers do not tell the mass of the chosen particles
    (``header.selected_mass``) the snapshot is read twice, first to add it up:
    the unit of mass has to be known before the first particle is deposited.

    Parameters
    ----------
    snapshot, scheme, origin, threads
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
    amounts = _Amounts(header, _mass_unit(snapshot))
    deposit = Deposit(
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
        # without mass there is no mean mass, and the check below says so
        assigned = deposit.write(channel, max(amounts.total, 1) / header.n_particles)
    amounts.check(assigned)
    return statistics(
        assigned,
        channel.size,
        amounts.total / header.n_particles,
        amounts.total * amounts.unit / amounts.particle_mass - 1,
        amounts.particle_mass,
    )


class _Amounts:
    """Masses of a stream made whole numbers of ``unit``, added up and checked."""

    def __init__(self, header: SnapshotHeader, unit: float) -> None:
        self.header, self.unit = header, unit
        self.bad = self.total = 0
        self.particle_mass = 0.0

    def of(
        self, chunks: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and amounts of each chunk."""
        for positions, masses in chunks:
            wrong = bad_masses(masses)
            self.bad += int(np.count_nonzero(wrong))
            numbers = _quantised(self.header, np.where(wrong, 0.0, masses), self.unit)
            self.total += int(numbers.sum())
            self.particle_mass += float(masses.sum())
            if self.total >= 1 << TOTAL_BITS:
                raise _changed(self.header, self.particle_mass)
            yield positions, numbers

    def check(self, assigned: Assigned) -> None:
        """Refuse what was read, if it is not what it should be."""
        _check_masses(self.header, assigned.n_particles, self.bad)
        check_read(self.header, assigned.n_particles, assigned.not_finite)
        _check_mass(self.header, self.total * self.unit, self.unit)
        check_mass(assigned.total, self.total, self.total / assigned.n_particles)


def _mass_unit(snapshot: Snapshot) -> float:
    header = snapshot.header
    mass = _sum_masses(snapshot) if header.selected_mass is None else header.selected_mass
    try:
        return mass_unit(mass, header.n_particles)
    except ValueError as error:
        raise SnapshotError(
            f"{header.name}: {error}; set grid.weight: count, or choose particles that have "
            "masses with input.particle_types in the recipe"
        ) from error


def _sum_masses(snapshot: Snapshot) -> float:
    """Mass of all chosen particles, by reading them."""
    read = bad = 0
    sums = []
    for _, masses in snapshot.iter_weighted():
        bad += int(np.count_nonzero(bad_masses(masses)))
        read += len(masses)
        sums.append(float(masses.sum()))
    _check_masses(snapshot.header, read, bad)
    return math.fsum(sums)


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
