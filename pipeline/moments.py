"""Sum, sum of squares and largest cell of every channel, in one pass over a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_CELLS_A_ROW = 16
"""Cells that are added side by side: a row of registers for every processor."""


@dataclass
class Moments:
    """Of the cells of some samples; each array is ``(channel,)`` float64.

    Sums of integers are exact below 2^53, so that they do not depend on an order.

    Attributes
    ----------
    mass, square, maximum : numpy.ndarray
        Sum of the cells, sum of their squares, and the largest.
    """

    mass: np.ndarray
    square: np.ndarray
    maximum: np.ndarray

    @classmethod
    def zeros(cls, channels: int) -> Moments:
        """Of no samples."""
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels))

    def add_sample(self, cells: np.ndarray) -> None:
        """Take in a sample ``(x, y, z, channel)`` of any type."""
        channels = cells.shape[-1]
        flat = np.ascontiguousarray(cells, dtype=cells.dtype.newbyteorder("=")).reshape(-1)
        if flat.size == 0:
            return
        rows = _rows(flat, channels).reshape(3, -1, channels)
        self.add(Moments(rows[0].sum(axis=0), rows[1].sum(axis=0), rows[2].max(axis=0)))

    def add(self, other: Moments) -> None:
        """Take in those of other samples."""
        self.mass += other.mass
        self.square += other.square
        np.maximum(self.maximum, other.maximum, out=self.maximum)


@njit(nogil=True, cache=True)
def _rows(cells: np.ndarray, channels: int) -> np.ndarray:
    """``(3, width)`` sums, sums of squares and maxima of each column of rows of ``width`` cells.

    A width of whole numbers of cells of all channels lets the compiler use vectors.
    """
    width = channels * _CELLS_A_ROW
    out = np.zeros((3, width))
    sums, squares, largest = out[0], out[1], out[2]
    largest[:] = -np.inf
    whole = cells.size // width * width
    for start in range(0, whole, width):
        row = cells[start : start + width]
        for column in range(width):
            value = np.float64(row[column])
            sums[column] += value
            squares[column] += value * value
            largest[column] = value if value > largest[column] else largest[column]
    for place in range(whole, cells.size):
        column = place - whole
        value = np.float64(cells[place])
        sums[column] += value
        squares[column] += value * value
        largest[column] = max(largest[column], value)
    return out
