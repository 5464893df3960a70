"""How fast memory is read and written with a number of threads, for rooflines."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

READ_BYTES = 1 << 30
WRITE_BYTES = 1 << 29

PARTICLE_BYTES = 12


@numba.njit(parallel=True)
def _sum(array: np.ndarray, parts: int) -> int:
    step = array.size // parts
    total = 0
    for part in numba.prange(parts):
        partial = 0
        # whole numbers: the loop is vectorised without fast-math
        for i in range(part * step, (part + 1) * step):
            partial += array[i]
        total += partial
    return total


@numba.njit(parallel=True)
def _clear(array: np.ndarray, parts: int) -> None:
    step = array.size // parts
    for part in numba.prange(parts):
        array[part * step : (part + 1) * step] = 0


def probe(what: str, threads: int) -> Callable[[], None]:
    """A call that reads (``what`` is ``read``) or writes a big array once."""
    numba.set_num_threads(threads)
    size = READ_BYTES if what == "read" else WRITE_BYTES
    array = np.empty(size // 8, np.int64)
    array.fill(1)
    kernel = _sum if what == "read" else _clear
    return lambda: kernel(array, threads)


def roofline_seconds(
    n_particles: int, grid_bytes: int, read_seconds: float, write_seconds: float
) -> float:
    """Least time to read 12 bytes a particle and write the grid once."""
    reading = n_particles * PARTICLE_BYTES * read_seconds / READ_BYTES
    return reading + grid_bytes * write_seconds / WRITE_BYTES
