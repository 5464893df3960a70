"""How much memory a worker needs for one task: bounds from a recipe and the headers' numbers.

A universe is made by one worker, or, where its grid or its particles are too
large for one, by several in parts (``large_box``), each in bounded memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config import Recipe
from pipeline.deposit import direct
from pipeline.deposit.assign import BIN_BYTES, bin_pages, tiling_of
from pipeline.deposit.bins import bytes_a_particle, page_particles, pages_needed
from pipeline.deposit.parts import BATCH_BYTES, BATCH_TILES
from pipeline.deposit.schemes import get_scheme
from pipeline.deposit.tiles import Tiling
from pipeline.read_ahead import CHUNKS_AHEAD
from pipeline.scratch_cube import TILES_KEPT
from pipeline.snapshot import DEFAULT_CHUNK_PARTICLES

WORKER_BASE_BYTES = 300 << 20
"""An idle worker process: Python, NumPy, numba and Dask."""

READER_BYTES = 48 << 20
"""What a reader holds besides its chunk: a copy in another type, compressed blocks."""

CHUNK_BYTES = 24 * DEFAULT_CHUNK_PARTICLES
"""Positions of a chunk in float64."""

MASS_CHUNK_BYTES = 8 * DEFAULT_CHUNK_PARTICLES

MORE_PAGES = 4096
"""Pages that may be begun by one block of particles."""

FIT = 0.8
"""Share of its limit that a worker may fill: Dask gives no new work to one that is above."""


def sample_bytes(recipe: Recipe) -> int:
    """Bytes of one sample in memory."""
    return math.prod(recipe.sample_shape) * np.dtype(recipe.dtype).itemsize


def cube_bytes(recipe: Recipe) -> int:
    """Bytes of one cube, all channels."""
    return sample_bytes(recipe) * recipe.split.subvolumes**3


@dataclass(frozen=True)
class Particles:
    """What a deposit of a recipe holds in memory.

    Attributes
    ----------
    tiling : Tiling
    weighted : bool
    """

    tiling: Tiling
    weighted: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Particles:
        """Of a recipe that does not take ready grids."""
        weighted = recipe.grid.weight == "mass"
        scheme = get_scheme(recipe.grid.scheme)
        return cls(tiling_of(recipe.grid.n_grid, scheme, weighted), weighted)

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of the bins."""
        return page_particles(self.tiling) * bytes_a_particle(self.tiling, self.weighted)

    @property
    def least_bins(self) -> int:
        """Bytes of bins of a few pages for each tile: with less, files are many and small."""
        return (2 * self.tiling.n_tiles + MORE_PAGES) * self.page_bytes

    def bins(self, n_particles: int, threads: int, most: int = BIN_BYTES) -> int:
        """Bytes of the bins of a deposit, or of the sums that do without sorting."""
        pages = bin_pages(self.tiling, self.weighted, n_particles, threads, most)
        unsorted = 0 if self.tiling.counts else direct.bytes_needed(self.tiling)
        held = pages * self.page_bytes
        return max(held, unsorted) if unsorted <= most else held

    def sums(self, n_particles: int, threads: int) -> int:
        """Bytes of whole sums beside the grid: none if all particles fit the bins."""
        pages = pages_needed(self.tiling, n_particles, threads)
        if pages * self.page_bytes <= BIN_BYTES:
            return 0
        return (4 if self.tiling.counts else 8) * self.tiling.widest * self.tiling.n_tiles

    @property
    def chunks(self) -> int:
        """Bytes of chunks that are read ahead, and of the reader."""
        masses = 5 * MASS_CHUNK_BYTES if self.weighted else 0
        each = CHUNK_BYTES + (MASS_CHUNK_BYTES if self.weighted else 0)
        return (CHUNKS_AHEAD + 3) * each + READER_BYTES + masses

    def shipped(self, n_particles: int) -> int:
        """Bytes of the particles in all tiles that they touch."""
        pages = pages_needed(self.tiling, n_particles, 0)
        return pages * self.page_bytes


def whole(recipe: Recipe, n_particles: int, threads: int = 1) -> int:
    """Bound of the memory of a worker that makes whole universes.

    Parameters
    ----------
    recipe : Recipe
    n_particles : int
        Most of one snapshot.
    threads : int
        Threads that deposit.

    Notes
    -----
    Bins are kept for the next task.  Cubes are copied when they are cut: once where they
    are as they were, once more with symmetries, and once more with shifts.
    """
    cube = cube_bytes(recipe)
    bins, working = 0, READER_BYTES
    if recipe.grid.scheme != "ready":
        held = Particles.of(recipe)
        bins = held.bins(n_particles, threads)
        working = held.sums(n_particles, threads) + held.chunks
    copies = 1 + (recipe.augment.variants > 1) + recipe.augment.shifts
    samples = max(recipe.output.samples_per_shard, recipe.samples_per_universe("train"))
    phases = (cube + working, (1 + copies) * cube, _encoded(recipe))
    return WORKER_BASE_BYTES + bins + samples * sample_bytes(recipe) + max(phases)


def _encoded(recipe: Recipe) -> int:
    """Bytes of a shard as it is encoded."""
    # Zarr: the shard's chunks and the file; records: each, joined, and compressed
    copies = 2 if recipe.output.format == "zarr" else 3
    return copies * sample_bytes(recipe) * recipe.output.samples_per_shard


def in_parts(recipe: Recipe, bin_bytes: int | None = None) -> int:
    """Bound of the memory of a worker of several that make a universe in parts.

    Parameters
    ----------
    recipe : Recipe
    bin_bytes : int, optional
        Of the bins; default: the least with which it can be done.
    """
    held = Particles.of(recipe)
    itemsize = np.dtype(recipe.dtype).itemsize
    binning = max(held.least_bins, bin_bytes or 0) + _beside_bins(held)
    summing = 3 * BATCH_BYTES + 2 * _batch(held) + BATCH_TILES * held.tiling.widest * itemsize
    one = sample_bytes(recipe)
    # a sample and its block, and the tiles that are kept
    reading = 2 * one + TILES_KEPT * held.tiling.widest * itemsize * recipe.sample_shape[3]
    cutting = recipe.output.samples_per_shard * one + max(reading, _encoded(recipe))
    return WORKER_BASE_BYTES + max(binning, summing, cutting)


def _batch(held: Particles) -> int:
    """Bytes of the sums of a batch of tiles."""
    return BATCH_TILES * held.tiling.widest * (4 if held.tiling.counts else 8)


def _beside_bins(held: Particles) -> int:
    return held.chunks + 2 * _batch(held)


def bin_bytes_within(recipe: Recipe, limit: int | None) -> int:
    """Bytes of bins for a worker that makes parts within a limit of memory for one task."""
    if limit is None:
        return BIN_BYTES
    held = Particles.of(recipe)
    room = int(limit * FIT) - WORKER_BASE_BYTES - _beside_bins(held)
    return max(held.least_bins, min(BIN_BYTES, room))


def scratch_bytes(recipe: Recipe, n_particles: int) -> int:
    """Bound of the scratch files of one universe: its cube, and the particles of a snapshot."""
    return cube_bytes(recipe) + Particles.of(recipe).shipped(n_particles)
