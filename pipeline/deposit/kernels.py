"""Numba kernels of NGP, CIC, TSC and PCS mass assignment.

Piecewise polynomial windows after Hockney & Eastwood (1988) and, for PCS,
Sefusatti et al. (2016, MNRAS 460, 3624).  With ``s`` the distance to a grid
point in cells:

- NGP: 1 for ``s < 1/2``
- CIC: ``1 - s`` for ``s < 1``
- TSC: ``3/4 - s^2`` for ``s < 1/2``; ``(3/2 - s)^2 / 2`` for ``s < 3/2``
- PCS: ``(4 - 6 s^2 + 3 s^3) / 6`` for ``s < 1``; ``(2 - s)^3 / 6`` for ``s < 2``

A cloud's weights are rounded to integers with :data:`UNIT` = 1 and what the
rounding leaves goes to the cell of the largest weight, so each particle adds
exactly ``UNIT`` in all.  The weighted kernels do the same with an integer
amount of each particle's own (``masses.quantise``) in place of ``UNIT``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

UNIT_BITS = 32
UNIT = 1 << UNIT_BITS

SMALL_AMOUNT = 1 << 12
"""64 cells rounded up take at most 32 from the largest of them, which has a 64th or more."""


@njit(nogil=True, cache=True)
def _grid_coordinate(x: float, cells_per_length: float, offset: float, n_grid: int) -> float:
    """Coordinate in cells, wrapped to [0, n_grid)."""
    t = np.float64(x) * cells_per_length + offset
    t -= np.floor(t / n_grid) * n_grid
    # a tiny negative t rounds up to n_grid itself
    return 0.0 if t >= n_grid or t < 0.0 else t


@njit(nogil=True, cache=True)
def ngp(positions: np.ndarray, grid: np.ndarray, cells_per_length: float, offset: float) -> int:
    """Nearest grid point: one count to one cell.  See ``registry.Scheme.kernel``."""
    n_grid = grid.shape[0]
    not_finite = 0
    for p in range(positions.shape[0]):
        x, y, z = positions[p, 0], positions[p, 1], positions[p, 2]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            not_finite += 1
            continue
        # floor(t + 1/2): with the cell origin this is the histogram's floor, exactly
        i = int(_grid_coordinate(x, cells_per_length, offset + 0.5, n_grid))
        j = int(_grid_coordinate(y, cells_per_length, offset + 0.5, n_grid))
        k = int(_grid_coordinate(z, cells_per_length, offset + 0.5, n_grid))
        grid[i, j, k] += 1
    return not_finite


@njit(nogil=True, cache=True)
def ngp_weighted(
    positions: np.ndarray,
    amounts: np.ndarray,
    grid: np.ndarray,
    cells_per_length: float,
    offset: float,
) -> int:
    """Nearest grid point: all of a particle's amount to one cell."""
    n_grid = grid.shape[0]
    not_finite = 0
    for p in range(positions.shape[0]):
        x, y, z = positions[p, 0], positions[p, 1], positions[p, 2]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            not_finite += 1
            continue
        i = int(_grid_coordinate(x, cells_per_length, offset + 0.5, n_grid))
        j = int(_grid_coordinate(y, cells_per_length, offset + 0.5, n_grid))
        k = int(_grid_coordinate(z, cells_per_length, offset + 0.5, n_grid))
        grid[i, j, k] += amounts[p]
    return not_finite


@njit(nogil=True, cache=True)
def _cic_weights(t: float, w: np.ndarray) -> int:
    i = int(np.floor(t))
    f = t - i
    w[0], w[1] = 1.0 - f, f
    return i


@njit(nogil=True, cache=True)
def _tsc_weights(t: float, w: np.ndarray) -> int:
    i = int(np.floor(t + 0.5))
    f = t - i
    w[0] = 0.5 * (0.5 - f) ** 2
    w[1] = 0.75 - f * f
    w[2] = 0.5 * (0.5 + f) ** 2
    return i - 1


@njit(nogil=True, cache=True)
def _pcs_weights(t: float, w: np.ndarray) -> int:
    i = int(np.floor(t))
    f = t - i
    g = 1.0 - f
    w[0] = g * g * g / 6.0
    w[1] = (4.0 - 6.0 * f * f + 3.0 * f * f * f) / 6.0
    w[2] = (4.0 - 6.0 * g * g + 3.0 * g * g * g) / 6.0
    w[3] = f * f * f / 6.0
    return i - 1


@njit(nogil=True, cache=True)
def _weights(t: float, support: int, w: np.ndarray) -> int:
    """Weights of one axis into ``w[:support]``; index of the first cell, unwrapped."""
    if support == 2:
        return _cic_weights(t, w)
    if support == 3:
        return _tsc_weights(t, w)
    return _pcs_weights(t, w)


@njit(nogil=True, cache=True)
def _add_cloud(grid: np.ndarray, first: np.ndarray, weights: np.ndarray, support: int) -> None:
    """Add one particle, exactly UNIT in all, to support^3 cells."""
    n_grid = grid.shape[0]
    left = UNIT
    heaviest, ci, cj, ck = -1, 0, 0, 0
    for a in range(support):
        i = (first[0] + a) % n_grid
        for b in range(support):
            j = (first[1] + b) % n_grid
            wij = weights[0, a] * weights[1, b] * UNIT
            for c in range(support):
                k = (first[2] + c) % n_grid
                mass = int(wij * weights[2, c] + 0.5)
                grid[i, j, k] += mass
                left -= mass
                if mass > heaviest:
                    heaviest, ci, cj, ck = mass, i, j, k
    grid[ci, cj, ck] += left


@njit(nogil=True, cache=True)
def _clouds(
    positions: np.ndarray, grid: np.ndarray, cells_per_length: float, offset: float, support: int
) -> int:
    n_grid = grid.shape[0]
    weights = np.empty((3, 4))
    first = np.empty(3, np.int64)
    not_finite = 0
    for p in range(positions.shape[0]):
        x, y, z = positions[p, 0], positions[p, 1], positions[p, 2]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            not_finite += 1
            continue
        for axis in range(3):
            t = _grid_coordinate(positions[p, axis], cells_per_length, offset, n_grid)
            first[axis] = _weights(t, support, weights[axis])
        _add_cloud(grid, first, weights, support)
    return not_finite


@njit(nogil=True, cache=True)
def cic(positions: np.ndarray, grid: np.ndarray, cells_per_length: float, offset: float) -> int:
    """Cloud in cell: 2^3 cells.  See ``registry.Scheme.kernel``."""
    return _clouds(positions, grid, cells_per_length, offset, 2)


@njit(nogil=True, cache=True)
def tsc(positions: np.ndarray, grid: np.ndarray, cells_per_length: float, offset: float) -> int:
    """Triangular-shaped cloud: 3^3 cells.  See ``registry.Scheme.kernel``."""
    return _clouds(positions, grid, cells_per_length, offset, 3)


@njit(nogil=True, cache=True)
def pcs(positions: np.ndarray, grid: np.ndarray, cells_per_length: float, offset: float) -> int:
    """Piecewise cubic spline: 4^3 cells.  See ``registry.Scheme.kernel``."""
    return _clouds(positions, grid, cells_per_length, offset, 4)


@njit(nogil=True, cache=True)
def _add_weighted_cloud(
    grid: np.ndarray, first: np.ndarray, weights: np.ndarray, support: int, amount: int
) -> None:
    """Add one particle, exactly ``amount`` in all, to support^3 cells; none gets less than 0."""
    n_grid = grid.shape[0]
    # a few units could round up in more cells than the heaviest can pay back: round those down
    half = 0.5 if amount >= SMALL_AMOUNT else 0.0
    left = amount
    heaviest, ci, cj, ck = -1, 0, 0, 0
    for a in range(support):
        i = (first[0] + a) % n_grid
        for b in range(support):
            j = (first[1] + b) % n_grid
            wij = weights[0, a] * weights[1, b] * amount
            for c in range(support):
                k = (first[2] + c) % n_grid
                mass = int(wij * weights[2, c] + half)
                grid[i, j, k] += mass
                left -= mass
                if mass > heaviest:
                    heaviest, ci, cj, ck = mass, i, j, k
    grid[ci, cj, ck] += left


@njit(nogil=True, cache=True)
def _weighted_clouds(
    positions: np.ndarray,
    amounts: np.ndarray,
    grid: np.ndarray,
    placing: tuple[float, float],
    support: int,
) -> int:
    n_grid = grid.shape[0]
    cells_per_length, offset = placing
    weights = np.empty((3, 4))
    first = np.empty(3, np.int64)
    not_finite = 0
    for p in range(positions.shape[0]):
        x, y, z = positions[p, 0], positions[p, 1], positions[p, 2]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            not_finite += 1
            continue
        for axis in range(3):
            t = _grid_coordinate(positions[p, axis], cells_per_length, offset, n_grid)
            first[axis] = _weights(t, support, weights[axis])
        _add_weighted_cloud(grid, first, weights, support, amounts[p])
    return not_finite


@njit(nogil=True, cache=True)
def cic_weighted(
    positions: np.ndarray,
    amounts: np.ndarray,
    grid: np.ndarray,
    cells_per_length: float,
    offset: float,
) -> int:
    """Cloud in cell with amounts.  See ``registry.Scheme.weighted_kernel``."""
    return _weighted_clouds(positions, amounts, grid, (cells_per_length, offset), 2)


@njit(nogil=True, cache=True)
def tsc_weighted(
    positions: np.ndarray,
    amounts: np.ndarray,
    grid: np.ndarray,
    cells_per_length: float,
    offset: float,
) -> int:
    """Triangular-shaped cloud with amounts.  See ``registry.Scheme.weighted_kernel``."""
    return _weighted_clouds(positions, amounts, grid, (cells_per_length, offset), 3)


@njit(nogil=True, cache=True)
def pcs_weighted(
    positions: np.ndarray,
    amounts: np.ndarray,
    grid: np.ndarray,
    cells_per_length: float,
    offset: float,
) -> int:
    """Piecewise cubic spline with amounts.  See ``registry.Scheme.weighted_kernel``."""
    return _weighted_clouds(positions, amounts, grid, (cells_per_length, offset), 4)
