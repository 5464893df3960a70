"""The one place where the benchmark of the deposit calls this project."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.deposit import deposit, get_scheme, new_grid

OURS = "ours"
FLOAT = "ours, float sums"

ORIGIN = "cell"

_grids: dict[int, np.ndarray] = {}


def deposit_ours(
    positions: np.ndarray, out: np.ndarray, box: float, scheme: str, threads: int
) -> None:
    """Deposit ``(n, 3)`` float32 positions; what was in ``out`` is replaced.

    ``out`` is ``(n_grid, n_grid, n_grid)``, float32, or int16 for NGP: particles a cell,
    grid points at the middle of their cells.
    """
    del threads  # this path has one
    n_grid = out.shape[0]
    if n_grid not in _grids:
        _grids.clear()
        _grids[n_grid] = new_grid(n_grid)
    grid = _grids[n_grid]
    grid.fill(0)
    chosen = get_scheme(scheme)
    deposit(positions, grid, box, chosen, ORIGIN)
    np.multiply(grid, 1 / chosen.unit, out=out, casting="unsafe")


Deposit = Callable[[np.ndarray, np.ndarray, float, str, int], None]

VARIANTS: dict[str, tuple[Deposit, tuple[str, ...]]] = {
    OURS: (deposit_ours, ("ngp", "cic", "tsc", "pcs")),
    # FLOAT: (deposit_ours_float, ("cic", "tsc", "pcs")) where there are sums in floating point
}
"""Ways of ours that are timed, and their schemes; ``FLOAT`` shows what fixed point costs."""

OUTPUTS = {"ngp": ("float32", "int16")}
"""Dtypes of the result by scheme; float32 for the others."""
