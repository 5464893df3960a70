"""Particles of a deposit, sorted into the tiles of a grid, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.deposit import binning
from pipeline.deposit.pool import borrowed
from pipeline.deposit.tiles import Tiling

COUNT_PAGE = 1024
CLOUD_PAGE = 256
"""Particles a page."""

WORDS = 3
"""uint32 words of a cloud in the payload."""

Job = tuple[int, np.ndarray, np.ndarray, int, binning.Placing]
"""Thread, coordinates, amounts, first particle, placing."""

NO_AMOUNTS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Segments:
    """Particles of each tile as runs of a payload.

    Attributes
    ----------
    first : numpy.ndarray
        ``(n_tiles + 1,)`` int64: where the runs of each tile begin in ``start`` and ``length``.
    start, length : numpy.ndarray
        int64: first particle of a run in the payload, and their number.
    payload : numpy.ndarray
        uint16 for counts, uint32 for clouds.
    amounts : numpy.ndarray
        int64, one a particle; empty where all count the same.
    """

    first: np.ndarray
    start: np.ndarray
    length: np.ndarray
    payload: np.ndarray
    amounts: np.ndarray

    def particles(self) -> np.ndarray:
        """``(n_tiles,)`` int64: particles of each tile, ghosts included."""
        sums = np.concatenate([[0], np.cumsum(self.length)])
        return np.asarray(sums[self.first[1:]] - sums[self.first[:-1]])


def bytes_a_particle(tiling: Tiling, weighted: bool) -> int:
    """Bytes of one particle in one tile."""
    return 2 if tiling.counts else 4 * WORDS + (8 if weighted else 0)


def page_particles(tiling: Tiling) -> int:
    """Particles that fill a page."""
    return COUNT_PAGE if tiling.counts else CLOUD_PAGE


def pages_needed(tiling: Tiling, n_particles: int, threads: int) -> int:
    """Pages that hold so many particles: ghosts, and a page begun in each tile by each thread."""
    copies = 1.0
    for width in tiling.narrowest:
        copies *= 1 + tiling.margin / width
    # tiles at which matter gathers may have more ghosts than the mean
    return int(n_particles * copies * 1.1) // page_particles(tiling) + 2 * threads * tiling.n_tiles


class Bins:
    """Pages of particles by tile, filled by threads.

    Parameters
    ----------
    tiling : Tiling
    weighted : bool
        Particles come with amounts.
    pool : ThreadPoolExecutor or None
        None: the calling thread does all.
    threads : int
        Of the pool.
    n_pages : int
        Pages in all.
    """

    def __init__(
        self,
        tiling: Tiling,
        weighted: bool,
        pool: ThreadPoolExecutor | None,
        threads: int,
        n_pages: int,
    ) -> None:
        self._tiling, self._weighted = tiling, weighted
        self._pool, self._threads = pool, threads
        self._size = page_particles(tiling)
        least = binning.most_pages(tiling.n_tiles, binning.COPIES * binning.BLOCK, self._size)
        self._pages_each = max(-(-n_pages // threads), least)
        self.not_finite = 0
        self._memory = ExitStack()
        self._payload = self._buffer(np.uint16 if tiling.counts else np.uint32, tiling.counts)
        self._amounts = self._buffer(np.int64, True) if weighted else NO_AMOUNTS
        self._page_tile = np.empty(self._pages_each * threads, np.int32)
        self._cursors = np.empty((threads, tiling.n_tiles), np.uint64)
        self._states = np.empty((threads, 3), np.int64)
        self.clear()

    def _buffer(self, dtype: type, single: bool) -> np.ndarray:
        n = self._pages_each * self._threads * self._size * (1 if single else WORDS)
        n_bytes = n * np.dtype(dtype).itemsize
        return self._memory.enter_context(borrowed(n_bytes)).view(dtype)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    def clear(self) -> None:
        """Forget all particles."""
        self._cursors[:] = 0
        first = np.arange(self._threads) * self._pages_each
        self._states[:, binning.NEXT_PAGE] = first
        self._states[:, binning.END_PAGE] = first + self._pages_each
        self._states[:, binning.NOT_FINITE] = 0

    def add(
        self,
        positions: np.ndarray,
        amounts: np.ndarray,
        placing: binning.Placing,
        make_room: Callable[[], None],
    ) -> None:
        """Sort the particles of a chunk in; ``make_room`` is called when the pages are full."""
        flat = np.ascontiguousarray(positions).reshape(-1)
        bounds = np.arange(self._threads + 1) * len(positions) // self._threads
        ranges = [(int(a), int(b)) for a, b in pairwise(bounds)]
        while True:
            jobs = [
                (number, flat[: 3 * end], amounts[:end], begin, placing)
                for number, (begin, end) in enumerate(ranges)
                if begin < end
            ]
            reached = dict(zip((job[0] for job in jobs), self._run(jobs), strict=True))
            self._count_not_finite()
            ranges = [(reached.get(t, end), end) for t, (_, end) in enumerate(ranges)]
            if all(begin >= end for begin, end in ranges):
                return
            make_room()

    def _run(
        self, jobs: list[tuple[int, np.ndarray, np.ndarray, int, binning.Placing]]
    ) -> list[int]:
        if self._pool is None:
            return [self._bin(*job) for job in jobs]
        return list(self._pool.map(lambda job: self._bin(*job), jobs))

    def _bin(
        self,
        thread: int,
        flat: np.ndarray,
        amounts: np.ndarray,
        begin: int,
        placing: binning.Placing,
    ) -> int:
        cursor, state = self._cursors[thread], self._states[thread]
        tables = self._tiling.tables
        if self._tiling.counts:
            pages = (self._payload, cursor, self._page_tile)
            return int(binning.bin_counts(flat, begin, placing, tables, pages, self._size, state))
        pages_and = (self._payload, cursor, self._page_tile, self._amounts)
        given = amounts if self._weighted else NO_AMOUNTS
        return int(
            binning.bin_clouds(flat, given, begin, placing, tables, pages_and, self._size, state)
        )

    def _count_not_finite(self) -> None:
        self.not_finite += int(self._states[:, binning.NOT_FINITE].sum())
        self._states[:, binning.NOT_FINITE] = 0

    def segments(self) -> Segments:
        """Runs of the particles of each tile."""
        pages = np.concatenate(list(self._used()))
        length = np.full(len(self._page_tile), self._size, np.int64)
        for cursor in self._cursors:
            begun = cursor[(cursor & np.uint64(self._size - 1)) != 0].astype(np.int64)
            length[begun // self._size] = begun % self._size
        tiles = self._page_tile[pages]
        order = np.argsort(tiles, kind="stable")
        counts = np.bincount(tiles, minlength=self._tiling.n_tiles)
        first = np.concatenate([[0], np.cumsum(counts)])
        pages = pages[order]
        return Segments(first, pages * self._size, length[pages], self._payload, self._amounts)

    def _used(self) -> Iterator[np.ndarray]:
        for thread in range(self._threads):
            yield np.arange(thread * self._pages_each, self._states[thread, binning.NEXT_PAGE])
