"""From a snapshot to the channel of a cube of masses: each particle deposits its own."""

from __future__ import annotations

import math

import numpy as np

from pipeline.deposit import Scheme, deposit_weighted, new_grid
from pipeline.deposit.masses import TOTAL_BITS, bad_masses, mass_unit, quantise
from pipeline.errors import SnapshotError
from pipeline.field import Scale, check_read
from pipeline.snapshot import Snapshot, SnapshotHeader

SUM_TOLERANCE = 1e-9
"""Relative, of a float64 sum of many masses against one taken in another order."""


def deposit_masses(
    snapshot: Snapshot, n_grid: int, scheme: Scheme, origin: str
) -> tuple[np.ndarray, Scale]:
    """Grid of the masses of a whole snapshot.

    Where the headers do not tell the mass of the chosen particles
    (``header.selected_mass``) the snapshot is read twice, first to add it up:
    the unit of mass has to be known before the first particle is deposited.

    Returns
    -------
    grid : numpy.ndarray
        ``(n_grid, n_grid, n_grid)`` int64 in units of mass.
    scale : Scale
        In units of the mean mass of a particle.

    Raises
    ------
    SnapshotError
        If masses are negative, NaN or all 0, or add up to another mass than
        the header's; and as :func:`deposit_snapshot`.
    """
    header, grid = snapshot.header, new_grid(n_grid)
    unit = _mass_unit(snapshot)
    read = not_finite = bad = total = 0
    particle_mass = 0.0
    for positions, masses in snapshot.iter_weighted():
        wrong = bad_masses(masses)
        bad += int(np.count_nonzero(wrong))
        amounts = _quantised(header, np.where(wrong, 0.0, masses), unit)
        not_finite += deposit_weighted(
            positions, amounts, grid, header.box_size, scheme, origin=origin
        )
        read += len(positions)
        total += int(amounts.sum())
        particle_mass += float(masses.sum())
        if total >= 1 << TOTAL_BITS:
            raise _changed(header, particle_mass)
    _check_masses(header, read, bad)
    check_read(header, read, not_finite)
    _check_mass(header, total * unit, unit)
    return grid, Scale(total / header.n_particles, total, particle_mass, unit)


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
