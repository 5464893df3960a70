"""Depositing the particles of one tile, and writing tiles out: numba kernels.

Windows after Hockney & Eastwood (1988) and, for PCS, Sefusatti et al. (2016,
MNRAS 460, 3624).  With ``s`` the distance to a grid point in cells:

- NGP: 1 for ``s < 1/2``
- CIC: ``1 - s`` for ``s < 1``
- TSC: ``3/4 - s^2`` for ``s < 1/2``; ``(3/2 - s)^2 / 2`` for ``s < 3/2``
- PCS: ``(4 - 6 s^2 + 3 s^3) / 6`` for ``s < 1``; ``(2 - s)^3 / 6`` for ``s < 2``

What ``cloud`` needs are the sums of the weights of the first cells, as
functions of the fraction ``f`` of a cell between a particle's coordinate and
the cell below (the coordinates of TSC, like those of NGP, are half a cell up).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.deposit.binning import FRACTION_BITS, FRACTION_ONE
from pipeline.deposit.cells import LARGEST, SQUARES, SUMS, prefetch_for_write, write_four
from pipeline.deposit.cloud import add_cic, add_pcs, add_tsc
from pipeline.deposit.vectors import LANES

PART = (1 << FRACTION_BITS) - 1

LEAST = -(1 << 62)

ROWS_AHEAD = 8
"""How early memory is told that a row of the grid will be written: rows of a tile are far apart."""


@njit(nogil=True, cache=True)
def add_counts(acc: np.ndarray, payload: np.ndarray, start: int, n: int) -> None:
    """Add 1 to the cells that the payload names."""
    for e in range(n):
        acc[payload[start + e]] += np.uint32(1)


@njit(nogil=True, cache=True)
def add_points(
    acc: np.ndarray,
    strides: tuple[int, int],
    payload: np.ndarray,
    amounts: np.ndarray,
    start: int,
    n: int,
) -> None:
    """Add each particle's amount to its cell."""
    stride_x, stride_y = strides
    for p in range(start, start + n):
        i = np.int64(payload[3 * p] >> np.uint32(FRACTION_BITS))
        j = np.int64(payload[3 * p + 1] >> np.uint32(FRACTION_BITS))
        k = np.int64(payload[3 * p + 2] >> np.uint32(FRACTION_BITS))
        acc[i * stride_x + j * stride_y + k] += amounts[p]


@njit(nogil=True, cache=True)
def _fraction(word: np.uint32) -> float:
    return np.float64(np.int32(word & np.uint32(PART))) * (1.0 / FRACTION_ONE)


@njit(nogil=True, cache=True)
def _first_cell(payload: np.ndarray, p: int, strides: tuple[int, int], below: int) -> int:
    """Place in the scratch of a cloud's first cell."""
    stride_x, stride_y = strides
    i = np.int64(payload[3 * p] >> np.uint32(FRACTION_BITS)) - below
    j = np.int64(payload[3 * p + 1] >> np.uint32(FRACTION_BITS)) - below
    k = np.int64(payload[3 * p + 2] >> np.uint32(FRACTION_BITS)) - below
    return int(i * stride_x + j * stride_y + k)


@njit(nogil=True, cache=True)
def add_cic_clouds(
    acc: np.ndarray,
    strides: tuple[int, int],
    payload: np.ndarray,
    amounts: np.ndarray,
    unit: float,
    start: int,
    n: int,
) -> None:
    """Add clouds of 2^3 cells; ``unit`` each, or its amount where there are amounts."""
    base, weighted = acc.ctypes.data, amounts.shape[0] > 0
    for p in range(start, start + n):
        amount = np.float64(amounts[p]) if weighted else unit
        add_cic(
            base + 8 * _first_cell(payload, p, strides, 0),
            8 * strides[0],
            8 * strides[1],
            amount,
            1.0 - _fraction(payload[3 * p]),
            1.0 - _fraction(payload[3 * p + 1]),
            1.0 - _fraction(payload[3 * p + 2]),
        )


@njit(nogil=True, cache=True)
def tsc_sums(f: float) -> tuple[float, float]:
    """Sums of the weights of the first cell, and of the first two."""
    g = 1.0 - f
    return 0.5 * g * g, 1.0 - 0.5 * f * f


@njit(nogil=True, cache=True)
def add_tsc_clouds(
    acc: np.ndarray,
    strides: tuple[int, int],
    payload: np.ndarray,
    amounts: np.ndarray,
    unit: float,
    start: int,
    n: int,
) -> None:
    """Add clouds of 3^3 cells; see :func:`add_cic_clouds`."""
    base, weighted = acc.ctypes.data, amounts.shape[0] > 0
    for p in range(start, start + n):
        amount = np.float64(amounts[p]) if weighted else unit
        x0, x1 = tsc_sums(_fraction(payload[3 * p]))
        y0, y1 = tsc_sums(_fraction(payload[3 * p + 1]))
        z0, z1 = tsc_sums(_fraction(payload[3 * p + 2]))
        first = base + 8 * _first_cell(payload, p, strides, 1)
        add_tsc(first, 8 * strides[0], 8 * strides[1], amount, x0, x1, y0, y1, z0, z1)


@njit(nogil=True, cache=True)
def pcs_sums(f: float) -> tuple[float, float, float]:
    """Sums of the weights of the first cell, of the first two, of the first three."""
    g = 1.0 - f
    first, last = g * g * g * (1.0 / 6.0), f * f * f * (1.0 / 6.0)
    return first, first + (2.0 / 3.0 - f * f + 3.0 * last), 1.0 - last


@njit(nogil=True, cache=True)
def add_pcs_clouds(
    acc: np.ndarray,
    strides: tuple[int, int],
    payload: np.ndarray,
    amounts: np.ndarray,
    unit: float,
    start: int,
    n: int,
) -> None:
    """Add clouds of 4^3 cells; see :func:`add_cic_clouds`."""
    base, weighted = acc.ctypes.data, amounts.shape[0] > 0
    for p in range(start, start + n):
        amount = np.float64(amounts[p]) if weighted else unit
        x0, x1, x2 = pcs_sums(_fraction(payload[3 * p]))
        y0, y1, y2 = pcs_sums(_fraction(payload[3 * p + 1]))
        z0, z1, z2 = pcs_sums(_fraction(payload[3 * p + 2]))
        first = base + 8 * _first_cell(payload, p, strides, 1)
        add_pcs(first, 8 * strides[0], 8 * strides[1], amount, x0, x1, x2, y0, y1, y2, z0, z1, z2)


@njit(nogil=True, cache=True)
def add_to_resident(
    acc: np.ndarray, strides: tuple[int, int], margin: int, bounds: np.ndarray, resident: np.ndarray
) -> None:
    """Add a tile's own cells, without the margins, to its flat resident sums."""
    nx, ny, nz = bounds[1] - bounds[0], bounds[3] - bounds[2], bounds[5] - bounds[4]
    for i in range(nx):
        for j in range(ny):
            first = (i + margin) * strides[0] + (j + margin) * strides[1] + margin
            row = acc[first : first + nz]
            sums = resident[(i * ny + j) * nz : (i * ny + j + 1) * nz]
            for k in range(nz):
                sums[k] += row[k]


@njit(nogil=True, cache=True)
def add_resident(
    acc: np.ndarray, strides: tuple[int, int], margin: int, bounds: np.ndarray, resident: np.ndarray
) -> None:
    """Add a tile's flat resident sums to its own cells."""
    nx, ny, nz = bounds[1] - bounds[0], bounds[3] - bounds[2], bounds[5] - bounds[4]
    for i in range(nx):
        for j in range(ny):
            first = (i + margin) * strides[0] + (j + margin) * strides[1] + margin
            row = acc[first : first + nz]
            sums = resident[(i * ny + j) * nz : (i * ny + j + 1) * nz]
            for k in range(nz):
                row[k] += sums[k]


@njit(nogil=True, cache=True)
def mark_count_rows(
    touched: np.ndarray, stride_y: int, payload: np.ndarray, start: int, n: int
) -> None:
    """Mark the rows of the scratch to which counts will be added."""
    for e in range(start, start + n):
        touched[payload[e] // stride_y] = 1


@njit(nogil=True, cache=True)
def mark_cloud_rows(
    touched: np.ndarray,
    strides: tuple[int, int],
    support: int,
    payload: np.ndarray,
    start: int,
    n: int,
) -> None:
    """Mark the rows of the scratch to which clouds will be added."""
    wide_y, below = strides[0] // strides[1], (support - 1) // 2
    for p in range(start, start + n):
        i = np.int64(payload[3 * p] >> np.uint32(FRACTION_BITS)) - below
        j = np.int64(payload[3 * p + 1] >> np.uint32(FRACTION_BITS)) - below
        for a in range(support):
            for b in range(support):
                touched[(i + a) * wide_y + j + b] = 1


@njit(nogil=True, cache=True)
def clear_rows(acc: np.ndarray, touched: np.ndarray, stride_y: int) -> None:
    """Empty the marked rows of the scratch."""
    for row in range(touched.shape[0]):
        if touched[row]:
            acc[row * stride_y : (row + 1) * stride_y] = 0


@njit(nogil=True, cache=True)
def _new_table(width: int) -> np.ndarray:
    """Table of measurements of ``cells``, empty."""
    table = np.zeros((3, width), np.int64)
    table[LARGEST, :] = LEAST
    return table


@njit(nogil=True, cache=True)
def _measure_rest(row: np.ndarray, begin: int, table: np.ndarray, factor: float) -> None:
    """Measure the cells of a row from ``begin`` on."""
    squares = table[SQUARES].view(np.float64)
    for k in range(begin, row.shape[0]):
        v = np.int64(row[k])
        table[SUMS, k] += v
        table[LARGEST, k] = max(table[LARGEST, k], v)
        scaled = np.float64(v) * factor
        squares[k] += scaled * scaled


@njit(nogil=True, cache=True)
def _write_rest(row: np.ndarray, begin: int, cells: np.ndarray, factor: float) -> None:
    """Write the cells of a row from ``begin`` on."""
    for k in range(begin, row.shape[0]):
        if factor == 1.0:
            cells[k] = row[k]
        else:
            cells[k] = np.float64(np.int64(row[k])) * factor


@njit(nogil=True, cache=True)
def _result(table: np.ndarray, whole: np.ndarray) -> float:
    """Whole measurements of a tile into ``whole``; its sum of squares."""
    whole[SUMS] = table[SUMS].sum()
    whole[LARGEST] = table[LARGEST].max()
    squares = table[SQUARES].view(np.float64)
    second = 0.0
    for k in range(squares.shape[0]):
        second += squares[k]
    return second


@njit(nogil=True, cache=True)
def write_tile(
    acc: np.ndarray,
    strides: tuple[int, int],
    margin: int,
    bounds: np.ndarray,
    out: np.ndarray,
    factor: float,
    whole: np.ndarray,
    touched: np.ndarray,
    cleared: bool,
) -> float:
    """Write a tile's own cells times ``factor`` into the grid.

    Parameters
    ----------
    acc, strides, margin
        Scratch of sums.
    bounds : numpy.ndarray
        Row of ``Tiling.bounds``.
    out : numpy.ndarray
        ``(n_grid, n_grid, n_grid)``, integers or floats.
    factor : float
        A power of two or the inverse of a unit; whole cells are written into
        integers as they are.
    whole : numpy.ndarray
        ``(2,)`` int64, taking sum and largest cell of the tile.
    touched : numpy.ndarray
        Which rows of the scratch are not 0 all along; without elements: all may be.
    cleared : bool
        ``out`` is 0 already.

    Returns
    -------
    float
        Sum of the squares of the cells times ``factor``, in an order of its own.
    """
    nz = bounds[5] - bounds[4]
    table = _new_table(nz)
    item, item_out, base = acc.itemsize, out.itemsize, acc.ctypes.data
    fours = nz // LANES * LANES if out.strides[2] == item_out else 0
    like_acc, like_out = acc[0], out[0, 0, 0]
    untouched, tracked = 0, touched.shape[0] > 0
    for x in range(bounds[0], bounds[1]):
        for y in range(bounds[2], bounds[3]):
            first = (x - bounds[0] + margin) * strides[0]
            first += (y - bounds[2] + margin) * strides[1] + margin
            if tracked and not touched[(first - margin) // strides[1]]:
                untouched += 1
                if not cleared:
                    out[x, y, bounds[4] : bounds[5]] = 0
                continue
            cells = out[x, y, bounds[4] : bounds[5]]
            source, target, places = base + item * first, cells.ctypes.data, table.ctypes.data
            for byte in range(0, fours * item_out, 64):
                prefetch_for_write(target + ROWS_AHEAD * out.strides[1] + byte)
            for k in range(0, fours, LANES):
                write_four(
                    source + item * k,
                    like_acc,
                    target + item_out * k,
                    like_out,
                    places + 8 * k,
                    8 * nz,
                    factor,
                )
            if fours < nz:
                row = acc[first : first + nz]
                _measure_rest(row, fours, table, factor)
                _write_rest(row, fours, cells, factor)
    second = _result(table, whole)
    if untouched:
        whole[LARGEST] = max(whole[LARGEST], 0)
    return second
