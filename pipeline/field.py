"""From a snapshot to the channels of a cube: deposited, mass checked, measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.deposit import Scheme, deposit, new_grid
from pipeline.errors import SnapshotError
from pipeline.snapshot import Snapshot


@dataclass(frozen=True)
class ChannelStatistics:
    """What is recorded of one channel.

    Attributes
    ----------
    n_particles : int
        Particles deposited.
    mass_deviation : float
        (mass on the grid - n_particles) / n_particles, before rounding to the
        stored type; 0 unless something is broken.
    maximum : float
        Largest cell, particles.
    variance : float
        Of the overdensity ``cell / mean - 1``.
    """

    n_particles: int
    mass_deviation: float
    maximum: float
    variance: float


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
    if not_finite:
        raise SnapshotError(
            f"{header.name}: {not_finite} of {read} positions are NaN or infinite, expected "
            "none; the snapshot is damaged, write it again"
        )
    if read != header.n_particles:
        raise SnapshotError(
            f"{header.name}: {read} particles were read, the header promises {header.n_particles}"
        )
    return grid


def measure(grid: np.ndarray, n_particles: int, scheme: Scheme) -> ChannelStatistics:
    """Mass check and statistics of a grid in the scheme's unit.

    Raises
    ------
    SnapshotError
        If the grid does not hold exactly the mass of its particles.
    """
    # summed as Python integers a slab at a time: 2^31 particles of 2^32 fill 63 bits
    mass = sum(int(slab.sum()) for slab in grid)
    if mass != n_particles * scheme.unit:
        raise SnapshotError(
            f"the cube holds {mass / scheme.unit} particles, {n_particles} were read: "
            "mass assignment lost mass, please report this"
        )
    mean = n_particles / grid.size
    second = sum(float(np.square(slab / scheme.unit).sum()) for slab in grid) / grid.size
    return ChannelStatistics(
        n_particles=n_particles,
        mass_deviation=mass / scheme.unit / n_particles - 1,
        maximum=float(grid.max()) / scheme.unit,
        variance=second / mean**2 - 1,
    )


def store_channel(grid: np.ndarray, scheme: Scheme, channel: np.ndarray) -> None:
    """Write a grid into a channel of the cube as particles a cell, in the cube's type.

    Parameters
    ----------
    grid : numpy.ndarray
        ``(n_grid, n_grid, n_grid)`` int64 in the scheme's unit.
    channel : numpy.ndarray
        View ``cube[..., c]`` of an integer or float32 cube.

    Raises
    ------
    SnapshotError
        If a cell is too full for the type.
    """
    if channel.dtype.kind == "f":
        np.divide(grid, scheme.unit, out=channel, casting="unsafe")
        return
    largest, limit = int(grid.max()), int(np.iinfo(channel.dtype).max)
    if largest > limit:
        raise SnapshotError(
            f"a cell holds {largest} particles, more than {channel.dtype} can ({limit}); "
            "set output.dtype: uint32 (zarr) or raise grid.n_grid in the recipe"
        )
    channel[...] = grid
