"""From a ready grid to the channel of a cube: copied by blocks, checked, measured."""

from __future__ import annotations

import numpy as np

from pipeline.deposit.masses import bad_masses
from pipeline.errors import SnapshotError
from pipeline.field import ChannelStatistics, check_fits
from pipeline.snapshot import GridSnapshot, Place, SnapshotHeader


def fill_ready(snapshot: GridSnapshot, channel: np.ndarray) -> ChannelStatistics:
    """Copy a grid that is ready into a channel of the cube, checked and measured.

    Parameters
    ----------
    snapshot : GridSnapshot
        Of ``n_grid`` cells a side.
    channel : numpy.ndarray
        View ``cube[..., c]``, ``(n_grid, n_grid, n_grid)``; integers take counts only.

    Raises
    ------
    SnapshotError
        If cells are negative or not finite, the mean of densities is not 1,
        cells are missing, or a cell is too full for the type.
    """
    header, n_cells = snapshot.header, 0
    total = second = maximum = 0.0
    for place, block in snapshot.iter_blocks():
        _check_block(header, place, block)
        if channel.dtype.kind != "f":
            check_fits(int(block.max()), channel.dtype)
        channel[place] = block
        values = channel[place].astype(np.float64)
        n_cells, maximum = n_cells + block.size, max(maximum, float(values.max()))
        total, second = total + float(values.sum()), second + float(np.square(values).sum())
    if n_cells != channel.size:
        raise SnapshotError(f"{header.name}: {n_cells} cells were read, expected {channel.size}")
    return _ready_statistics(header, channel.size, total, second, maximum)


def _check_block(header: SnapshotHeader, place: Place, block: np.ndarray) -> None:
    wrong = block < 0 if block.dtype.kind in "iu" else bad_masses(block)
    n_wrong = int(np.count_nonzero(wrong))
    if n_wrong:
        where = ", ".join(f"{along.start}:{along.stop}" for along in place)
        raise SnapshotError(
            f"{header.name}: {n_wrong} of the cells [{where}] are negative or not finite (the "
            f"first is {block[wrong][0]:g}), expected none; the grid is damaged, or its counts "
            "overflowed their type: make it again"
        )


def _ready_statistics(
    header: SnapshotHeader, n_cells: int, total: float, second: float, maximum: float
) -> ChannelStatistics:
    mean, grid = total / n_cells, header.grid
    if mean == 0 or grid is None:
        raise SnapshotError(f"{header.name}: all cells of the grid are 0, expected matter")
    counts = grid.quantity == "counts"
    if not counts and abs(mean - 1) > grid.mean_tolerance:
        raise SnapshotError(
            f"{header.name}: the mean of the density is {mean:.6g}, expected 1 within "
            f"{grid.mean_tolerance:g}: densities are taken in units of their mean; "
            "divide the grid by its mean"
        )
    return ChannelStatistics(
        n_particles=round(total) if counts else 0,
        mass=total,
        mass_deviation=0.0 if counts else mean - 1,
        maximum=maximum,
        variance=second / n_cells / mean**2 - 1,
    )
