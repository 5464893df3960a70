"""From a snapshot to the channels of a cube: deposited, mass checked, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.deposit import Scheme, deposit, new_grid
from pipeline.errors import SnapshotError
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


class Scaled(Protocol):
    """Has the grid's integer of one unit of the stored cube: a Scheme, or a Scale."""

    @property
    def unit(self) -> float:
        """The integer."""
        ...


@dataclass(frozen=True)
class Scale:
    """What the integers of a grid mean.

    Attributes
    ----------
    unit : float
        Integer of one unit of the stored cube: of one particle, or of the mean
        mass of one.
    total : int
        What the whole grid must add up to, exactly.
    particle_mass : float or None
        Mass of all particles before it was made an integer, 1e10 Msun/h.
    mass_unit : float or None
        Mass of the integer 1, 1e10 Msun/h.
    """

    unit: float
    total: int
    particle_mass: float | None = None
    mass_unit: float | None = None

    @property
    def deviation(self) -> float:
        """Relative difference of the integers from the masses; none for counts."""
        if self.particle_mass is None or self.mass_unit is None:
            return 0.0
        return self.total * self.mass_unit / self.particle_mass - 1


def count_scale(n_particles: int, scheme: Scheme) -> Scale:
    """Scale of a grid on which each particle counts 1."""
    return Scale(scheme.unit, n_particles * scheme.unit)


def deposit_snapshot(snapshot: Snapshot, n_grid: int, scheme: Scheme, origin: str) -> np.ndarray:
    """Grid of a whole snapshot, ``(n_grid, n_grid, n_grid)`` int64 in the scheme's unit.

    Raises
    ------
    SnapshotError
        If positions are not finite, or other numbers of particles arrive than
        the header promised.
    """
    grid = new_grid(n_grid)
    header = snapshot.header
    read = not_finite = 0
    for positions in snapshot.iter_positions():
        not_finite += deposit(positions, grid, header.box_size, scheme, origin)
        read += len(positions)
    check_read(header, read, not_finite)
    return grid


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


def measure(grid: np.ndarray, n_particles: int, scale: Scale) -> ChannelStatistics:
    """Mass check and statistics of a grid of integers.

    Raises
    ------
    SnapshotError
        If the grid does not hold exactly the mass of its particles.
    """
    # summed as Python integers a slab at a time: 2^31 particles of 2^32 fill 63 bits
    mass = sum(int(slab.sum()) for slab in grid)
    if mass != scale.total:
        raise SnapshotError(
            f"the cube holds {mass / scale.unit} particles, {scale.total / scale.unit} were read: "
            "mass assignment lost mass, please report this"
        )
    mean = n_particles / grid.size
    second = sum(float(np.square(slab / scale.unit).sum()) for slab in grid) / grid.size
    return ChannelStatistics(
        n_particles=n_particles,
        mass=float(n_particles),
        mass_deviation=scale.deviation,
        maximum=float(grid.max()) / scale.unit,
        variance=second / mean**2 - 1,
        particle_mass=scale.particle_mass,
    )


def store_channel(grid: np.ndarray, scale: Scaled, channel: np.ndarray) -> None:
    """Write a grid of integers into a channel of the cube, in the cube's unit and type.

    Parameters
    ----------
    grid : numpy.ndarray
        ``(n_grid, n_grid, n_grid)`` int64.
    scale : Scaled
        Its ``unit`` becomes 1.
    channel : numpy.ndarray
        View ``cube[..., c]`` of an integer or float32 cube.

    Raises
    ------
    SnapshotError
        If a cell is too full for the type.
    """
    if channel.dtype.kind == "f":
        np.divide(grid, scale.unit, out=channel, casting="unsafe")
        return
    check_fits(int(grid.max()), channel.dtype)
    channel[...] = grid


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
