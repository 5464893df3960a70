"""Compiling a deposit before it is needed.

Numba keeps compiled code on disk, for all processes of a machine (or of a
shared home folder): the first call takes some seconds once, and loading a
fraction of one in each process after.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

from pipeline.deposit.assign import assign
from pipeline.deposit.schemes import get_scheme

N_GRID = 8


@lru_cache(maxsize=16)
def warm_up(scheme: str, dtype: str, weighted: bool) -> float:
    """Compile, or load, what deposits float32 positions into channels of a cube.

    Parameters
    ----------
    scheme : str
    dtype : str
        Of the cube.
    weighted : bool
        Particles have masses.

    Returns
    -------
    float
        Seconds that it took this process, once.
    """
    begin = time.perf_counter()
    positions = np.zeros((2, 3), np.float32)
    chunk = (positions, np.ones(2, np.int64)) if weighted else positions
    channel = np.empty((N_GRID, N_GRID, N_GRID, 2), dtype)[..., 0]
    # with no room for the sums of a whole grid particles are sorted, else not
    for room in (1, 1 << 20):
        assign(
            [chunk],
            channel,
            1.0,
            get_scheme(scheme),
            weighted=weighted,
            n_particles=N_GRID**3,
            bin_bytes=room,
        )
    return time.perf_counter() - begin
