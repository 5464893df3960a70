"""Positions in the formats of Abacus: pack9 and rvint.

pack9: rows of 9 bytes, six 12-bit numbers each, less 2048.  A row that begins
with 255 opens a cell: its second number is the cells a side of the box, its
last three are the cell's indices (all less 2000); every other row is a
particle in the open cell, its first three numbers the distance from the cell's
centre in units of 1/2000 cell.  The numbers are in pairs of 3 bytes: the first
has byte 0 and the low half of byte 1, the second the high half of byte 1 and
byte 2.

rvint: three 32-bit numbers a particle, position in the high 20 bits in units
of a millionth of the box, velocity in the low 12.

Sources: ``abacusnbody/data/pack9.py`` and ``bitpacked.py`` of
https://github.com/abacusorg/abacusutils; "Bit packing" in
https://abacussummit.readthedocs.io/en/latest/data-products.html.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ROW_BYTES = 9
NEW_CELL = 255
NO_CELL, BAD_CELL = -1, -2
"""Given in place of a number of particles: a particle before any cell; an impossible cell."""

_VELOCITY_BITS = 12
_BOX_IN_RVINT = 1e6


def no_cell() -> np.ndarray:
    """State before the first row: no cell is open."""
    return np.full(4, np.nan, np.float32)


@njit(nogil=True, cache=True)
def _number(high: int, half: int, low: int, second: bool) -> int:
    """First or second 12-bit number of three bytes, with its sign."""
    packed = (half >> 4) << 8 | low if second else high << 4 | half & 15
    return packed - 2048


@njit(nogil=True, cache=True)
def unpack_pack9(rows: np.ndarray, box_size: float, cell: np.ndarray, positions: np.ndarray) -> int:
    """Positions of the particles in ``rows``.

    The arithmetic is in the types that abacusutils uses for float32, so that the
    results are the same to the last bit.

    Parameters
    ----------
    rows : numpy.ndarray
        ``(n, 9)`` uint8.
    box_size : float
        Side of the box; positions are in its unit, in ``[-box_size/2, box_size/2]``.
    cell : numpy.ndarray
        ``(4,)`` float32: centre of the open cell and 1/2000 of its side; kept
        from call to call, see :func:`no_cell`.
    positions : numpy.ndarray
        ``(n, 3)`` float32, written from its start.

    Returns
    -------
    int
        Number of particles, or ``NO_CELL``, ``BAD_CELL``.
    """
    side = np.float32(box_size)
    half_box = np.float64(side) / 2.0
    written = 0
    for r in range(rows.shape[0]):
        b0, b1, b2 = np.int64(rows[r, 0]), np.int64(rows[r, 1]), np.int64(rows[r, 2])
        b3, b4, b5 = np.int64(rows[r, 3]), np.int64(rows[r, 4]), np.int64(rows[r, 5])
        if b0 != NEW_CELL:
            if np.isnan(cell[3]):
                return NO_CELL
            numbers = (
                _number(b0, b1, b2, False),
                _number(b0, b1, b2, True),
                _number(b3, b4, b5, False),
            )
            for axis in range(3):
                positions[written, axis] = np.float32(numbers[axis]) * cell[3] + cell[axis]
            written += 1
            continue
        b6, b7, b8 = np.int64(rows[r, 6]), np.int64(rows[r, 7]), np.int64(rows[r, 8])
        cells_a_side = _number(b0, b1, b2, True) + 2000
        if cells_a_side < 1:
            return BAD_CELL
        cell_side = side * np.float32(1.0 / cells_a_side)
        indices = (
            _number(b3, b4, b5, True),
            _number(b6, b7, b8, False),
            _number(b6, b7, b8, True),
        )
        for axis in range(3):
            if indices[axis] < -2000 or indices[axis] + 2000 >= cells_a_side:
                return BAD_CELL
            centre = (indices[axis] + 2000.5) * np.float64(cell_side) - half_box
            cell[axis] = np.float32(centre)
        cell[3] = np.float32(0.0005 * np.float64(cell_side))
    return written


def unpack_rvint(packed: np.ndarray, box_size: float, positions: np.ndarray) -> None:
    """Positions of ``packed`` particles.

    Parameters
    ----------
    packed : numpy.ndarray
        ``(n, 3)`` int32.
    box_size : float
        Side of the box; positions are in its unit.
    positions : numpy.ndarray
        ``(n, 3)`` float32, written.
    """
    scale = box_size / _BOX_IN_RVINT
    np.multiply(packed >> _VELOCITY_BITS, scale, out=positions, casting="unsafe")
