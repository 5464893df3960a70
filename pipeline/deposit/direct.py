"""Depositing clouds without sorting them, where they come in order: numba kernels.

Particles that follow each other in space find their cells in the cache as they
are.  One thread then adds them to a grid of 64-bit sums with margins around
it, which are folded back at the end.  The sums are those of the tiles, bit by bit.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

import numpy as np
from numba import njit

from pipeline.deposit.binning import (
    BLOCK,
    FRACTION_ONE,
    NOT_FINITE,
    NOWHERE,
    Placing,
    cells_and_parts,
)
from pipeline.deposit.cloud import add_cic, add_pcs, add_tsc
from pipeline.deposit.pool import borrowed
from pipeline.deposit.tile_kernels import pcs_sums, tsc_sums, write_tile
from pipeline.deposit.tiles import Tiling
from pipeline.deposit.vectors import LANES

SAMPLE = 4096
"""Particles of a chunk that are looked at for their order."""

NEAR = 8
"""Cells along each axis to the next particle of a sample that is in order."""

IN_ORDER = 0.8
"""Share of a sample that is near its next."""

SMALL_GRID = 64
"""Grids up to this many cells a side stay in the cache in any order."""

CELLS_A_PARTICLE = 4
"""Grids with more cells than this for each particle are not worth a pass over them."""


def padded_shape(tiling: Tiling) -> tuple[int, int, int]:
    """Cells of the grid of sums: margins, and along z a vector's end."""
    wide = tiling.n_grid + 2 * tiling.margin
    return wide, wide, wide + LANES


def bytes_needed(tiling: Tiling) -> int:
    """Memory of the grid of sums."""
    return 8 * math.prod(padded_shape(tiling))


class DirectSums:
    """A grid of sums of one thread.

    Parameters
    ----------
    tiling : Tiling
        Whose tiles are measured when the grid is written.
    unit : int
        Amount of a particle that has none of its own.
    """

    def __init__(self, tiling: Tiling, unit: int) -> None:
        self._tiling, self._unit = tiling, float(unit)
        self._memory = ExitStack()
        buffer = self._memory.enter_context(borrowed(bytes_needed(tiling)))
        self._sums = buffer.view(np.int64).reshape(padded_shape(tiling))
        self._sums.fill(0)
        self._state = np.zeros(3, np.int64)

    @property
    def not_finite(self) -> int:
        """Particles left out."""
        return int(self._state[NOT_FINITE])

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    def add(self, positions: np.ndarray, amounts: np.ndarray, placing: Placing) -> None:
        """Add a chunk of particles."""
        flat = np.ascontiguousarray(positions).reshape(-1)
        shape = (self._tiling.margin, self._tiling.support, self._unit)
        add_clouds(flat, amounts, placing, self._sums, *shape, self._state)

    def write(self, out: np.ndarray, factor: float, whole: np.ndarray, squares: np.ndarray) -> None:
        """Write the grid, once; see ``tile_loops.finish_clouds``."""
        tiling = self._tiling
        _fold(self._sums, tiling.margin, tiling.n_grid)
        _, wide_y, wide_z = padded_shape(tiling)
        write_tiles(
            np.arange(tiling.n_tiles),
            tiling.bounds,
            self._sums.reshape(-1),
            (wide_y * wide_z, wide_z),
            tiling.margin,
            out,
            factor,
            whole,
            squares,
        )


def is_worthwhile(
    tiling: Tiling, positions: np.ndarray, cells_per_length: float, n_particles: int | None
) -> bool:
    """Whether one thread is faster without sorting, judged by the first chunk."""
    expected = len(positions) if n_particles is None else n_particles
    if tiling.support == 1 or expected * CELLS_A_PARTICLE < tiling.n_grid**3:
        return False
    return tiling.n_grid <= SMALL_GRID or is_in_order(positions, cells_per_length)


def is_in_order(positions: np.ndarray, cells_per_length: float) -> bool:
    """Whether most particles are near the one before: a sample of runs is looked at."""
    n = len(positions)
    if n < 2:
        return True
    begins = np.linspace(0, n - 1, min(SAMPLE, n - 1), endpoint=False).astype(np.int64)
    apart = np.abs(positions[begins + 1] - positions[begins]) * cells_per_length
    return bool(np.mean(np.all(apart < NEAR, axis=1)) >= IN_ORDER)


@njit(nogil=True, cache=True)
def add_clouds(
    flat: np.ndarray,
    amounts: np.ndarray,
    placing: Placing,
    sums: np.ndarray,
    margin: int,
    support: int,
    unit: float,
    state: np.ndarray,
) -> None:
    """Add particles to the padded grid of sums; ``state`` counts those left out.

    Parameters
    ----------
    flat : numpy.ndarray
        ``(3 n,)`` coordinates x, y, z of particle after particle.
    amounts : numpy.ndarray
        ``(n,)`` int64, or empty: all have ``unit``.
    placing : tuple
        Cells a length, offset in cells, cells a side.
    sums : numpy.ndarray
        Of ``padded_shape``, int64.
    margin, support : int
        Of the ``Tiling``.
    """
    n_grid, n_rows = placing[2], flat.shape[0] // 3
    cells, parts = np.empty(3 * BLOCK, np.uint32), np.empty(3 * BLOCK, np.int32)
    stride_x, stride_y = sums.strides[0], sums.strides[1]
    # coordinates lie in one of three boxes, the first cell below the base cell
    below = (support - 1) // 2
    shift = np.empty(3 * n_grid, np.int64)
    for c in range(3 * n_grid):
        shift[c] = c % n_grid + margin - below
    base, weighted = sums.ctypes.data, amounts.shape[0] > 0
    for begin in range(0, n_rows, BLOCK):
        n = min(BLOCK, n_rows - begin)
        nowhere = cells_and_parts(flat[3 * begin : 3 * (begin + n)], cells, parts, placing)
        for p in range(n):
            i, j, k = cells[3 * p], cells[3 * p + 1], cells[3 * p + 2]
            if nowhere and NOWHERE in (i, j, k):
                state[NOT_FINITE] += 1
                continue
            first = base + shift[i] * stride_x + shift[j] * stride_y + shift[k] * 8
            amount = np.float64(amounts[begin + p]) if weighted else unit
            f = np.float64(parts[3 * p]) * (1.0 / FRACTION_ONE)
            g = np.float64(parts[3 * p + 1]) * (1.0 / FRACTION_ONE)
            h = np.float64(parts[3 * p + 2]) * (1.0 / FRACTION_ONE)
            if support == 2:
                add_cic(first, stride_x, stride_y, amount, 1.0 - f, 1.0 - g, 1.0 - h)
            elif support == 3:
                x0, x1 = tsc_sums(f)
                y0, y1 = tsc_sums(g)
                z0, z1 = tsc_sums(h)
                add_tsc(first, stride_x, stride_y, amount, x0, x1, y0, y1, z0, z1)
            else:
                x0, x1, x2 = pcs_sums(f)
                y0, y1, y2 = pcs_sums(g)
                z0, z1, z2 = pcs_sums(h)
                add_pcs(first, stride_x, stride_y, amount, x0, x1, x2, y0, y1, y2, z0, z1, z2)


def _fold(sums: np.ndarray, margin: int, n_grid: int) -> None:
    """Add the margins to the cells on the other side of the box."""
    for axis in range(3):
        side = np.moveaxis(sums, axis, 0)
        low, high = side[:margin], side[margin + n_grid : n_grid + 2 * margin]
        side[n_grid : n_grid + margin] += low
        side[margin : 2 * margin] += high


@njit(nogil=True, cache=True)
def write_tiles(
    tiles: np.ndarray,
    bounds: np.ndarray,
    sums: np.ndarray,
    strides: tuple[int, int],
    margin: int,
    out: np.ndarray,
    factor: float,
    whole: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Write ``tiles`` from the flat padded sums; see ``tile_kernels.write_tile``."""
    all_rows = np.empty(0, np.uint8)
    for tile in tiles:
        b = bounds[tile]
        corner = b[0] * strides[0] + b[2] * strides[1] + b[4]
        squares[tile] = write_tile(
            sums[corner:], strides, margin, b, out, factor, whole[tile], all_rows, False
        )
