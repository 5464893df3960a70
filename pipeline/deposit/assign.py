"""Mass assignment of a stream of particles onto a periodic grid.

Particles are sorted into tiles as they arrive (``binning``), and each tile is
deposited by one thread in memory that its cache holds (``tile_kernels``), in
whole numbers: the grid's bits do not depend on the order or the chunks of the
particles, nor on the number of threads.

Memory: the bins (:data:`BIN_BYTES` at most), the grid, and, if the particles do
not fit the bins, whole sums of 4 (counts) or 8 bytes a cell beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.deposit import direct, tile_loops
from pipeline.deposit.backends import CPU, get_backend
from pipeline.deposit.bins import (
    NO_AMOUNTS,
    Bins,
    Segments,
    bytes_a_particle,
    page_particles,
    pages_needed,
)
from pipeline.deposit.schemes import Scheme
from pipeline.deposit.tiles import Tiling

BIN_BYTES = 1 << 30
"""Most memory of the bins of one deposit."""

PARTICLES_A_THREAD = 1 << 16
"""Fewer do not make up for a thread's start (8 cells to be written count as one)."""

CELLS_TO_CLEAR = 500
"""Grids with more cells than this for each particle stay empty in most of their rows."""

BATCHES_A_THREAD = 8
"""Tiles are handed out in so many parts a thread, as none knows how full they are."""

Chunk = np.ndarray | tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Assigned:
    """What was deposited.

    Attributes
    ----------
    n_particles : int
        Particles that came, those included whose position was not finite.
    not_finite : int
        Particles left out because a coordinate is NaN or infinite.
    total : int
        Sum over the grid, in whole units (``Scheme.unit`` a particle).
    largest : int
        Fullest cell, in whole units.
    second : float
        Sum of the squares of the cells, in particles (or amounts over ``unit``).
    """

    n_particles: int
    not_finite: int
    total: int
    largest: int
    second: float


def assign(
    chunks: Iterable[Chunk],
    out: np.ndarray,
    box_size: float,
    scheme: Scheme,
    *,
    origin: str = "cell",
    shift: float = 0.0,
    weighted: bool = False,
    unit: float | None = None,
    n_particles: int | None = None,
    threads: int = 1,
    bin_bytes: int = BIN_BYTES,
    backend: str = CPU,
) -> Assigned:
    """Deposit particles and write the grid.

    Parameters
    ----------
    chunks : iterable
        ``(n, 3)`` float32 or float64 positions in the unit of ``box_size``, any
        finite values, wrapped periodically; with ``weighted`` pairs of those
        and ``(n,)`` int64 amounts below 2^50 of either sign.  A chunk is used
        until the next is asked for.
    out : numpy.ndarray
        ``(n_grid, n_grid, n_grid)``, overwritten.  Floats get particles a cell
        (amounts over ``unit``), integers the whole units.  May be a strided view.
    box_size : float
        Side of the periodic box.
    scheme : Scheme
        From ``get_scheme``.
    origin : {'cell', 'node'}
        Whether grid point ``i`` is the centre of cell ``i``, at ``(i + 1/2) cell_size``
        (NGP is then a histogram with edges ``i cell_size``), or lies at ``i cell_size``.
    shift : float
        Cells by which all particles are moved up along each axis: half a cell
        for the second grid of an interlaced power spectrum.
    weighted : bool
        Particles have amounts.
    unit : float, optional
        Whole number that becomes 1 in a grid of floats; default ``scheme.unit``.
    n_particles : int, optional
        How many will come: bins of that size are made.
    threads : int
        Threads that deposit.
    bin_bytes : int
        Most memory of the bins.
    backend : str
        From ``backend_names``; the result has the same bits.

    Returns
    -------
    Assigned
        The caller compares ``largest`` with the limit of an integer ``out``.
    """
    deposit = get_backend(backend)(
        out.shape[0],
        box_size,
        scheme,
        origin=origin,
        shift=shift,
        weighted=weighted,
        n_particles=n_particles,
        threads=threads,
        bin_bytes=bin_bytes,
    )
    with deposit.running():
        for chunk in chunks:
            positions, amounts = chunk if isinstance(chunk, tuple) else (chunk, NO_AMOUNTS)
            deposit.add(positions, amounts)
        return deposit.write(out, unit)


class Deposit:
    """A deposit being made: particles in, a grid out.  Parameters as of :func:`assign`."""

    def __init__(
        self,
        n_grid: int,
        box_size: float,
        scheme: Scheme,
        *,
        origin: str = "cell",
        shift: float = 0.0,
        weighted: bool = False,
        n_particles: int | None = None,
        threads: int = 1,
        bin_bytes: int = BIN_BYTES,
    ) -> None:
        self.scheme, self.weighted = scheme, weighted
        self.threads = useful_threads(threads, n_particles, n_grid)
        self.tiling = tiling_of(n_grid, scheme, weighted)
        self._n_pages = bin_pages(self.tiling, weighted, n_particles, self.threads, bin_bytes)
        self._placing = placing_of(n_grid, box_size, scheme, origin, shift)
        self._n_particles, self._bin_bytes = n_particles, bin_bytes
        self._resident = self._new_resident(0)
        self._direct: direct.DirectSums | None = None
        self._read = 0

    @staticmethod
    def check_available() -> None:
        """Whether this process can make such deposits: always."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the bins and the threads while the block runs."""
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._bins = Bins(self.tiling, self.weighted, self._pool, self.threads, self._n_pages)
        self._scratch = [self._new_scratch() for _ in range(self.threads)]
        try:
            yield
        finally:
            self._bins.close()
            if self._direct is not None:
                self._direct.close()
            if self._pool is not None:
                self._pool.shutdown()

    def add(self, positions: np.ndarray, amounts: np.ndarray = NO_AMOUNTS) -> None:
        """Take in a chunk of particles."""
        if not self._read and self._goes_direct(positions):
            self._direct = direct.DirectSums(self.tiling, self.scheme.unit)
        self._read += len(positions)
        if self._direct is None:
            self._bins.add(positions, amounts, self._placing, self._spill)
        else:
            self._direct.add(positions, amounts, self._placing)

    def _goes_direct(self, positions: np.ndarray) -> bool:
        """Whether to do without sorting: for one thread, in order, in no more memory."""
        if self.threads > 1 or self.tiling.counts or not len(positions):
            return False
        fits = direct.bytes_needed(self.tiling) <= self._bin_bytes
        known = (self.tiling, positions, self._placing[0], self._n_particles)
        return fits and direct.is_worthwhile(*known)

    def write(self, out: np.ndarray, unit: float | None = None) -> Assigned:
        """Deposit all tiles into ``out``."""
        tiling = self.tiling
        whole = np.zeros((tiling.n_tiles, 2), np.int64)
        squares = np.zeros(tiling.n_tiles)
        factor = cell_factor(out.dtype, self.scheme, unit)
        divisor = square_divisor(out.dtype, self.scheme, unit)
        if self._direct is not None:
            self._direct.write(out, factor, whole, squares)
            return measured(whole, squares, self._read, self._direct.not_finite, divisor)
        segments = self._bins.segments()
        resident = self._resident

        # in order, memory is cleared faster than tile by tile
        cleared = self._read * CELLS_TO_CLEAR < out.size and not len(resident)
        if cleared:
            out[...] = 0
        results = (out, factor, whole, squares, cleared)

        def finish(tiles: np.ndarray, scratch: np.ndarray) -> None:
            common = (self._frame, tiling.bounds, scratch, resident, *results)
            if tiling.counts:
                tile_loops.finish_counts(tiles, self._run(segments), *common)
            else:
                tile_loops.finish_clouds(tiles, self._run(segments), *common, *self._shape)

        self._each_tile(segments, finish)
        return measured(whole, squares, self._read, self._bins.not_finite, divisor)

    def _spill(self) -> None:
        """Move what the bins hold into the resident sums."""
        if not len(self._resident):
            self._resident = self._new_resident(self.tiling.n_tiles)
        segments = self._bins.segments()

        def spill(tiles: np.ndarray, scratch: np.ndarray) -> None:
            common = (self._frame, self.tiling.bounds, scratch, self._resident)
            if self.tiling.counts:
                tile_loops.spill_counts(tiles, self._run(segments), *common)
            else:
                tile_loops.spill_clouds(tiles, self._run(segments), *common, *self._shape)

        self._each_tile(segments, spill)
        self._bins.clear()

    def _each_tile(
        self, segments: Segments, work: Callable[[np.ndarray, np.ndarray], None]
    ) -> None:
        if self._pool is None:
            work(np.arange(self.tiling.n_tiles), self._scratch[0])
            return
        free = list(self._scratch)

        def one(tiles: np.ndarray) -> None:
            scratch = free.pop()
            work(tiles, scratch)
            free.append(scratch)

        list(self._pool.map(one, _batches(segments.particles(), self.threads)))

    @property
    def _frame(self) -> tuple[int, int, int]:
        return (*self.tiling.strides, self.tiling.margin)

    @property
    def _shape(self) -> tuple[int, float]:
        return self.scheme.support, float(self.scheme.unit)

    def _run(self, segments: Segments) -> tuple[np.ndarray, ...]:
        run = (segments.first, segments.start, segments.length, segments.payload)
        return run if self.tiling.counts else (*run, segments.amounts)

    def _new_scratch(self) -> np.ndarray:
        dtype = np.uint32 if self.tiling.counts else np.int64
        return np.empty(int(np.prod(self.tiling.padded)), dtype)

    def _new_resident(self, n_tiles: int) -> np.ndarray:
        dtype = np.uint32 if self.tiling.counts else np.int64
        return np.zeros((n_tiles, self.tiling.widest), dtype)


def useful_threads(threads: int, n_particles: int | None, n_grid: int) -> int:
    """So many threads at most, and one where starting more costs more than it gains."""
    if n_particles is None:
        return threads
    return max(1, min(threads, (n_particles + n_grid**3 // 8) // PARTICLES_A_THREAD))


@lru_cache(maxsize=8)
def tiling_of(n_grid: int, scheme: Scheme, weighted: bool) -> Tiling:
    """Tiles of a grid for a scheme; kept, as a small deposit takes no longer than its tables."""
    return Tiling(n_grid, scheme.support, counts=scheme.support == 1 and not weighted)


def placing_of(
    n_grid: int, box_size: float, scheme: Scheme, origin: str, shift: float = 0.0
) -> tuple[float, float, int]:
    """Cells a length, offset in cells, cells a side."""
    # NGP and TSC look half a cell up, so that the nearest point is the cell below
    offset = (0.5 if scheme.support % 2 else 0.0) - (0.5 if origin == "cell" else 0.0)
    return n_grid / box_size, offset + shift, n_grid


def cell_factor(dtype: np.dtype, scheme: Scheme, unit: float | None) -> float:
    """What whole cells are multiplied by when they are written as ``dtype``."""
    return 1.0 if dtype.kind in "iu" else 1.0 / (unit or scheme.unit)


def square_divisor(dtype: np.dtype, scheme: Scheme, unit: float | None) -> float:
    """Whole units of one particle in the cells whose squares were added up."""
    whole = cell_factor(dtype, scheme, unit) == 1.0
    return float(unit or scheme.unit) if whole else 1.0


def measured(
    whole: np.ndarray, squares: np.ndarray, n_particles: int, not_finite: int, divisor: float
) -> Assigned:
    """What was deposited, of all tiles' sums, largest cells and sums of squares."""
    return Assigned(
        n_particles=n_particles,
        not_finite=not_finite,
        total=sum(int(t) for t in whole[:, 0]),
        largest=int(whole[:, 1].max()),
        second=float(squares.sum()) / divisor**2,
    )


def bin_pages(
    tiling: Tiling, weighted: bool, n_particles: int | None, threads: int, bin_bytes: int
) -> int:
    """Pages of the bins: for all particles, or as many as ``bin_bytes`` allows."""
    page_bytes = page_particles(tiling) * bytes_a_particle(tiling, weighted)
    most = max(1, bin_bytes // page_bytes)
    return most if n_particles is None else min(most, pages_needed(tiling, n_particles, threads))


def _batches(particles: np.ndarray, threads: int) -> list[np.ndarray]:
    """Runs of tiles with about as many particles (and cells) each."""
    n_tiles = len(particles)
    work = np.cumsum(particles + particles.mean() * 0.2 + 1)
    cuts = np.searchsorted(
        work, work[-1] * np.arange(1, threads * BATCHES_A_THREAD) / (threads * BATCHES_A_THREAD)
    )
    parts = np.split(np.arange(n_tiles), np.unique(cuts))
    return [part for part in parts if len(part)]
