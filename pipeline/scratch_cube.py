"""Blocks of a cube that lies in scratch files, tile by tile, and is too large for a memory.

Only the tiles that a block touches are read, and every one is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from pipeline.deposit.tiles import Tiling
from pipeline.tile_file import TileFile

TILES_KEPT = 128
"""Of each channel; 32 MiB of float32."""


@dataclass(frozen=True)
class CubeFile:
    """Cells of the tiles ``begin`` to ``end - 1`` of one channel."""

    path: Path
    begin: int
    end: int


class ScratchChannel:
    """One channel of a cube.

    Parameters
    ----------
    tiling : Tiling
        Its tiles.
    dtype : numpy.dtype
        Of its cells.
    files : sequence of CubeFile
        All tiles, in order.
    """

    def __init__(self, tiling: Tiling, dtype: np.dtype, files: Sequence[CubeFile]) -> None:
        self._tiling, self._dtype, self._files = tiling, dtype, tuple(files)
        self._kept: dict[int, np.ndarray] = {}

    @cached_property
    def _opened(self) -> list[TileFile]:
        return [TileFile(file.path, file.begin, file.end) for file in self._files]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.array([file.end for file in self._files])

    def block(self, first: Sequence[int], side: int, out: np.ndarray) -> None:
        """Read a cube of ``side`` cells from cell ``first`` on, periodic.

        Parameters
        ----------
        first : sequence of int
        side : int
            At most the cells of the grid.
        out : numpy.ndarray
            ``(side, side, side)``, overwritten.

        Raises
        ------
        ScratchDamagedError
            If a tile is not as it was written.
        """
        along = [list(self._pieces(axis, start, side)) for axis, start in enumerate(first)]
        _, n_y, n_z = self._tiling.shape
        for x, y, z in product(*along):
            tile = (x.tile * n_y + y.tile) * n_z + z.tile
            cells = self._cells(tile)
            out[x.there, y.there, z.there] = cells[x.inside, y.inside, z.inside]

    def _pieces(self, axis: int, first: int, side: int) -> Iterator[_Piece]:
        """Tiles along an axis that a range of cells touches, and where."""
        n_grid, starts = self._tiling.n_grid, self._tiling.starts[axis]
        for tile, (low, high) in enumerate(pairwise(starts.tolist())):
            for period in (0, n_grid):
                begin, end = max(low + period, first), min(high + period, first + side)
                if begin < end:
                    yield _Piece(
                        tile,
                        slice(begin - first, end - first),
                        slice(begin - low - period, end - low - period),
                    )

    def _cells(self, tile: int) -> np.ndarray:
        """Cells of a tile; the last ones read are kept, as small blocks share tiles."""
        if tile not in self._kept:
            if len(self._kept) == TILES_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[tile] = self._read(tile)
        return self._kept[tile]

    def _read(self, tile: int) -> np.ndarray:
        file = self._opened[int(np.searchsorted(self._ends, tile, side="right"))]
        data = file.records(tile, tile + 1)[0].data
        low, high = self._tiling.bounds[tile, ::2], self._tiling.bounds[tile, 1::2]
        return np.frombuffer(data, self._dtype).reshape(high - low)


@dataclass(frozen=True)
class _Piece:
    """Part of a range of cells in one tile: where in the range, and where in the tile."""

    tile: int
    there: slice
    inside: slice


class ScratchCube:
    """A cube of several channels.

    Parameters
    ----------
    n_grid : int
    channels : sequence of ScratchChannel
    dtype : numpy.dtype
    """

    def __init__(self, n_grid: int, channels: Sequence[ScratchChannel], dtype: np.dtype) -> None:
        self.n_grid, self._channels, self._dtype = n_grid, tuple(channels), dtype

    def block(self, first: Sequence[int], side: int) -> np.ndarray:
        """``(side, side, side, channels)`` from cell ``first`` on, periodic."""
        out = np.empty((side, side, side, len(self._channels)), self._dtype)
        for number, channel in enumerate(self._channels):
            channel.block(first, side, out[..., number])
        return out
