"""From a snapshot to a channel of a cube: deposited, mass checked, measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.deposit import CPU, Assigned, Scheme, assign
from pipeline.errors import SnapshotError
from pipeline.read_ahead import ahead
from pipeline.snapshot import Snapshot, SnapshotHeader


@dataclass(frozen=True)
class ChannelStatistics:
    """What is recorded of one channel.

    Attributes
    ----------
    n_particles : int
        Particles deposited; of a ready grid of counts its sum, of densities 0.
    mass : float
        Sum of the channel's cells, in the unit in which they are stored.
    mass_deviation : float
        Relative difference of the mass on the grid, before rounding to the
        stored type, from that of the particles (of a ready grid of densities:
        of the mean from 1).
    maximum : float
        Largest cell, in the stored unit.
    variance : float
        Of the overdensity ``cell / mean - 1``.
    particle_mass : float or None
        Mass of all particles, 1e10 Msun/h, where it is what was deposited.
    """

    n_particles: int
    mass: float
    mass_deviation: float
    maximum: float
    variance: float
    particle_mass: float | None = None


def fill_counts(
    snapshot: Snapshot,
    channel: np.ndarray,
    scheme: Scheme,
    origin: str,
    threads: int = 1,
    *,
    backend: str = CPU,
) -> ChannelStatistics:
    """Deposit a whole snapshot, each particle counting 1, into a channel of the cube.

    Parameters
    ----------
    snapshot : Snapshot
    channel : numpy.ndarray
        View ``cube[..., c]``, ``(n_grid, n_grid, n_grid)``, of floats, or, for
        NGP, of integers.
    scheme : Scheme
    origin : {'cell', 'node'}
        See ``deposit.assign``.
    threads : int
        Threads that deposit; reading goes on beside them.
    backend : str
        What deposits, see ``deposit.assign``.

    Raises
    ------
    SnapshotError
        If positions are not finite, other numbers of particles arrive than
        the header promised, mass was lost, or a cell is too full for the type.
    """
    header = snapshot.header
    with ahead(snapshot.iter_positions()) as chunks:
        assigned = assign(
            chunks,
            channel,
            header.box_size,
            scheme,
            origin=origin,
            n_particles=header.n_particles,
            threads=threads,
            backend=backend,
        )
    return counted(header, assigned, scheme, channel.size, channel.dtype)


def counted(
    header: SnapshotHeader, assigned: Assigned, scheme: Scheme, n_cells: int, dtype: np.dtype
) -> ChannelStatistics:
    """Check and measure a deposit of particles that each count 1, into cells of ``dtype``.

    Raises
    ------
    SnapshotError
        As :func:`fill_counts`.
    """
    check_read(header, assigned.n_particles, assigned.not_finite)
    check_mass(assigned.total, header.n_particles * scheme.unit, scheme.unit)
    if dtype.kind in "iu":
        check_fits(assigned.largest, dtype)
    return statistics(assigned, n_cells, scheme.unit)


def statistics(
    assigned: Assigned,
    n_cells: int,
    unit: float,
    mass_deviation: float = 0.0,
    particle_mass: float | None = None,
) -> ChannelStatistics:
    """What is recorded of a deposit; ``unit`` whole units are one unit of the cube."""
    mean = assigned.n_particles / n_cells
    return ChannelStatistics(
        n_particles=assigned.n_particles,
        mass=float(assigned.n_particles),
        mass_deviation=mass_deviation,
        maximum=assigned.largest / unit,
        variance=assigned.second / n_cells / mean**2 - 1,
        particle_mass=particle_mass,
    )


def check_read(header: SnapshotHeader, read: int, not_finite: int) -> None:
    """Refuse positions that are not finite, and another number than the header's.

    Raises
    ------
    SnapshotError
        With the counts.
    """
    if not_finite:
        raise SnapshotError(
            f"{header.name}: {not_finite} of {read} positions are NaN or infinite, expected "
            "none; the snapshot is damaged, write it again"
        )
    if read != header.n_particles:
        raise SnapshotError(
            f"{header.name}: {read} particles were read, the header promises {header.n_particles}"
        )


def check_mass(found: int, expected: int, unit: float) -> None:
    """Refuse a grid that does not hold exactly the mass of its particles.

    Raises
    ------
    SnapshotError
        With both, in units of one particle.
    """
    if found != expected:
        raise SnapshotError(
            f"the cube holds {found / unit} particles, {expected / unit} were read: "
            "mass assignment lost mass, please report this"
        )


def check_fits(largest: int, dtype: np.dtype) -> None:
    """Refuse counts that the integers of the cube cannot hold.

    Raises
    ------
    SnapshotError
        If ``largest`` is too many particles for ``dtype``.
    """
    limit = int(np.iinfo(dtype).max)
    if largest > limit:
        raise SnapshotError(
            f"a cell holds {largest} particles, more than {dtype} can ({limit}); "
            "set output.dtype: uint32 (zarr) or raise grid.n_grid in the recipe"
        )
