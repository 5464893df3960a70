"""A deposit in parts: particles of some chunks to a file of tiles, and such files to cells.

Who reads particles (:class:`Binner`) sorts them into tiles, and whenever the
bins are full, and at the end, writes one file: of each tile either its
particles as they are in the bins, or the whole sums of its cells in the
narrowest type, whichever takes fewer bytes.  Who owns a tile
(:func:`sum_tiles`) adds all files' parts of it.  Sums are whole numbers, so
the cells are those of one :class:`~pipeline.deposit.assign.Deposit` to the last
bit, whatever the parts.

A record takes no more than the sums of a tile, so an owner's memory is
bounded by its batches of tiles, whatever the grid and the particles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.deposit import tile_loops
from pipeline.deposit.assign import (
    BIN_BYTES,
    Assigned,
    bin_pages,
    cell_factor,
    measured,
    placing_of,
    tiling_of,
)
from pipeline.deposit.bins import NO_AMOUNTS, WORDS, Bins, Segments, bytes_a_particle
from pipeline.deposit.schemes import Scheme
from pipeline.deposit.tiles import Tiling
from pipeline.tile_file import Record, TileFile, write_tiles

BATCH_TILES = 64
"""Tiles whose sums are in memory at once: 16 MiB."""

BATCH_BYTES = 32 << 20
"""Records that an owner reads at once, if one tile has not more."""

SUM_TYPES = tuple(np.dtype(name) for name in ("u1", "u2", "u4", "i2", "i4", "i8"))
"""What sums are written in: the first that holds them; the kind of a record is the place here."""

PARTICLES = len(SUM_TYPES)
"""Kind of a record of particles: their payload, then their amounts."""


@dataclass(frozen=True)
class Assignment:
    """How particles are assigned; see ``assign``."""

    n_grid: int
    box_size: float
    scheme: Scheme
    origin: str = "cell"
    weighted: bool = False

    @property
    def tiling(self) -> Tiling:
        """Tiles of the grid."""
        return tiling_of(self.n_grid, self.scheme, self.weighted)

    @property
    def sum_dtype(self) -> np.dtype:
        """Type in which cells are summed."""
        return np.dtype(np.uint32 if self.tiling.counts else np.int64)


class Binner:
    """Particles to files of tiles.

    Parameters
    ----------
    assignment : Assignment
    place : callable
        ``place(number)`` is the path of the file of that number, from 0 on.
    n_particles : int
        About how many will come: bins of that size are made.
    threads : int
        Threads that sort.
    bin_bytes : int
        Most memory of the bins, if a page for each tile does not need more.
    """

    def __init__(
        self,
        assignment: Assignment,
        place: Callable[[int], Path],
        n_particles: int,
        threads: int = 1,
        bin_bytes: int = BIN_BYTES,
    ) -> None:
        self._how, self._place, self._threads = assignment, place, threads
        self._tiling = assignment.tiling
        self._n_pages = bin_pages(
            self._tiling, assignment.weighted, n_particles, threads, bin_bytes
        )
        self._placing = placing_of(
            assignment.n_grid, assignment.box_size, assignment.scheme, assignment.origin
        )
        self.read = 0
        self.files = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the bins while the block runs."""
        pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        weighted = self._how.weighted
        self._bins = Bins(self._tiling, weighted, pool, self._threads, self._n_pages)
        try:
            yield
        finally:
            self._bins.close()
            if pool is not None:
                pool.shutdown()

    @property
    def not_finite(self) -> int:
        """Particles left out as a coordinate is NaN or infinite."""
        return self._bins.not_finite

    def add(self, positions: np.ndarray, amounts: np.ndarray = NO_AMOUNTS) -> None:
        """Sort in a chunk of particles."""
        self.read += len(positions)
        self._bins.add(positions, amounts, self._placing, self.flush)

    def flush(self) -> None:
        """Write what the bins hold into a file."""
        segments = self._bins.segments()
        if segments.length.any():
            records = _records(self._how, segments)
            write_tiles(self._place(self.files), self._tiling.n_tiles, records)
            self.files += 1
        self._bins.clear()


def _records(how: Assignment, segments: Segments) -> Iterator[tuple[int, Record]]:
    """The smaller record of each tile that has particles."""
    tiling, n_tiles = how.tiling, how.tiling.n_tiles
    particles = segments.particles()
    each = bytes_a_particle(tiling, how.weighted)
    cells = np.prod(tiling.bounds[:, 1::2] - tiling.bounds[:, ::2], axis=1)
    # one byte a cell is the least that sums take
    worth = particles * each > cells
    acc = np.empty(int(np.prod(tiling.padded)), how.sum_dtype)
    for begin in range(0, n_tiles, BATCH_TILES):
        batch = slice(begin, min(begin + BATCH_TILES, n_tiles))
        sums = _sums(how, segments, batch, np.flatnonzero(worth[batch]), acc)
        for tile in range(batch.start, batch.stop):
            n = int(particles[tile])
            record = _sum_record(sums[tile - begin, : cells[tile]]) if worth[tile] else None
            if record is not None and len(record.data) < n * each:
                yield tile, record
            elif n:
                yield tile, _particle_record(how, segments, tile, n)


def _sums(
    how: Assignment, segments: Segments, batch: slice, tiles: np.ndarray, acc: np.ndarray
) -> np.ndarray:
    """``(tiles of the batch, widest)``: flat sums of those of its ``tiles``, the others 0."""
    tiling = how.tiling
    sums = np.zeros((batch.stop - batch.start if len(tiles) else 0, tiling.widest), acc.dtype)
    if len(tiles):
        first = segments.first[batch.start : batch.stop + 1]
        run = (first, segments.start, segments.length, segments.payload)
        common = (_frame(tiling), tiling.bounds[batch], acc, sums)
        if tiling.counts:
            tile_loops.spill_counts(tiles, run, *common)
        else:
            tile_loops.spill_clouds(tiles, (*run, segments.amounts), *common, *_shape(how.scheme))
    return sums


def _frame(tiling: Tiling) -> tuple[int, int, int]:
    return (*tiling.strides, tiling.margin)


def _shape(scheme: Scheme) -> tuple[int, float]:
    return scheme.support, float(scheme.unit)


def _sum_record(sums: np.ndarray) -> Record:
    """Cells in the narrowest type that holds them."""
    least, most = int(sums.min()), int(sums.max())
    for kind, dtype in enumerate(SUM_TYPES):
        limits = np.iinfo(dtype)
        if limits.min <= least and most <= limits.max:
            return Record(sums.astype(dtype).data.cast("B"), kind=kind)
    raise OverflowError(f"cells of {least} to {most} fit no type of {SUM_TYPES}")


def _particle_record(how: Assignment, segments: Segments, tile: int, n: int) -> Record:
    """Payload and amounts of a tile's particles."""
    runs = slice(segments.first[tile], segments.first[tile + 1])
    begin, length = segments.start[runs], segments.length[runs]
    words = 1 if how.tiling.counts else WORDS
    pairs = list(zip(begin.tolist(), (begin + length).tolist(), strict=True))
    parts = [segments.payload[words * a : words * b].view(np.uint8) for a, b in pairs]
    if how.weighted:
        parts += [segments.amounts[a:b].view(np.uint8) for a, b in pairs]
    return Record(np.concatenate(parts).data, n, PARTICLES)


@dataclass(frozen=True)
class TileSums:
    """Measurements of some tiles: ``whole`` ``(n, 2)`` int64 and ``squares`` ``(n,)`` float64."""

    whole: np.ndarray
    squares: np.ndarray

    def assigned(self, n_particles: int, not_finite: int, divisor: float) -> Assigned:
        """What was deposited, of all tiles of a grid in order."""
        return measured(self.whole, self.squares, n_particles, not_finite, divisor)


def joined(parts: Sequence[TileSums]) -> TileSums:
    """Measurements of runs of tiles, in order."""
    return TileSums(
        np.concatenate([part.whole for part in parts]),
        np.concatenate([part.squares for part in parts]),
    )


def sum_tiles(
    how: Assignment,
    parts: Sequence[Path],
    tiles: tuple[int, int],
    path: Path,
    dtype: np.dtype,
    unit: float | None = None,
) -> TileSums:
    """Add all parts of the tiles ``tiles[0]`` to ``tiles[1] - 1`` and write their cells.

    Parameters
    ----------
    how : Assignment
    parts : sequence of Path
        Files of :class:`Binner`.
    tiles : tuple of int
    path : Path
        Takes a record of each tile: its cells in C order, x slowest, in ``dtype``.
    dtype : numpy.dtype
        Floats get particles a cell (amounts over ``unit``), integers the whole units.
    unit : float, optional
        As for ``assign``.

    Raises
    ------
    ScratchDamagedError
        If a part is not as it was written.
    """
    begin, end = tiles
    n = end - begin
    found = TileSums(np.zeros((n, 2), np.int64), np.zeros(n))
    files = [TileFile(part, begin, end) for part in parts]

    def records() -> Iterator[tuple[int, Record]]:
        for a, b in _batches(files, begin, end):
            there = slice(a - begin, b - begin)
            sums = TileSums(found.whole[there], found.squares[there])
            cells = _cells(how, [file.records(a, b) for file in files], (a, b), dtype, unit, sums)
            yield from ((tile, Record(data)) for tile, data in enumerate(cells, a))

    write_tiles(path, end, records())
    return found


def _batches(files: Sequence[TileFile], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of tiles whose records take at most :data:`BATCH_BYTES`."""
    sizes = sum((file.sizes for file in files), np.zeros(end - begin, np.int64))
    a, held = begin, 0
    for tile in range(begin, end):
        size = int(sizes[tile - begin])
        if tile > a and (held + size > BATCH_BYTES or tile - a == BATCH_TILES):
            yield a, tile
            a, held = tile, 0
        held += size
    yield a, end


def _cells(
    how: Assignment,
    records: Sequence[Sequence[Record]],
    tiles: tuple[int, int],
    dtype: np.dtype,
    unit: float | None,
    measurements: TileSums,
) -> Iterator[memoryview]:
    """Cells of a batch of tiles, each as bytes in C order; fills in their ``measurements``."""
    tiling, (a, b) = how.tiling, tiles
    sizes = tiling.bounds[a:b, 1::2] - tiling.bounds[a:b, ::2]
    width, *across = sizes.max(axis=0)
    resident = _resident(how, records, np.prod(sizes, axis=1))
    segments = _segments(how, records, b - a)
    # each tile has a place of its own in the scratch grid, one after the other along x
    bounds = np.zeros((b - a, 6), np.int64)
    bounds[:, 1::2] = sizes
    bounds[:, :2] += np.arange(b - a)[:, None] * width
    out = np.empty(((b - a) * width, *across), dtype)
    acc = np.empty(int(np.prod(tiling.padded)), how.sum_dtype)
    run = (segments.first, segments.start, segments.length, segments.payload)
    factor = cell_factor(dtype, how.scheme, unit)
    common = (_frame(tiling), bounds, acc, resident, out, factor)
    cleared = False
    found, order = (measurements.whole, measurements.squares, cleared), np.arange(b - a)
    if tiling.counts:
        tile_loops.finish_counts(order, run, *common, *found)
    else:
        with_amounts = (*run, segments.amounts)
        tile_loops.finish_clouds(order, with_amounts, *common, *found, *_shape(how.scheme))
    for number, (nx, ny, nz) in enumerate(sizes):
        cells = out[number * width : number * width + nx, :ny, :nz]
        yield np.ascontiguousarray(cells).data.cast("B")


def _resident(
    how: Assignment, records: Sequence[Sequence[Record]], cells: np.ndarray
) -> np.ndarray:
    """Flat sums of each tile of the batch over the files that have sums; none if no file has."""
    some = any(r.data and r.kind != PARTICLES for of_file in records for r in of_file)
    sums = np.zeros((len(cells) if some else 0, how.tiling.widest), how.sum_dtype)
    for of_file in records:
        for tile, record in enumerate(of_file):
            if record.data and record.kind != PARTICLES:
                own = sums[tile, : cells[tile]]
                part = np.frombuffer(record.data, SUM_TYPES[record.kind])
                np.add(own, part, out=own, casting="unsafe")
    return sums


def _segments(how: Assignment, records: Sequence[Sequence[Record]], n_tiles: int) -> Segments:
    """Particles of each tile of the batch over the files that have particles."""
    words, dtype = (1, np.uint16) if how.tiling.counts else (WORDS, np.uint32)
    payload, amounts, length, first = [np.empty(0, dtype)], [NO_AMOUNTS], list[int](), [0]
    for tile in range(n_tiles):
        for record in (of_file[tile] for of_file in records):
            if record.data and record.kind == PARTICLES:
                split = record.particles * words * np.dtype(dtype).itemsize
                payload.append(np.frombuffer(record.data[:split], dtype))
                amounts.append(np.frombuffer(record.data[split:], np.int64))
                length.append(record.particles)
        first.append(len(length))
    lengths = np.array(length, np.int64)
    return Segments(
        np.array(first, np.int64),
        np.cumsum(lengths) - lengths,
        lengths,
        np.concatenate(payload),
        np.concatenate(amounts),
    )
