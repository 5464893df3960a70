"""Cutting a periodic grid into tiles that a core's cache holds.

Particles are sorted into tiles first and deposited tile by tile after, so that
the random access of mass assignment stays in the cache whatever the order of
the particles.  A cloud that reaches over a face of its tile is put into each
tile that it touches ("ghosts"), and every tile takes of it what lies inside:
no tile ever waits for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

COUNT_TILE = (32, 32, 64)
"""Most cells of a tile of counts: the place in it fits 16 bits."""

CLOUD_TILE = (32, 32, 64)
"""Most cells of a tile of clouds: 64-bit sums and their margins fit a cache of level 2."""

LANES = 4
"""Cells that one vector instruction adds to, along z."""

NO_TILE = -1

LEAST_N_GRID = 4
"""A cloud then touches no tile more than twice."""

GHOSTS = 1 << 24
"""Bit of a place: the cloud touches a second tile along the axis."""

BOXES = 3
"""Tables cover one box below and one above."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of a periodic grid, for one support.

    Attributes
    ----------
    n_grid : int
        Cells a side of the grid, at least ``LEAST_N_GRID``.
    support : int
        Cells a side that a particle touches: 1 for NGP to 4 for PCS.
    counts : bool
        Particles all count 1 and touch one cell; a place is then one number.
    """

    n_grid: int
    support: int
    counts: bool = False

    @cached_property
    def starts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First cell of each tile and the end, along x, y and z; widths differ by one at most."""
        most = COUNT_TILE if self.counts else CLOUD_TILE
        return tuple(self._cut(width) for width in most)  # type: ignore[return-value]

    def _cut(self, width: int) -> np.ndarray:
        n_tiles = -(-self.n_grid // width)
        return np.arange(n_tiles + 1, dtype=np.int64) * self.n_grid // n_tiles

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tiles along x, y and z."""
        x, y, z = (len(starts) - 1 for starts in self.starts)
        return x, y, z

    @property
    def n_tiles(self) -> int:
        """All tiles; tile (a, b, c) has number ``(a * shape[1] + b) * shape[2] + c``."""
        x, y, z = self.shape
        return x * y * z

    @property
    def margin(self) -> int:
        """Cells on each side of a tile into which its ghosts may reach."""
        return self.support - 1

    @cached_property
    def padded(self) -> tuple[int, int, int]:
        """Cells of the scratch that holds any one tile, its margins and a vector's end."""
        wide = [int(np.diff(starts).max()) + 2 * self.margin for starts in self.starts]
        if not self.counts:
            wide[2] += LANES
        return wide[0], wide[1], wide[2]

    @cached_property
    def narrowest(self) -> tuple[int, int, int]:
        """Fewest cells of a tile along x, y and z."""
        x, y, z = (int(np.diff(starts).min()) for starts in self.starts)
        return x, y, z

    @cached_property
    def widest(self) -> int:
        """Cells of the largest tile."""
        return int(np.prod([np.diff(starts).max() for starts in self.starts]))

    @cached_property
    def bounds(self) -> np.ndarray:
        """``(n_tiles, 6)`` int64: first cell and end along x, y, z of each tile."""
        low = np.meshgrid(*(s[:-1] for s in self.starts), indexing="ij")
        high = np.meshgrid(*(s[1:] for s in self.starts), indexing="ij")
        columns = [side[axis].ravel() for axis in range(3) for side in (low, high)]
        return np.stack(columns, axis=1)

    @property
    def strides(self) -> tuple[int, int]:
        """Cells from one to the next along x and along y in the scratch."""
        return self.padded[1] * self.padded[2], self.padded[2]

    @cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """``main`` of x, y, z, and of clouds ``ghost`` of x, y, z, for ``BOXES`` boxes.

        The ``main`` of clouds has the bit ``GHOSTS`` where there is a ``ghost``.
        """
        if self.counts:
            return tuple(np.tile(table, BOXES) for table in self.main)
        flagged = self.main + GHOSTS * (self.ghost != NO_TILE)
        return tuple(np.tile(table, BOXES) for kind in (flagged, self.ghost) for table in kind)

    @cached_property
    def main(self) -> np.ndarray:
        """``(3, n_grid)`` int64: per axis and base cell, the tile's share of its number and place.

        The upper 32 bits of the sum over the axes are the tile's number.  The
        lower are its place: for counts the cell of the tile, for clouds, along
        each axis alone, the base cell counted from the margin's beginning.
        """
        return np.stack([self._axis_table(axis, self._owner(axis)) for axis in range(3)])

    @cached_property
    def ghost(self) -> np.ndarray:
        """``(3, n_grid)`` int64: the same of the second tile a cloud touches, or ``NO_TILE``."""
        return np.stack([self._ghost_table(axis) for axis in range(3)])

    def _owner(self, axis: int) -> np.ndarray:
        cells = np.arange(self.n_grid)
        tile: np.ndarray = np.searchsorted(self.starts[axis], cells, side="right") - 1
        return tile

    def _axis_table(self, axis: int, tile: np.ndarray) -> np.ndarray:
        local = np.arange(self.n_grid) - self.starts[axis][tile]
        return self._packed(axis, tile, local)

    def _packed(self, axis: int, tile: np.ndarray, local: np.ndarray) -> np.ndarray:
        stride = (self.shape[1] * self.shape[2], self.shape[2], 1)[axis]
        if self.counts:
            place = local * (self.padded[1] * self.padded[2], self.padded[2], 1)[axis]
        else:
            place = local + self.margin
        packed: np.ndarray = (tile * stride << 32) + place
        return packed

    def _ghost_table(self, axis: int) -> np.ndarray:
        n, starts = self.n_grid, self.starts[axis]
        last_tile = len(starts) - 2
        cell, tile = np.arange(n), self._owner(axis)
        left, right = (self.support - 1) // 2, self.support // 2
        table = np.full(n, NO_TILE, dtype=np.int64)
        over = cell + right >= starts[tile + 1]
        following = np.where(tile == last_tile, 0, tile + 1)
        ends = np.where(tile == last_tile, n, starts[tile + 1])
        table[over] = self._packed(axis, following, cell - ends)[over]
        under = cell - left < starts[tile]
        before = np.where(tile == 0, last_tile, tile - 1)
        base = np.where(tile == 0, cell + n, cell) - starts[before]
        table[under] = self._packed(axis, before, base)[under]
        return table
