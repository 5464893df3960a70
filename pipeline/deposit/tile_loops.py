"""Going through tiles, one thread's share at a time: numba kernels.

``run`` is the runs of particles of each tile (``bins.Segments``), ``frame`` the
scratch's strides and margin.  ``resident`` keeps what earlier, full bins held:
a row of sums a tile, or no row at all.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.deposit.tile_kernels import (
    add_cic_clouds,
    add_counts,
    add_pcs_clouds,
    add_points,
    add_resident,
    add_to_resident,
    add_tsc_clouds,
    clear_rows,
    mark_cloud_rows,
    mark_count_rows,
    write_tile,
)

SPARSE = 4
"""Where so many times the rows that particles touch are fewer than all, they are kept track of."""

Run = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
CloudRun = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Frame = tuple[int, int, int]


@njit(nogil=True, cache=True)
def _gather_counts(acc: np.ndarray, run: Run, tile: int) -> None:
    first, start, length, payload = run
    for s in range(first[tile], first[tile + 1]):
        add_counts(acc, payload, start[s], length[s])


@njit(nogil=True, cache=True)
def _gather_clouds(
    acc: np.ndarray, run: CloudRun, tile: int, strides: tuple[int, int], support: int, unit: float
) -> None:
    first, start, length, payload, amounts = run
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
            acc[:] = 0
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
            acc[:] = 0
            strides = (frame[0], frame[1])
            _gather_clouds(acc, run, tile, strides, support, unit)
            add_to_resident(acc, strides, frame[2], bounds[tile], resident[tile])


@njit(nogil=True, cache=True)
def _rows_of(acc: np.ndarray, frame: Frame) -> np.ndarray:
    """Marks of the rows of a scratch, none set."""
    return np.zeros(acc.shape[0] // frame[1], np.uint8)


@njit(nogil=True, cache=True)
def _is_sparse(run: Run, tile: int, support: int, n_rows: int) -> bool:
    """Whether the particles of a tile touch few of its rows."""
    particles = 0
    for s in range(run[0][tile], run[0][tile + 1]):
        particles += run[2][s]
    return SPARSE * particles * support * support < n_rows


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
    cleared: bool,
) -> None:
    """Write ``tiles`` into the grid; ``whole`` and ``squares`` take their statistics."""
    strides, margin = (frame[0], frame[1]), frame[2]
    first, start, length, payload = run
    marks, all_rows = _rows_of(acc, frame), np.empty(0, np.uint8)
    for tile in tiles:
        rows = all_rows
        if not resident.shape[0] and _is_sparse(run, tile, 1, marks.shape[0]):
            rows = marks
            rows[:] = 0
            for s in range(first[tile], first[tile + 1]):
                mark_count_rows(rows, frame[1], payload, start[s], length[s])
            clear_rows(acc, rows, frame[1])
        else:
            acc[:] = 0
        _gather_counts(acc, run, tile)
        if resident.shape[0]:
            add_resident(acc, strides, margin, bounds[tile], resident[tile])
        squares[tile] = write_tile(
            acc, strides, margin, bounds[tile], out, factor, whole[tile], rows, cleared
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
    cleared: bool,
    support: int,
    unit: float,
) -> None:
    """Write ``tiles`` into the grid; ``whole`` and ``squares`` take their statistics."""
    strides, margin = (frame[0], frame[1]), frame[2]
    first, start, length, payload, _ = run
    marks, all_rows = _rows_of(acc, frame), np.empty(0, np.uint8)
    plain = (first, start, length, payload)
    for tile in tiles:
        rows = all_rows
        if not resident.shape[0] and _is_sparse(plain, tile, support, marks.shape[0]):
            rows = marks
            rows[:] = 0
            for s in range(first[tile], first[tile + 1]):
                mark_cloud_rows(rows, strides, support, payload, start[s], length[s])
            clear_rows(acc, rows, frame[1])
        else:
            acc[:] = 0
        _gather_clouds(acc, run, tile, strides, support, unit)
        if resident.shape[0]:
            add_resident(acc, strides, margin, bounds[tile], resident[tile])
        squares[tile] = write_tile(
            acc, strides, margin, bounds[tile], out, factor, whole[tile], rows, cleared
        )
