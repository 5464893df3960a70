"""Going through tiles, one thread's share at a time: numba kernels.

``run`` is the runs of particles of each tile (``bins.Segments``), ``frame`` the
scratch's strides and margin.  ``resident`` keeps what earlier, full bins held:
a row of sums a tile, or no row at all.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.deposit.cells import LARGEST, SUMS
from pipeline.deposit.tile_kernels import (
    add_cic_clouds,
    add_counts,
    add_pcs_clouds,
    add_points,
    add_resident,
    add_to_resident,
    add_tsc_clouds,
    write_tile,
    write_zeros,
)

Run = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
CloudRun = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Frame = tuple[int, int, int]


@njit(nogil=True, cache=True)
def _gather_counts(acc: np.ndarray, run: Run, tile: int) -> None:
    first, start, length, payload = run
    acc[:] = 0
    for s in range(first[tile], first[tile + 1]):
        add_counts(acc, payload, start[s], length[s])


@njit(nogil=True, cache=True)
def _gather_clouds(
    acc: np.ndarray, run: CloudRun, tile: int, strides: tuple[int, int], support: int, unit: float
) -> None:
    first, start, length, payload, amounts = run
    acc[:] = 0
    for s in range(first[tile], first[tile + 1]):
        if support == 1:
            add_points(acc, strides, payload, amounts, start[s], length[s])
        elif support == 2:
            add_cic_clouds(acc, strides, payload, amounts, unit, start[s], length[s])
        elif support == 3:
            add_tsc_clouds(acc, strides, payload, amounts, unit, start[s], length[s])
        else:
            add_pcs_clouds(acc, strides, payload, amounts, unit, start[s], length[s])


@njit(nogil=True, cache=True)
def spill_counts(
    tiles: np.ndarray,
    run: Run,
    frame: Frame,
    bounds: np.ndarray,
    acc: np.ndarray,
    resident: np.ndarray,
) -> None:
    """Add the particles of ``tiles`` to the resident sums."""
    for tile in tiles:
        if run[0][tile] < run[0][tile + 1]:
            _gather_counts(acc, run, tile)
            strides = (frame[0], frame[1])
            add_to_resident(acc, strides, frame[2], bounds[tile], resident[tile])


@njit(nogil=True, cache=True)
def spill_clouds(
    tiles: np.ndarray,
    run: CloudRun,
    frame: Frame,
    bounds: np.ndarray,
    acc: np.ndarray,
    resident: np.ndarray,
    support: int,
    unit: float,
) -> None:
    """Add the clouds of ``tiles`` to the resident sums."""
    for tile in tiles:
        if run[0][tile] < run[0][tile + 1]:
            strides = (frame[0], frame[1])
            _gather_clouds(acc, run, tile, strides, support, unit)
            add_to_resident(acc, strides, frame[2], bounds[tile], resident[tile])


@njit(nogil=True, cache=True)
def _finish(
    tile: int,
    frame: Frame,
    bounds: np.ndarray,
    acc: np.ndarray,
    resident: np.ndarray,
    out: np.ndarray,
    factor: float,
    whole: np.ndarray,
) -> float:
    strides = (frame[0], frame[1])
    if resident.shape[0]:
        add_resident(acc, strides, frame[2], bounds, resident[tile])
    return write_tile(acc, strides, frame[2], bounds, out, factor, whole)


@njit(nogil=True, cache=True)
def _empty(bounds: np.ndarray, out: np.ndarray, whole: np.ndarray) -> float:
    write_zeros(bounds, out)
    whole[SUMS], whole[LARGEST] = 0, 0
    return 0.0


@njit(nogil=True, cache=True)
def finish_counts(
    tiles: np.ndarray,
    run: Run,
    frame: Frame,
    bounds: np.ndarray,
    acc: np.ndarray,
    resident: np.ndarray,
    out: np.ndarray,
    factor: float,
    whole: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Write ``tiles`` into the grid; ``whole`` and ``squares`` take their statistics."""
    for tile in tiles:
        if run[0][tile] == run[0][tile + 1] and not resident.shape[0]:
            squares[tile] = _empty(bounds[tile], out, whole[tile])
        else:
            _gather_counts(acc, run, tile)
            squares[tile] = _finish(
                tile, frame, bounds[tile], acc, resident, out, factor, whole[tile]
            )


@njit(nogil=True, cache=True)
def finish_clouds(
    tiles: np.ndarray,
    run: CloudRun,
    frame: Frame,
    bounds: np.ndarray,
    acc: np.ndarray,
    resident: np.ndarray,
    out: np.ndarray,
    factor: float,
    whole: np.ndarray,
    squares: np.ndarray,
    support: int,
    unit: float,
) -> None:
    """Write ``tiles`` into the grid; ``whole`` and ``squares`` take their statistics."""
    for tile in tiles:
        if run[0][tile] == run[0][tile + 1] and not resident.shape[0]:
            squares[tile] = _empty(bounds[tile], out, whole[tile])
        else:
            _gather_clouds(acc, run, tile, (frame[0], frame[1]), support, unit)
            squares[tile] = _finish(
                tile, frame, bounds[tile], acc, resident, out, factor, whole[tile]
            )
